"""EfficientPose II Lite in boxes: a pose network trained on MPII, so that its errors differ from those of COCO's.

Groos, Ramampiaro and Ihlen, "EfficientPose: Scalable single-person pose estimation" (Applied Intelligence 2021, arXiv
2004.12186), with the weights of its authors (daniegr/EfficientPose, Apache-2.0). The network gives one map per joint at
an eighth of the resolution. It works at 368 pixels only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import cv2
import numpy as np

from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Frames, Int
from dataengine.experts.heads import Heads
from dataengine.experts.square_crops import SquareCropExpert, SquareCropProcessing

SIZE = 368
"""Width and height of crops in pixels."""
CROP = 1.6
"""Side of a crop over the longer side of the person's box: the network is used to people with room around them."""
FINER = 4
"""Fine cells per cell of a map, along each axis, for the place of a peak."""
BLUR = 1.0
"""Standard deviation in fine cells of the Gaussian that smooths a map before its peak is taken, as its authors do."""
REACH = 2
"""Cells around the best cell of a map in which its peak is looked for."""
ORDER = (
    "head_top", "upper_neck", "right_shoulder", "right_elbow", "right_wrist", "neck", "left_shoulder", "left_elbow",
    "left_wrist", "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
)  # fmt: skip
"""Joints in the order of the maps; MPII's thorax is the neck here, its pelvis the middle of the hips."""


@dataclass(frozen=True)
class EfficientPose(SquareCropExpert):
    """EfficientPose II Lite on MPII's 16 joints, in wide crops around people; needs no torch.

    There is no face among the joints: the head point of other layouts is made of head top and upper neck.
    """

    title: ClassVar[str] = "[experts.efficientpose]"
    licence: ClassVar[str | None] = "Apache-2.0 (weights of daniegr/EfficientPose)"
    skeleton: ClassVar[str] = "mpii16"
    outputs: ClassVar[dict[str, int]] = {"heatmap": len(ORDER)}
    published: ClassVar[str] = "efficientpose"
    score_calibration: ClassVar[str | None] = "efficientpose"

    @property
    def processing(self) -> SquareCropProcessing:
        """Wide squares around people."""
        return SquareCropProcessing("EfficientPose", SIZE, self.skeleton, self.min_score, self.min_mean, CROP)

    def network(self, heads: Heads) -> EfficientPoseNetwork:
        """The open file with the decoding of its maps."""
        return EfficientPoseNetwork(heads)


@dataclass(frozen=True)
class EfficientPoseNetwork:
    """An open file and the decoding of its maps."""

    heads: Heads

    def __call__(self, pixels: Frames) -> list[Float]:
        """(N, 368, 368, 3) uint8 -> (16, 3) for every crop: x, y in continuous pixels of the crop, and score."""
        if not len(pixels):
            return []
        images = pixels.astype(np.float32)
        images *= np.float32(1 / 127.5)
        images -= np.float32(1)
        (name,) = EfficientPose.outputs
        return list(decode(self.heads(images)[name]))


@cache
def _refinement(cells: int) -> Float:
    """(FINER cells, cells) float32: cubic interpolation to fine cells, and the blur, along one axis."""
    finer = cv2.resize(np.eye(cells, dtype=np.float32), (cells, FINER * cells), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.GaussianBlur(finer, (1, 0), sigmaX=BLUR, sigmaY=BLUR), np.float32)


@cache
def _positions() -> Int:
    """(16,) for every joint of the layout the number of its map."""
    return np.array([ORDER.index(joint) for joint in layout_of(EfficientPose.skeleton).joints])


def decode(maps: Float) -> Float:
    """The place of each joint in each crop: the peak of its map after cubic interpolation and a blur.

    The peak is looked for around the best cell of the map alone.

    Args:
        maps: (N, H, W, 16) confidences in the order of `ORDER`.

    Returns:
        (N, 16, 3) float32 in the order of the layout mpii16: x, y in continuous pixels of the crop, and the height of
        the peak.
    """
    num, height, width, joints = maps.shape
    flat = maps.transpose(0, 3, 1, 2)[:, _positions()].reshape(num * joints, height, width)
    best = flat.reshape(len(flat), -1).argmax(1)
    rows, down = _near(best // width, height)
    columns, across = _near(best % width, width)
    fine = down @ flat @ across.transpose(0, 2, 1)
    at = fine.reshape(len(fine), -1).argmax(1)
    y, x = rows + at // fine.shape[2] + 0.5, columns + at % fine.shape[2] + 0.5
    score = fine.reshape(len(fine), -1)[np.arange(len(fine)), at]
    cell = np.array([SIZE / (FINER * width), SIZE / (FINER * height), 1.0])
    return np.asarray((np.stack([x, y, score], -1) * cell).reshape(num, joints, 3), np.float32)


def _near(best: Int, cells: int) -> tuple[Int, Float]:
    """The first fine cell (K,) of the window around the best cell (K,) along one axis, and the rows (K, S, cells) of
    the refinement for the window."""
    span = FINER * min(2 * REACH + 1, cells)
    first = np.clip(FINER * (best - REACH), 0, FINER * cells - span)
    return first, _refinement(cells)[first[:, None] + np.arange(span)]
