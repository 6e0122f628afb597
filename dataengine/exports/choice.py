"""Which clips of a dataset are exported, and what is known of them before the first is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from dataengine.core.errors import DatasetError, suggestion
from dataengine.core.types import SPLITS
from dataengine.dataset.dataset import Dataset
from dataengine.exports.base import SPANS, SplitFacts

LEFT_OUT = {
    "split": "of another split",
    "licence": "of another licence",
    "consent": "of another consent",
    "unknown_licence": "of unknown licence",
    "nobody": "without a person",
}
"""Why clips that fulfil `where` are left out, in the order in which it is asked."""


@dataclass(frozen=True)
class Choice:
    """What a user wants of a dataset.

    Attributes:
        where: an SQL condition over the clips table.
        splits: splits to export; empty for all.
        licences: licences to export; empty for all. Capitals do not matter.
        consents: consents to export; empty for all. Capitals do not matter.
        unknown_licence: whether clips of unknown licence are exported.
    """

    where: str | None = None
    splits: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    consents: tuple[str, ...] = ()
    unknown_licence: bool = True

    def __post_init__(self) -> None:
        for split in self.splits:
            if split not in SPLITS:
                raise DatasetError(f"no split {split!r}{suggestion(split, SPLITS)}")

    def reasons(self) -> list[tuple[str, pl.Expr]]:
        """Conditions under which a clip is left out, with a key of `LEFT_OUT` each; the first that holds counts."""
        unknown = pl.col("licence").is_null() | (pl.col("licence").str.strip_chars() == "")
        reasons = [("nobody", (pl.col("num_people") < 1) | (pl.col("num_frames") < 1))]
        if not self.unknown_licence:
            reasons.insert(0, ("unknown_licence", unknown))
        if self.consents:
            reasons.insert(0, ("consent", ~_among("consent", self.consents)))
        if self.licences:
            reasons.insert(0, ("licence", ~_among("licence", self.licences)))
        if self.splits:
            reasons.insert(0, ("split", ~pl.col("split").is_in(self.splits)))
        return [(name, condition.fill_null(True)) for name, condition in reasons]

    def batches(self, dataset: Dataset, columns: Sequence[str], split: str) -> Iterator[pl.DataFrame]:
        """Rows of the chosen clips of one split in the order of their ids, a part at a time."""
        needed = ("split", "licence", "consent", "num_people", "num_frames", *columns)
        keep = pl.col("split") == split
        for _, condition in self.reasons():
            keep &= ~condition
        for frame in dataset.batches(needed, self.where):
            rows = frame.filter(keep)
            if len(rows):
                yield rows


def _among(column: str, values: tuple[str, ...]) -> pl.Expr:
    wanted = [value.strip().lower() for value in values]
    return pl.col(column).str.strip_chars().str.to_lowercase().is_in(wanted).fill_null(False)


@dataclass
class Overview:
    """What is known of the chosen clips.

    Attributes:
        splits: facts of each split that has clips.
        licences: licence -> clips, None for unknown.
        labels: names of the labels of the whole dataset, by number.
        span_labels: names of the labels of the spans of the whole dataset.
        unlabelled: clips without a label.
        left_out: key of `LEFT_OUT` -> clips.
        found: the values of licence and consent in the dataset, for messages.
    """

    splits: dict[str, SplitFacts] = field(default_factory=dict)
    licences: Counter[str | None] = field(default_factory=Counter)
    labels: tuple[str, ...] = ()
    span_labels: tuple[str, ...] = ()
    unlabelled: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    found: dict[str, set[str]] = field(default_factory=lambda: {"licence": set(), "consent": set()})

    @property
    def clips(self) -> int:
        """Number of chosen clips."""
        return sum(one.clips for one in self.splits.values())


def overview(dataset: Dataset, choice: Choice) -> Overview:
    """Count what is chosen, in one pass over the index.

    Raises:
        DatasetError: nothing is chosen; the line says what left the clips out.
    """
    seen = Overview()
    splits: dict[str, SplitFacts] = {}
    columns = ("split", "licence", "consent", "num_people", "num_frames", "label_id")
    for frame in dataset.batches(columns, choice.where):
        for column, values in seen.found.items():
            values.update(frame[column].drop_nulls().unique().to_list())
        for name, condition in choice.reasons():
            out = frame.select(condition).to_series()
            seen.left_out[name] += int(out.sum())
            frame = frame.filter(~out)
        _count(frame, splits, seen)
    seen.splits = {name: splits[name] for name in (*SPLITS, *sorted(set(splits) - set(SPLITS))) if name in splits}
    seen.left_out = Counter({name: count for name, count in seen.left_out.items() if count})
    seen.labels = _labels(dataset)
    seen.span_labels = _span_labels(dataset)
    if not seen.clips:
        raise DatasetError(_nothing(dataset, choice, seen))
    return seen


def _span_labels(dataset: Dataset) -> tuple[str, ...]:
    if SPANS not in dataset.clips.collect_schema().names():
        return ()
    labels = dataset.clips.select(pl.col(SPANS).explode().struct.field("label")).unique().drop_nulls()
    return tuple(labels.collect().to_series().sort().to_list())


def _count(frame: pl.DataFrame, splits: dict[str, SplitFacts], seen: Overview) -> None:
    people, frames = pl.col("num_people").cast(pl.Int64), pl.col("num_frames").cast(pl.Int64)
    grouped = frame.group_by("split").agg(
        pl.len().alias("clips"),
        frames.sum().alias("frames"),
        (frames * people).sum().alias("poses"),
        frames.max().alias("longest"),
        people.max().alias("crowd"),
    )
    for name, clips, some, poses, longest, crowd in grouped.rows():
        own = splits.setdefault(name, SplitFacts())
        own.clips, own.frames, own.poses = own.clips + clips, own.frames + some, own.poses + poses
        own.longest, own.crowd = max(own.longest, longest), max(own.crowd, crowd)
    for licence, count in frame.group_by("licence").len().rows():
        seen.licences[licence] += count
    seen.unlabelled += frame["label_id"].null_count()


def _labels(dataset: Dataset) -> tuple[str, ...]:
    """Names of the labels by number; a number that no clip has is its own name."""
    pairs = dataset.clips.select("label_id", "label").drop_nulls().unique().collect(engine="streaming")
    names = dict(pairs.rows())
    return tuple(names.get(number, str(number)) for number in range(max(names, default=-1) + 1))


def _nothing(dataset: Dataset, choice: Choice, seen: Overview) -> str:
    """Why there is nothing to export, and what to do."""
    said = ", ".join(f"{count} {LEFT_OUT[name]}" for name, count in seen.left_out.items())
    if not said:
        what = f"where={choice.where!r} matches no clip" if choice.where else "the dataset has no clips"
        return f"{dataset.root}: nothing to export: {what}"
    advice = []
    for name, column, given in (("licence", "licence", choice.licences), ("consent", "consent", choice.consents)):
        if seen.left_out[name]:
            advice.append(f"--{name} {' or '.join(given)} was asked for; the clips have {_listed(seen.found[column])}")
    if seen.left_out["unknown_licence"]:
        advice.append("--unknown-licence exports clips of unknown licence, where you may pass them on")
    return f"{dataset.root}: nothing to export: {said}" + "".join(f"; {line}" for line in advice)


def _listed(values: set[str]) -> str:
    return ", ".join(sorted(values)[:8]) or "none"
