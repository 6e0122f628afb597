"""A source: every video of a folder, labelled by the first word of its file name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataengine.core.component import Source
from dataengine.core.types import Clip


@dataclass(frozen=True)
class Blocks(Source):
    """Videos called LABEL_NUMBER.mkv.

    Attributes:
        split: of all clips.
    """

    name: str = "blocks"
    split: str = "train"

    def discover(self, root: Path) -> Iterator[Clip]:
        for path in sorted(root.glob("*.mkv")):
            label, _, number = path.stem.partition("_")
            yield Clip(
                clip_id=f"{self.name}-{path.stem.replace('_', '-')}",
                source=self.name,
                video_id=number,
                media=path.name,
                split=self.split,
                label=label,
                licence="CC0-1.0",
            )
