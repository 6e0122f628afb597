"""Compiled loops of the fusion `ssta`; `dataengine.fusion.ssta` describes the method.

All read (B, E, T, V, 2) float32 and calculate in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dataengine.core.jit import compiled, inlined
from dataengine.core.types import Float, Int

BOX_SCALE = 0.127
"""Head-neck length over the diagonal of the box around the joints: the scale where head or neck is unknown.
The median over 36,874 annotated poses of Penn Action (quartiles 0.102 and 0.153)."""

LEAST_SCORE = 0.01
"""Lowest score in the weight of an observation: joints of low scores alone still get a position."""

FLOOR = 0.01
"""Least scale, as a share of the diagonal of the box around the pose."""


@compiled
def _scale(pose: Any, ends: Any, diagonal: float, last: float) -> float:
    """Scale of one (2, V) pose before the floor; `last` where the pose does not show it (0: not known yet)."""
    if ends[0, 0] >= 0:
        ax = 0.5 * (pose[0, ends[0, 0]] + pose[0, ends[0, 1]])
        ay = 0.5 * (pose[1, ends[0, 0]] + pose[1, ends[0, 1]])
        bx = 0.5 * (pose[0, ends[1, 0]] + pose[0, ends[1, 1]])
        by = 0.5 * (pose[1, ends[1, 0]] + pose[1, ends[1, 1]])
        length = math.sqrt((ax - bx) ** 2 + (ay - by) ** 2)
        if length == length:
            return length
        if last > 0.0:
            return last
    return BOX_SCALE * diagonal


@inlined
def _diagonal(pose: Any) -> float:
    """Diagonal of the box around the present joints of a (2, V) pose, 0 without any."""
    x0 = y0 = np.float32(np.inf)
    x1 = y1 = -x0
    for v in range(pose.shape[1]):
        x, y = pose[0, v], pose[1, v]
        x0, x1 = x if x < x0 else x0, x if x > x1 else x1
        y0, y1 = y if y < y0 else y0, y if y > y1 else y1
    return math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2) if x1 >= x0 else 0.0


@compiled
def _closest_pair(xs: Any, ys: Any, v: int) -> int:
    """The first-frame rule: an expert of the closest pair present, the only one present, or -1."""
    experts = len(xs)
    best, first, second, count, only = math.inf, -1, -1, 0, -1
    for i in range(experts):
        xi, yi = xs[i, v], ys[i, v]
        if not (xi == xi and yi == yi):
            continue
        count, only = count + 1, i
        for j in range(i + 1, experts):
            distance = (xi - xs[j, v]) ** 2 + (yi - ys[j, v]) ** 2
            if distance < best:  # never true of NaN
                best, first, second = distance, i, j
    if count < 2:
        return only
    total_first = total_second = 0.0
    for k in range(experts):
        x, y = xs[k, v], ys[k, v]
        if x == x and y == y:
            total_first += math.sqrt((x - xs[first, v]) ** 2 + (y - ys[first, v]) ** 2)
            total_second += math.sqrt((x - xs[second, v]) ** 2 + (y - ys[second, v]) ** 2)
    return first if total_first <= total_second else second


@inlined
def _load(points: Any, b: int, t: int, xs: Any, ys: Any) -> None:
    """Copy one frame into rows of x and of y, one row per expert, so that loops run over many joints at a time."""
    for e in range(points.shape[1]):
        for v in range(points.shape[3]):
            xs[e, v] = points[b, e, t, v, 0]
            ys[e, v] = points[b, e, t, v, 1]


@inlined
def _nearest(xs: Any, ys: Any, memory: Any, nearest: Any, chosen: Any) -> None:
    """Per joint the squared distance and the index of the expert nearest to `memory`; inf and -1 where there is
    none."""
    for v in range(xs.shape[1]):
        nearest[v] = np.float32(np.inf)
        chosen[v] = np.int32(-1)
    for e in range(xs.shape[0]):
        this = np.int32(e)
        for v in range(xs.shape[1]):
            dx, dy = xs[e, v] - memory[0, v], ys[e, v] - memory[1, v]
            distance = dx * dx + dy * dy
            old, other = nearest[v], chosen[v]
            closer = distance < old  # never true of NaN
            nearest[v] = distance if closer else old
            chosen[v] = this if closer else other


@inlined
def _least_cost(xs: Any, ys: Any, rated: Any, v: int, px: float, py: float, past: float) -> int:
    """The expert whose joint costs least: its distances to all experts present and to (px, py), each times the weight
    of the other end; -1 without any."""
    best, chosen = math.inf, -1
    for i in range(len(xs)):
        x, y = xs[i, v], ys[i, v]
        if not (x == x and y == y):
            continue
        cost = past * math.sqrt((x - px) ** 2 + (y - py) ** 2) if past > 0.0 else 0.0
        for k in range(len(xs)):
            if xs[k, v] == xs[k, v] and ys[k, v] == ys[k, v]:
                cost += rated[k, v] * math.sqrt((x - xs[k, v]) ** 2 + (y - ys[k, v]) ** 2)
        if cost < best or (chosen >= 0 and cost == best and rated[i, v] > rated[chosen, v]):
            best, chosen = cost, i
    return chosen


@inlined
def _agree(xs: Any, ys: Any, pose: Any, length: float, here: Any, apart: Any) -> tuple[float, int]:
    """C of one frame about `pose` (2, V), and the number of present (expert, joint) pairs."""
    zero, one = np.float32(0), np.float32(1)
    for v in range(xs.shape[1]):
        here[v] = zero
        apart[v] = zero
    for e in range(xs.shape[0]):
        for v in range(xs.shape[1]):
            dx, dy = xs[e, v] - pose[0, v], ys[e, v] - pose[1, v]
            distance = np.sqrt(dx * dx + dy * dy)
            present = distance == distance
            here[v] += one if present else zero
            apart[v] += distance if present else zero
    total = pairs = support = zero
    for v in range(xs.shape[1]):
        shared = here[v] > one
        support += here[v]
        pairs += here[v] if shared else zero
        total += apart[v] if shared else zero
    if support == 0.0:
        return 0.0, 0
    if total == 0.0:
        return 1.0, int(support)
    return math.exp(-float(total) / pairs / length) if length > 0.0 else 0.0, int(support)


@compiled
def _buffers(experts: int, joints: int) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Rows of one frame, NaN beyond the last joint, padded to whole vectors of 16."""
    wide = (joints + 15) // 16 * 16
    xs = np.full((experts, wide), np.nan, np.float32)
    ys = np.full((experts, wide), np.nan, np.float32)
    pose = np.full((2, wide), np.nan, np.float32)
    return xs, ys, pose, np.zeros(wide, np.float32), np.zeros(wide, np.float32), np.zeros(wide, np.int32)


@compiled
def _select(
    points: Any,
    weights: Any,
    ends: Any,
    max_gap: int,
    max_step: float,
    score_power: float,
    coords: Any,
    scores: Any,
    certain: Any,
    support: Any,
    winner: Any,
) -> None:
    batch, experts, frames, joints, _ = points.shape
    xs, ys, memory, nearest, apart, chosen = _buffers(experts, joints)
    gap, past, rated = np.zeros(joints, np.int64), np.zeros(joints), np.ones((experts, joints))
    zero, half, one = np.float32(0), np.float32(0.5), np.float32(1)
    scored = weights.size > 0
    weighted = scored and score_power > 0.0
    for b in range(batch):
        memory[:] = np.nan
        gap[:] = 0
        scale = 0.0
        reach = math.inf
        for t in range(frames):
            _load(points, b, t, xs, ys)
            _nearest(xs, ys, memory, nearest, chosen)
            if weighted:
                for e in range(experts):
                    for v in range(joints):
                        rated[e, v] = max(weights[b, e, t, v], LEAST_SCORE) ** score_power
            for v in range(joints):
                e = chosen[v]
                lost = memory[0, v] != memory[0, v]
                far = e >= 0 and nearest[v] > (reach * (1 + gap[v])) ** 2
                if weighted:
                    held = 0.0 if lost or far else past[v] * 0.5 ** gap[v]
                    e = _least_cost(xs, ys, rated, v, memory[0, v], memory[1, v], held)
                    if e >= 0:
                        past[v] = rated[e, v]
                elif far or (e < 0 and lost):
                    e = _closest_pair(xs, ys, v)
                winner[b, t, v] = e
                if e >= 0:
                    x, y = points[b, e, t, v, 0], points[b, e, t, v, 1]
                    memory[0, v], memory[1, v] = x, y
                    coords[b, t, v, 0], coords[b, t, v, 1] = x, y
                    scores[b, t, v] = weights[b, e, t, v] if scored else one
                    gap[v] = 0
                else:
                    gap[v] += 1
                    if gap[v] > max_gap:
                        memory[0, v] = memory[1, v] = np.nan
                    held = memory[0, v] == memory[0, v]
                    coords[b, t, v, 0], coords[b, t, v, 1] = memory[0, v], memory[1, v]
                    scores[b, t, v] = half * scores[b, t - 1, v] if held else zero
            diagonal = _diagonal(memory)
            scale = _scale(memory, ends, diagonal, scale)
            length = max(scale, FLOOR * diagonal)
            certain[b, t], support[b, t] = _agree(xs, ys, memory, length, nearest, apart)
            if max_step > 0.0 and length > 0.0:
                reach = max_step * length


@compiled
def _agreement(points: Any, fused: Any, ends: Any, certain: Any, support: Any) -> None:
    batch, experts, frames, joints, _ = points.shape
    xs, ys, pose, here, apart, _chosen = _buffers(experts, joints)
    for b in range(batch):
        scale = 0.0
        for t in range(frames):
            _load(points, b, t, xs, ys)
            pose[:, :joints] = fused[b, t].T
            diagonal = _diagonal(pose)
            scale = _scale(pose, ends, diagonal, scale)
            certain[b, t], support[b, t] = _agree(xs, ys, pose, max(scale, FLOOR * diagonal), here, apart)


@compiled
def _select_published(
    points: Any, weights: Any, body: Any, coords: Any, scores: Any, certain: Any, support: Any, winner: Any
) -> None:
    batch, experts, frames, joints, _ = points.shape
    apart = np.empty(3, np.float64)
    for b in range(batch):
        for t in range(frames):
            for v in range(joints):
                if t == 0:
                    for n, (i, j) in enumerate(((1, 2), (1, 0), (0, 2))):
                        apart[n] = math.sqrt(
                            (points[b, i, t, v, 0] - points[b, j, t, v, 0]) ** 2
                            + (points[b, i, t, v, 1] - points[b, j, t, v, 1]) ** 2
                        )
                    chosen = 2 if apart[2] <= min(apart[0], apart[1]) else 1
                else:
                    for n in range(3):
                        apart[n] = math.sqrt(
                            (points[b, n, t, v, 0] - coords[b, t - 1, v, 0]) ** 2
                            + (points[b, n, t, v, 1] - coords[b, t - 1, v, 1]) ** 2
                        )
                    nearest = min(apart[0], apart[1], apart[2])
                    chosen = 0 if apart[0] == nearest else 2 if apart[2] == nearest else 1
                winner[b, t, v] = chosen
                coords[b, t, v] = points[b, chosen, t, v]
                scores[b, t, v] = weights[b, chosen, t, v] if weights.size else 1.0
            scale = math.sqrt(
                (coords[b, t, body[0], 0] - coords[b, t, body[1], 0]) ** 2
                + (coords[b, t, body[0], 1] - coords[b, t, body[1], 1]) ** 2
            )
            total = 0.0
            for e in range(experts):
                one = 0.0
                for v in body:
                    one += math.sqrt(
                        (points[b, e, t, v, 0] - coords[b, t, v, 0]) ** 2
                        + (points[b, e, t, v, 1] - coords[b, t, v, 1]) ** 2
                    )
                total += one / len(body) / (scale + 1e-8)
            certain[b, t] = math.exp(-total / experts)
            support[b, t] = experts * joints


def _outputs(points: Float) -> tuple[Float, Float, Float, Int, Int]:
    batch, _, frames, joints, _ = points.shape
    return (
        np.empty((batch, frames, joints, 2), np.float32),
        np.empty((batch, frames, joints), np.float32),
        np.empty((batch, frames), np.float32),
        np.empty((batch, frames), np.int32),
        np.empty((batch, frames, joints), np.int8),
    )


_NO_SCORES = np.zeros((0, 0, 0, 0), np.float32)


def select(
    points: Float, weights: Float | None, ends: Int, max_gap: int, max_step: float, score_power: float = 0.0
) -> tuple[Float, Float, Float, Int, Int]:
    """Coordinates, scores, C, support and winner of the rule for missing joints; arrays with a leading axis B."""
    out = _outputs(points)
    _select(points, _NO_SCORES if weights is None else weights, ends, max_gap, max_step, score_power, *out)
    return out


def select_published(points: Float, weights: Float | None, body: Int) -> tuple[Float, Float, Float, Int, Int]:
    """As `select`, by the rule of the published script; missing joints become (0, 0)."""
    out = _outputs(points)
    _select_published(np.nan_to_num(points, nan=0.0), _NO_SCORES if weights is None else weights, body, *out)
    return out


def agreement(points: Float, fused: Float, ends: Int) -> tuple[Float, Int]:
    """C and support (B, T) of (B, E, T, V, 2) experts about (B, T, V, 2) poses."""
    certain, support = np.empty(fused.shape[:2], np.float32), np.empty(fused.shape[:2], np.int32)
    _agreement(points, fused, ends, certain, support)
    return certain, support
