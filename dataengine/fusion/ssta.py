"""Fusion `ssta`: per joint and frame, the expert nearest to the last position of the joint.

Source: "Selective Spatio-Temporal Aggregation Based Pose Refinement System", eq. 1-4, written anew from the formulas.
`compat=True` reproduces the arithmetic of the published script (github.com YangDi666/SSTA-PRS @ 7df39e4, tools/ssta.py,
MIT); a test compares it with the output of the script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dataengine.core.component import Fusion
from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import BODY12
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Fused, Int
from dataengine.fusion import check
from dataengine.fusion._kernels import ssta as kernels

Norm = Literal["head_neck", "shoulder", "torso", "bbox"]

_POINTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "head": (("nose",), ("upper_neck", "head_top")),
    "neck": (("neck",), ("left_shoulder", "right_shoulder")),
    "mid_hip": (("mid_hip",), ("left_hip", "right_hip")),
    "left": (("left_shoulder",),),
    "right": (("right_shoulder",),),
}
"""End points of the lengths that scale C: the mean of the first of these groups of joints that a layout has."""

_ENDS: dict[str, tuple[str, str]] = {
    "head_neck": ("head", "neck"),
    "shoulder": ("left", "right"),
    "torso": ("neck", "mid_hip"),
}


@cache
def scale_joints(skeleton: str | None, norm: Norm) -> Int:
    """(2, 2) int64: two pairs of joints whose means are the end points of the length `norm`.

    All are -1 where the box around the joints scales C: for "bbox", without a layout, and for a layout without the
    joints of `norm`. Callers share the array and must not write to it.
    """
    ends = np.full((2, 2), -1, np.int64)
    if skeleton is None or norm == "bbox":
        return ends
    layout = layout_of(skeleton)
    for row, point in enumerate(_ENDS[norm]):
        group = next((g for g in _POINTS[point] if all(j in layout.joints for j in g)), None)
        if group is None:
            return np.full((2, 2), -1, np.int64)
        ends[row] = layout.index(group[0]), layout.index(group[-1])
    return ends


def confidence(coords: Float, fused: Float, skeleton: str | None = None, norm: Norm = "head_neck") -> tuple[Float, Int]:
    """C of SST-A about any fused pose (eq. 4, without missing joints), and its support.

    Args:
        coords: (E, T, V, 2) float32 pixels of the experts, NaN where missing.
        fused: (T, V, 2) float32 pixels, NaN where missing.

    Returns:
        C (T,) float32 in [0, 1], and the number of present (expert, joint) pairs (T,) int32; see `SSTA`.
    """
    points, pose = np.ascontiguousarray(coords[None], np.float32), np.ascontiguousarray(fused[None], np.float32)
    certain, support = kernels.agreement(points, pose, scale_joints(skeleton, norm))
    return certain[0], support[0]


@dataclass(frozen=True)
class SSTA(Fusion):
    """Selective spatio-temporal aggregation.

    The printed formulas leave these cases open:

    * Missing joints are NaN. They are never chosen and never counted. (0, 0) is a position.
    * First frame of a joint: of the closest pair of experts, the one with the least summed distance to all present
      experts. A single present expert is chosen. Ties go to the lower index.
    * Later frames: the expert nearest to the last aggregate of the joint. Ties go to the lower index.
    * No expert has the joint: the joint keeps its position for up to `max_gap` frames, its score halves per frame, and
      its winner is -1. After that the joint is NaN, and the next observation counts as a first frame.
    * `max_step` > 0: where every present expert is farther than `max_step` from the last aggregate (times one more per
      frame of a gap), the first-frame rule decides. A track can so leave a wrong person. 0 is the printed rule.
    * C = exp(-mean of distance / scale) over present (expert, joint) pairs. A joint of one expert alone has distance 0
      by construction and does not count. Without a joint of two experts C is 1, and the support shows how little
      that means. C is 0 where nothing is present.
    * Scale: by default the head-neck length of the aggregate in the same frame (the neck is the middle of the shoulders
      where the layout has no neck), at least 1 % of the diagonal of the box around the pose. Where its joints are
      missing, the last known scale counts, and before any is known `kernels.BOX_SCALE` times the diagonal. "bbox" and
      a missing skeleton always use the diagonal.
    * `score_power` > 0 and scores: the rule heeds how sure each expert is. The joint is taken from the expert whose
      weighted distances to all experts present and to the last aggregate sum up to least (a weighted medoid). Weights
      are scores to this power, that of the aggregate is the one it was chosen with, halved per frame of a gap. Of two
      experts in a first frame the surer one is chosen. Scores should be probabilities that can be compared between
      experts. 0 is the printed rule, in which scores do not count.
    * The memory is the last aggregate, whatever its C. `gamma` sets `kept` only, so that a threshold can be retuned
      without changing a coordinate.

    Attributes:
        gamma: least C of a kept frame (0.18 as printed). Sets `kept` only.
        norm: length that scales C.
        max_gap: longest gap in which a joint keeps its position, in frames.
        max_step: longest step per frame, in the lengths of `norm`; 0 sets no limit.
        score_power: exponent of the score in the weight of an observation; 0 ignores scores, as printed.
        compat: use the arithmetic of the published script, for three experts: missing joints are positions at (0, 0),
            the shoulder width + 1e-8 scales C, the twelve body joints count, and ties go as in the script. `norm`,
            `max_gap`, `max_step` and `score_power` have no effect. The threshold of the script is gamma = 0.06. The
            script leaves the last frame empty; this fusion does not.
    """

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.18
    norm: Norm = "head_neck"
    max_gap: Annotated[int, Field(ge=0)] = 5
    max_step: Annotated[float, Field(ge=0)] = 0.0
    score_power: Annotated[float, Field(ge=0)] = 0.0
    compat: bool = False

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
            expert_weights: not used: the rule treats all experts alike.

        Raises:
            ComponentError: arrays of a wrong shape, or `compat` with other than three experts of a body layout.
        """
        points, weights = check(coords, scores, skeleton)
        found = self._run(points[None], None if weights is None else weights[None], skeleton)
        coords, joint_scores, certain, support, winner = (array[0] for array in found)
        return Fused(coords, joint_scores, certain, support, certain >= np.float32(self.gamma), winner)

    def fuse_batch(self, coords: Float, scores: Float | None = None, skeleton: str | None = None) -> Fused:
        """Fuse B sequences of equal length at once: coords (B, E, T, V, 2); every array of the result has a leading
        axis B."""
        points, weights = check(coords, scores, skeleton, axes="BETV")
        coords, joint_scores, certain, support, winner = self._run(points, weights, skeleton)
        return Fused(coords, joint_scores, certain, support, certain >= np.float32(self.gamma), winner)

    def _run(self, points: Float, weights: Float | None, skeleton: str | None) -> tuple[Float, Float, Float, Int, Int]:
        """Coordinates, scores, C, support and winner, each with B in front."""
        if self.compat:
            return kernels.select_published(points, weights, _body(points.shape[1], points.shape[-2], skeleton))
        ends = scale_joints(skeleton, self.norm)
        return kernels.select(points, weights, ends, self.max_gap, self.max_step, self.score_power)


def _body(num_experts: int, num_joints: int, skeleton: str | None) -> Int:
    """Indices of the twelve body joints, left and right shoulder first."""
    name = skeleton or ("coco17" if num_joints == 17 else "")
    if num_experts != 3 or not name:
        raise ComponentError(
            "compat=True is the published rule for 3 experts in a named layout (17 joints without a name are coco17); "
            f"given {num_experts} experts, {num_joints} joints, skeleton={skeleton!r}"
        )
    return np.array(layout_of(name).indices(BODY12), np.int64)
