"""Weighted observations of the experts, which every fusion but `SSTA` reads, and the `Fused` made from a pose.

Missing joints, scores, expert weights, gaps and winners therefore mean the same in all of these fusions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.core.errors import ComponentError
from dataengine.core.jit import compiled
from dataengine.core.types import Bool, Float, Fused
from dataengine.fusion import check
from dataengine.fusion._kernels import ssta as kernels
from dataengine.fusion._kernels.ssta import LEAST_SCORE
from dataengine.fusion.ssta import Norm, confidence, scale_joints

_TORSO_SCALE = 0.404
"""Head-neck length over the length from the middle of the shoulders to that of the hips: the median over 36,874
annotated poses of Penn Action (10th and 90th percentile 0.26 and 0.61; over the box 0.08 and 0.21 of its diagonal)."""

_CLOSE, _NEAR = 0.5, 0.15
"""Distance at which an observation supports the result a quarter, and largest distance of the winner, in head-neck
lengths."""


@dataclass(frozen=True)
class Observations:
    """Observations of E experts over T frames.

    The V joints are padded to W, a multiple of 8, so that vector instructions have no slow remainder.

    Attributes:
        points: (E, T, V, 2) float32 pixels as given, NaN where missing.
        x, y: (E, T, W) float64 pixels, 0 where missing.
        weight: (E, T, W) float64, 0 where missing; mean 1 over the observations.
        scores: (E, T, W) float64, 1 without scores, -1 where missing.
        has_scores: whether scores were given.
        scale: head-neck length of the sequence in pixels; see `typical_scale`.
        skeleton: layout of the joints or None.
    """

    points: Float
    x: Float
    y: Float
    weight: Float
    scores: Float
    has_scores: bool
    scale: float
    skeleton: str | None

    @classmethod
    def from_arrays(
        cls, coords: Any, scores: Any, skeleton: str | None, expert_weights: Sequence[float] | None, score_power: float
    ) -> Observations:
        """Check and pad the arrays given to a fusion.

        The weight of an observation is its score to the power of `score_power`, times the weight of its expert.

        Raises:
            ComponentError: arrays of a wrong shape, or `expert_weights` that are not E numbers >= 0, one of them > 0.
        """
        points, given = check(coords, scores, skeleton)
        experts, frames, joints, _ = points.shape
        shape = experts, frames, (joints + 7) // 8 * 8
        x, y, weight, padded = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.full(shape, -1.0)
        factors = np.ones(experts) if expert_weights is None else _checked(expert_weights, experts)
        given_scores = points[..., 0] if given is None else given
        _spread(points, given_scores, given is not None, score_power, factors, x, y, weight, padded)
        return cls(points, x, y, weight, padded, given is not None, typical_scale(points, skeleton), skeleton)

    @property
    def empty_pose(self) -> Float:
        """A pose (2, T, W) of NaN, to write into."""
        return np.full((2, *self.x.shape[1:]), np.nan)

    def fused(self, pose: Float, max_gap: int, gamma: float, norm: Norm) -> Fused:
        """The `Fused` of a pose.

        A joint is present where the pose has it and some expert saw it. In inner gaps of up to `max_gap` frames the
        pose alone is enough; the score is that of the nearest frame, halved per frame of the gap.

        The score is the probability that not every expert is wrong. The score of an expert times its closeness to the
        result counts as its probability of being right, and errors of experts as independent. As experts err together
        more often than that, joints are right a little less often than their scores say. Without scores, the score is
        the mean closeness.

        The winner is the nearest expert within 0.15 head-neck lengths, ties to the lower index; -2 where all are
        farther, -1 where no expert saw the joint. C and support are those of `SSTA` about this pose.

        Args:
            pose: (2, T, W) pixels, NaN where it says nothing.
            max_gap: longest gap that is filled, in frames.
            gamma: least C of a kept frame.
            norm: length that scales C.
        """
        _, frames, joints, _ = self.points.shape
        coords, scores = np.empty((frames, joints, 2), np.float32), np.empty((frames, joints), np.float32)
        winner = np.empty((frames, joints), np.int8)
        _finish(
            self.x,
            self.y,
            self.scores,
            self.has_scores,
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
    """The weights of experts as (E,) float64; raises ComponentError where they are wrong."""
    given = np.asarray(expert_weights, np.float64)
    if given.shape != (experts,) or not np.isfinite(given).all() or given.min() < 0 or given.max() == 0:
        raise ComponentError(
            f"expert_weights are {experts} numbers >= 0, one per expert, not all 0; given {expert_weights!r}"
        )
    return given


def typical_scale(points: Float, skeleton: str | None) -> float:
    """Head-neck length of a sequence (E, T, V, 2) in pixels: the upper quartile over experts and frames.

    Where head and neck are never seen, the trunk gives the length. Without a layout, the boxes around the joints of
    whole poses do; where no pose is whole, the boxes around what is seen.
    """
    lengths = _lengths(points, skeleton, "head_neck")
    if not len(lengths) and skeleton is not None:
        lengths = _TORSO_SCALE * _lengths(points, skeleton, "torso")
    if not len(lengths):
        seen: Bool = np.asarray(np.isfinite(points).all(-1))
        filled = seen.all(2)
        if not filled.any():
            filled = seen.sum(2) >= 2
        some = np.where(seen[filled][..., None], points[filled], np.nan)
        if len(some):
            sides = np.nanmax(some, axis=1) - np.nanmin(some, axis=1)
            lengths = kernels.BOX_SCALE * np.linalg.norm(sides, axis=-1)
            lengths = lengths[lengths > 0]
    return float(np.sort(lengths)[len(lengths) * 3 // 4]) if len(lengths) else 1.0


def _lengths(points: Float, skeleton: str | None, norm: Norm) -> Float:
    """All lengths `norm` above 0 that poses (E, T, V, 2) show."""
    ends = scale_joints(skeleton, norm)
    if ends[0, 0] < 0:
        return np.zeros(0)
    (a, b), (c, d) = ends
    bone = 0.5 * (points[:, :, a] + points[:, :, b] - points[:, :, c] - points[:, :, d])
    lengths: Float = np.sqrt(bone[..., 0] ** 2 + bone[..., 1] ** 2)
    return lengths[lengths > 0]  # drops NaN


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
    """Write the observations into x, y, weight (E, T, W) of 0 and padded scores of -1; `scores` (E, T, V) are read when
    `scored`."""
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
    """Fill joints of `pose` (2, T, W) that are NaN linearly between their neighbours in time; 0 without any
    neighbour."""
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
    """Write coordinates (T, V, 2), scores and winners (T, V) as `Observations.fused` defines them."""
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
