"""Figures of temporal segmentation: from scores of frames to events with boundaries, and how well both fit the truth.

The metrics themselves are those of `training.evaluate.metrics`: mAP over frames (TSU, Charades), mAP of events at
overlaps in time (PKU-MMD, ActivityNet), edit score and F1@k (Lea et al. 2016, 2017). They are defined here for actions
that may overlap: every span is a segment, and segments are ordered by their start. Without overlap this is the usual
definition, in which frames without an action count as background and form no segment.

Axes: T frames, K classes, S spans, E events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.core.errors import TrainingError
from training.data.spans import dense
from training.data.types import Array, Numbers, Spans
from training.evaluate.metrics import counts_of, edit_of, event_map, f1_of, frame_map, micro_f1
from training.evaluate.result import Result

OVERLAPS = (0.1, 0.3, 0.5)
"""Intersection over union at which events count, as printed for PKU-MMD."""
F1_OVERLAPS = (0.1, 0.25, 0.5)
"""Intersection over union of F1@10, 25 and 50."""
SURE = 0.5
"""Score from which a class is said of a frame, where several may be."""


@dataclass(frozen=True)
class FrameScores:
    """What is said of the frames of one clip.

    Attributes:
        key: of the clip.
        scores: (T, K) probabilities.
        spans: the truth, None where the data do not say; classes are those of the scores.
        fps: frames per second, or None.
        shows_pose: whether the clip shows a pose: the scores of others mean nothing.
    """

    key: str
    scores: NDArray[np.float32]
    spans: Spans | None
    fps: float | None = None
    shows_pose: bool = True


@dataclass(frozen=True)
class Boundaries:
    """How scores of frames become events.

    The scores of a class are smoothed; where they reach a threshold is a run; runs closer than `gap` become one; runs
    shorter than `shortest` are dropped. Every threshold gives events. An event's score is the mean of its frames less
    that of the frames beside it, a quarter of its length on each side (the contrast of AutoLoc, Shou et al. 2018,
    equation 4): an event that ends too early or too late has a lower one. Of events of one class that overlap by more
    than `overlap`, the best stays.

    Attributes:
        smooth: frames of the moving mean, odd; 1: none.
        thresholds: of the smoothed scores.
        gap: frames.
        shortest: frames.
        overlap: intersection over union.
    """

    smooth: int = 9
    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    gap: int = 5
    shortest: int = 5
    overlap: float = 0.4

    def __post_init__(self) -> None:
        if self.smooth < 1 or self.smooth % 2 == 0 or self.gap < 0 or self.shortest < 1 or not self.thresholds:
            raise TrainingError(
                f"boundaries: smooth is odd, gap 0 or more, shortest 1 or more, and there is a threshold; given {self}"
            )


BOUNDARIES = Boundaries()
"""The defaults, set once and chosen on no data."""


def smoothed(scores: Array, frames: int) -> Array:
    """(T, K) float64 mean over `frames` (odd) frames around each frame, fewer at the ends of the clip."""
    values = np.asarray(scores, np.float64)
    if frames == 1 or not len(values):
        return values
    half = frames // 2
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    place = np.arange(len(values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first)[:, None], np.float64)


def runs_of(active: NDArray[np.bool_], gap: int = 0, shortest: int = 1) -> Numbers:
    """(R, 2) first frame and end (exclusive) of the runs of True in (T,) bool.

    Args:
        active: one value per frame.
        gap: runs with fewer frames than this, or as many, between them become one.
        shortest: runs of fewer frames are dropped.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    runs = edges.reshape(-1, 2)
    if len(runs) > 1 and gap:
        apart = runs[1:, 0] - runs[:-1, 1] > gap
        runs = np.column_stack([runs[np.append(True, apart), 0], runs[np.append(apart, True), 1]])
    return np.asarray(runs[runs[:, 1] - runs[:, 0] >= shortest], np.int64)


def events_of(scores: Array, boundaries: Boundaries = BOUNDARIES) -> Array:
    """(E, 4) float64 class, first frame, end (exclusive) and score of the events of a clip, the best first."""
    means = smoothed(scores, boundaries.smooth)
    rows = []
    for label in range(means.shape[1]):
        sums = np.concatenate([[0.0], np.cumsum(means[:, label])])
        found = {
            (int(first), int(end))
            for threshold in boundaries.thresholds
            for first, end in runs_of(means[:, label] >= threshold, boundaries.gap, boundaries.shortest)
        }
        own = [(label, first, end, _contrast(sums, first, end)) for first, end in sorted(found)]
        rows += _apart(sorted(own, key=lambda row: -row[3]), boundaries.overlap)
    events = np.array(rows, np.float64).reshape(-1, 4)
    return events[np.argsort(-events[:, 3], kind="stable")]


def _contrast(sums: Array, first: int, end: int) -> float:
    """Mean inside of an event less the mean beside it, of sums (T + 1,); nothing is beside the clip."""
    margin = max(1, (end - first) // 4)
    low, high = max(first - margin, 0), min(end + margin, len(sums) - 1)
    inside = sums[end] - sums[first]
    beside = (sums[high] - sums[low] - inside) / max(high - low - (end - first), 1)
    return float(inside / (end - first) - beside)


def _apart(rows: Sequence[tuple[int, int, int, float]], overlap: float) -> list[tuple[int, int, int, float]]:
    """Rows, best first, without those that overlap a better one."""
    kept: list[tuple[int, int, int, float]] = []
    for row in rows:
        if all(_iou(row[1:3], other[1:3]) <= overlap for other in kept):
            kept.append(row)
    return kept


def _iou(one: tuple[int, int], other: tuple[int, int]) -> float:
    common = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    return common / ((one[1] - one[0]) + (other[1] - other[0]) - common)


def segments_of(scores: Array, exclusive: bool, boundaries: Boundaries = BOUNDARIES) -> Numbers:
    """(S, 3) int64 class, first frame, end (exclusive) of what is said of a clip, ordered by start.

    Args:
        scores: (T, K) probabilities.
        exclusive: whether a frame has one class at most: the best one, unless that none is likelier. Otherwise every
            class of at least `SURE`.
        boundaries: smoothing, gap and shortest segment.
    """
    means = smoothed(scores, boundaries.smooth)
    active = means >= SURE
    if exclusive:
        none = 1 - means.sum(1, keepdims=True)
        active = np.concatenate([means, none], 1).argmax(1)[:, None] == np.arange(means.shape[1])
    rows = [
        (label, first, end)
        for label in np.flatnonzero(active.any(0))
        for first, end in runs_of(active[:, label], boundaries.gap, boundaries.shortest)
    ]
    found = np.array(sorted(rows, key=lambda row: (row[1], row[2], row[0])), np.int64).reshape(-1, 3)
    return found


def overlapping(spans: Spans | None) -> bool:
    """Whether two spans of a clip share a frame."""
    if spans is None or len(spans) < 2:
        return False
    ordered = spans[np.argsort(spans[:, 1], kind="stable")]
    return bool((ordered[1:, 1] < np.maximum.accumulate(ordered[:, 2])[:-1]).any())


def segmentation_results(
    clips: Sequence[FrameScores],
    names: Sequence[str],
    exclusive: bool = False,
    boundaries: Boundaries = BOUNDARIES,
    name: str = "segmentation",
) -> list[Result]:
    """All figures of clips whose truth is known.

    Args:
        clips: scores and truth.
        names: of the K classes.
        exclusive: see `segments_of`.
        boundaries: of events and segments.
        name: of the results.

    Raises:
        TrainingError: no clip has a span.
    """
    known = [clip for clip in clips if clip.spans is not None]
    if not any(clip.spans is not None and len(clip.spans) for clip in known):
        raise TrainingError(f"{name}: none of {len(clips)} clips has a span; give data with spans, or data.spans")
    targets = np.concatenate([dense(clip.spans, len(clip.scores), len(names)) for clip in known])
    scores = np.concatenate([clip.scores for clip in known])
    mean, each = frame_map(scores, targets)
    occurring = targets.mean(0)[targets.any(0)]
    by_class = {names[k]: None if np.isnan(value) else float(value) for k, value in enumerate(each)}
    details: dict[str, Any] = {
        "clips": len(known),
        "frames": len(scores),
        "spans": sum(len(clip.spans) for clip in known if clip.spans is not None),
        "average precision by class": by_class,
    }
    results = [Result(name, "frame mAP", mean, baselines={"chance": float(occurring.mean())}, details=details)]
    results += _of_events(known, boundaries, name)
    results += _of_segments(known, exclusive, boundaries, name)
    said = scores >= SURE
    if exclusive:
        said = np.concatenate([scores, 1 - scores.sum(1, keepdims=True)], 1).argmax(1)[:, None] == np.arange(len(names))
    results.append(Result(name, "frame F1", micro_f1(said, targets)))
    return results


def _of_events(clips: Sequence[FrameScores], boundaries: Boundaries, name: str) -> list[Result]:
    truth, found = [], []
    for number, clip in enumerate(clips):
        spans = np.zeros((0, 3), np.int64) if clip.spans is None else clip.spans
        truth.append(np.column_stack([np.full(len(spans), number), spans]))
        events = events_of(clip.scores, boundaries)
        found.append(np.column_stack([np.full(len(events), number), events]))
    precision = event_map(np.concatenate(truth), np.concatenate(found), OVERLAPS)
    return [Result(name, f"event mAP@{overlap:g}", value) for overlap, value in precision.at.items()]


def _of_segments(clips: Sequence[FrameScores], exclusive: bool, boundaries: Boundaries, name: str) -> list[Result]:
    pairs = []
    for clip in clips:
        true = np.zeros((0, 3), np.int64) if clip.spans is None else clip.spans
        true = true[np.lexsort((true[:, 0], true[:, 2], true[:, 1]))]
        pairs.append((segments_of(clip.scores, exclusive, boundaries), true))
    results = []
    for overlap in F1_OVERLAPS:
        rows = np.array([counts_of(predicted, true, overlap) for predicted, true in pairs])
        right, wrong, missed = (int(column) for column in rows.sum(0))
        results.append(Result(name, f"F1@{100 * overlap:g}", f1_of(right, wrong, missed)))
    edit = float(np.mean([edit_of(predicted[:, 0], true[:, 0]) for predicted, true in pairs]))
    return [*results, Result(name, "edit score", edit)]


def with_floors(results: Sequence[Result], floors: Mapping[str, Sequence[Result]]) -> list[Result]:
    """The results, each with the same figure of every floor beside it.

    Args:
        results: of the network.
        floors: by name, as `segmentation_results` gives them.
    """
    values = {name: {result.metric: result.value for result in found} for name, found in floors.items()}
    return [
        result.with_baselines(**{name: own[result.metric] for name, own in values.items() if result.metric in own})
        for result in results
    ]
