"""Metrics of classification and of temporal segmentation; all lie in [0, 1], larger is better.

Axes: N clips, F frames, K classes, E events, P predictions, S segments. A class is given by its index.
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
        TrainingError: lengths differ, or no clip has a label.
    """
    ids = np.asarray(labels, np.int64)
    arrays = [np.asarray(other) for other in others]
    if ids.ndim != 1 or any(len(array) != len(ids) for array in arrays):
        raise TrainingError(
            f"labels {ids.shape} want rows of as many clips; given {', '.join(str(a.shape) for a in arrays)}"
        )
    has_label = ids >= 0
    if not has_label.any():
        raise TrainingError(f"none of {len(ids)} clips has a label; a score needs at least one")
    return ids[has_label], *(array[has_label] for array in arrays)


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
    """(N,) rank of each clip's true class, from 0; of equal scores the lower class index comes first."""
    rows, ids = class_scores(scores, labels)
    own = rows[np.arange(len(ids)), ids][:, None]
    earlier = (rows == own) & (np.arange(rows.shape[1]) < ids[:, None])
    return np.asarray(((rows > own) | earlier).sum(1), np.int64)


def hits(scores: ArrayLike, labels: ArrayLike, k: int = 1) -> Array:
    """(N,) float64, 1 where the true class is among the k best scores; input of `confidence_intervals.bootstrap`."""
    return np.asarray(ranks(scores, labels) < k, np.float64)


def top_k(scores: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Fraction of clips whose true class is among the k best scores."""
    return float(hits(scores, labels, k).mean())


def confusion(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> Numbers:
    """(K, K) int64 counts: rows are the true classes, columns the predicted ones.

    Raises:
        TrainingError: a class outside 0..K-1.
    """
    ids, predicted = labelled(labels, predictions)
    if max(int(ids.max()), int(predicted.max())) >= num_classes or predicted.min() < 0:
        raise TrainingError(
            f"classes go from 0 to {num_classes - 1}; given labels up to {ids.max()}, predictions "
            f"{predicted.min()}..{predicted.max()}"
        )
    counts = np.bincount(ids * num_classes + predicted.astype(np.int64), minlength=num_classes**2)
    return np.asarray(counts.reshape(num_classes, num_classes), np.int64)


def class_accuracies(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> Array:
    """(K,) accuracy of each class; NaN for a class without clips."""
    counts = confusion(predictions, labels, num_classes)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diag(counts) / counts.sum(1), np.float64)


def mean_class_accuracy(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> float:
    """Mean accuracy over classes (the metric of Smarthome); classes without clips are left out."""
    return float(np.nanmean(class_accuracies(predictions, labels, num_classes)))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the step curve of precision over recall, not interpolated. Equal scores form one threshold.

    The result is NaN without a positive label.

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
        valid: (F,) bool, the frames that count. Default: all frames.
        micro: whether all classes are ranked as one list, instead of the mean over classes.

    Returns:
        The mean over classes that occur (NaN if none occurs), and (K,) the value per class (NaN where absent).
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
    """Average precision of events.

    Attributes:
        thresholds: of overlap in time.
        classes: indices of the classes.
        ap: (thresholds, classes) float64.
    """

    thresholds: tuple[float, ...]
    classes: tuple[int, ...]
    ap: Array

    @property
    def at(self) -> dict[float, float]:
        """Mean over classes per threshold."""
        return {t: float(row.mean()) for t, row in zip(self.thresholds, self.ap)}

    @property
    def average(self) -> float:
        """Mean over thresholds and classes."""
        return float(self.ap.mean())


def event_map(
    truth: ArrayLike, predictions: ArrayLike, thresholds: Sequence[float] = (0.1, 0.3, 0.5), interpolated: bool = True
) -> EventMap:
    """Mean average precision of events at thresholds of overlap in time, as in the evaluation of ActivityNet.

    Predictions are matched in descending order of score. A prediction matches the unmatched true event of the same
    video and class with the largest overlap, if that overlap reaches the threshold; otherwise the prediction is a
    false positive. Classes are those of the true events.

    Args:
        truth: (E, 4) video, class, start, end.
        predictions: (P, 5) video, class, start, end, score.
        thresholds: intersection over union.
        interpolated: whether precision is made non-increasing in recall before the area is computed (ActivityNet);
            otherwise the area is that of plain steps.

    Raises:
        TrainingError: no true event, or numbers that are not finite.
    """
    events = np.asarray(truth, np.float64).reshape(-1, 4)
    rows = np.asarray(predictions, np.float64).reshape(-1, 5)
    if not len(events) or not np.isfinite(events).all() or not np.isfinite(rows).all():
        raise TrainingError(
            f"need at least one true event and finite numbers; given {len(events)} true events, {len(rows)} predictions"
        )
    classes = np.unique(events[:, 1])
    ap = np.zeros((len(thresholds), len(classes)))
    for column, name in enumerate(classes):
        class_events, class_rows = events[events[:, 1] == name], rows[rows[:, 1] == name]
        class_rows = class_rows[np.argsort(-class_rows[:, 4], kind="stable")]
        for row, threshold in enumerate(thresholds):
            ap[row, column] = _area(_taken(class_events, class_rows, threshold), len(class_events), interpolated)
    return EventMap(tuple(float(t) for t in thresholds), tuple(int(c) for c in classes), ap)


def _taken(events: Array, predictions: Array, threshold: float) -> NDArray[np.bool_]:
    """(P,) whether each prediction, best first, matches a true event."""
    free = np.ones(len(events), bool)
    right = np.zeros(len(predictions), bool)
    for n, (video, _, start, end, _) in enumerate(predictions):
        candidates = np.flatnonzero(free & (events[:, 0] == video))
        if not len(candidates):
            continue
        begins, ends = events[candidates, 2], events[candidates, 3]
        common = np.maximum(np.minimum(ends, end) - np.maximum(begins, start), 0)
        overlap = common / np.maximum((ends - begins) + (end - start) - common, 1e-12)
        best = int(np.argmax(overlap))
        if overlap[best] >= threshold:
            right[n], free[candidates[best]] = True, False
    return right


def _area(right: NDArray[np.bool_], positives: int, interpolated: bool) -> float:
    """Area under precision over recall of (P,) predictions, best first."""
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    if interpolated:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[right].sum() / positives)


def segments(labels: ArrayLike, background: int | None = None) -> Numbers:
    """(S, 3) int64 label, start and end (exclusive) of each run of equal labels in (F,) labels, without background."""
    ids = np.asarray(labels, np.int64)
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])) if len(ids) else np.zeros(0, np.int64)
    rows = np.stack([ids[starts], starts, np.append(starts[1:], len(ids))[: len(starts)]], axis=1)
    return np.asarray(rows if background is None else rows[rows[:, 0] != background], np.int64)


def edit_score(predictions: ArrayLike, labels: ArrayLike, background: int | None = None) -> float:
    """Edit score of one video: 1 - Levenshtein distance of segment labels / length of the longer list.

    Source: Lea et al. 2016, section 4.1. The score is 1 where neither side has segments.
    """
    return edit_of(segments(predictions, background)[:, 0], segments(labels, background)[:, 0])


def edit_of(predicted: ArrayLike, true: ArrayLike) -> float:
    """`edit_score` of two lists of labels of segments."""
    a, b = np.asarray(predicted, np.int64), np.asarray(true, np.int64)
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
    """Right, wrong and missed segments of one video. For `f1_of`, add the counts of several videos.

    A predicted segment is compared with the true segment of the same label that has the largest overlap (the first of
    equals). Overlap is intersection over union. The predicted segment is right if the overlap reaches `overlap` and no
    earlier predicted segment matched the same true segment.
    """
    return counts_of(segments(predictions, background), segments(labels, background), overlap)


def counts_of(predicted: Numbers, true: Numbers, overlap: float) -> tuple[int, int, int]:
    """`segment_counts` of rows label, start, end (exclusive); segments may overlap."""
    free = np.ones(len(true), bool)
    right = 0
    for label, start, end in predicted:
        common = np.minimum(true[:, 2], end) - np.maximum(true[:, 1], start)
        span = np.maximum(true[:, 2], end) - np.minimum(true[:, 1], start)
        overlaps = np.where(true[:, 0] == label, np.maximum(common, 0) / span, -1.0)
        best = int(np.argmax(overlaps)) if len(true) else -1
        if best >= 0 and overlaps[best] >= overlap and free[best]:
            free[best] = False
            right += 1
    return right, len(predicted) - right, len(true) - right


def f1_of(right: int, wrong: int, missed: int) -> float:
    """F1 of counts; 1 where all counts are 0."""
    return 2 * right / (2 * right + wrong + missed) if right + wrong + missed else 1.0


def f1_at(
    predictions: Sequence[ArrayLike], labels: Sequence[ArrayLike], overlap: float, background: int | None = None
) -> float:
    """F1@k over videos, each with (F,) predicted and true labels (Lea et al. 2017); see `segment_counts`."""
    rows = [
        segment_counts(predicted, true, overlap, background)
        for predicted, true in zip(predictions, labels, strict=True)
    ]
    right, wrong, missed = (sum(column) for column in zip(*rows))
    return f1_of(right, wrong, missed)


def frame_accuracy(predictions: Sequence[ArrayLike], labels: Sequence[ArrayLike]) -> float:
    """Fraction of frames of all videos whose label is right; frames with true label -1 do not count."""
    predicted = np.concatenate([np.asarray(p, np.int64).ravel() for p in predictions])
    true, predicted = labelled(np.concatenate([np.asarray(t, np.int64).ravel() for t in labels]), predicted)
    return float((predicted == true).mean())


def micro_f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """F1 over all cells of (F, K) arrays of 0 and 1, for frames with several labels (Motion-R3, section 4)."""
    predicted, true = np.asarray(predictions, bool), np.asarray(labels, bool)
    if predicted.shape != true.shape:
        raise TrainingError(f"predictions {predicted.shape} and labels {true.shape} differ in shape")
    return f1_of(int((predicted & true).sum()), int((predicted & ~true).sum()), int((~predicted & true).sum()))
