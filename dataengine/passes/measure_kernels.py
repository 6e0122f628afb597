"""Loops of the pass `measure` that numba compiles: many short steps on small arrays, for which NumPy's calls cost more
than the arithmetic."""

from __future__ import annotations

import numpy as np

from dataengine.core.jit import compiled
from dataengine.core.types import Bool, Float, Int


@compiled
def disagreement(experts: Float, fused: Float, head: Float) -> Float:
    """Mean distance of the experts to the fused joint, in head-neck lengths.

    Args:
        experts: (M, E, T, V, 2) float32 pixels, NaN where unseen.
        fused: (M, T, V, 2) float32 pixels, NaN where unseen.
        head: (M,) float32 pixels.

    Returns:
        (M, T, V) float64, NaN where no expert sees the joint.
    """
    people, num_experts, frames, joints, _ = experts.shape
    found = np.full((people, frames, joints), np.nan)
    for m in range(people):
        for t in range(frames):
            for v in range(joints):
                total, count = np.float32(0), 0
                for e in range(num_experts):
                    dx = experts[m, e, t, v, 0] - fused[m, t, v, 0]
                    dy = experts[m, e, t, v, 1] - fused[m, t, v, 1]
                    away = np.sqrt(dx * dx + dy * dy)
                    if np.isfinite(away):
                        total += away
                        count += 1
                if count:
                    found[m, t, v] = np.float64(total) / np.float64(count) / np.float64(head[m])
    return found


@compiled
def areas(coords: Float, seen: Bool) -> Float:
    """(T,) area in square pixels of the box around the seen joints of (T, V, 2); 0 in a frame without one."""
    found = np.zeros(len(coords), coords.dtype)
    for t in range(len(coords)):
        first = True
        left = right = top = bottom = coords[t, 0, 0]
        for v in range(coords.shape[1]):
            if seen[t, v]:
                x, y = coords[t, v, 0], coords[t, v, 1]
                if first:
                    left = right = x
                    top = bottom = y
                    first = False
                left, right = min(left, x), max(right, x)
                top, bottom = min(top, y), max(bottom, y)
        if not first:
            found[t] = (right - left) * (bottom - top)
    return found


@compiled
def count_right(
    candidates: Float, goal: Float, head: Float, people: Int, tracks: Int, width: int, height: int
) -> tuple[Int, int]:
    """Joints within half a head length of the true ones.

    Args:
        candidates: (C, M, T, V, 2) pixels of several estimates, NaN where unseen.
        goal: (P, T, V, 2) pixels, the true joints; those outside the picture do not count.
        head: (P, T) head-neck lengths in pixels.
        people, tracks: the pairs of a true person and a track.
        width, height: of the picture.

    Returns:
        (C,) int64 right joints, and the number of true joints in the picture, of all people.
    """
    right, inside = np.zeros(len(candidates), np.int64), 0
    num_people, frames, joints, _ = goal.shape
    for p in range(num_people):
        pair = -1
        for number in range(len(people)):
            if people[number] == p:
                pair = tracks[number]
        for t in range(frames):
            for v in range(joints):
                x, y = goal[p, t, v, 0], goal[p, t, v, 1]
                if not (x >= 0 and x < width and y >= 0 and y < height):
                    continue
                inside += 1
                if pair < 0:
                    continue
                for c in range(len(candidates)):
                    dx, dy = candidates[c, pair, t, v, 0] - x, candidates[c, pair, t, v, 1] - y
                    right[c] += np.sqrt(dx * dx + dy * dy) / head[p, t] <= 0.5
    return right, inside
