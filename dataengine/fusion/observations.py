"""What a fusion reads and how it ends: weighted observations in rows of joints, and the pose it found as `Fused`.

Shared by all fusions but the selection of `SSTA`, so that missing joints, scores, expert_weights, gaps and winners mean the same in each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.core.errors import ComponentError
from dataengine.core.jit import compiled
from dataengine.core.types import Float, Fused
from dataengine.fusion import check
from dataengine.fusion._kernels import ssta as kernels
from dataengine.fusion.ssta import Norm, confidence, scale_joints

LEAST_SCORE = 0.01
"""A observation counts at least as if this were its score: where nobody is sure the least unsure one is still an answer."""

_CLOSE, _NEAR = 0.5, 0.15
"""In units of length: the distance at which a observation speaks for the result a quarter, and how near to the result the winner is."""


@dataclass(frozen=True)
class Observations:
    """Observations of E experts over T frames, V joints padded to W, a multiple of 8: whole vectors have no slow remainder.

    Attributes:
        points: (E, T, V, 2) float32 pixels as given, NaN where missing.
        x, y: (E, T, W) float64 pixels, 0 where missing.
        weight: (E, T, W) float64, 0 where missing; mean 1 over the observations.
        rated: (E, T, W) float64 scores, 1 without scores, -1 where missing.
        scored: scores were given.
        scale: length in pixels that stands for head to neck, one for the sequence; see `typical_scale`.
        skeleton: layout of the joints or None.
    """

    points: Float
    x: Float
    y: Float
    weight: Float
    rated: Float
    scored: bool
    scale: float
    skeleton: str | None

    @classmethod
    def from_arrays(
        cls, coords: Any, scores: Any, skeleton: str | None, expert_weights: Sequence[float] | None, score_power: float
    ) -> Observations:
        """Bring what a fusion was given into rows.

        A observation weighs its score to the power of `score_power`, times the trust in its expert.

        Raises:
            ComponentError: arrays of a wrong shape, or expert_weights that is not one number >= 0 for every expert, one of them > 0.
        """
        points, given = check(coords, scores, skeleton)
        experts, frames, joints, _ = points.shape
        shape = experts, frames, (joints + 7) // 8 * 8
        x, y, weight, rated = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.full(shape, -1.0)
        trusted = np.ones(experts) if expert_weights is None else _checked(expert_weights, experts)
        _spread(
            points,
            points[..., 0] if given is None else given,
            given is not None,
            score_power,
            trusted,
            x,
            y,
            weight,
            rated,
        )
        return cls(points, x, y, weight, rated, given is not None, typical_scale(points, skeleton), skeleton)

    @property
    def empty_pose(self) -> Float:
        """A pose (2, T, W) without a joint, to write into."""
        return np.full((2, *self.x.shape[1:]), np.nan)

    def fused(self, pose: Float, max_gap: int, gamma: float, norm: Norm) -> Fused:
        """The result about a pose (2, T, W), which is NaN where it says nothing.

        A joint is present where the pose has it and some expert saw it, and in inner gaps of up to `max_gap` frames where
        the pose has it, with the nearest score halved a frame. The score is the chance that not every expert is
        wrong: each one's score times its closeness to the result is taken as its chance to be right, and their errors
        as independent. As experts err together more than that, joints are right a little less often than their
        score says. Without scores it is the mean closeness. The winner is the nearest expert within 0.15 units, the
        lower index first, -2 where all are farther and -1 where nobody saw the joint. C and support are those of
        `SSTA`, about this pose.
        """
        _, frames, joints, _ = self.points.shape
        coords, scores = np.empty((frames, joints, 2), np.float32), np.empty((frames, joints), np.float32)
        winner = np.empty((frames, joints), np.int8)
        _finish(
            self.x,
            self.y,
            self.rated,
            self.scored,
            pose,
            _CLOSE * self.scale,
            _NEAR * self.scale,
            max_gap,
            coords,
            scores,
            winner,
        )
        certain, support = confidence(self.points, coords, self.skeleton, norm)
        return Fused(coords, scores, certain, support, certain >= np.float32(gamma), winner)


def _checked(expert_weights: Sequence[float], experts: int) -> Float:
    """(E,) float64."""
    given = np.asarray(expert_weights, np.float64)
    if given.shape != (experts,) or not np.isfinite(given).all() or given.min() < 0 or given.max() == 0:
        raise ComponentError(
            f"expert_weights is one number >= 0 for each of {experts} experts, not all 0; given {expert_weights!r}"
        )
    return given


def typical_scale(points: Float, skeleton: str | None) -> float:
    """Unit of length of a sequence (E, T, V, 2) in pixels: upper quartile of head to neck over experts and frames.

    Without a layout, or where head and neck are never seen, it comes from the boxes around the joints.
    """
    ends = scale_joints(skeleton, "head_neck")
    lengths = np.zeros(0)
    if ends[0, 0] >= 0:
        (a, b), (c, d) = ends
        bone = 0.5 * (points[:, :, a] + points[:, :, b] - points[:, :, c] - points[:, :, d])
        lengths = np.sqrt(bone[..., 0] ** 2 + bone[..., 1] ** 2)
        lengths = lengths[lengths > 0]  # drops NaN
    if not len(lengths):
        filled = np.isfinite(points).all((2, 3))
        lengths = kernels.BOX_SCALE * np.linalg.norm(np.ptp(points[filled], axis=1), axis=-1)
        lengths = lengths[lengths > 0]
    return float(np.sort(lengths)[len(lengths) * 3 // 4]) if len(lengths) else 1.0


@compiled
def _spread(
    points: Any,
    scores: Any,
    scored: bool,
    score_power: float,
    expert_weights: Any,
    x: Any,
    y: Any,
    weight: Any,
    rated: Any,
) -> None:
    """Write the observations into rows of 0, 0, 0 and -1; `scores` (E, T, V) are read when `scored`."""
    experts, frames, joints, _ = points.shape
    total = count = 0.0
    for e in range(experts):
        for t in range(frames):
            for v in range(joints):
                px, py = points[e, t, v, 0], points[e, t, v, 1]
                if px == px and py == py:
                    x[e, t, v], y[e, t, v] = px, py
                    rated[e, t, v] = scores[e, t, v] if scored else 1.0
                    weight[e, t, v] = expert_weights[e] * (
                        max(rated[e, t, v], LEAST_SCORE) ** score_power if scored else 1.0
                    )
                    total += weight[e, t, v]
                    count += 1.0
    weight *= count / max(total, 1e-12)


@compiled
def bridge(pose: Any) -> None:
    """Put joints that are NaN in `pose` (2, T, W) on the line between their neighbours in time, or on the only one; 0 without any."""
    frames, joints = pose.shape[1:]
    for v in range(joints):
        last = -1
        for t in range(frames):
            if pose[0, t, v] != pose[0, t, v]:
                continue
            for gap in range(last + 1, t):
                far = (gap - last) / (t - last) if last >= 0 else 1.0
                for axis in range(2):
                    before = pose[axis, last, v] if last >= 0 else 0.0
                    pose[axis, gap, v] = (1.0 - far) * before + far * pose[axis, t, v]
            last = t
        for gap in range(last + 1, frames):
            for axis in range(2):
                pose[axis, gap, v] = pose[axis, last, v] if last >= 0 else 0.0


@compiled
def _finish(
    x: Any,
    y: Any,
    rated: Any,
    scored: bool,
    pose: Any,
    width: float,
    near: float,
    max_gap: int,
    coords: Any,
    made: Any,
    winner: Any,
) -> None:
    """Write coordinates (T, V, 2), scores and winners (T, V); what they mean is said in `Observations.fused`."""
    experts, frames, joints = x.shape[0], x.shape[1], coords.shape[1]
    last = np.full(joints, -1)
    for t in range(frames):
        for v in range(joints):
            wrong, close, count, best, closest = 1.0, 0.0, 0, -1, math.inf
            known = pose[0, t, v] == pose[0, t, v]
            for e in range(experts):
                if known and rated[e, t, v] >= 0:
                    dx, dy = x[e, t, v] - pose[0, t, v], y[e, t, v] - pose[1, t, v]
                    squared = dx * dx + dy * dy
                    apart = 1.0 + squared / width**2
                    wrong *= 1.0 - rated[e, t, v] / (apart * apart)
                    close += 1.0 / (apart * apart)
                    count += 1
                    if squared < closest:
                        closest, best = squared, e
            coords[t, v, 0] = coords[t, v, 1] = np.nan
            made[t, v], winner[t, v] = 0.0, -1
            if count == 0:
                continue
            coords[t, v, 0], coords[t, v, 1] = pose[0, t, v], pose[1, t, v]
            made[t, v] = 1.0 - wrong if scored else close / count
            winner[t, v] = best if closest <= near**2 else -2
            before, last[v] = last[v], t
            if before >= 0 and 1 < t - before <= max_gap + 1:
                for gap in range(before + 1, t):
                    coords[gap, v, 0], coords[gap, v, 1] = pose[0, gap, v], pose[1, gap, v]
                    made[gap, v] = max(made[before, v] * 0.5 ** (gap - before), made[t, v] * 0.5 ** (t - gap))
