"""A format: a text file with a line for each clip, which is a body that goes round."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataengine.core.skeletons import skeleton
from training.data.formats.base import Format
from training.data.types import SkeletonSequence


class CirclesDataset(Format):
    """Lines of KEY SPLIT LABEL RADIUS FRAMES in a file `*.circles`.

    Args:
        path: of the file.
        split: only clips of this split.
        where: not known to this format.
    """

    @classmethod
    def recognises(cls, path: str) -> bool:
        return path.endswith(".circles")

    def __init__(self, path: str, split: str | None = None, where: str | None = None) -> None:
        text = Path(path).read_text()
        rows = [line.split() for line in text.splitlines()]
        self.rows = [row for row in rows if split in (None, row[1])]
        self.name, self.skeleton = Path(path).stem, skeleton("body13")
        self.fingerprint = hashlib.sha256(f"{split}{text}".encode()).hexdigest()
        self.labels = tuple(sorted({row[2] for row in rows}))
        self.keys = [row[0] for row in self.rows]
        self.label_ids = np.array([self.labels.index(row[2]) for row in self.rows], np.int64)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        return [self._one(index) for index in indices]

    def _one(self, index: int) -> SkeletonSequence:
        key, _, label, radius, frames = self.rows[index]
        time = np.arange(int(frames))[:, None] / 10
        body = np.stack([np.linspace(-20, 20, 13), np.linspace(-60, 60, 13)], -1)
        turn = -1 if label == "left" else 1
        centre = 200 + float(radius) * np.stack([np.cos(time), turn * np.sin(time)], -1)
        return SkeletonSequence(
            key, (body + centre)[None].astype(np.float32), None, int(self.label_ids[index]), (400, 400), 10.0
        )
