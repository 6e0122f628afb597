"""Fusion `spline`: a robust spline through positions and steps of the experts, with swapped limbs corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from dataengine.core.component import Fusion
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Fused, Int
from dataengine.fusion import check, viterbi_path
from dataengine.fusion._kernels import smoothing
from dataengine.fusion.left_right import straighten
from dataengine.fusion.median import median
from dataengine.fusion.observations import Observations, bridge
from dataengine.fusion.ssta import Norm

Start = Literal["median", "viterbi_path"]

_LIMBS = (("left_shoulder", "left_elbow", "left_wrist"), ("left_hip", "left_knee", "left_ankle"))

_STAGES, _AGAIN = 6, 2
"""Stages after the first one, and the stage from which they are repeated after limbs were swapped back."""

_FIRST = (0.45, 1.0, 0.0, 10.0, 1e3)
"""The first stage, which softens the start: a row of `smoothing.spline`, lengths in head-neck lengths."""

_POSITION_SCALE = (0.1, 0.345)
"""Scale of positions at the first and the last of the other stages, in head-neck lengths."""

_STEP_SCALE, _STEP_SCALE_RATIO, _STEP_SCALE_RANGE = 2.3, 1.48, (0.05, 0.8)
"""Scale of steps at first, in head-neck lengths; and at last, as a multiple of the step noise within a range."""

_STEP_WEIGHT, _STEP_WEIGHT_RATIO, _STEP_WEIGHT_MOST = 2.9, 0.427, 1700.0
"""Weight of steps at first; and at last, as a multiple of 1 / (step noise)^2 up to a bound."""

_STIFFNESS, _BEND_SCALE = (73.0, 45.0), 0.075
"""Stiffness at first and at last, and the acceleration from which it gives way, in head-neck lengths per frame^2."""

_NOISE_SCALE = 0.25
"""Scale at which the step noise of the experts is measured, in head-neck lengths."""

_SWAP_SCALE, _SWAP_MARGIN = 1.0, 0.4
"""Scale in head-neck lengths, and least gain, of swapping left and right of a limb."""


@dataclass(frozen=True)
class Spline(Fusion):
    """Smooth motion nearest to the experts, in positions and in steps from frame to frame.

    An expert that is wrong about a joint is mostly wrong by the same vector for many frames, so its steps are right.
    The spline of a joint is therefore fitted to the positions and to the steps of all experts, with little
    acceleration. Each term has a robust loss that ignores outliers (`smoothing.spline`). Steps tie frames together:
    positions before and after outvote positions that are wrong for a while.

    The loss has many minima. The scale of steps shrinks in stages from coarse to fine (graduated non-convexity, Blake
    and Zisserman 1987), beginning at `start`. The last scale and the weight of steps follow from the noise of the
    steps: identical experts come out unchanged, and noisy steps count little. Between two passes, left and right of a
    limb are swapped for one expert in one frame where that fits better.

    The constants were fitted on annotated clips of Penn Action with errors of published estimators on MPII (training
    halves of both). Errors lasted 3 to 25 frames or drifted, with little and much noise. Nothing else is learnt.

    The weight of an observation is its score to the power of `score_power`. Scores should therefore be probabilities
    that can be compared between experts. Without scores all observations weigh the same. Inner gaps of up to `max_gap`
    frames are bridged. Longer gaps, and frames before the first and after the last observation, are NaN. Scores and
    winners are those of `Observations.fused`.

    Attributes:
        gamma: least C of a kept frame. Sets `kept` only.
        norm: length that scales C, as in `SSTA`.
        max_gap: longest gap that is bridged, in frames.
        score_power: exponent of the score in the weight of an observation; 0 weighs all alike.
        smooth: factor of the stiffness in the last stage. 0 follows the inliers of the stage before.
        motion: fit steps, too. Without steps `smooth` is best near 0.02.
        unswap: correct swapped limbs; needs a skeleton. `left_right.straighten` corrects the poses of a single expert.
        start: "median" of each frame, or the "viterbi_path" over the experts.
    """

    combines_scores: ClassVar[bool] = True

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.18
    norm: Norm = "head_neck"
    max_gap: Annotated[int, Field(ge=0)] = 5
    score_power: Annotated[float, Field(ge=0)] = 2.0
    smooth: Annotated[float, Field(ge=0)] = 1.0
    motion: bool = True
    unswap: bool = True
    start: Start = "median"

    def fuse(
        self,
        coords: Float,
        scores: Float | None = None,
        skeleton: str | None = None,
        expert_weights: Sequence[float] | None = None,
    ) -> Fused:
        """Fuse one sequence; see `dataengine.fuse`.

        Args:
            coords: (E, T, V, 2) float pixels, NaN where missing.
            scores: (E, T, V) float in [0, 1] or None.
            skeleton: layout of the joints or None.
            expert_weights: E factors of the weights of observations; None weighs all experts alike.

        Raises:
            ComponentError: arrays of a wrong shape.
        """
        points, given = check(coords, scores, skeleton)
        if self.unswap and skeleton is not None and len(points) == 1:  # no other expert tells left from right
            straight, moved, _ = straighten(points[0], None if given is None else given[0], skeleton)
            points, given = straight[None], None if moved is None else moved[None]
        observations = Observations.from_arrays(points, given, skeleton, expert_weights, self.score_power)
        return observations.fused(self._solve(observations), self.max_gap, self.gamma, self.norm)

    def _solve(self, observations: Observations) -> Float:
        """Fused pose (2, T, W)."""
        x, y, weight = observations.x.copy(), observations.y.copy(), observations.weight.copy()
        pose, scale = self._start_pose(observations), observations.scale
        if not pose.size:
            return pose
        stages = self._stages(observations)
        smoothing.spline(x, y, weight, pose, stages)
        limbs, flip = _limbs(observations.skeleton)
        if self.unswap and smoothing.unswap(x, y, weight, pose, _SWAP_SCALE * scale, _SWAP_MARGIN, limbs, flip):
            smoothing.spline(x, y, weight, pose, stages[_AGAIN:])
        return pose

    def _start_pose(self, observations: Observations) -> Float:
        """The pose (2, T, W) of `start`, without gaps."""
        pose, scale = observations.empty_pose, observations.scale
        x, y, weight = observations.x, observations.y, observations.weight
        if self.start == "median":
            median(x, weight, pose[0])
            median(y, weight, pose[1])
        else:
            width, reach = viterbi_path.WIDTH * scale, viterbi_path.REACH * scale
            viterbi_path.trace(x, y, weight, width, reach, viterbi_path.CAP, viterbi_path.AGREEMENT, pose)
        bridge(pose)
        return pose

    def _stages(self, observations: Observations) -> Float:
        """(N, 5) rows of `smoothing.spline`: position scale, step scale, step weight, stiffness and bend scale, in
        pixels."""
        scale = observations.scale
        noise = smoothing.step_noise(observations.x, observations.y, observations.weight, _NOISE_SCALE * scale)
        squared = noise / scale**2
        step = float(np.clip(_STEP_SCALE_RATIO * squared**0.5, *_STEP_SCALE_RANGE))
        weight = _STEP_WEIGHT_RATIO / max(squared, 1e-12)
        # experts who agree on every step are followed, whatever the acceleration
        least = min(weight, _STEP_WEIGHT_MOST) / weight
        weight *= least
        way = np.linspace(0, 1, _STAGES)[:, None]
        first = np.array(
            [_POSITION_SCALE[0], max(_STEP_SCALE, step), min(_STEP_WEIGHT, weight), _STIFFNESS[0], _BEND_SCALE]
        )
        last = np.array([_POSITION_SCALE[1], step, weight, _STIFFNESS[1] * least, _BEND_SCALE])
        stages = np.concatenate([[_FIRST], first ** (1 - way) * last**way])
        stages[-1, 3] *= self.smooth
        return stages * [scale, scale, float(self.motion), 1.0, scale]


@cache
def _limbs(skeleton: str | None) -> tuple[Int, Int]:
    """Left joints of the limbs (G, 3) and the mirror (V,) of a layout; empty without one."""
    if skeleton is None:
        return np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
    layout = layout_of(skeleton)
    return np.array([layout.indices(limb) for limb in _LIMBS], np.int64), np.array(layout.flip, np.int64)
