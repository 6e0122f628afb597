"""Correction of swapped left and right in the poses of one expert, from motion alone.

Pose estimators that process single pictures sometimes swap left and right of a person: of the whole body, or of arms or
legs only, for some frames. A body does not move like that, so the motion shows which frames are swapped.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from scipy.ndimage import median_filter

from dataengine.core.jit import compiled
from dataengine.core.skeletons import Skeleton
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Bool, Float, Int
from dataengine.fusion import check

_ARMS, _LEGS = (
    ("elbow", "wrist", "pinky", "index", "thumb"),
    ("knee", "ankle", "heel", "foot_index", "big_toe", "small_toe"),
)
"""Joints that are swapped with the elbows and with the knees; all others (face, shoulders, hips) are the trunk."""

_LINKS = (("shoulder", "elbow"), ("hip", "knee"))
"""Bones between two groups, which grow long when one group alone is swapped."""

_LAGS = 4
"""Earlier frames that a frame is compared with, the k-th with weight 1 / k. One undecided frame breaks no link."""

_STEADY, _LOOSE = 0.01, 3.0
"""Scale of the deviation of a joint from steady motion: at least this share of the size of the person, and this many
times the median deviation in the sequence, so that fast or coarsely sampled motion counts less."""

_INERTIA = 0.8
"""Share of a step that is expected again in the next frame; the share falls for steps far beyond the usual."""

_FADE = 0.8
"""Factor of the weight of a joint per frame in which it was not seen before."""

_SWITCH = 0.5
"""Cost of beginning or ending a swap. Joints that are all out of place cost up to 1 / k against the k-th earlier
frame."""

_RARE = 0.02
"""Cost of a swapped frame: swaps are the exception."""

_STRETCH = 0.3
"""Highest cost per frame of the two bones between the trunk and a group for being longer than usual; half of it where
they are longer by a tenth of the size of the person."""


def straighten(coords: Any, scores: Any = None, skeleton: str = "body13") -> tuple[Float, Float | None, Bool]:
    """Undo swaps of left and right over time.

    Exact dynamic programming decides which frames are swapped, first for the whole body, then for arms and for legs
    against the trunk. The cost of a frame is the deviation of its joints from steady motion, relative to the size of
    the person and saturating, against each of several earlier frames. Beginning and ending a swap has a cost, and so
    have swapped frames and bones that grow long. Of two complementary solutions the one that changes fewer frames is
    taken: a sequence that is swapped throughout stays as it is.

    Args:
        coords: (T, V, 2) pixels of one person and one expert, NaN where missing.
        scores: (T, V) in [0, 1] or None.
        skeleton: layout of the joints.

    Returns:
        Corrected coords (T, V, 2) float32 and scores (T, V) float32 (None without scores), and (T, V) bool: joints that
        were swapped with their mirror.

    Raises:
        ComponentError: arrays of a wrong shape, or an unknown layout.
    """
    points, given = check(np.asarray(coords)[None], None if scores is None else np.asarray(scores)[None], skeleton)
    layout = layout_of(skeleton)
    own = points[0]
    states = _states(own, None if given is None else given[0], layout)
    group = _layout(layout)[0]
    swapped: Bool = np.zeros(own.shape[:2], np.bool_)
    paired = group >= 0
    swapped[:, paired] = (states[:, None] >> group[paired]) & 1 == 1
    source = np.where(swapped, np.array(layout.flip), np.arange(layout.num_joints))
    rows = np.arange(len(own))[:, None]
    return own[rows, source], None if given is None else given[0][rows, source], swapped


@cache
def _layout(layout: Skeleton) -> tuple[Int, Int]:
    """Group of every joint (V,): 0 trunk, 1 arms, 2 legs, -1 middle; and links between groups (K, 2) as joints."""
    group = np.full(layout.num_joints, -1)
    for v, joint in enumerate(layout.joints):
        half, _, part = joint.partition("_")
        if half in ("left", "right"):
            group[v] = 1 if part in _ARMS else 2 if part in _LEGS else 0
    links = [
        (layout.index(f"{half}_{a}"), layout.index(f"{half}_{b}"))
        for a, b in _LINKS
        for half in ("left", "right")
        if f"left_{a}" in layout.joints and f"left_{b}" in layout.joints
    ]
    return group, np.array(links, np.int64).reshape(-1, 2)


def _states(points: Float, scores: Float | None, layout: Skeleton) -> Int:
    """(T,) groups that are swapped, as bits."""
    frames = len(points)
    group, links = _layout(layout)
    states = np.zeros(frames, np.int64)
    if frames < 3 or not (group >= 0).any():
        return states
    flip = np.array(layout.flip)
    size = _sizes(points)
    x = points.astype(np.float64)
    seen: Bool = np.asarray(np.isfinite(x).all(-1))
    weight: Float = np.where(seen, 1.0 if scores is None else np.maximum(scores, 0.05), 0.0)
    for members in ((0, 1, 2), (1,), (2,)):
        chosen = np.isin(group, members)
        if not chosen.any():
            continue
        held, age = _held(x, seen)
        scale, speed = _usual(held, age, size, flip)
        cost = np.zeros((_LAGS, frames, 8))
        _motion(held, age, weight, size, scale, speed, np.flatnonzero(chosen), flip, _INERTIA, _FADE, cost)
        cost /= max(float(weight[:, chosen].sum(1).mean()), 1e-9)
        still = np.zeros((frames, 2))
        still[:, 1] = _RARE
        if len(members) == 1:
            still += _stretch(x, weight, size, group, flip, links, members[0])
        swapped = np.zeros(frames, np.int64)
        _best(cost, still, _SWITCH, swapped)
        if 2 * swapped.sum() > frames:
            swapped = 1 - swapped
        states ^= swapped * sum(1 << g for g in members)
        source = np.where(chosen & (swapped[:, None] == 1), flip, np.arange(len(flip)))
        rows = np.arange(frames)[:, None]
        x, seen, weight = x[rows, source], seen[rows, source], weight[rows, source]
    return states


def _sizes(points: Float) -> Float:
    """(T,) size of the person in pixels: the longer edge of the box around the joints, median over 31 frames."""
    filled = np.isfinite(points).all(-1).sum(1) >= 4
    size = np.full(len(points), np.nan)
    for t in np.flatnonzero(filled):
        size[t] = np.nanmax(np.nanmax(points[t], 0) - np.nanmin(points[t], 0))
    if not filled.any():
        return np.ones(len(points))
    size = np.interp(np.arange(len(points)), np.flatnonzero(filled), size[filled])
    return np.asarray(np.maximum(median_filter(size, 31, mode="nearest"), 1.0))


def _held(points: Float, seen: Bool) -> tuple[Float, Int]:
    """The last seen position of every joint, and its age in frames (-1: never seen)."""
    frames, joints = seen.shape
    last = np.maximum.accumulate(np.where(seen, np.arange(frames)[:, None], -1), axis=0)
    held = np.where(last[..., None] >= 0, points[np.maximum(last, 0), np.arange(joints)], 0.0)
    return held, np.where(last >= 0, np.arange(frames)[:, None] - last, -1)


def _usual(held: Float, age: Int, size: Float, flip: Int) -> tuple[Float, Float]:
    """Scales of deviations from steady motion (K, V), by lag, and of steps (V,), relative to the size; equal for
    mirrored joints."""
    speed = _typical(held[1:] - held[:-1], (age[1:] == 0) & (age[:-1] == 0), size[1:])
    scale = np.full((_LAGS, held.shape[1]), _STEADY)
    for k in range(1, min(_LAGS, len(held) - 2) + 1):
        now, then, before = held[k + 1 :], held[1:-k], held[: -k - 1]
        ahead = sum(_INERTIA**n for n in range(1, k + 1))
        known = (age[k + 1 :] == 0) & (age[1:-k] == 0) & (age[: -k - 1] == 0)
        scale[k - 1] = np.maximum(
            _LOOSE * _typical(now - then - ahead * (then - before), known, size[k + 1 :]), _STEADY
        )
    speed = np.maximum(_LOOSE * speed, _STEADY)
    return np.maximum(scale, scale[:, flip]), np.maximum(speed, speed[flip])


def _typical(steps: Float, known: Bool, size: Float) -> Float:
    """(V,) median length of the known steps (T, V, 2), relative to the size."""
    far = np.where(known, np.sqrt((steps**2).sum(-1)) / size[:, None], np.nan)
    out = np.zeros(far.shape[1])
    some = known.any(0)
    out[some] = np.nanmedian(far[:, some], axis=0)
    return out


@compiled
def _motion(
    held: Any,
    age: Any,
    weight: Any,
    size: Any,
    scale: Any,
    speed: Any,
    chosen: Any,
    flip: Any,
    inertia: float,
    fade: float,
    cost: Any,
) -> None:
    """Write the cost of the joints `chosen` at lag k into `cost` (K, T, 8), for swaps in frames t - k - 1, t - k, t
    (bits 4, 2, 1)."""
    frames = len(age)
    ahead = 0.0
    for k in range(1, len(cost) + 1):
        ahead += inertia**k
        for t in range(k, frames):
            for v in chosen:
                for bits in range(8):
                    c = flip[v] if bits & 1 else v
                    b = flip[v] if bits & 2 else v
                    a = flip[v] if bits & 4 else v
                    share = weight[t, c] / k
                    old = age[t - k, b]
                    if share <= 0.0:
                        continue
                    if old < 0:
                        cost[k - 1, t, bits] += 0.5 * share
                        continue
                    dx, dy = held[t, c, 0] - held[t - k, b, 0], held[t, c, 1] - held[t - k, b, 1]
                    if t > k and old == 0 and age[t - k - 1, a] == 0:
                        sx, sy = held[t - k, b, 0] - held[t - k - 1, a, 0], held[t - k, b, 1] - held[t - k - 1, a, 1]
                        expected = ahead / (1.0 + (sx * sx + sy * sy) / (speed[v] * size[t]) ** 2) ** 2
                        dx -= expected * sx
                        dy -= expected * sy
                    squared = (dx * dx + dy * dy) / (scale[k - 1, v] * size[t] * (1.0 + old)) ** 2
                    cost[k - 1, t, bits] += share * fade**old * squared / (1.0 + squared)


def _stretch(points: Float, weight: Float, size: Float, group: Int, flip: Int, links: Int, member: int) -> Float:
    """(T, 2) cost of long bones between the trunk and group `member`, unchanged and swapped."""
    cost = np.zeros((len(points), 2))
    for a, b in links:
        if group[b] != member:
            continue
        lengths = [np.sqrt(((points[:, a] - points[:, end]) ** 2).sum(-1)) / (0.1 * size) for end in (b, flip[b])]
        if np.isfinite(lengths[0]).any():
            usual = np.nanpercentile(lengths[0], 75)
            for state, (length, end) in enumerate(zip(lengths, (b, flip[b]), strict=True)):
                over = np.nan_to_num(np.maximum(length - usual, 0.0)) ** 2
                cost[:, state] += _STRETCH / 2 * np.minimum(weight[:, a], weight[:, end]) * over / (1.0 + over)
    return cost


@compiled
def _best(cost: Any, still: Any, switch: float, out: Any) -> None:
    """Write the cheapest sequence of swapped (1) and unchanged (0) frames into `out` (T,), over all states of K + 1
    frames."""
    lags, frames = cost.shape[0], still.shape[0]
    count = 1 << (lags + 1)  # bit n of a state: frame t - n
    total = np.full(count, np.inf)
    came = np.zeros((frames, count), np.int8)
    total[0], total[1] = still[0, 0], still[0, 1]
    for t in range(1, frames):
        after = np.full(count, np.inf)
        for before in range(count):
            if total[before] == np.inf:
                continue
            for now in range(2):
                price = total[before] + still[t, now] + (switch if (before & 1) != now else 0.0)
                for k in range(1, min(lags, t) + 1):
                    then = before >> (k - 1) & 1
                    earlier = before >> k & 1 if k < t else 0
                    price += cost[k - 1, t, earlier * 4 + then * 2 + now]
                state = (before << 1 | now) & (count - 1)
                if price < after[state]:
                    after[state] = price
                    came[t, state] = before >> lags & 1
        total = after
    state = int(np.argmin(total))
    for t in range(frames - 1, -1, -1):
        out[t] = state & 1
        state = state >> 1 | came[t, state] << lags
