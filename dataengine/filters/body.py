"""Functions that the measures share: joints and size of the body, and statistics that skip NaN.

Lengths are in body heights, so that values of near and far, tall and short people can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from dataengine.core.jit import compiled
from dataengine.core.skeletons import BODY12, positions, skeleton
from dataengine.core.types import Bool, Float, Int, Sample

SEGMENTS: tuple[tuple[str, str, float], ...] = (
    ("left_shoulder", "left_hip", 0.288), ("right_shoulder", "right_hip", 0.288),
    ("left_shoulder", "right_shoulder", 0.259),
    ("left_shoulder", "left_elbow", 0.186), ("right_shoulder", "right_elbow", 0.186),
    ("left_elbow", "left_wrist", 0.146), ("right_elbow", "right_wrist", 0.146),
    ("left_hip", "left_knee", 0.245), ("right_hip", "right_knee", 0.245),
    ("left_knee", "left_ankle", 0.246), ("right_knee", "right_ankle", 0.246),
)  # fmt: skip
"""Body segments and their share of the height of a standing person: Drillis and Contini 1966, as drawn in Winter,
Biomechanics and Motor Control of Human Movement, figure 4.1 (trunk: height of the shoulders less height of the hips,
0.818 - 0.530)."""


SHARES: Float = np.array([share for _, _, share in SEGMENTS])
"""(11,) the shares of `SEGMENTS`."""


@cache
def body_joints(layout: str) -> Int:
    """(12,) indices of the joints of trunk and limbs in `layout`."""
    return np.array(skeleton(layout).indices(BODY12))


@cache
def _segment_ends(layout: str) -> tuple[Int, Int]:
    """(11,) indices of the first and of the second joint of every segment in `layout`."""
    joints = skeleton(layout)
    starts = joints.indices(tuple(a for a, _, _ in SEGMENTS))
    ends = joints.indices(tuple(b for _, b, _ in SEGMENTS))
    return np.array(starts), np.array(ends)


def length(vectors: Float) -> Float:
    """(..., 2) -> (...) lengths of vectors."""
    x, y = vectors[..., 0], vectors[..., 1]
    result: Float = np.sqrt(x * x + y * y)
    return result


def head_length(coords: Float, layout: str) -> Float:
    """(..., T, 1) pixels: median over frames of the distance from head point to the middle of the shoulders."""
    ends = positions(coords, layout, ("nose", "neck"))
    spans = length(ends[..., 0, :] - ends[..., 1, :])
    middle = np.full((*spans.shape[:-1], 1), np.nan, spans.dtype)
    for place in np.ndindex(spans.shape[:-1]):
        known = np.sort(spans[place][spans[place] > 0])  # NaN is not above 0
        if len(known):
            middle[place] = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2
    return middle


def seen(coords: Float, scores: Float) -> Bool:
    """(..., V) bool, whether a joint has a position and a score above 0."""
    finite = np.isfinite(coords)
    result: Bool = finite[..., 0] & finite[..., 1] & (np.asarray(scores) > 0)
    return result


def blanked(coords: Float, scores: Float) -> Float:
    """(..., V, 2) float64 pixels, NaN for joints that are not seen."""
    points = np.array(coords, np.float64)
    points[~seen(coords, scores)] = np.nan
    return points


@compiled
def _rank_quantiles(ordered: Float, shares: Float, result: Float) -> None:
    """Fill (Q, N) with the quantiles of (N, K) rows that are sorted, NaN last."""
    for row in range(ordered.shape[0]):
        count = 0
        for column in range(ordered.shape[1]):
            count += np.isfinite(ordered[row, column])
        for number in range(len(shares)):
            position = max(count - 1, 0) * shares[number]
            low = int(np.floor(position))
            first = ordered[row, low]
            result[number, row] = first + (ordered[row, min(low + 1, max(count - 1, 0))] - first) * (position - low)


@compiled
def _window_medians(values: Float, radius: int, result: Float) -> None:
    """Fill (T, K) with the median of the finite values of frames t - radius ... t + radius of (T, K)."""
    window = np.empty(2 * radius + 1)
    for column in range(values.shape[1]):
        for frame in range(len(values)):
            count = 0
            for other in range(max(frame - radius, 0), min(frame + radius + 1, len(values))):
                value = values[other, column]
                if np.isfinite(value):
                    place = count
                    while place > 0 and window[place - 1] > value:
                        window[place] = window[place - 1]
                        place -= 1
                    window[place] = value
                    count += 1
            if count == 0:
                result[frame, column] = np.nan
                continue
            position = (count - 1) * 0.5
            low = int(np.floor(position))
            first = window[low]
            result[frame, column] = first + (window[min(low + 1, count - 1)] - first) * (position - low)


def quantiles(values: Float, shares: tuple[float, ...], axis: int = 0) -> Float:
    """(Q, ...) linear quantiles along one axis, NaN skipped; NaN where all values are."""
    last = axis % values.ndim
    rows = np.asarray(values, np.float64).transpose([*(other for other in range(values.ndim) if other != last), last])
    ordered = np.sort(rows, axis=-1)  # a contiguous copy
    result = np.full((len(shares), *rows.shape[:-1]), np.nan)
    if ordered.size:
        _rank_quantiles(ordered.reshape(-1, rows.shape[-1]), np.array(shares), result.reshape(len(shares), -1))
    return result


def quantile(values: Float, share: float, axis: int = 0) -> Float:
    """Linear quantile along one axis, NaN skipped; NaN where all values are."""
    result: Float = quantiles(values, (share,), axis)[0]
    return result


def mean(values: Float) -> float:
    """Mean, NaN skipped; NaN without any value."""
    finite = values[np.isfinite(values)]
    return float(np.add.reduce(finite) / finite.size) if finite.size else float("nan")


def running_median(values: Float, radius: int) -> Float:
    """Median over frames t - radius ... t + radius of (T, ...) values, NaN skipped, with shorter windows at the
    ends."""
    if radius < 1 or len(values) == 0:
        return values
    given = np.ascontiguousarray(values, np.float64)
    result = np.empty_like(given)
    _window_medians(given.reshape(len(given), -1), radius, result.reshape(len(given), -1))
    return result


def percentile_range(values: Float, low: float, high: float) -> Float:
    """Difference of two quantiles over frames, (T, ...) -> (...); NaN where all values are."""
    least, most = quantiles(values, (low, high))
    result: Float = most - least
    return result


@dataclass(frozen=True)
class Body:
    """One person over a clip, with what several measures need of it, each worked out once.

    Attributes:
        points: (T, V, 2) float64 pixels, NaN where unseen.
        layout: name of the joint layout.
        fps: frames per second.
    """

    points: Float
    layout: str
    fps: float

    @classmethod
    def of(cls, coords: Float, scores: Float, layout: str, fps: float) -> Body:
        """The body of (T, V, 2) coords with (T, V) scores, 0 where unseen."""
        return cls(blanked(coords, scores), layout, fps)

    @cached_property
    def joints(self) -> Float:
        """(T, 12, 2) pixels of the joints of trunk and limbs."""
        return np.take(self.points, body_joints(self.layout), axis=1)

    @cached_property
    def segments(self) -> Float:
        """(T, 11) lengths of `SEGMENTS` in pixels."""
        starts, ends = _segment_ends(self.layout)
        return length(np.take(self.points, starts, axis=1) - np.take(self.points, ends, axis=1))

    @cached_property
    def height(self) -> Float:
        """(T,) height of the standing person in the picture in pixels; NaN when no segment is ever seen, or all have
        length 0.

        Every seen segment of `SEGMENTS` gives an estimate. Foreshortening only makes segments shorter, so the upper
        quartile of the estimates counts, then the median over half a second. Frames without a segment get the median
        of the others.
        """
        estimates = quantile(self.segments / SHARES, 0.75, axis=1)
        estimates = np.where(estimates > 0, estimates, np.nan)
        heights = running_median(estimates, max(1, round(self.fps / 4)))
        known = np.isfinite(heights)
        if known.all():
            return heights
        return np.where(known, heights, quantile(estimates, 0.5))


def foremost(sample: Sample) -> Body:
    """The body of the first-ranked person; filters share it by `sample.once(foremost)`."""
    return Body.of(np.asarray(sample.keypoints)[0], np.asarray(sample.scores)[0], sample.skeleton, sample.fps)
