"""What happens when in a clip: spans of classes, their dense targets, and datasets that take spans from a table.

A span is a row class, first frame, end frame (exclusive) of `SkeletonSequence.spans`. Spans of one clip may overlap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from blake3 import blake3
from numpy.typing import ArrayLike, NDArray

from dataengine.core.counting import are, counted
from dataengine.core.errors import TrainingError
from training.data.types import Array, Numbers, SkeletonDataset, SkeletonSequence, Spans, remark

Unit = Literal["frames", "seconds", "shares"]
"""What starts and ends of a table count: frames, seconds, or shares of the clip in [0, 1]."""
TABLE_SPLITS = {"training": "train", "validation": "val", "validate": "val", "testing": "test"}
"""Splits by the names that annotations give them."""


def checked(rows: ArrayLike, num_classes: int, frames: int, what: str) -> Spans:
    """Spans of a file, (S, 3) int64, sorted by start.

    Args:
        rows: (S, 3) whole numbers.
        num_classes: K.
        frames: of the clip.
        what: how messages call the spans, such as "x.npz: spans of clip 'a'".

    Raises:
        TrainingError: not of that form, a class that has no name, a span without a frame or beyond the clip.
    """
    try:
        given: NDArray[Any] = np.asarray(rows)
    except ValueError:
        given = np.zeros((0,))
    if not given.size:
        given = np.zeros((0, 3), np.int64)
    if given.ndim != 2 or given.shape[1] != 3 or given.dtype.kind not in "iu":
        raise TrainingError(
            f"{what} are {given.dtype} {given.shape}; allowed: whole numbers (S, 3), the class, first and end frame"
        )
    spans = given.astype(np.int64)
    wrong = (spans[:, 0] < 0) | (spans[:, 0] >= num_classes)
    if wrong.any():
        raise TrainingError(
            f"{what} are of class {int(spans[wrong][0, 0])}, which has no name; allowed: 0 to {num_classes - 1}"
        )
    beyond = (spans[:, 1] < 0) | (spans[:, 2] <= spans[:, 1]) | (spans[:, 2] > frames)
    if beyond.any():
        _, first, end = spans[beyond][0].tolist()
        raise TrainingError(f"{what} go from frame {first} to {end}; allowed: 0 <= first < end <= {frames}")
    return spans[np.lexsort((spans[:, 0], spans[:, 2], spans[:, 1]))]


def dense(spans: Spans | None, frames: int, num_classes: int, start: int = 0) -> Array:
    """Targets (frames, K) float32 of the frames from `start` on: 1 while a span of the class lasts, 0 otherwise."""
    targets = np.zeros((frames, num_classes), np.float32)
    for label, first, end in () if spans is None else spans.tolist():
        targets[max(first - start, 0) : max(end - start, 0), label] = 1
    return targets


def lengths_of(dataset: SkeletonDataset) -> Numbers:
    """(N,) int64 frames of each clip; where the dataset does not know them, all clips are read once."""
    if dataset.lengths is not None:
        return np.asarray(dataset.lengths, np.int64)
    found = [clip.keypoints.shape[1] for index in range(len(dataset)) for clip in dataset.read([index])]
    return np.array(found, np.int64)


def joined_span_labels(datasets: Sequence[SkeletonDataset]) -> tuple[str, ...]:
    """Names of the classes of spans of all datasets, in order of appearance.

    Raises:
        TrainingError: no dataset has spans.
    """
    names = tuple(dict.fromkeys(label for dataset in datasets for label in dataset.span_labels))
    if not names:
        shown = ", ".join(dataset.name for dataset in datasets)
        raise TrainingError(
            f"{shown}: no clip has spans of what happens when; give a file that holds spans, or annotations with "
            "data.spans = PATH (Charades, TSU, PKU-MMD, or a CSV of clip_id, label, start, end)"
        )
    return names


def renumbered(spans: Spans | None, own: Sequence[str], names: Sequence[str]) -> Spans | None:
    """Spans whose classes are indices into `names` in place of `own`; those of classes without a name are left out."""
    if spans is None or tuple(own) == tuple(names):
        return spans
    numbers = {name: number for number, name in enumerate(names)}
    table = np.array([*(numbers.get(name, -1) for name in own), -1], np.int64)
    changed = np.column_stack([table[spans[:, 0]], spans[:, 1:]])
    return np.asarray(changed[changed[:, 0] >= 0], np.int64)


@dataclass(frozen=True)
class SpanTable:
    """Annotations of clips by their names.

    Attributes:
        name: of the file, for messages.
        labels: names of the classes.
        rows: by clip, (class, start, end) each, the end exclusive.
        unit: what starts and ends count.
        splits: by clip, train, val or test; empty where the annotations do not say.
        seconds: by clip, its length in seconds, where that is known.
    """

    name: str
    labels: tuple[str, ...]
    rows: Mapping[str, Sequence[tuple[int, float, float]]]
    unit: Unit
    splits: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def of(self, clip: str, frames: int, fps: float | None) -> Spans:
        """The spans of a clip in its frames; what lies beyond its end is cut off, and spans shorter than a frame get
        one.

        Args:
            clip: its name.
            frames: of the clip.
            fps: frames per second of the clip, or None.

        Raises:
            TrainingError: times are in seconds, and neither the clip's frame rate nor its length in seconds is known.
        """
        scale = 1.0
        if self.unit == "shares":
            scale = float(frames)
        elif self.unit == "seconds":
            if fps is None and clip not in self.seconds:
                raise TrainingError(
                    f"{self.name}: times of {clip!r} are in seconds, and the poses do not say their frame rate; give "
                    "poses with fps"
                )
            scale = fps if fps is not None else frames / self.seconds[clip]
        spans = []
        for label, start, end in self.rows.get(clip, ()):
            first = int(np.floor(start * scale + 1e-6))
            last = max(first + 1, int(np.ceil(end * scale - 1e-6)))
            if 0 <= first < frames:
                spans.append((label, first, min(last, frames)))
        return checked(spans, len(self.labels), frames, f"{self.name}: spans of {clip!r}")


def _names(key: str) -> Iterable[str]:
    """What annotations may call a clip of this key: the key, and the file's own name without folders and endings."""
    stem = PurePosixPath(key).name
    return dict.fromkeys((key, stem, stem.split(".")[0]))


class AnnotatedDataset(SkeletonDataset):
    """The clips of a dataset of which a table knows something, with their spans.

    Args:
        dataset: the poses; a clip is found in the table by its key, by the file name in it, or by who was filmed.
        table: the annotations.
        split: only clips of which the table says this split.

    Raises:
        TrainingError: no clip is in the table, or none of that split.
    """

    def __init__(self, dataset: SkeletonDataset, table: SpanTable, split: str | None = None) -> None:
        found = [self._find(dataset, table, number) for number in range(len(dataset))]
        kept = [number for number, name in enumerate(found) if name is not None]
        if not kept:
            raise TrainingError(
                f"{table.name}: it knows none of the {len(dataset)} clips of {dataset.name}: there they are called "
                f"{', '.join(map(repr, list(table.rows)[:2]))}, here {', '.join(map(repr, dataset.keys[:2]))}"
            )
        if len(kept) < len(dataset):
            first = dataset.keys[next(number for number, name in enumerate(found) if name is None)]
            remark(
                f"{table.name}: nothing is said of {len(dataset) - len(kept)} of the {len(dataset)} clips of "
                f"{dataset.name}, and they are left out, for example {first!r}"
            )
        if split is not None:
            kept = [number for number in kept if table.splits.get(str(found[number])) == split]
            if not kept:
                known = ", ".join(sorted(set(table.splits.values()))) or "none"
                raise TrainingError(f"{table.name}: no clip of split {split!r}; its splits: {known}")
        self._source, self._table = dataset, table
        self._positions = np.array(kept, np.int64)
        self._found = [str(found[number]) for number in kept]
        self.name, self.skeleton, self.labels = dataset.name, dataset.skeleton, dataset.labels
        self.span_labels = table.labels
        self.keys: Sequence[str] = [dataset.keys[number] for number in kept]
        self.label_ids: Numbers = np.asarray(dataset.label_ids, np.int64)[self._positions]
        self.named, groups = dataset.named, dataset.groups
        self.groups = None if groups is None else [groups[number] for number in kept]
        self.columns = {column: [values[number] for number in kept] for column, values in dataset.columns.items()}
        self.lengths = None if dataset.lengths is None else dataset.lengths[self._positions]
        rows = [table.rows[name] for name in self._found]
        if self.lengths is not None and table.unit == "frames":
            beyond = [
                key
                for key, spans, frames in zip(self.keys, rows, self.lengths)
                for _, start, _ in spans
                if start >= frames
            ]
            if beyond:
                remark(
                    f"{table.name}: of {dataset.name} {counted(len(beyond), 'span')} {are(len(beyond))} left out that "
                    f"would begin after the clip has ended, for example one of {beyond[0]!r}"
                )
        marks = (dataset.fingerprint, kept, table.labels, table.unit, rows)
        self.fingerprint = blake3(repr(marks).encode()).hexdigest()

    @staticmethod
    def _find(dataset: SkeletonDataset, table: SpanTable, number: int) -> str | None:
        group = () if dataset.groups is None else (dataset.groups[number],)
        return next((name for name in (*_names(dataset.keys[number]), *group) if name in table.rows), None)

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions, with their spans."""
        positions = [int(index) for index in indices]
        clips = self._source.read(self._positions[positions].tolist())
        return [
            dataclasses.replace(clip, spans=self._table.of(self._found[index], clip.keypoints.shape[1], clip.fps))
            for index, clip in zip(positions, clips)
        ]


class WindowedDataset(SkeletonDataset):
    """Windows of the clips of a dataset, each long enough that a random window of `length` frames can be cut from it.

    Clip after clip, one region begins every `hop` frames and is `length + hop` frames long or ends with its clip: so
    the random windows of an epoch cover all frames alike, and long clips come as often as they are long.

    Args:
        dataset: clips with spans.
        length: frames that are cut from each region.
        hop: frames between regions.
        names: classes that the spans become indices into. Default: those of the dataset.
    """

    def __init__(self, dataset: SkeletonDataset, length: int, hop: int, names: Sequence[str] | None = None) -> None:
        self._source, self._length, self._hop = dataset, length, hop
        self.name, self.skeleton, self.labels = dataset.name, dataset.skeleton, dataset.labels
        self.span_labels = tuple(dataset.span_labels if names is None else names)
        lengths = lengths_of(dataset)
        starts = [
            (clip, start)
            for clip, frames in enumerate(lengths.tolist())
            for start in range(0, max(frames - length, 0) + 1, hop)
        ]
        self._clips, self._starts = (np.array(column, np.int64) for column in zip(*starts))
        self.keys: Sequence[str] = [f"{dataset.keys[clip]}@{start}" for clip, start in starts]
        self.label_ids: Numbers = np.asarray(dataset.label_ids, np.int64)[self._clips]
        self.named = dataset.named
        self.groups = [(dataset.keys if dataset.groups is None else dataset.groups)[clip] for clip, _ in starts]
        self.lengths = np.minimum(lengths[self._clips] - self._starts, length + hop)
        marks = f"{dataset.fingerprint} {length} {hop} {self.span_labels}"
        self.fingerprint = blake3(marks.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._clips)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The regions at these positions; spans count from the first frame of the region."""
        clips = self._source.read(self._clips[list(indices)].tolist())
        return [self._cut(clip, int(self._starts[index])) for index, clip in zip(indices, clips)]

    def _cut(self, clip: SkeletonSequence, start: int) -> SkeletonSequence:
        frames = slice(start, start + self._length + self._hop)
        return cut(clip, frames.start, frames.stop, renumbered(clip.spans, self._source.span_labels, self.span_labels))


def cut(clip: SkeletonSequence, start: int, stop: int, spans: Spans | None) -> SkeletonSequence:
    """The frames `start` to `stop` of a clip, and what of the spans lies in them, counted from `start`."""
    keypoints = clip.keypoints[:, start:stop]
    scores = None if clip.scores is None else clip.scores[:, start:stop]
    if spans is not None:
        moved = spans - np.array([0, start, start])
        moved[:, 1:] = np.clip(moved[:, 1:], 0, keypoints.shape[1])
        spans = moved[moved[:, 2] > moved[:, 1]]
    return dataclasses.replace(clip, keypoints=keypoints, scores=scores, spans=spans)
