"""Functions that the measures share: joints and size of the body, and statistics that skip NaN.

Lengths are in body heights, so that values of near and far, tall and short people can be compared.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dataengine.core.skeletons import BODY12, skeleton
from dataengine.core.types import Bool, Float, Int

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


def body_joints(layout: str) -> list[int]:
    """Indices of the twelve joints of trunk and limbs in `layout`."""
    return skeleton(layout).indices(BODY12)


def seen(coords: Float, scores: Float) -> Bool:
    """(..., V) bool, whether a joint has a position and a score above 0."""
    return np.isfinite(coords).all(-1) & (np.asarray(scores) > 0)


def blanked(coords: Float, scores: Float) -> Float:
    """(..., V, 2) float64 pixels, NaN for joints that are not seen."""
    return np.where(seen(coords, scores)[..., None], np.asarray(coords, np.float64), np.nan)


def quantile(values: Float, share: float, axis: int = 0) -> Float:
    """Linear quantile along one axis, NaN skipped; NaN where all values are."""
    ordered = np.moveaxis(np.sort(values, axis=axis), axis, -1)
    count: Int = np.isfinite(ordered).sum(-1)
    position = np.maximum(count - 1, 0) * share
    low = np.floor(position).astype(np.intp)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    first = np.take_along_axis(ordered, low[..., None], -1)[..., 0]
    last = np.take_along_axis(ordered, high[..., None], -1)[..., 0]
    result: Float = first + (last - first) * (position - low)
    return result


def mean(values: Float) -> float:
    """Mean, NaN skipped; NaN without any value."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def running_median(values: Float, radius: int) -> Float:
    """Median over frames t - radius ... t + radius of (T, ...) values, NaN skipped, with shorter windows at the
    ends."""
    if radius < 1 or len(values) == 0:
        return values
    edge = np.full((radius, *values.shape[1:]), np.nan)
    windows = sliding_window_view(np.concatenate([edge, values, edge]), 2 * radius + 1, axis=0)
    return quantile(windows, 0.5, axis=-1)


def body_height(coords: Float, layout: str, fps: float) -> Float:
    """Height of the standing person in the picture, per frame.

    Every seen segment of `SEGMENTS` gives an estimate. Foreshortening only makes segments shorter, so the upper
    quartile of the estimates counts, then the median over half a second. Frames without a segment get the median of the
    others.

    Args:
        coords: (T, V, 2) float pixels, NaN where unseen.
        layout: name of the joint layout.
        fps: frames per second.

    Returns:
        (T,) float64 pixels; NaN when no segment is ever seen, or all have length 0.
    """
    joints = skeleton(layout)
    starts = joints.indices(tuple(a for a, _, _ in SEGMENTS))
    ends = joints.indices(tuple(b for _, b, _ in SEGMENTS))
    lengths = np.linalg.norm(coords[:, starts] - coords[:, ends], axis=-1)
    estimates = quantile(lengths / np.array([share for _, _, share in SEGMENTS]), 0.75, axis=1)
    estimates = np.where(estimates > 0, estimates, np.nan)
    heights = running_median(estimates, max(1, round(fps / 4)))
    return np.where(np.isfinite(heights), heights, quantile(estimates, 0.5) if len(estimates) else np.nan)


def percentile_range(values: Float, low: float, high: float) -> Float:
    """Difference of two quantiles over frames, (T, ...) -> (...); NaN where all values are."""
    return quantile(values, high) - quantile(values, low)
