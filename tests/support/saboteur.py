"""An expert of another package that behaves as the colour of a clip's first pixel tells it; used by
test_expert_faults.py."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataengine.core.component import Expert, ExpertSession
from dataengine.core.types import Float, Frames, Poses

RED, GREEN, BLUE, YELLOW = (220, 20, 20), (20, 220, 20), (20, 20, 220), (220, 220, 20)
STANDING = np.array(
    [[0.5, 0.1], [0.38, 0.22], [0.62, 0.22], [0.32, 0.38], [0.68, 0.38]]
    + [[0.3, 0.52], [0.7, 0.52], [0.42, 0.52], [0.58, 0.52]]
    + [[0.42, 0.74], [0.58, 0.74], [0.42, 0.92], [0.58, 0.92]],
    np.float32,
)  # fmt: skip


@dataclass(frozen=True)
class Saboteur(Expert):
    """Red crashes in native code, green hangs, blue runs out of memory, yellow does so the first time only."""

    marks: str = ""

    skeleton: ClassVar[str] = "body13"

    def weights(self) -> dict[str, str]:
        return {"none": "0" * 64}

    def load(self, device: str = "cpu") -> ExpertSession:
        return SaboteurSession(self.marks)


class SaboteurSession(ExpertSession):
    """Behaves as told by the colours."""

    def __init__(self, marks: str) -> None:
        self.marks = marks

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        colour = frames[0, :4, :4].reshape(-1, 3).mean(0)
        near = {
            name: np.abs(colour - np.array(rgb)).max() < 60 for name, rgb in zip("rgby", (RED, GREEN, BLUE, YELLOW))
        }
        if near["r"]:
            ctypes.string_at(0)
        if near["g"]:
            time.sleep(3600)
        if near["b"]:
            np.ones(1 << 58)
        mark = Path(self.marks) / "yellow"
        if near["y"] and not mark.exists():
            mark.touch()
            np.ones(1 << 58)
        height, width = frames.shape[1:3]
        out = []
        for n in range(len(frames)):
            coords = STANDING * (0.3 * width, 0.8 * height) + (0.3 * width + n, 0.1 * height)
            box = np.array([[*coords.min(0), *coords.max(0), 0.9]], np.float32)
            out.append(Poses(coords[None].astype(np.float32), np.full((1, 13), 0.9, np.float32), box))
        return out
