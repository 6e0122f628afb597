"""Metrics of classification and of segmentation in time; all are shares in [0, 1], larger is better.

Axes: N clips, F frames, K classes, E events. Names of classes are their indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataengine.core.errors import TrainingError
from training.data.types import Array, Numbers


def labelled(labels: ArrayLike, *others: ArrayLike) -> tuple[NDArray[Any], ...]:
    """The labels that are not -1 as int64, and the rows of the other arrays that belong to them.

    Raises:
        TrainingError: lengths differ, or nothing has a label.
    """
    ids = np.asarray(labels, np.int64)
    arrays = [np.asarray(other) for other in others]
    if ids.ndim != 1 or any(len(array) != len(ids) for array in arrays):
        raise TrainingError(
            f"labels {ids.shape} want rows of as many clips; given {', '.join(str(a.shape) for a in arrays)}"
        )
    known = ids >= 0
    if not known.any():
        raise TrainingError(f"none of {len(ids)} clips has a label; a score needs at least one")
    return ids[known], *(array[known] for array in arrays)


def class_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], Numbers]:
    """Scores (N, K) and labels (N,) of the clips that have a label, checked.

    Raises:
        TrainingError: shapes differ, a label lies outside 0..K-1, or a score is NaN.
    """
    ids, rows = labelled(labels, scores)
    if rows.ndim != 2:
        raise TrainingError(f"scores are (clips, classes); given {rows.shape}")
    if ids.max() >= rows.shape[1]:
        raise TrainingError(f"label {ids.max()} has no column in scores of {rows.shape[1]} classes")
    if np.isnan(rows).any():
        raise TrainingError(
            f"{int(np.isnan(rows).any(1).sum())} of {len(rows)} clips have NaN scores; a network that diverged gives "
            "these"
        )
    return rows, ids


def ranks(scores: ArrayLike, labels: ArrayLike) -> Numbers:
    """(N,) place of each clip's own class among all, 0 the first; of equal scores the lower class index comes first."""
    rows, ids = class_scores(scores, labels)
    own = rows[np.arange(len(ids)), ids][:, None]
    earlier = (rows == own) & (np.arange(rows.shape[1]) < ids[:, None])
    return np.asarray(((rows > own) | earlier).sum(1), np.int64)


def hits(scores: ArrayLike, labels: ArrayLike, k: int = 1) -> Array:
    """(N,) float64, 1 where the own class is among the k best; what `intervals.bootstrap` takes."""
    return np.asarray(ranks(scores, labels) < k, np.float64)


def top_k(scores: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Share of clips whose own class is among the k best scores."""
    return float(hits(scores, labels, k).mean())


def confusion(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> Numbers:
    """(K, K) int64 counts: rows are the true classes, columns the predicted ones.

    Raises:
        TrainingError: a class outside 0..K-1.
    """
    ids, found = labelled(labels, predictions)
    if max(int(ids.max()), int(found.max())) >= num_classes or found.min() < 0:
        raise TrainingError(
            f"classes go from 0 to {num_classes - 1}; given labels up to {ids.max()}, predictions "
            f"{found.min()}..{found.max()}"
        )
    counts = np.bincount(ids * num_classes + found.astype(np.int64), minlength=num_classes**2)
    return np.asarray(counts.reshape(num_classes, num_classes), np.int64)


def class_accuracies(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> Array:
    """(K,) share of each class's clips that are right; NaN for a class without clips."""
    counts = confusion(predictions, labels, num_classes)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diag(counts) / counts.sum(1), np.float64)


def mean_class_accuracy(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> float:
    """Mean of the classes' accuracies (Smarthome's metric); classes without clips are left out."""
    return float(np.nanmean(class_accuracies(predictions, labels, num_classes)))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under precision over recall as steps, not interpolated; equal scores form one threshold. NaN without a
    positive.

    Args:
        labels: (F,) 0 or 1.
        scores: (F,), larger is more likely.
    """
    truth, values = np.asarray(labels, bool), np.asarray(scores, np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        raise TrainingError(f"labels and scores are (frames,) of one length; given {truth.shape} and {values.shape}")
    if np.isnan(values).any():
        raise TrainingError("scores hold NaN; a network that diverged gives these")
    if not truth.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    right = np.cumsum(truth[order])
    last = np.append(np.diff(values[order]) != 0, True)
    precision = right[last] / (np.flatnonzero(last) + 1)
    return float((precision * np.diff(right[last], prepend=0)).sum() / right[-1])


def frame_map(
    scores: ArrayLike, labels: ArrayLike, valid: ArrayLike | None = None, micro: bool = False
) -> tuple[float, Array]:
    """Mean average precision over frames of actions that may overlap (TSU, Charades).

    Args:
        scores: (F, K).
        labels: (F, K) 0 or 1.
        valid: (F,) bool, the frames that count; None for all.
        micro: all classes as one list in place of the mean over classes.

    Returns:
        The mean over classes that occur (NaN if none does), and (K,) each class's, NaN for those that do not occur.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if values.shape != truth.shape or values.ndim != 2:
        raise TrainingError(
            f"scores and labels are (frames, classes) of one shape; given {values.shape} and {truth.shape}"
        )
    if valid is not None:
        values, truth = values[np.asarray(valid, bool)], truth[np.asarray(valid, bool)]
    each = np.array([average_precision(truth[:, k], values[:, k]) for k in range(truth.shape[1])])
    if micro:
        return average_precision(truth.ravel(), values.ravel()), each
    return (float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")), each


@dataclass(frozen=True)
class EventMap:
    """Average precision of events: `ap` (thresholds, classes) and its mean over classes a threshold; `average` over
    all."""

    thresholds: tuple[float, ...]
    classes: tuple[int, ...]
    ap: Array

    @property
    def at(self) -> dict[float, float]:
        """Mean over classes by threshold."""
        return {t: float(row.mean()) for t, row in zip(self.thresholds, self.ap)}

    @property
    def average(self) -> float:
        return float(self.ap.mean())


def event_map(
    truth: ArrayLike, predictions: ArrayLike, thresholds: Sequence[float] = (0.1, 0.3, 0.5), interpolated: bool = True
) -> EventMap:
    """Mean average precision of events at thresholds of overlap in time, as ActivityNet's evaluation counts.

    In falling order of score each prediction takes the free true event of its video and class with the largest
    overlap not below the threshold; without one it is wrong. Classes are those of the true events.

    Args:
        truth: (E, 4) video, class, start, end.
        predictions: (P, 5) video, class, start, end, score.
        thresholds: intersection over union.
        interpolated: precision is made non-increasing in recall before the area is taken (ActivityNet); else plain
            steps.

    Raises:
        TrainingError: arrays of another form, or no true event.
    """
    true = np.asarray(truth, np.float64).reshape(-1, 4)
    found = np.asarray(predictions, np.float64).reshape(-1, 5)
    if not len(true) or not np.isfinite(true).all() or not np.isfinite(found).all():
        raise TrainingError(
            f"want at least one true event and finite numbers; given {len(true)} true events, {len(found)} predictions"
        )
    classes = np.unique(true[:, 1])
    ap = np.zeros((len(thresholds), len(classes)))
    for column, name in enumerate(classes):
        mine, seen = true[true[:, 1] == name], found[found[:, 1] == name]
        seen = seen[np.argsort(-seen[:, 4], kind="stable")]
        for row, threshold in enumerate(thresholds):
            ap[row, column] = _area(_taken(mine, seen, threshold), len(mine), interpolated)
    return EventMap(tuple(float(t) for t in thresholds), tuple(int(c) for c in classes), ap)


def _taken(true: Array, found: Array, threshold: float) -> NDArray[np.bool_]:
    """(P,) whether each prediction, best first, takes a true event."""
    free = np.ones(len(true), bool)
    right = np.zeros(len(found), bool)
    for n, (video, _, start, end, _) in enumerate(found):
        candidates = np.flatnonzero(free & (true[:, 0] == video))
        if not len(candidates):
            continue
        begins, ends = true[candidates, 2], true[candidates, 3]
        common = np.maximum(np.minimum(ends, end) - np.maximum(begins, start), 0)
        overlap = common / np.maximum((ends - begins) + (end - start) - common, 1e-12)
        best = int(np.argmax(overlap))
        if overlap[best] >= threshold:
            right[n], free[candidates[best]] = True, False
    return right


def _area(right: NDArray[np.bool_], positives: int, interpolated: bool) -> float:
    """Area under precision over recall of predictions, best first."""
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    if interpolated:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[right].sum() / positives)


def segments(labels: ArrayLike, background: int | None = None) -> Numbers:
    """(S, 3) label, start and end (exclusive) of the runs of one label in (F,) labels; those of `background` left
    out."""
    ids = np.asarray(labels, np.int64)
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])) if len(ids) else np.zeros(0, np.int64)
    rows = np.stack([ids[starts], starts, np.append(starts[1:], len(ids))[: len(starts)]], axis=1)
    return np.asarray(rows if background is None else rows[rows[:, 0] != background], np.int64)


def edit_score(predictions: ArrayLike, labels: ArrayLike, background: int | None = None) -> float:
    """1 - Levenshtein distance of the segments' labels over the longer list (Lea et al. 2016, section 4.1), of one
    video.

    Two videos without segments agree: 1. Over several videos the mean is taken.
    """
    a, b = segments(predictions, background)[:, 0], segments(labels, background)[:, 0]
    if not len(a) and not len(b):
        return 1.0
    row = np.arange(len(b) + 1)
    for i, label in enumerate(a, 1):
        previous, row = row, row.copy()
        row[0] = i
        for j, other in enumerate(b, 1):
            row[j] = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + int(label != other))
    return 1.0 - float(row[-1]) / max(len(a), len(b))


def segment_counts(
    predictions: ArrayLike, labels: ArrayLike, overlap: float, background: int | None = None
) -> tuple[int, int, int]:
    """Right, wrong and missed segments of one video at an overlap; the counts of several videos are added for `f1_of`.

    Every predicted segment looks at the true segment of its label with the largest overlap (the first of equals),
    intersection over the span of both; it is right when that reaches `overlap` and nobody took that segment before.
    """
    found, true = segments(predictions, background), segments(labels, background)
    free = np.ones(len(true), bool)
    right = 0
    for label, start, end in found:
        common = np.minimum(true[:, 2], end) - np.maximum(true[:, 1], start)
        span = np.maximum(true[:, 2], end) - np.minimum(true[:, 1], start)
        shares = np.where(true[:, 0] == label, np.maximum(common, 0) / span, -1.0)
        best = int(np.argmax(shares)) if len(true) else -1
        if best >= 0 and shares[best] >= overlap and free[best]:
            free[best] = False
            right += 1
    return right, len(found) - right, len(true) - right


def f1_of(right: int, wrong: int, missed: int) -> float:
    """F1 of counts; 1 when there was nothing to find and nothing was found."""
    return 2 * right / (2 * right + wrong + missed) if right + wrong + missed else 1.0


def f1_at(
    predictions: Sequence[ArrayLike], labels: Sequence[ArrayLike], overlap: float, background: int | None = None
) -> float:
    """F1@k over videos of (F,) predicted and true labels each (Lea et al. 2017); see `segment_counts`."""
    rows = [segment_counts(found, true, overlap, background) for found, true in zip(predictions, labels, strict=True)]
    right, wrong, missed = (sum(column) for column in zip(*rows))
    return f1_of(right, wrong, missed)


def frame_accuracy(predictions: Sequence[ArrayLike], labels: Sequence[ArrayLike]) -> float:
    """Share of all frames of all videos whose label is right; frames of true label -1 do not count."""
    found = np.concatenate([np.asarray(p, np.int64).ravel() for p in predictions])
    true, found = labelled(np.concatenate([np.asarray(t, np.int64).ravel() for t in labels]), found)
    return float((found == true).mean())


def micro_f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """F1 over all (frame, class) cells of 0/1 arrays of one shape (Motion-R3, section 4: frames with several
    labels)."""
    found, true = np.asarray(predictions, bool), np.asarray(labels, bool)
    if found.shape != true.shape:
        raise TrainingError(f"predictions {found.shape} and labels {true.shape} differ in shape")
    return f1_of(int((found & true).sum()), int((found & ~true).sum()), int((~found & true).sum()))
