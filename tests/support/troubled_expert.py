"""An expert of another package whose host gets into trouble at its first frames, as a file in `marks` tells; used by
test_environment.py."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataengine.core.component import Expert, ExpertSession
from dataengine.core.types import Float, Frames, Poses
from tests.support.saboteur import GREEN, RED, STANDING

LOST_CONTEXT = "CUDA error: an illegal memory access was encountered"

_poisoned = False


@dataclass(frozen=True)
class Troubled(Expert):
    """Red frames lose the context of the GPU, green ones kill the process while `marks` holds `kill`. Another file in
    `marks` is done once, by the process that takes it.

    ========  ======================================================================
    away      renames the folder named in it to the same name with '.away'
    unmount   unmounts the folder named in it
    remove    removes the file named in it
    fill      fills the disk of the folder named in it
    poison    raises as a lost context of a GPU, in this process, for ever
    ========  ======================================================================
    """

    marks: str = ""

    skeleton: ClassVar[str] = "body13"

    def weights(self) -> dict[str, str]:
        return {"none": "0" * 64}

    def load(self, device: str = "cpu") -> ExpertSession:
        return TroubledSession(Path(self.marks))


class TroubledSession(ExpertSession):
    """Behaves as told."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        global _poisoned
        for what in ("away", "unmount", "remove", "fill", "poison"):
            taken = self.marks / f"{what}.{os.getpid()}"
            with suppress(FileNotFoundError):
                (self.marks / what).rename(taken)
                _poisoned = self.do(what, taken.read_text()) or _poisoned
        red = np.abs(frames[0, :4, :4].reshape(-1, 3).mean(0) - np.array(RED)).max() < 60
        green = np.abs(frames[0, :4, :4].reshape(-1, 3).mean(0) - np.array(GREEN)).max() < 60
        if green and (self.marks / "kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if _poisoned or red:
            raise RuntimeError(LOST_CONTEXT)
        height, width = frames.shape[1:3]
        out = []
        for n in range(len(frames)):
            coords = STANDING * (0.3 * width, 0.8 * height) + (0.3 * width + n, 0.1 * height)
            box = np.array([[*coords.min(0), *coords.max(0), 0.9]], np.float32)
            out.append(Poses(coords[None].astype(np.float32), np.full((1, 13), 0.9, np.float32), box))
        return out

    @staticmethod
    def do(what: str, name: str) -> bool:
        if what == "away":
            Path(name).rename(f"{name}.away")
        elif what == "unmount":
            subprocess.run(["umount", "-l", name], check=True)
        elif what == "remove":
            Path(name).unlink()
        elif what == "fill":
            with suppress(OSError), (Path(name) / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
            with suppress(OSError), (Path(name) / "filler2").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1))
        return what == "poison"
