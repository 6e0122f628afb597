"""A format of one line a clip."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dataengine.exports.base import Export, ExportJob


@dataclass(frozen=True)
class Lengths(Export):
    """How many people and frames each clip has, one line of JSON a clip.

    Attributes:
        indent: spaces at the beginning of a line.
    """

    suffix: ClassVar[str] = ".jsonl"
    mark: ClassVar[bytes] = b'{"people"'

    indent: int = 0

    @property
    def target(self) -> str:
        return "coco17"

    def write(self, place: Path, job: ExportJob) -> None:
        with place.open("w") as file:
            for clip in job.clips():
                people, frames, joints = clip.scores.shape
                line = {"people": people, "frames": frames, "joints": joints, "clip": clip.clip_id}
                file.write(" " * self.indent + json.dumps(line) + "\n")
