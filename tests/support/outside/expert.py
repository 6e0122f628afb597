"""An expert: one person wherever a picture has a bright block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.component import Expert, ExpertSession
from dataengine.core.types import Float, Frames, Poses

STANDING = np.array(
    [
        [8, 1], [6, 4], [10, 4], [5, 8], [11, 8], [5, 11], [11, 11],
        [7, 10], [9, 10], [7, 13], [9, 13], [7, 16], [9, 16],
    ],
    np.float32,
)  # fmt: skip
"""(13, 2) joints of `body13` in sixteenths of the block: nose, shoulders, elbows, wrists, hips, knees, ankles."""


@dataclass(frozen=True)
class BrightBlock(Expert):
    """Puts a standing person into the block of pixels that are brighter than a threshold.

    Attributes:
        threshold: green value above which a pixel belongs to the block.
        shift: pixels that all joints lie to the right, as an expert with a bias.
    """

    threshold: int = 150
    shift: float = 0.0

    skeleton: ClassVar[str] = "body13"

    def load(self, device: str = "cpu") -> ExpertSession:
        return BrightBlockSession(self)


class BrightBlockSession(ExpertSession):
    """There is no network to own: the configuration is enough."""

    def __init__(self, options: BrightBlock) -> None:
        self.options = options

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Frames) -> Poses:
        bright = frame[..., 1] > self.options.threshold
        if not bright.any():
            return Poses.empty(13)
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        corner = np.array([columns[0], rows[0]], np.float32)
        size = np.array([columns[-1] + 1, rows[-1] + 1], np.float32) - corner
        coords = corner + STANDING * size / 16 + np.array([self.options.shift, 0], np.float32)
        box = np.array([[*corner, *(corner + size), 1.0]], np.float32)
        return Poses(coords[None], np.full((1, 13), 0.75, np.float32), box)
