"""Consensus: a robust spline through what the experts agree on, with left and right put straight.

Unlike a selection it blends: errors of several experts average out, and a joint that all experts get
wrong for some frames is carried by its neighbours in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import numpy as np
from pydantic import Field

from dataengine.fusion import check, kernels, smoothing
from dataengine.fusion.ssta import Norm, confidence, unit_joints
from dataengine.skeletons import skeleton as layout_of
from dataengine.types import Float, Fused, Int

_LIMBS = (("left_shoulder", "left_elbow", "left_wrist"), ("left_hip", "left_knee", "left_ankle"))

_WIDTH = 0.7
"""Width of the kernel in which experts agree, in units of length; half a head is 0.5 to 0.7 of them."""

_REACH, _CAP, _AGREEMENT = 0.365, 12.0, 2.0
"""Of the start: a likely step a frame in units of length, the most a step may cost, and how much agreement counts."""

_SCHEDULE = ((0.45, 10.0, 1), (0.45, 4.0, 2), (0.08, 33.0, 2), (0.28, None, 2))
"""Scale in units of length, stiffness and rounds of the spline: from coarse and soft to fine and stiff, which settles whom
to believe, then as stiff as the disagreement of the experts asks for."""

_STIFF, _SPREAD, _STIFFEST = 0.2, 0.18, 2.0
"""Last stiffness for experts who are `_SPREAD` units apart; it grows with the square of that distance, to `_STIFFEST` times."""

_SWAP_SCALE, _SWAP_MARGIN, _SWAP_TURNS = 0.66, 0.28, 2
"""Scale in units of length and least gain of putting left and right of a limb straight, and how often it is tried."""


@dataclass(frozen=True)
class Consensus:
    """Score-weighted agreement over experts and time.

    For every joint: frame by frame the sight that is near to the one before and agreed on, as in SST-A; then a spline
    through all sights by reweighted least squares with a shrinking scale, so that sights far from it lose their say.
    Between two such fits a limb whose left and right one expert mixed up in a frame is put straight where that fits better. How far the last spline smooths follows from how far the experts are apart:
    identical experts come out as they went in. The numbers were fitted on annotated clips of Penn Action with errors
    of published estimators on MPII (training halves of both) and nothing else is learnt.

    A sight weighs its score to the power of `power`, so scores should mean a probability of being right that can be
    compared between experts; without scores all weigh the same. Inner gaps of up to `hold` frames are bridged, with
    the nearest score halved a frame; longer gaps and frames before the first and after the last sight are NaN.

    The score of a joint is the chance that not every expert is wrong about it, each one's score times its closeness to the
    result taken as its chance to be right, and their errors as independent. As experts err
    together more than that, joints are right a little less often than their score says. Without scores it is the mean closeness. `winner` is the
    expert within 0.15 units of length of the result and nearest to it, -2 where the result is a blend far from all, -1 where
    nobody saw the joint. C and support are those of `SSTA`, about this pose.

    Attributes:
        gamma: C from which a frame is kept; sets `kept` alone.
        norm: unit of length of C, as in `SSTA`.
        hold: longest gap in frames that is bridged.
        power: how much scores count; 0 for not at all.
        smooth: factor on the stiffness of the last spline; 0 blends every frame on its own.
        unswap: put left and right straight; needs a skeleton.
    """

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.18
    norm: Norm = "head_neck"
    hold: Annotated[int, Field(ge=0)] = 5
    power: Annotated[float, Field(ge=0)] = 2.0
    smooth: Annotated[float, Field(ge=0)] = 1.0
    unswap: bool = True

    def fuse(self, coords: Float, scores: Float | None = None, skeleton: str | None = None, trust: Sequence[float] | None = None) -> Fused:
        """Fuse one sequence; see `dataengine.fuse`.

        Args:
            coords: (E, T, V, 2) float pixels, NaN where missing.
            scores: (E, T, V) float in [0, 1] or None.
            skeleton: layout of the joints or None.
            trust: weight of each expert beside its scores, or None: all alike.

        Raises:
            ComponentError: arrays of a wrong shape.
        """
        points, given = check(coords, scores, skeleton)
        experts, frames, joints, _ = points.shape
        wide = (joints + 7) // 8 * 8  # whole vectors have no slow remainder
        x, y = np.full((2, experts, frames, wide), np.nan)
        x[..., :joints], y[..., :joints] = points[..., 0], points[..., 1]
        seen = (x == x) & (y == y)
        rated = np.where(seen, 1.0, -1.0)
        if given is not None:
            rated[..., :joints] = np.where(seen[..., :joints], given, -1.0)
        own_x, own_y = x, y
        x, y = np.where(seen, x, 0.0), np.where(seen, y, 0.0)
        unit = typical_unit(points, skeleton)
        pose = self._solve(x, y, self._weights(rated, seen, trust), unit, skeleton)
        out, made = np.empty((frames, joints, 2), np.float32), np.empty((frames, joints), np.float32)
        winner = np.empty((frames, joints), np.int8)
        smoothing.finish(own_x, own_y, rated, given is not None, pose, 0.5 * unit, 0.15 * unit, self.hold, out, made, winner)
        certain, support = confidence(points, out, skeleton, self.norm)
        return Fused(out, made, certain, support, certain >= np.float32(self.gamma), winner)

    def _weights(self, rated: Float, seen: Float, trust: Sequence[float] | None) -> Float:
        """(E, T, V) weights with mean 1 over the sights, 0 where missing; a score of 0 weighs nearly nothing."""
        weights: Float = np.where(seen, np.maximum(rated, 0.01) ** self.power, 0.0)
        if trust is not None:
            weights *= np.asarray(trust, np.float64)[:, None, None]
        weights *= seen.sum() / max(float(weights.sum()), 1e-12)
        return weights

    def _solve(self, x: Float, y: Float, weights: Float, unit: float, skeleton: str | None) -> Float:
        """Fused pose (2, T, V); left and right in x, y and weights are put straight. `unit` in pixels."""
        pose = np.zeros((2, *x.shape[1:]))
        if not pose.size:
            return pose
        smoothing.start(x, y, weights, _WIDTH * unit, _REACH * unit, _CAP, _AGREEMENT, pose)
        limbs, flip = _limbs(skeleton)
        turns = _SWAP_TURNS if self.unswap and len(limbs) else 0
        for turn in range(turns + 1):
            apart = smoothing.spread(x, y, weights, 0.35 * unit) / (_SPREAD * unit) ** 2
            last = self.smooth * _STIFF * min(apart, _STIFFEST)
            for scale, stiff, rounds in _SCHEDULE[1 if turn else 0 :]:
                smoothing.spline(x, y, weights, pose, scale * unit, last if stiff is None else stiff, rounds)
            if turn < turns and not smoothing.unswap(x, y, weights, pose, _SWAP_SCALE * unit, _SWAP_MARGIN, limbs, flip):
                break
        return pose


def typical_unit(points: Float, skeleton: str | None) -> float:
    """Unit of length of a sequence (E, T, V, 2) in pixels: upper quartile of head to neck over experts and frames.

    Without a layout, or where head and neck are never seen, it comes from the boxes around the joints.
    """
    ends = unit_joints(skeleton, "head_neck")
    lengths = np.zeros(0)
    if ends[0, 0] >= 0:
        (a, b), (c, d) = ends
        bone = 0.5 * (points[:, :, a] + points[:, :, b] - points[:, :, c] - points[:, :, d])
        lengths = np.sqrt(bone[..., 0] ** 2 + bone[..., 1] ** 2)
        lengths = lengths[lengths > 0]  # drops NaN
    if not len(lengths):
        filled = np.isfinite(points).all((2, 3))
        lengths = kernels.BOX_UNIT * np.linalg.norm(np.ptp(points[filled], axis=1), axis=-1)
        lengths = lengths[lengths > 0]
    return float(np.sort(lengths)[len(lengths) * 3 // 4]) if len(lengths) else 1.0


@cache
def _limbs(skeleton: str | None) -> tuple[Int, Int]:
    """Left joints of the limbs (G, 3) and the mirror (V,) of a layout; empty without one."""
    if skeleton is None:
        return np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
    layout = layout_of(skeleton)
    return np.array([layout.indices(limb) for limb in _LIMBS], np.int64), np.array(layout.flip, np.int64)
