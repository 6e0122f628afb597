"""An expert of another package that leaves its process with a dead CUDA context, once; used by tests/gpu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataengine.core.component import Expert, ExpertSession
from dataengine.core.types import Float, Frames, Poses

RED = (220, 20, 20)
STANDING = np.linspace((0.4, 0.1), (0.6, 0.9), 13).astype(np.float32)


@dataclass(frozen=True)
class Poison(Expert):
    """A clip whose first pixels are red fails an assertion on the device, where `marks` does not say that one did.

    Every answer needs the device, so that a process with a dead context answers no more.
    """

    marks: str = ""

    skeleton: ClassVar[str] = "body13"

    def weights(self) -> dict[str, str]:
        return {"none": "0" * 64}

    def load(self, device: str = "cpu") -> ExpertSession:
        return PoisonSession(Path(self.marks) / "poisoned", device)


class PoisonSession(ExpertSession):
    """Behaves as told by the first pixels."""

    def __init__(self, mark: Path, device: str) -> None:
        self.mark, self.device, self.dead = mark, device, False

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        red = np.abs(frames[0, :4, :4].reshape(-1, 3).mean(0) - np.array(RED)).max() < 60
        if red and not self.mark.exists():
            self.mark.touch()
            self.dead = True
        self._use_device()
        height, width = frames.shape[1:3]
        coords = STANDING * (width, height)
        box = np.array([[*coords.min(0), *coords.max(0), 0.9]], np.float32)
        one = Poses(coords[None], np.full((1, 13), 0.9, np.float32), box)
        return [one] * len(frames)

    def _use_device(self) -> None:
        if self.device == "cpu":
            if self.dead:  # a rehearsal: what the driver says from then on, whatever is asked of it
                raise RuntimeError("CUDA error: device-side assert triggered")
            return
        import torch

        four = torch.zeros(4, device=self.device)
        far = torch.full((1,), 9 if self.dead else 0, device=self.device)
        float(four[far].sum())
