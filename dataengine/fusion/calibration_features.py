"""Features of an observation, made without the truth: what the trees of `Calibration` learn from.

Joints of the right are mirrored, so that left and right joints share one model. Lengths are in scale lengths (see
`Calibration`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache

import numpy as np

from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Int
from dataengine.fusion.spline import Spline
from dataengine.fusion.ssta import Norm, scale_joints

WIDTHS = (0.1, 0.25, 0.5, 1.0)
"""Standard deviations of the kernels in which agreement is measured."""

_AGREED = 2
"""Index of the width in `WIDTHS` for the place that most experts agree on."""

_PULL = 0.25
"""Standard deviation of the kernel within which observations are averaged."""

_SHARE = 75.0
"""Percentile over frames that gives the length of a bone."""

_AROUND = 4
"""Frames before and after over which the errors of an expert are averaged."""


@cache
def _relatives(name: str) -> tuple[Int, Int, Int, Float]:
    """(V,) neighbour of each joint towards the trunk and away from it, -1 where none; its mirror; -1 for joints of the
    right, else 1."""
    layout = layout_of(name)
    halves = [joint.split("_")[0] if joint.startswith(("left_", "right_")) else "" for joint in layout.joints]
    same = [(a, b) for a, b in layout.bones if not (halves[a] and halves[b] and halves[a] != halves[b])]
    inner = [next((a for a, b in same if b == v), -1) for v in range(layout.num_joints)]
    outer = [next((b for a, b in reversed(same) if a == v), -1) for v in range(layout.num_joints)]
    sign = np.where(np.array(halves) == "right", -1.0, 1.0)
    return np.array(inner), np.array(outer), np.array(layout.flip), sign


def _pick(values: Float, joints: Int) -> Float:
    """`values` (..., V) of other joints, NaN where the index is -1."""
    taken: Float = np.where(joints >= 0, values[..., joints], np.nan)
    return taken


def _length(vectors: Float) -> Float:
    """(2, ...) -> (...)."""
    out: Float = np.hypot(vectors[0], vectors[1])
    return out


def _mean(values: Float, axis: int | tuple[int, ...]) -> Float:
    """Mean over axes that are kept, NaN skipped; NaN where all are."""
    seen = ~np.isnan(values)
    count = seen.sum(axis, keepdims=True)
    total: Float = np.where(seen, values, 0).sum(axis, keepdims=True) / np.where(count, count, np.nan)
    return total


def lengths(points: Float, skeleton: str) -> tuple[Float, float]:
    """Features of the size of a person, and the length that they are relative to.

    Args:
        points: (E, T, V, 2) pixels, NaN where missing.

    Returns:
        (F,) logarithms of the lengths that each expert sees, relative to the second result, NaN where unknown; and that
        length in pixels: the root mean square over the bones, of the median over experts, NaN where no bone is seen.
    """
    bones = np.array(layout_of(skeleton).bones)
    ends = [points[..., bones[:, 0], :] - points[..., bones[:, 1], :]]
    norms: tuple[Norm, ...] = ("head_neck", "torso")
    for norm in norms:
        (a, b), (c, d) = scale_joints(skeleton, norm)
        ends.append(0.5 * (points[..., [a], :] + points[..., [b], :] - points[..., [c], :] - points[..., [d], :]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # joints nobody saw
        box = np.nanmax(points, axis=2) - np.nanmin(points, axis=2)
        found = np.nanpercentile(
            np.linalg.norm(np.concatenate([*ends, box[..., None, :]], axis=-2), axis=-1), _SHARE, axis=1
        )
        base = float(np.sqrt(np.nanmean(np.nanmedian(found[:, : len(bones)], axis=0) ** 2)))
        out: Float = np.log(np.maximum(found / base, 1e-3)).ravel()
    return out, base


def observation_features(points: Float, scores: Float | None, skeleton: str, temporal: bool) -> Float:
    """The features of every observation.

    Args:
        points: (E, T, V, 2) float64 in scale lengths, NaN where missing. Experts have a fixed order; some may be
            absent.
        scores: (E, T, V) own scores or None.
        temporal: whether to add features that compare frames.

    Returns:
        (E, T, V, F) float64, NaN where unknown.
    """
    xy = np.moveaxis(points, -1, 0)
    columns = [*_still(xy, scores, skeleton)]
    if temporal:
        columns += [*_moving(xy, skeleton)]
    return np.stack([np.broadcast_to(column, points.shape[:3]) for column in columns], axis=-1)


def consensus_place(xy: Float) -> tuple[Float, Float]:
    """The place of most experts in each frame: two steps of mean shift from the observation with most others around it.

    Args:
        xy: (2, E, T, V).

    Returns:
        that place (2, 1, T, V), and the squared distances (E, E, T, V) between observations.
    """
    apart = (xy[0][:, None] - xy[0]) ** 2 + (xy[1][:, None] - xy[1]) ** 2
    first = _kernel(apart, WIDTHS[_AGREED]).sum(1).argmax(0)
    place = np.take_along_axis(xy, first[None, None], axis=1)
    filled = np.nan_to_num(xy)
    for _ in range(2):
        share = _kernel((xy[0] - place[0]) ** 2 + (xy[1] - place[1]) ** 2, WIDTHS[_AGREED])
        mass = share.sum(0)
        place = (share * filled).sum(1, keepdims=True) / np.where(mass > 0, mass, np.nan)
    return place, apart


def pull(points: Float, precision: Float, skeleton: str) -> Float:
    """Vectors from each observation to the weighted mean of the observations near it, mirrored for joints of the right.

    Args:
        points: (E, T, V, 2) in scale lengths, NaN where missing.
        precision: (E, V) inverse of the mean squared error of the joints of each expert. 0 for all gives zero vectors.

    Returns:
        (E, T, V, 2), 0 where missing.
    """
    xy = np.moveaxis(points, -1, 0)
    share = _kernel((xy[0][:, None] - xy[0]) ** 2 + (xy[1][:, None] - xy[1]) ** 2, _PULL) * precision[:, None]
    mass = share.sum(1)
    off = ((share * np.nan_to_num(xy)[:, None]).sum(2) - mass * np.nan_to_num(xy)) / np.where(mass > 0, mass, 1.0)
    off[0] *= sign(skeleton)
    return np.moveaxis(off, 0, -1)


def _kernel(squared: Float, width: float) -> Float:
    """Gaussian of a squared distance, 0 where missing."""
    out: Float = np.nan_to_num(np.exp(-0.5 * squared / width**2))
    return out


def _still(xy: Float, scores: Float | None, skeleton: str) -> Iterator[Float]:
    """Features from the observations of one frame; each (E, T, V) or of a shape that broadcasts to it."""
    inner, outer, flip, sign = _relatives(skeleton)
    experts, _, joints = xy.shape[1:]
    mirror = np.array([sign, np.ones(joints)])[:, None, None]
    place, apart = consensus_place(xy)
    seen = ~np.isnan(xy[0])
    yield np.minimum(np.arange(joints), flip).astype(float)
    yield np.arange(experts, dtype=float)[:, None, None]
    yield np.full((1, 1, 1), np.nan) if scores is None else np.where(seen, scores, np.nan)
    yield seen.sum(0)[None].astype(float)
    yield from _others(xy, apart, mirror)
    off = (xy - place) * mirror
    far = _length(off)
    density = _kernel(far**2, WIDTHS[_AGREED]).sum(0)[None]
    yield from (far, *off, density)
    for near in (inner, outer, flip):
        bone, reach = xy - _pick(xy, near), (xy - _pick(place, near)) * mirror
        yield from (_pick(density, near), _pick(far, near), _length(bone), _length(reach), *reach)
        yield _length(place - _pick(place, near))
    crossed = (xy[0][:, None] - xy[0][..., flip]) ** 2 + (xy[1][:, None] - xy[1][..., flip]) ** 2
    yield _kernel(crossed, WIDTHS[_AGREED]).sum(1)
    layout = layout_of(skeleton)
    left, right = layout.index("left_shoulder"), layout.index("right_shoulder")
    low_left, low_right = layout.index("left_hip"), layout.index("right_hip")
    middle = _mean(place[..., [left, right, low_left, low_right]], 3)
    yield from (xy - middle) * mirror
    yield (place[0, ..., left] - place[0, ..., right])[..., None] * sign
    yield (place[0, ..., low_left] - place[0, ..., low_right])[..., None] * sign
    trunk = _mean(place[..., [left, right]], 3) - _mean(place[..., [low_left, low_right]], 3)
    yield from trunk * mirror
    capped = np.minimum(far, 1.0)
    yield _mean(capped, 2)
    yield _mean(capped, (0, 2))


def _others(xy: Float, apart: Float, mirror: Float) -> Iterator[Float]:
    """Features that compare an observation with those of other experts of the same joint."""
    experts = xy.shape[1]
    distance = np.sqrt(apart)
    distance[np.arange(experts), np.arange(experts)] = np.nan
    for other in range(experts):
        yield distance[:, other]
        yield from np.where(np.arange(experts)[:, None, None] == other, np.nan, (xy[:, [other]] - xy) * mirror)
    yield from np.moveaxis(np.sort(distance, axis=1), 1, 0)[: experts - 1]
    filled = np.nan_to_num(xy)
    for width in WIDTHS:
        share = _kernel(apart, width)
        mass = share.sum(1)
        yield mass
        yield mass / np.maximum(mass.max(0), 1e-9)
        if width < 0.5:
            yield from ((share * filled[:, None]).sum(2) / np.where(mass > 0, mass, np.nan) - xy) * mirror


def _moving(xy: Float, skeleton: str) -> Iterator[Float]:
    """Features that compare frames; each (E, T, V) or of a shape that broadcasts to it."""
    _, _, flip, sign = _relatives(skeleton)
    frames, joints = xy.shape[2:]
    mirror = np.array([sign, np.ones(joints)])[:, None, None]
    seen = ~np.isnan(xy[0])
    for turn in (1, -1):
        yield from _before(xy[:, :, ::turn], seen[:, ::turn], turn)
    smooth = np.moveaxis(
        Spline(max_gap=frames, score_power=0.0).fuse(np.moveaxis(xy, 0, -1), None, skeleton).coords.astype(np.float64),
        -1,
        0,
    )[:, None]
    off = (xy - smooth) * mirror
    far = _length(off)
    yield from (far, *off)
    yield _length(xy - smooth[..., flip])
    capped = np.minimum(far, 2.0)
    yield _window(capped)
    yield _mean(capped, 2)
    yield _mean(capped, 0)
    yield _mean(capped, (0, 2))
    yield _window(_mean(capped, 0))
    steps = np.full((2, 1, frames, joints), np.nan)
    steps[:, :, 1:] = np.diff(smooth, axis=2)
    yield _length(steps)
    bends = np.full((2, 1, frames, joints), np.nan)
    if frames > 2:
        bends[:, :, 1:-1] = np.diff(smooth, 2, axis=2)
    yield _length(bends)
    moved = np.full(xy.shape, np.nan)
    moved[:, :, 1:] = np.diff(xy, axis=2)
    astray = _length(moved - steps)
    yield astray
    ahead = np.full(astray.shape, np.nan)
    ahead[:, :-1] = astray[:, 1:]
    yield ahead


def _before(xy: Float, seen: Float, turn: int) -> Iterator[Float]:
    """Frames since the previous observation of an expert, and the distance to it per frame. `turn` is -1 for reversed
    time."""
    frames = xy.shape[2]
    index = np.where(seen, np.arange(frames)[None, :, None], -1)
    last = np.full(index.shape, -1)
    last[:, 1:] = np.maximum.accumulate(index, axis=1)[:, :-1]
    known = last >= 0
    gap = np.where(known, np.arange(frames)[None, :, None] - last, np.nan)
    step = _length(xy - np.take_along_axis(xy, np.maximum(last, 0)[None], axis=2))
    for column in (gap, np.where(known, step, np.nan) / gap):
        yield column[:, ::turn]


def _window(values: Float) -> Float:
    """Mean over the frames around, NaN skipped."""
    frames = values.shape[1]
    seen = ~np.isnan(values)
    total = np.concatenate([np.zeros_like(values[:, :1]), np.cumsum(np.where(seen, values, 0), axis=1)], axis=1)
    count = np.concatenate([np.zeros_like(values[:, :1]), np.cumsum(seen, axis=1)], axis=1)
    first, last = np.maximum(np.arange(frames) - _AROUND, 0), np.minimum(np.arange(frames) + _AROUND + 1, frames)
    number = count[:, last] - count[:, first]
    out: Float = (total[:, last] - total[:, first]) / np.where(number > 0, number, np.nan)
    return out


def sign(skeleton: str) -> Float:
    """(V,) -1 for joints of the right, whose x is mirrored, else 1."""
    return _relatives(skeleton)[3]
