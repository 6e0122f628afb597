"""A robust spline through places and steps that the experts agree on, with left and right put straight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dataengine.core.component import Fusion
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Fused, Int
from dataengine.fusion import check, viterbi_path
from dataengine.fusion._kernels import smoothing
from dataengine.fusion.left_right import straighten
from dataengine.fusion.median import middle
from dataengine.fusion.observations import Observations, bridge
from dataengine.fusion.ssta import Norm

Start = Literal["median", "viterbi_path"]

_LIMBS = (("left_shoulder", "left_elbow", "left_wrist"), ("left_hip", "left_knee", "left_ankle"))

_STAGES, _AGAIN = 6, 2
_FIRST = (0.45, 1.0, 0.0, 10.0, 1e3)
_PLACE = (0.1, 0.345)
_STEP, _STEP_RATIO, _STEP_RANGE = 2.3, 1.48, (0.05, 0.8)
_SPEED, _SPEED_RATIO, _SPEED_MOST = 2.9, 0.427, 1700.0
_STIFF, _BEND = (73.0, 45.0), 0.075
_WOBBLE = 0.25
"""Of the stages in units of length: the first one, to which the start is softened; then, from first to last, the scale of
places, of steps and the weight of steps, which end at multiples of the wobble of the experts and of 1 / wobble^2, the
stiffness, and the acceleration from which it gives way. `_WOBBLE` is the scale at which the wobble is measured. After an
exchange of sides the stages from `_AGAIN` on are repeated."""

_SWAP_SCALE, _SWAP_MARGIN = 1.0, 0.4
"""Scale in units of length and least gain of putting left and right of a limb straight."""


@dataclass(frozen=True)
class Spline(Fusion):
    """Smooth motion nearest to what most experts saw, in places and in steps.

    An expert that is wrong about a joint is mostly wrong by the same vector for many frames, so that its steps from frame
    to frame are right. Fitted are therefore, for every joint, both the places the experts saw and the steps they took, and
    little acceleration, each with a loss that lets go of what is far off (see `smoothing.spline`). Steps tie frames
    together, so places that are wrong for a while are outvoted by those before and after.

    The loss has many minima; the scale of steps shrinks in stages from coarse to fine (graduated non-convexity, Blake and
    Zisserman 1987) from the named start. How fine and how much steps weigh follows from how far the experts' steps
    are apart: identical experts come out as they went in, and noisy steps count little. Between two passes a
    limb whose left and right one expert mixed up in a frame is put straight where that fits better.

    The numbers were fitted on annotated clips of Penn Action with errors of published estimators on MPII (training
    halves of both), with errors held for 3 to 25 frames, drifting, and with little and much noise; nothing else is learnt.

    A observation weighs its score to the power of `score_power`, so scores should mean a probability of being right that can be
    compared between experts; without scores all weigh the same. Inner gaps of up to `max_gap` frames are bridged; longer
    gaps and frames before the first and after the last observation are NaN. Scores and winners are those of `Observations.fused`.

    Attributes:
        gamma: C from which a frame is kept; sets `kept` alone.
        norm: unit of length of C, as in `SSTA`.
        max_gap: longest gap in frames that is bridged.
        score_power: how much scores count; 0 for not at all.
        smooth: factor on the stiffness of the last stage; 0 follows the observations that were believed until then.
        motion: fit steps too. Without them places alone count, and `smooth` is best near 0.02.
        unswap: put left and right straight; needs a skeleton. Of one expert alone `sides.straighten` does it first.
        start: "median" frame by frame, or the best "viterbi_path" over the experts.
    """

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
            expert_weights: weight of each expert beside its scores, or None: all alike.

        Raises:
            ComponentError: arrays of a wrong shape.
        """
        points, given = check(coords, scores, skeleton)
        if self.unswap and skeleton is not None and len(points) == 1:  # no other expert tells left from right
            straight, rated, _ = straighten(points[0], None if given is None else given[0], skeleton)
            points, given = straight[None], None if rated is None else rated[None]
        observations = Observations.from_arrays(points, given, skeleton, expert_weights, self.score_power)
        return observations.fused(self._solve(observations), self.max_gap, self.gamma, self.norm)

    def _solve(self, observations: Observations) -> Float:
        """Fused pose (2, T, W)."""
        x, y, weight, unit = (
            observations.x.copy(),
            observations.y.copy(),
            observations.weight.copy(),
            observations.scale,
        )
        pose = self._begin(observations)
        if not pose.size:
            return pose
        stages = self._stages(observations)
        smoothing.spline(x, y, weight, pose, stages)
        limbs, flip = _limbs(observations.skeleton)
        if self.unswap and smoothing.unswap(x, y, weight, pose, _SWAP_SCALE * unit, _SWAP_MARGIN, limbs, flip):
            smoothing.spline(x, y, weight, pose, stages[_AGAIN:])
        return pose

    def _begin(self, observations: Observations) -> Float:
        """The named start (2, T, W), without gaps."""
        pose, unit = observations.empty_pose, observations.scale
        if self.start == "median":
            middle(observations.x, observations.weight, pose[0])
            middle(observations.y, observations.weight, pose[1])
        else:
            viterbi_path.trace(
                observations.x,
                observations.y,
                observations.weight,
                viterbi_path.WIDTH * unit,
                viterbi_path.REACH * unit,
                viterbi_path.CAP,
                viterbi_path.AGREEMENT,
                pose,
            )
        bridge(pose)
        return pose

    def _stages(self, observations: Observations) -> Float:
        """(N, 5) scale, quick, speed, stiff and bend of every stage, for `smoothing.spline`, in pixels."""
        squared = (
            smoothing.wobble(observations.x, observations.y, observations.weight, _WOBBLE * observations.scale)
            / observations.scale**2
        )
        step = float(np.clip(_STEP_RATIO * squared**0.5, *_STEP_RANGE))
        speed = _SPEED_RATIO / max(squared, 1e-12)
        least = (
            min(speed, _SPEED_MOST) / speed
        )  # experts who agree on every step are followed whatever the acceleration
        speed *= least
        way = np.linspace(0, 1, _STAGES)[:, None]
        first = np.array([_PLACE[0], max(_STEP, step), min(_SPEED, speed), _STIFF[0], _BEND])
        last = np.array([_PLACE[1], step, speed, _STIFF[1] * least, _BEND])
        stages = np.concatenate([[_FIRST], first ** (1 - way) * last**way])
        stages[-1, 3] *= self.smooth
        return stages * [observations.scale, observations.scale, float(self.motion), 1.0, observations.scale]


@cache
def _limbs(skeleton: str | None) -> tuple[Int, Int]:
    """Left joints of the limbs (G, 3) and the mirror (V,) of a layout; empty without one."""
    if skeleton is None:
        return np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
    layout = layout_of(skeleton)
    return np.array([layout.indices(limb) for limb in _LIMBS], np.int64), np.array(layout.flip, np.int64)
