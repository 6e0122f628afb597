"""MoveNet in boxes: two pose networks for a CPU, thunder (256 pixels) and lightning (192 pixels).

Votel and Li, "Next-Generation Pose Detection with MoveNet and TensorFlow.js" (2021), with the weights of its authors
(tensorflow/tfjs-models, Apache-2.0). A network gives four maps at a quarter of the resolution; the person whose centre
is likely and near the middle of the crop is decoded here, for any number of crops at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import numpy as np

from dataengine.core.errors import ComponentError
from dataengine.core.types import Float, Frames
from dataengine.experts.heads import Heads
from dataengine.experts.square_crops import SquareCropExpert, SquareCropProcessing

Variant = Literal["thunder", "lightning"]
SIZES: dict[str, int] = {"thunder": 256, "lightning": 192}
"""Width and height of crops in pixels."""
CROP = 1.0
"""Side of a crop over the longer side of the person's box. Looser crops let neighbours in: on 27 annotated pictures
thunder reaches an OKS of .815 at 1.0, .786 at 1.1 and .741 at 1.6."""
STRIDE = 4.0
"""Pixels per cell of the maps."""
SOFTENING = 1.8
"""Cells that are added to a distance before a likelihood is divided by it; a constant of the published graph."""
NUM_JOINTS = 17


@dataclass(frozen=True)
class MoveNet(SquareCropExpert):
    """MoveNet thunder or lightning on COCO's 17 joints, in tight crops around people; needs no torch.

    Attributes:
        variant: thunder is the more accurate, lightning three times as fast.
        checkpoint: a file that a student `movenet` of the same variant wrote, in place of the published weights.
    """

    variant: Variant = "thunder"
    checkpoint: str = ""

    title: ClassVar[str] = "[experts.movenet]"
    licence: ClassVar[str | None] = "Apache-2.0 (weights of tensorflow/tfjs-models)"
    skeleton: ClassVar[str] = "coco17"
    outputs: ClassVar[dict[str, int]] = {"heatmap": NUM_JOINTS, "center": 1, "regress": 34, "offset": 34}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint and self.model:
            raise ComponentError(f"{self.title} model and checkpoint both name weights: keep one of them")

    @property
    def published(self) -> str:
        return f"movenet_{self.variant}"

    @property
    def file(self) -> str:
        return self.checkpoint or super().file

    @property
    def score_calibration(self) -> str | None:
        """That of the published weights, also for a student's: labels move its peaks and leave their heights alone."""
        return self.published

    @property
    def processing(self) -> SquareCropProcessing:
        """Tight squares around people."""
        size = SIZES[self.variant]
        return SquareCropProcessing("MoveNet", size, self.skeleton, self.min_score, self.min_mean, CROP)

    def network(self, heads: Heads) -> MoveNetNetwork:
        """The open file with the decoding of its maps."""
        return MoveNetNetwork(heads)


@dataclass(frozen=True)
class MoveNetNetwork:
    """An open file and the decoding of its maps; the graph itself scales 0 .. 255 to -1 .. 1."""

    heads: Heads

    def __call__(self, pixels: Frames) -> list[Float]:
        """(N, s, s, 3) uint8 -> (17, 3) for every crop: x, y in continuous pixels of the crop, and score."""
        return list(decode(self.heads(pixels))) if len(pixels) else []


@cache
def _distances_to_middle(height: int, width: int) -> Float:
    """(H W,) float32 softened distances of cells to the middle cell (H / 2, W / 2), as the published graph has them."""
    y, x = np.arange(height)[:, None] - height / 2, np.arange(width)[None] - width / 2
    return np.asarray(np.hypot(y, x) + SOFTENING, np.float32).ravel()


def decode(heads: Mapping[str, Float]) -> Float:
    """The person in the middle of each crop.

    The centre is the cell of the highest centre likelihood over softened distance to the middle of the map. The
    displacements there say roughly where joints lie; a joint is the cell of its highest likelihood over softened
    distance to that place, plus the offset there.

    Args:
        heads: `heatmap` (N, H, W, 17) and `center` (N, H, W, 1), likelihoods; `regress` and `offset`
            (N, H, W, 34), y and x of every joint in cells.

    Returns:
        (N, 17, 3) float32: x, y in continuous pixels of the crop, and the likelihood at the joint's cell.
    """
    heat, center = heads["heatmap"], heads["center"]
    num, height, width, joints = heat.shape
    each = np.arange(num)
    middle = (center.reshape(num, -1) / _distances_to_middle(height, width)).argmax(1)
    rough = heads["regress"].reshape(num, -1, joints, 2)[each, middle]
    rough = rough + np.stack([middle // width, middle % width], -1)[:, None].astype(np.float32)
    cell = _nearest_peaks(heat, rough)
    crop, joint = each[:, None], np.arange(joints)[None]
    offset = heads["offset"].reshape(num, -1, joints, 2)[crop, cell, joint]
    score = heat.reshape(num, -1, joints)[crop, cell, joint]
    x, y = (cell % width + offset[..., 1]) * STRIDE, (cell // width + offset[..., 0]) * STRIDE
    return np.stack([x, y, score], -1).astype(np.float32)


def _nearest_peaks(heat: Float, rough: Float) -> Float:
    """(N, V) int64 cell of the highest likelihood over softened distance to `rough` (N, V, 2), y and x in cells."""
    num, height, width, joints = heat.shape
    maps = heat.transpose(0, 3, 1, 2)
    dy = np.arange(height, dtype=np.float32) - rough[:, :, :1]
    dx = np.arange(width, dtype=np.float32) - rough[:, :, 1:]
    away = np.sqrt((dy * dy)[:, :, :, None] + (dx * dx)[:, :, None]) + np.float32(SOFTENING)
    found: Float = np.divide(maps, away, out=away).reshape(num, joints, -1).argmax(-1)
    return found
