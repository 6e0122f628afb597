"""SST-A: per joint and frame, the expert nearest to where the joint was before.

Source: "Selective Spatio-Temporal Aggregation Based Pose Refinement System", eq. 1-4, written anew
from the formulas; `compat=True` reproduces the arithmetic of the published script (github.com
YangDi666/SSTA-PRS @ 7df39e4, tools/ssta.py, MIT) and is checked against its output.
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
"""End points of the units of length: the mean of the first of these groups of joints that a layout has."""

_ENDS: dict[str, tuple[str, str]] = {
    "head_neck": ("head", "neck"),
    "shoulder": ("left", "right"),
    "torso": ("neck", "mid_hip"),
}


@cache
def scale_joints(skeleton: str | None, norm: Norm) -> Int:
    """(2, 2) int64: joints whose means are the two end points of the unit; -1 everywhere where the unit is the box's.

    A layout without the joints of `norm`, or no layout, gives the box. Shared: not to be written to.
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
    """SST-A's C about any fused pose (eq. 4, missing joints left out), and its support.

    Args:
        coords: (E, T, V, 2) float32 pixels of the experts, NaN where missing.
        fused: (T, V, 2) float32 pixels, NaN where missing.

    Returns:
        C (T,) float32 in [0, 1] and the number of present (expert, joint) pairs (T,) int32; as in `SSTA`.
    """
    points, pose = np.ascontiguousarray(coords[None], np.float32), np.ascontiguousarray(fused[None], np.float32)
    certain, support = kernels.agreement(points, pose, scale_joints(skeleton, norm))
    return certain[0], support[0]


@dataclass(frozen=True)
class SSTA(Fusion):
    """Selective spatio-temporal aggregation.

    What the printed formulas leave open is decided so:

    * A missing joint (NaN) is missing: it is never chosen and never counted. (0, 0) is a position.
    * First frame of a joint: the closest pair among the experts that have it; of the two the one whose summed
      distance to all present experts is least. One present expert: that one. Ties: the expert of lower index.
    * Later: the expert nearest to the joint's last aggregate. Ties: the expert of lower index.
    * No expert has the joint: it is held where it was for up to `max_gap` frames, its score halved with every frame
      and its winner -1; then it is NaN, and the next observation of it counts as a first frame.
    * `max_step` > 0: when every present expert lies farther than `max_step` units (and as much again for every frame of a
      gap) from the last aggregate, continuity says nothing and the first-frame rule decides.
      This lets a track leave a wrong person it was caught on; 0 is the printed rule.
    * C = exp(-mean of distance / unit) over present (expert, joint) pairs. A joint that one expert alone has is at
      distance 0 by construction and is left out of the mean; if no joint has two experts C is 1 and the support
      tells how little that means; C is 0 where nothing is present.
    * Unit: by default head to neck of the aggregate in the same frame (the neck is the middle of the shoulders
      where the layout has none), at least 1 % of the diagonal of the pose's box. Where its joints are missing: the last
      known one, and before there is any, `kernels.BOX_SCALE` of the diagonal. "bbox" and no skeleton use the latter always.
    * Memory is the last aggregate whatever its C: `gamma` only sets `kept`, so that a threshold can be retuned
      without changing a coordinate.

    Attributes:
        gamma: C from which a frame is kept (0.18 as printed).
        norm: unit of length of C.
        max_gap: frames a joint nobody sees is held.
        max_step: farthest step from frame to frame in units of length, 0 for none.
        compat: the published script's arithmetic for three experts: missing joints are positions at (0, 0), shoulder
            width + 1e-8 as unit, the twelve body joints in C, its order of ties; `norm`, `max_gap` and `max_step` do nothing.
            The script's own threshold is gamma = 0.06. Its last frame, which it leaves empty, is computed.
    """

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.18
    norm: Norm = "head_neck"
    max_gap: Annotated[int, Field(ge=0)] = 5
    max_step: Annotated[float, Field(ge=0)] = 0.0
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
            expert_weights: not used; the rule treats experts alike.

        Raises:
            ComponentError: arrays of a wrong shape, or `compat` with other than three experts of a body layout.
        """
        points, weights = check(coords, scores, skeleton)
        batch = self._run(points[None], None if weights is None else weights[None], skeleton)
        return Fused(
            batch.coords[0], batch.scores[0], batch.confidence[0], batch.support[0], batch.kept[0], batch.winner[0]
        )

    def fuse_batch(self, coords: Float, scores: Float | None = None, skeleton: str | None = None) -> Fused:
        """Fuse B sequences of one length at once: coords (B, E, T, V, 2); every array of the result has B in front."""
        points, weights = check(coords, scores, skeleton, axes="BETV")
        return self._run(points, weights, skeleton)

    def _run(self, points: Float, weights: Float | None, skeleton: str | None) -> Fused:
        if self.compat:
            found = kernels.select_published(points, weights, _body(points.shape[1], points.shape[-2], skeleton))
        else:
            found = kernels.select(points, weights, scale_joints(skeleton, self.norm), self.max_gap, self.max_step)
        coords, scores, certain, support, winner = found
        return Fused(coords, scores, certain, support, certain >= np.float32(self.gamma), winner)


def _body(num_experts: int, num_joints: int, skeleton: str | None) -> Int:
    """Indices of the twelve body joints, left and right shoulder first."""
    name = skeleton or ("coco17" if num_joints == 17 else "")
    if num_experts != 3 or not name:
        raise ComponentError(
            "compat=True is the published rule for 3 experts in a named layout (17 joints without a name are coco17); "
            f"given {num_experts} experts, {num_joints} joints, skeleton={skeleton!r}"
        )
    return np.array(layout_of(name).indices(BODY12), np.int64)
