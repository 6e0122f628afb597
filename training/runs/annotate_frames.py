"""The annotator per frame: it learns from spans that people gave, and proposes spans of all other clips.

The annotator is that of Motion-R3 (an MLP on frozen features, one sigmoid per label), on the features of single steps
of a trained network. What it proposes is a table that a build takes as it is (`curate.spans`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataengine.core.errors import TrainingError
from dataengine.core.progress import Progress
from dataengine.labels.clip_table import ANNOTATOR, PEOPLE
from dataengine.labels.span_table import read_spans
from training.data.spans import SpanTable, dense
from training.data.types import Numbers, remark
from training.evaluate.annotator import Annotator, fit_annotator
from training.evaluate.metrics import f1_of
from training.evaluate.result import Result, of_seeds
from training.evaluate.segmentation import BOUNDARIES, Boundaries, runs_of, smoothed
from training.runs.frame_features import FrameFeatures
from training.runs.no_pose import NO_POSE, tell_of_no_pose
from training.runs.tables import table_file, write_table

FOLDS = 5
"""Parts of the labelled clips; each is judged by annotators that learnt from the others."""
REPEATS = 2
"""Divisions into folds."""
MOST = 50_000
"""Rows that the annotator learns from, at most, so that memory and seconds do not grow with the data: of more, every
second, fourth, ... row of each clip is kept."""
STEPS = 400
"""Of the optimiser. On rendered sequences 400 were a point of micro-F1 above 200, and half a point below 800."""

SLACK = 1e-6
"""Frames by which a span may miss the end of its clip by rounding."""

Cells: TypeAlias = NDArray[np.bool_]
"""(T, K): which labels there are in which frames."""

SCHEMA = pl.Schema(
    {
        "clip_id": pl.String(),
        "label": pl.String(),
        "start": pl.Float64(),
        "end": pl.Float64(),
        "unit": pl.String(),
        "probability": pl.Float64(),
        "from": pl.String(),
        "margin": pl.Float64(),
        "reason": pl.String(),
    }
)
"""Columns of the proposals; see `annotate_frames`."""


class Clips(Protocol):
    """Clips whose frames have features."""

    keys: tuple[str, ...]

    def read(self, numbers: Iterable[int], advance: Callable[[int], None] | None = None) -> Iterator[FrameFeatures]:
        """The features of the clips with these numbers, one after the other."""


@dataclass(frozen=True)
class SpanLabels:
    """What people said happens when.

    Attributes:
        names: of the labels.
        spans: by clip, (label, start, end, whether these are frames, else seconds) of each; empty where nothing
            happens.
        where: names of the files, for messages.
    """

    names: tuple[str, ...]
    spans: Mapping[str, Sequence[tuple[int, float, float, bool]]]
    where: str

    def of(self, clip: FrameFeatures) -> Cells:
        """(T, K) bool: in which frames of a clip a span of each label lasts.

        Raises:
            TrainingError: times are in seconds, and the frame rate of the clip is not known.
        """
        targets = np.zeros((clip.frames, len(self.names)), bool)
        for in_frames in (False, True):
            rows = [(label, start, end) for label, start, end, frames in self.spans[clip.key] if frames == in_frames]
            table = SpanTable(self.where, self.names, {clip.key: rows}, "frames" if in_frames else "seconds")
            if rows:
                spans = table.of(clip.key, clip.frames, clip.fps)
                targets |= dense(spans, clip.frames, len(self.names)) > 0
        return targets


def read_span_labels(paths: Sequence[str | os.PathLike[str]]) -> SpanLabels:
    """The spans that people gave, see `dataengine.labels.span_table`; proposals of annotators are not learnt from.

    Raises:
        ComponentError: a file is no table of spans.
        TrainingError: people gave no span.
    """
    where = ", ".join(map(str, paths))
    tables = read_spans(list(map(str, paths)))
    rows = tables.rows.filter(pl.col("label_from") == PEOPLE)
    names = tuple(rows["label"].drop_nulls().unique().sort().to_list())
    if not names:
        raise TrainingError(
            f"{where}: no span that people gave: an annotator learns from rows of clip_id, label, start and end, whose "
            "column from is empty or people"
        )
    for note in tables.notes:
        remark(f"{where}: {note}")
    numbers = {name: number for number, name in enumerate(names)}
    spans: dict[str, list[tuple[int, float, float, bool]]] = {}
    for clip, label, start, end, frames in rows.select("clip_id", "label", "start", "end", "frames").iter_rows():
        own = spans.setdefault(clip, [])
        if label is not None:
            own.append((numbers[label], start, end, frames))
    return SpanLabels(names, spans, where)


@dataclass(frozen=True)
class FrameProposals:
    """What an annotator of frames said.

    Attributes:
        path: of the table, see `annotate_frames`.
        learnt: clips that people looked at. proposed: clips that got proposals. spans: proposed in all.
        seconds: that the last training took.
        result: micro-F1 per frame on clips that were held out; None where there were too few.
    """

    path: Path
    learnt: int
    proposed: int
    spans: int
    seconds: float
    result: Result | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        facts = {"proposals": str(self.path), "learnt": self.learnt, "proposed": self.proposed, "spans": self.spans}
        return facts | {"seconds": self.seconds, "result": None if self.result is None else self.result.as_dict()}


def annotate_frames(
    clips: Clips,
    labels: SpanLabels,
    path: str | os.PathLike[str],
    threshold: float = 0.5,
    seed: int = 0,
    boundaries: Boundaries = BOUNDARIES,
    progress: Progress | None = None,
) -> FrameProposals:
    """Learn from the spans that people gave, and write spans of all other clips.

    Columns: clip_id; label; start and end (seconds, or frames where the clip does not say its frame rate); unit; the
    probability (mean over the frames of the span); from (annotator); margin (of the clip: the mean over its frames of
    how far the least sure label is from the threshold). Clips come by margin, those first that are most worth a look;
    a clip of which nothing is proposed has a row without a label. The reason is null, but for clips that show no pose
    (see `training.runs.no_pose`): they come last.

    Args:
        clips: all clips.
        labels: of some of them.
        path: .csv or .parquet; written whole or not at all.
        threshold: least probability of a label in the frames of a span.
        seed: of the annotators, the folds and the rows that are learnt from.
        boundaries: smoothing, gaps and shortest spans; its thresholds are not looked at.
        progress: tells how far the work is.

    Raises:
        TrainingError: another ending, no labelled clip is there, or a clip's frame rate is not known.
    """
    target, progress = table_file(path, "proposals"), progress or Progress()
    numbers = _labelled(clips, labels)
    with progress.step("labelled clips", len(numbers), "clips") as advance:
        known, shown = _thinned(clips.read(numbers, advance))
    if not known:
        raise TrainingError(f"{labels.where}: none of the {len(numbers)} clips that people looked at shows a pose")
    truth = [labels.of(clip) for clip in known]
    _check_inside(known, truth, labels)
    result = _held_out(known, truth, labels.names, threshold, seed, progress)
    begun = time.monotonic()
    annotator = _fitted(known, truth, seed)
    seconds = round(time.monotonic() - begun, 3)
    chosen = set(numbers)
    others = [number for number in range(len(clips.keys)) if number not in chosen]
    found: list[tuple[float, list[dict[str, Any]]]] = []
    with progress.step("proposals", len(others), "clips") as advance:
        for clip in clips.read(others, advance):
            shown.append(clip.shows_pose)
            found.append(_proposed(clip, annotator, labels.names, threshold, boundaries))
    every = [clips.keys[number] for number in (*numbers, *others)]
    tell_of_no_pose(every, np.array(shown, bool), "nothing is learnt from them, and nothing is proposed")
    found.sort(key=lambda rows: rows[0])  # equal margins keep their order
    rows = [row for _, own in found for row in own]
    write_table(pl.DataFrame(rows, schema=SCHEMA), target)
    spans = [row for row in rows if row["label"] is not None]
    proposed = len({row["clip_id"] for row in spans})
    return FrameProposals(target, len(known), proposed, len(spans), seconds, result)


def _labelled(clips: Clips, labels: SpanLabels) -> list[int]:
    """Numbers of the clips that people looked at."""
    where = {key: number for number, key in enumerate(clips.keys)}
    strange = [clip for clip in labels.spans if clip not in where]
    if len(strange) == len(labels.spans):
        raise TrainingError(
            f"{labels.where}: none of its {len(strange)} clips is in the data, such as {strange[0]!r}: there they are "
            f"called {', '.join(map(repr, clips.keys[:2]))}"
        )
    if strange:
        remark(
            f"{labels.where}: {len(strange)} of {len(labels.spans)} clips are not in the data, such as {strange[0]!r}"
        )
    return sorted(where[clip] for clip in labels.spans if clip in where)


def _check_inside(clips: Sequence[FrameFeatures], truth: Sequence[Cells], labels: SpanLabels) -> None:
    """Say how many spans begin behind the end of their clips, and how many end there.

    Raises:
        TrainingError: no frame has a label.
    """
    outside, longer = [], []
    for clip in clips:
        for label, start, end, frames in labels.spans[clip.key]:
            rate = 1 if frames else clip.fps or 1
            if start * rate >= clip.frames:
                outside.append(f"{labels.names[label]!r} from {start:g} of {clip.key!r}")
            elif end * rate > clip.frames + 1 + SLACK:
                longer.append(f"{labels.names[label]!r} to {end:g} of {clip.key!r}")
    if not any(of_clip.any() for of_clip in truth):
        why = "people saw nothing happen in them; give spans of clips in which something does"
        if outside:
            why = (
                f"the spans lie outside of them, such as {outside[0]}; times are seconds from the first frame, or "
                "frames where a column unit says so"
            )
        raise TrainingError(f"{labels.where}: no frame of the {len(clips)} clips has a label: {why}")
    if outside:
        remark(
            f"{labels.where}: {len(outside)} spans lie outside of their clips and are left out, such as {outside[0]}"
        )
    if longer:
        remark(f"{labels.where}: {len(longer)} spans end after their clips and are cut there, such as {longer[0]}")


def _thinned(clips: Iterator[FrameFeatures]) -> tuple[list[FrameFeatures], list[bool]]:
    """Clips that show a pose, with at most `MOST` rows together; where there are more, the same share of every clip is
    kept. And whether each of all clips shows one."""
    kept: list[FrameFeatures] = []
    shown: list[bool] = []
    count, times = 0, 1
    for clip in clips:
        shown.append(clip.shows_pose)
        if not clip.shows_pose:
            continue
        kept.append(clip.thinned(times))
        count += len(kept[-1].rows)
        while count > MOST and any(len(one.rows) > 1 for one in kept):
            kept, times = [one.thinned(2) for one in kept], 2 * times
            count = sum(len(one.rows) for one in kept)
    return kept, shown


def _fitted(clips: Sequence[FrameFeatures], truth: Sequence[Cells], seed: int) -> Annotator:
    rows = np.concatenate([clip.rows for clip in clips])
    targets = np.concatenate([of_clip[:: clip.every] for clip, of_clip in zip(clips, truth)])
    return fit_annotator(rows, targets, seed=seed, steps=STEPS)


def _held_out(
    clips: Sequence[FrameFeatures],
    truth: Sequence[Cells],
    names: Sequence[str],
    threshold: float,
    seed: int,
    progress: Progress,
) -> Result | None:
    """Micro-F1 over the frames of clips that annotators did not learn from; clips of one group stay together."""
    groups = sorted({clip.group for clip in clips})
    if len(groups) < FOLDS:
        return None
    scores = []
    with progress.step("held out", REPEATS * FOLDS, "folds") as advance:
        for repeat in range(REPEATS):
            order = np.random.default_rng(seed + repeat).permutation(len(groups)) % FOLDS
            fold_of = dict(zip(groups, order.tolist()))
            counts = np.zeros(3, np.int64)
            for fold in range(FOLDS):
                parts = list(zip(clips, truth))
                learnt = [part for part in parts if fold_of[part[0].group] != fold]
                annotator = _fitted([clip for clip, _ in learnt], [own for _, own in learnt], seed + repeat)
                for clip, own in (part for part in parts if fold_of[part[0].group] == fold):
                    counts += _counts(clip.at_frames(annotator.probabilities(clip.rows)) >= threshold, own)
                advance(1)
            scores.append(f1_of(*counts.tolist()))
    common = np.arange(len(names)) == np.sum([own.sum(0) for own in truth], axis=0).argmax()
    guessed = np.sum([_counts(np.broadcast_to(common, own.shape), own) for own in truth], axis=0)
    frames = sum(map(len, truth))
    details = {"clips": len(clips), "groups": len(groups), "frames": frames, "labels": list(names)}
    result = of_seeds("annotator per frame, clips held out", "micro-F1", scores, details=details)
    return result.with_baselines(commonest=f1_of(*guessed.tolist()))


def _counts(said: Cells, truth: Cells) -> Numbers:
    """Cells (T, K) that are right, wrong and missed, (3,): micro-F1 is of their sums (Motion-R3, section 4)."""
    return np.array([(said & truth).sum(), (said & ~truth).sum(), (~said & truth).sum()], np.int64)


def _proposed(
    clip: FrameFeatures, annotator: Annotator, names: Sequence[str], threshold: float, boundaries: Boundaries
) -> tuple[float, list[dict[str, Any]]]:
    """The margin of a clip and its rows of the table, by start."""
    if not clip.shows_pose:
        return np.inf, [{"clip_id": clip.key, "label": None, "from": ANNOTATOR, "reason": NO_POSE}]
    sure = clip.at_frames(annotator.probabilities(clip.rows))
    margin = float(np.abs(sure - threshold).min(1).mean())
    active = smoothed(sure, boundaries.smooth) >= threshold
    shortest = min(boundaries.shortest, clip.frames)
    facts = {"clip_id": clip.key, "unit": "frames" if clip.fps is None else "seconds", "from": ANNOTATOR}
    rows: list[dict[str, Any]] = []
    for label in np.flatnonzero(active.any(0)).tolist():
        for first, end in runs_of(active[:, label], boundaries.gap, shortest).tolist():
            times = {"start": first / (clip.fps or 1), "end": end / (clip.fps or 1)}
            probability = float(np.clip(sure[first:end, label].mean(), 0, 1))
            rows.append(facts | times | {"label": names[label], "probability": probability, "margin": margin})
    rows.sort(key=lambda row: (row["start"], row["end"]))
    return margin, rows or [facts | {"label": None, "margin": margin}]
