"""What a format is, and what it is given to write."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from dataengine.core.component import Component
from dataengine.core.errors import ComponentError, suggestion
from dataengine.core.skeletons import SKELETONS, Skeleton
from dataengine.core.types import Float

OWN = "own"
"""Stands for the layout of the dataset among the values of an option `layout`."""

FACTS = (
    "clip_id", "source", "video_id", "start", "end", "split", "label", "label_id", "source_label", "text", "licence",
    "consent", "url", "subject", "fps", "width", "height", "num_frames", "num_people",
)  # fmt: skip
"""Columns of the clips table that travel with a clip into every format that has room for them."""

SPANS = "spans"
"""The column of what happens when, of datasets whose build names tables of it."""


@dataclass(frozen=True)
class ExportedClip:
    """One clip as a format gets it.

    Attributes:
        facts: its row of the clips table, by the names of `FACTS`; with `SPANS` where the dataset has them.
        keypoints: (M, T, V, 2) float32 pixels from the top-left in the layout of the export, NaN where unseen.
        scores: (M, T, V) float32 in [0, 1], 0 where unseen.
        others: further entries of its sample that the format asked for, by name.
    """

    facts: Mapping[str, Any]
    keypoints: Float
    scores: Float
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def clip_id(self) -> str:
        """Id of the clip; only letters, digits, '-' and '_'."""
        return str(self.facts["clip_id"])


@dataclass
class SplitFacts:
    """What the clips of one split have in common: how many they are, and their extremes.

    Attributes:
        clips: number of clips.
        frames: number of frames.
        poses: number of frames, counted once for each person.
        longest: most frames of a clip.
        crowd: most people of a clip.
    """

    clips: int = 0
    frames: int = 0
    poses: int = 0
    longest: int = 0
    crowd: int = 0


@dataclass(frozen=True)
class ExportJob:
    """One export under way: what is known before the first clip is read, and the clips.

    Attributes:
        skeleton: the joints of the clips as they are given.
        labels: names of the labels by their number.
        splits: what is exported of each split; only splits with clips, in the order train, val, test.
        licences: licence -> number of clips; None for an unknown one.
        record: what the export says about itself: format, dataset, choice.
        read: gives the clips of a split in the order of their ids, one at a time; see `clips`.
        index: gives some columns of the clips table for the clips of a split, a part at a time, in the same order.
        notes: what a user should know of this export; formats add lines of their own.
        span_labels: names of what happens when in the clips of the dataset, in alphabetical order.
    """

    skeleton: Skeleton
    labels: tuple[str, ...]
    splits: Mapping[str, SplitFacts]
    licences: Mapping[str | None, int]
    record: Mapping[str, Any]
    read: Callable[[str], Iterator[ExportedClip]]
    index: Callable[[Sequence[str], str], Iterator[pl.DataFrame]]
    notes: list[str] = field(default_factory=list)
    span_labels: tuple[str, ...] = ()

    def clips(self, split: str | None = None) -> Iterator[ExportedClip]:
        """The clips of a split, or of all splits one after the other. Each clip counts as done once it is read."""
        for name in self.splits if split is None else (split,):
            yield from self.read(name)

    @property
    def longest(self) -> int:
        """Most frames of a clip."""
        return max(one.longest for one in self.splits.values())

    @property
    def crowd(self) -> int:
        """Most people of a clip."""
        return max(one.crowd for one in self.splits.values())


class Export(Component, ABC):
    """A format of files that other programs read (frozen dataclass; its fields are its options).

    Attributes:
        suffix: ending of the one file that the format is; '' where it is a folder.
        mark: the bytes that such a file begins with, by which it is known as an export of this package.
        publishes: whether the format is made for publishing: clips of unknown licence are left out unless asked for.
        facts_beside: whether `clips.csv` holds the facts of the clips, for which the format has no room.
        keeps_copies: whether eyes and ears that are copies of the head point count as joints.
        entries: entries of a sample that the format wants beside keypoints and scores, where a dataset has them; None
            for all of them.
    """

    suffix: ClassVar[str] = ""
    mark: ClassVar[bytes] = b""
    publishes: ClassVar[bool] = False
    facts_beside: ClassVar[bool] = False
    keeps_copies: ClassVar[bool] = True
    entries: ClassVar[tuple[str, ...] | None] = ()

    @property
    @abstractmethod
    def target(self) -> str:
        """The layout that clips are converted to (`dataengine.core.skeletons`), or 'own' for that of the dataset."""

    @property
    def wanted(self) -> tuple[str, ...] | None:
        """What it wants of a sample under its options; see `entries`, which is the default."""
        return self.entries

    @abstractmethod
    def write(self, place: Path, job: ExportJob) -> None:
        """Write all clips of a job.

        Args:
            place: an empty folder to write into; for a format of one file, the path of that file.
            job: the clips, and what is known of them.
        """


@dataclass(frozen=True)
class LayoutExport(Export):
    """A format whose joints may have one of several layouts.

    Attributes:
        layouts: the layouts of the format; empty for every known layout and 'own'.
        layout: the chosen one.

    Raises:
        ComponentError: the format does not have that layout.
    """

    layouts: ClassVar[tuple[str, ...]] = ()

    layout: str = OWN

    def __post_init__(self) -> None:
        names = self.layouts or (OWN, *SKELETONS)
        if self.layout not in names:
            raise ComponentError(f"layout = {self.layout!r}{suggestion(self.layout, names)}")

    @property
    def target(self) -> str:
        return self.layout
