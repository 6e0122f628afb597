"""What speaks for and against a observation, without knowing the truth: the values that `Calibration` learns from.

Left and right are one: what belongs to a joint of the right side is mirrored, so that both sides teach the same.
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
"""Standard deviations of the kernels in which agreement is measured, in units of length."""

_AGREED = 2
"""Of `WIDTHS`, the one for the place most experts agree on."""

_PULL = 0.25
"""Standard deviation of the kernel within which observations are averaged, in units of length."""

_SHARE = 75.0
"""Percentile over frames that makes one length of many."""

_AROUND = 4
"""Frames before and after that say how an expert fares."""


@cache
def _relatives(name: str) -> tuple[Int, Int, Int, Float]:
    """(V,) joint next to each joint towards the trunk and away from it, -1 where none; its mirror; -1 for joints of the right."""
    layout = layout_of(name)
    sides = [joint.split("_")[0] if joint.startswith(("left_", "right_")) else "" for joint in layout.joints]
    same = [(a, b) for a, b in layout.bones if not (sides[a] and sides[b] and sides[a] != sides[b])]
    inner = [next((a for a, b in same if b == v), -1) for v in range(layout.num_joints)]
    outer = [next((b for a, b in reversed(same) if a == v), -1) for v in range(layout.num_joints)]
    sign = np.where(np.array(sides) == "right", -1.0, 1.0)
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
    """Mean of what is not NaN, kept as an axis; NaN where nothing is."""
    seen = ~np.isnan(values)
    count = seen.sum(axis, keepdims=True)
    total: Float = np.where(seen, values, 0).sum(axis, keepdims=True) / np.where(count, count, np.nan)
    return total


def lengths(points: Float, skeleton: str) -> tuple[Float, float]:
    """Values that tell how large a person is, and the length they are relative to.

    Args:
        points: (E, T, V, 2) pixels, NaN where missing.

    Returns:
        (F,) logarithms of the lengths that each expert sees, relative to the second result, NaN where unknown; that length in
        pixels, the root mean square over the bones of what the middle expert sees, NaN where no bone is seen.
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
    """The values of every observation.

    Args:
        points: (E, T, V, 2) float64 in units of length, NaN where missing; E slots in a fixed order, some may be empty.
        scores: (E, T, V) own scores or None.
        temporal: with those that compare frames.

    Returns:
        (E, T, V, F) float64, NaN where unknown.
    """
    view = np.moveaxis(points, -1, 0)
    columns = [*_still(view, scores, skeleton)]
    if temporal:
        columns += [*_moving(view, skeleton)]
    return np.stack([np.broadcast_to(column, points.shape[:3]) for column in columns], axis=-1)


def agreed(view: Float) -> tuple[Float, Float]:
    """Where most experts are, frame by frame: two steps of mean shift from the observation with most others around it.

    Args:
        view: (2, E, T, V).

    Returns:
        that place (2, 1, T, V), and the squared distances (E, E, T, V) of the observations.
    """
    apart = (view[0][:, None] - view[0]) ** 2 + (view[1][:, None] - view[1]) ** 2
    first = _kernel(apart, WIDTHS[_AGREED]).sum(1).argmax(0)
    place = np.take_along_axis(view, first[None, None], axis=1)
    filled = np.nan_to_num(view)
    for _ in range(2):
        share = _kernel((view[0] - place[0]) ** 2 + (view[1] - place[1]) ** 2, WIDTHS[_AGREED])
        mass = share.sum(0)
        place = (share * filled).sum(1, keepdims=True) / np.where(mass > 0, mass, np.nan)
    return place, apart


def pull(points: Float, precision: Float, skeleton: str) -> Float:
    """From each observation to the weighted mean of the observations near it, mirrored for joints of the right side.

    Args:
        points: (E, T, V, 2) in units of length, NaN where missing.
        precision: (E, V) inverse of the mean squared error of an expert's joint; 0 for all leaves observations where they are.

    Returns:
        (E, T, V, 2), 0 where missing.
    """
    view = np.moveaxis(points, -1, 0)
    share = _kernel((view[0][:, None] - view[0]) ** 2 + (view[1][:, None] - view[1]) ** 2, _PULL) * precision[:, None]
    mass = share.sum(1)
    off = ((share * np.nan_to_num(view)[:, None]).sum(2) - mass * np.nan_to_num(view)) / np.where(mass > 0, mass, 1.0)
    off[0] *= sign(skeleton)
    return np.moveaxis(off, 0, -1)


def _kernel(squared: Float, width: float) -> Float:
    """Gaussian of a squared distance, 0 where missing."""
    out: Float = np.nan_to_num(np.exp(-0.5 * squared / width**2))
    return out


def _still(view: Float, scores: Float | None, skeleton: str) -> Iterator[Float]:
    """Columns (E, T, V), or less that broadcasts, from the observations of one frame."""
    inner, outer, flip, sign = _relatives(skeleton)
    experts, _, joints = view.shape[1:]
    mirror = np.array([sign, np.ones(joints)])[:, None, None]
    place, apart = agreed(view)
    seen = ~np.isnan(view[0])
    yield np.minimum(np.arange(joints), flip).astype(float)
    yield np.arange(experts, dtype=float)[:, None, None]
    yield np.full((1, 1, 1), np.nan) if scores is None else np.where(seen, scores, np.nan)
    yield seen.sum(0)[None].astype(float)
    yield from _others(view, apart, mirror)
    off = (view - place) * mirror
    far = _length(off)
    density = _kernel(far**2, WIDTHS[_AGREED]).sum(0)[None]
    yield from (far, *off, density)
    for near in (inner, outer, flip):
        bone, reach = view - _pick(view, near), (view - _pick(place, near)) * mirror
        yield from (_pick(density, near), _pick(far, near), _length(bone), _length(reach), *reach)
        yield _length(place - _pick(place, near))
    crossed = (view[0][:, None] - view[0][..., flip]) ** 2 + (view[1][:, None] - view[1][..., flip]) ** 2
    yield _kernel(crossed, WIDTHS[_AGREED]).sum(1)
    layout = layout_of(skeleton)
    left, right = layout.index("left_shoulder"), layout.index("right_shoulder")
    low_left, low_right = layout.index("left_hip"), layout.index("right_hip")
    middle = _mean(place[..., [left, right, low_left, low_right]], 3)
    yield from (view - middle) * mirror
    yield (place[0, ..., left] - place[0, ..., right])[..., None] * sign
    yield (place[0, ..., low_left] - place[0, ..., low_right])[..., None] * sign
    trunk = _mean(place[..., [left, right]], 3) - _mean(place[..., [low_left, low_right]], 3)
    yield from trunk * mirror
    capped = np.minimum(far, 1.0)
    yield _mean(capped, 2)
    yield _mean(capped, (0, 2))


def _others(view: Float, apart: Float, mirror: Float) -> Iterator[Float]:
    """Columns that compare a observation with the other experts' observations of that joint."""
    experts = view.shape[1]
    distance = np.sqrt(apart)
    distance[np.arange(experts), np.arange(experts)] = np.nan
    for other in range(experts):
        yield distance[:, other]
        yield from np.where(np.arange(experts)[:, None, None] == other, np.nan, (view[:, [other]] - view) * mirror)
    yield from np.moveaxis(np.sort(distance, axis=1), 1, 0)[: experts - 1]
    filled = np.nan_to_num(view)
    for width in WIDTHS:
        share = _kernel(apart, width)
        mass = share.sum(1)
        yield mass
        yield mass / np.maximum(mass.max(0), 1e-9)
        if width < 0.5:
            yield from ((share * filled[:, None]).sum(2) / np.where(mass > 0, mass, np.nan) - view) * mirror


def _moving(view: Float, skeleton: str) -> Iterator[Float]:
    """Columns (E, T, V), or less that broadcasts, that compare frames."""
    _, _, flip, sign = _relatives(skeleton)
    frames, joints = view.shape[2:]
    mirror = np.array([sign, np.ones(joints)])[:, None, None]
    seen = ~np.isnan(view[0])
    for turn in (1, -1):
        yield from _before(view[:, :, ::turn], seen[:, ::turn], turn)
    smooth = np.moveaxis(
        Spline(max_gap=frames, score_power=0.0)
        .fuse(np.moveaxis(view, 0, -1), None, skeleton)
        .coords.astype(np.float64),
        -1,
        0,
    )[:, None]
    off = (view - smooth) * mirror
    far = _length(off)
    yield from (far, *off)
    yield _length(view - smooth[..., flip])
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
    moved = np.full(view.shape, np.nan)
    moved[:, :, 1:] = np.diff(view, axis=2)
    astray = _length(moved - steps)
    yield astray
    ahead = np.full(astray.shape, np.nan)
    ahead[:, :-1] = astray[:, 1:]
    yield ahead


def _before(view: Float, seen: Float, turn: int) -> Iterator[Float]:
    """Frames since an expert's observation before, and the distance to it a frame; `turn` -1 says that time was turned round."""
    frames = view.shape[2]
    index = np.where(seen, np.arange(frames)[None, :, None], -1)
    last = np.full(index.shape, -1)
    last[:, 1:] = np.maximum.accumulate(index, axis=1)[:, :-1]
    known = last >= 0
    gap = np.where(known, np.arange(frames)[None, :, None] - last, np.nan)
    step = _length(view - np.take_along_axis(view, np.maximum(last, 0)[None], axis=2))
    for column in (gap, np.where(known, step, np.nan) / gap):
        yield column[:, ::turn]


def _window(values: Float) -> Float:
    """Mean over the frames around, of what is not NaN."""
    frames = values.shape[1]
    seen = ~np.isnan(values)
    total = np.concatenate([np.zeros_like(values[:, :1]), np.cumsum(np.where(seen, values, 0), axis=1)], axis=1)
    count = np.concatenate([np.zeros_like(values[:, :1]), np.cumsum(seen, axis=1)], axis=1)
    first, last = np.maximum(np.arange(frames) - _AROUND, 0), np.minimum(np.arange(frames) + _AROUND + 1, frames)
    number = count[:, last] - count[:, first]
    out: Float = (total[:, last] - total[:, first]) / np.where(number > 0, number, np.nan)
    return out


def sign(skeleton: str) -> Float:
    """(V,) -1 for joints of the right side, whose x is mirrored, else 1."""
    return _relatives(skeleton)[3]
