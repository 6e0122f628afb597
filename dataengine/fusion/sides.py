"""Left and right put straight in the poses of one expert, from one view alone.

Pose estimators that look at single pictures now and then take a person's left for the right: of the whole body, or of
the arms or legs only, for some frames. A body does not do that, so which frames are exchanged follows from the motion.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from scipy.ndimage import median_filter

from dataengine.compiled import compiled
from dataengine.fusion import check
from dataengine.skeletons import Skeleton
from dataengine.skeletons import skeleton as layout_of
from dataengine.types import Bool, Float, Int

_ARMS, _LEGS = ("elbow", "wrist", "pinky", "index", "thumb"), ("knee", "ankle", "heel", "foot_index", "big_toe", "small_toe")
"""Joints that are exchanged with the elbows and with the knees; all others (face, shoulders, hips) are the trunk."""

_LINKS = (("shoulder", "elbow"), ("hip", "knee"))
"""Bones between two groups: they grow long when one group alone is exchanged."""

_STEADY, _LOOSE = 0.015, 3.0
"""Scale of a joint's deviation from steady motion: at least this share of the person's size, and this many times the
median deviation of its kind in the sequence, so that fast or coarsely sampled motion is less telling."""

_INERTIA = 0.8
"""Share of the step before that is expected again."""

_FADE = 0.8
"""How much less a joint tells for every frame that it was not seen before."""

_SWITCH, _MORE = 3.0, 0.7
"""Cost of exchanging one group from one frame to the next, and of every further group at once; a joint that jumps costs up to 1."""

_RARE = 0.02
"""Cost of a frame in which a group is exchanged: exchanges are the exception."""

_TWIST, _STRETCH = 0.5, 1.0
"""Costs of shoulders that point against the hips, and of bones longer than usual, where they do so by a tenth of the person's size."""


def straighten(coords: Any, scores: Any = None, skeleton: str = "body13") -> tuple[Float, Float | None, Bool]:
    """Undo exchanges of left and right in time.

    Exact dynamic programming over which of trunk, arms and legs are exchanged in every frame, in pairs of frames. The
    cost is the deviation of all joints from steady motion, saturating, in units of the person's size; what makes
    an exchange cost something itself is that changes are rare, exchanged frames fewer than straight ones, shoulders and hips
    point the same way, and bones keep their length. Which of two complementary answers is right, the majority
    decides: a sequence that is exchanged throughout stays as it is.

    Args:
        coords: (T, V, 2) pixels of one person as one expert saw them, NaN = missing.
        scores: (T, V) in [0, 1] or None.
        skeleton: layout of the joints.

    Returns:
        coords (T, V, 2) float32 and scores (T, V) float32 (None without any) put straight, and (T, V) bool: joints that
        were exchanged with their mirror.

    Raises:
        ComponentError: arrays of a wrong shape, or an unknown layout.
    """
    points, given = check(np.asarray(coords)[None], None if scores is None else np.asarray(scores)[None], skeleton)
    layout = layout_of(skeleton)
    own = points[0]
    states = _states(own, None if given is None else given[0], layout)
    group = _layout(layout)[0]
    swapped: Bool = np.zeros(own.shape[:2], np.bool_)
    sided = group >= 0
    swapped[:, sided] = (states[:, None] >> group[sided]) & 1 == 1
    source = np.where(swapped, np.array(layout.flip), np.arange(layout.num_joints))
    rows = np.arange(len(own))[:, None]
    return own[rows, source], None if given is None else given[0][rows, source], swapped


@cache
def _layout(layout: Skeleton) -> tuple[Int, Int, Int]:
    """Group of every joint (V,): 0 trunk, 1 arms, 2 legs, -1 without a side; shoulders and hips (4,); links (K, 2) as joints."""
    group = np.full(layout.num_joints, -1)
    for v, joint in enumerate(layout.joints):
        side, _, part = joint.partition("_")
        if side in ("left", "right"):
            group[v] = 1 if part in _ARMS else 2 if part in _LEGS else 0
    trunk = [layout.joints.index(j) if j in layout.joints else -1 for j in ("left_shoulder", "right_shoulder", "left_hip", "right_hip")]
    links = [
        (layout.index(f"{side}_{a}"), layout.index(f"{side}_{b}"))
        for a, b in _LINKS
        for side in ("left", "right")
        if f"left_{a}" in layout.joints and f"left_{b}" in layout.joints
    ]
    return group, np.array(trunk), np.array(links, np.int64).reshape(-1, 2)


def _states(points: Float, scores: Float | None, layout: Skeleton) -> Int:
    """(T,) which groups are exchanged, as bits."""
    frames, joints, _ = points.shape
    group, trunk, links = _layout(layout)
    flip = np.array(layout.flip)
    if frames < 3 or not (group >= 0).any():
        return np.zeros(frames, np.int64)
    seen = np.isfinite(points).all(-1)
    weight = np.where(seen, 1.0 if scores is None else np.maximum(scores, 0.05), 0.0)
    size = _sizes(points)
    held, age = _held(points.astype(np.float64), seen)
    scale = np.maximum(_LOOSE * _usual(held, age, size), _STEADY)
    scale = np.maximum(scale, scale[flip])
    motion = np.zeros((3, frames, 8))
    _motion(held, age, weight, size, scale, group, flip, _INERTIA, _FADE, motion)
    still = np.zeros((frames, 8))
    changed = np.array([[bin(a ^ b).count("1") for b in range(8)] for a in range(8)])
    still += _RARE * changed[0]
    unit = 0.1 * size
    if (trunk >= 0).all() and len(links):
        still += _shape(points.astype(np.float64), weight, unit, group, flip, trunk, links)
    switch = np.where(changed > 0, _SWITCH + _MORE * (changed - 1), 0.0)
    out = np.zeros(frames, np.int64)
    _best(motion, still, switch, out)
    return out


def _sizes(points: Float) -> Float:
    """(T,) the person's size in pixels: longer side of the joints' extent, middle of 31 frames."""
    filled = np.isfinite(points).all(-1).sum(1) >= 4
    size = np.full(len(points), np.nan)
    for t in np.flatnonzero(filled):
        size[t] = np.nanmax(np.nanmax(points[t], 0) - np.nanmin(points[t], 0))
    if not filled.any():
        return np.ones(len(points))
    size = np.interp(np.arange(len(points)), np.flatnonzero(filled), size[filled])
    return np.maximum(median_filter(size, 31, mode="nearest"), 1.0)


def _held(points: Float, seen: Bool) -> tuple[Float, Int]:
    """Every joint where it was seen last, and how many frames ago (-1: never)."""
    frames, joints = seen.shape
    last = np.maximum.accumulate(np.where(seen, np.arange(frames)[:, None], -1), axis=0)
    held = np.where(last[..., None] >= 0, points[np.maximum(last, 0), np.arange(joints)], 0.0)
    return held, np.where(last >= 0, np.arange(frames)[:, None] - last, -1)


def _usual(held: Float, age: Int, size: Float) -> Float:
    """(V,) median deviation from steady motion of joints seen in three frames on end, in sizes."""
    bend = held[2:] - held[1:-1] - _INERTIA * (held[1:-1] - held[:-2])
    known = (age[2:] == 0) & (age[1:-1] == 0) & (age[:-2] == 0)
    far = np.where(known, np.sqrt((bend**2).sum(-1)) / size[2:, None], np.nan)
    out = np.zeros(far.shape[1])
    some = known.any(0)
    out[some] = np.nanmedian(far[:, some], axis=0)
    return out


@compiled
def _motion(
    held: Any, age: Any, weight: Any, size: Any, scale: Any, group: Any, flip: Any, inertia: float, fade: float, motion: Any
) -> None:
    """Add to `motion` (G, T, 8) the cost of every group for exchanges in frames t - 2, t - 1, t (bits 4, 2, 1)."""
    frames, joints = age.shape
    for t in range(1, frames):
        for v in range(joints):
            g = group[v]
            if g < 0:
                continue
            for bits in range(8):
                c = flip[v] if bits & 1 else v
                b = flip[v] if bits & 2 else v
                a = flip[v] if bits & 4 else v
                share = weight[t, c]
                if share <= 0.0:
                    continue
                if age[t - 1, b] < 0:
                    motion[g, t, bits] += 0.5 * share
                    continue
                share *= fade ** age[t - 1, b]
                dx, dy = held[t, c, 0] - held[t - 1, b, 0], held[t, c, 1] - held[t - 1, b, 1]
                if t > 1 and age[t - 1, b] == 0 and age[t - 2, a] == 0:
                    dx -= inertia * (held[t - 1, b, 0] - held[t - 2, a, 0])
                    dy -= inertia * (held[t - 1, b, 1] - held[t - 2, a, 1])
                squared = (dx * dx + dy * dy) / (scale[v] * size[t] * (1.0 + age[t - 1, b])) ** 2
                motion[g, t, bits] += share * squared / (1.0 + squared)


def _shape(points: Float, weight: Float, unit: Float, group: Int, flip: Int, trunk: Int, links: Int) -> Float:
    """(T, 8) cost of twisted trunks and long bones in every state of exchange."""
    cost = np.zeros((len(points), 8))
    for a, b in links:
        usual = None
        for state in range(8):
            i, j = (int(flip[v]) if state >> group[v] & 1 else int(v) for v in (a, b))
            length = np.sqrt(((points[:, i] - points[:, j]) ** 2).sum(-1)) / unit
            if usual is None:
                usual = np.nanpercentile(length, 75) if np.isfinite(length).any() else 0.0
            over = np.nan_to_num(np.maximum(length - usual, 0.0)) ** 2
            cost[:, state] += _STRETCH * np.minimum(weight[:, i], weight[:, j]) * over / (1.0 + over)
    return cost


@compiled
def _best(motion: Any, still: Any, switch: Any, out: Any) -> None:
    """Write the cheapest sequence of states into `out` (T,); second order, so over pairs of states."""
    frames = still.shape[0]
    total = np.zeros((8, 8))
    came = np.zeros((frames, 8, 8), np.int64)
    for b in range(8):
        for c in range(8):
            total[b, c] = still[0, b] + still[1, c] + switch[b, c]
            for g in range(3):
                total[b, c] += motion[g, 1, (b >> g & 1) * 2 + (c >> g & 1)]
    for t in range(2, frames):
        after = np.full((8, 8), np.inf)
        for a in range(8):
            for b in range(8):
                for c in range(8):
                    cost = total[a, b] + switch[b, c]
                    for g in range(3):
                        cost += motion[g, t, (a >> g & 1) * 4 + (b >> g & 1) * 2 + (c >> g & 1)]
                    if cost < after[b, c]:
                        after[b, c] = cost
                        came[t, b, c] = a
        for b in range(8):
            for c in range(8):
                total[b, c] = after[b, c] + still[t, c]
    last, least = 0, np.inf
    for b in range(8):
        for c in range(8):
            if total[b, c] < least:
                least, last = total[b, c], b * 8 + c
    b, c = last // 8, last % 8
    out[frames - 1], out[frames - 2] = c, b
    for t in range(frames - 1, 1, -1):
        a = came[t, b, c]
        out[t - 2] = a
        b, c = a, b
