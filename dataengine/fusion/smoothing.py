"""Compiled loops of the consensus fusion; what they are for is said in `dataengine.fusion.consensus`.

All work on float64 rows of joints: x, y (E, T, V), weight (E, T, V) with 0 where missing, pose (2, T, V).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dataengine.compiled import compiled


@compiled
def spread(x: Any, y: Any, weight: Any, scale: float) -> float:
    """Mean squared distance of two experts' sights of one joint, pixels^2; distances beyond `scale` count ever less.

    One expert alone is compared with the middle of its neighbours in time, which for white noise has
    three times the mean square of a pair of experts. 0 where there is nothing to compare.
    """
    experts, frames, joints = x.shape
    total = mass = 0.0
    for a in range(experts):
        for b in range(a + 1, experts):
            for t in range(frames):
                for v in range(joints):
                    if weight[a, t, v] > 0 and weight[b, t, v] > 0:
                        squared = (x[a, t, v] - x[b, t, v]) ** 2 + (y[a, t, v] - y[b, t, v]) ** 2
                        share = 1.0 / (1.0 + squared / scale**2) ** 2
                        total += share * squared
                        mass += share
    if experts == 1:
        for t in range(1, frames - 1):
            for v in range(joints):
                if weight[0, t - 1, v] > 0 and weight[0, t, v] > 0 and weight[0, t + 1, v] > 0:
                    dx = x[0, t - 1, v] - 2 * x[0, t, v] + x[0, t + 1, v]
                    dy = y[0, t - 1, v] - 2 * y[0, t, v] + y[0, t + 1, v]
                    squared = (dx * dx + dy * dy) / 3
                    share = 1.0 / (1.0 + squared / scale**2) ** 2
                    total += share * squared
                    mass += share
    return total / mass if mass > 0.0 else 0.0


@compiled
def start(x: Any, y: Any, weight: Any, width: float, reach: float, cap: float, agreement: float, pose: Any) -> None:
    """Write one expert's sight of every joint and frame into `pose`: near to the frame before, and agreed on.

    Chosen is the least of min((step / reach)^2, cap) - `agreement` * (sum of weight * kernel over all sights), kernel
    (1 + d^2 / width^2)^-2, reach growing with every frame of a gap. Gaps repeat the sight before, or the first one.
    """
    experts, frames, joints = x.shape
    narrow, short = 1.0 / width**2, 1.0 / reach**2
    density, least, px, py = np.empty(joints), np.empty(joints), np.zeros(joints), np.zeros(joints)
    gap, known, first = np.ones(joints), np.zeros(joints), np.full(joints, frames)
    for t in range(frames):
        for v in range(joints):
            least[v] = math.inf
        for e in range(experts):
            for v in range(joints):
                density[v] = 0.0
            for k in range(experts):
                for v in range(joints):
                    dx, dy = x[k, t, v] - x[e, t, v], y[k, t, v] - y[e, t, v]
                    near = 1.0 + (dx * dx + dy * dy) * narrow
                    density[v] += weight[k, t, v] / (near * near)
            for v in range(joints):
                dx, dy = x[e, t, v] - px[v], y[e, t, v] - py[v]
                cost = known[v] * min((dx * dx + dy * dy) * short / (gap[v] * gap[v]), cap) - agreement * density[v]
                if weight[e, t, v] > 0 and cost < least[v]:
                    least[v] = cost
                    pose[0, t, v], pose[1, t, v] = x[e, t, v], y[e, t, v]
        for v in range(joints):
            if least[v] < math.inf:
                px[v], py[v] = pose[0, t, v], pose[1, t, v]
                first[v] = min(first[v], t)
                known[v] = gap[v] = 1.0
            else:
                gap[v] += known[v]
                pose[0, t, v], pose[1, t, v] = px[v], py[v]
    for v in range(joints):
        for t in range(first[v] if first[v] < frames else 0):
            pose[0, t, v], pose[1, t, v] = pose[0, first[v], v], pose[1, first[v], v]


@compiled
def spline(x: Any, y: Any, weight: Any, pose: Any, scale: float, stiff: float, rounds: int) -> None:
    """Move `pose` towards the minimum of sum rho(distance / scale) + stiff |second difference|^2, `rounds` times.

    rho(r) = r^2 / (1 + r^2) (Geman and McClure), minimised by reweighting: each round is one least-squares
    problem a joint, a matrix of five diagonals that x and y share, solved by LDL^T for all joints at once.
    """
    experts, frames, joints = x.shape
    narrow = 1.0 / scale**2
    shape = (frames, joints)
    inverse, first, second, right, low = np.empty(shape), np.empty(shape), np.empty(shape), np.empty(shape), np.empty(shape)
    mass, px, py = np.empty(joints), np.empty(joints), np.empty(joints)
    for _ in range(rounds):
        for t in range(frames):
            for v in range(joints):
                mass[v] = 1e-9
                px[v] = 1e-9 * pose[0, t, v]
                py[v] = 1e-9 * pose[1, t, v]
            for e in range(experts):
                for v in range(joints):
                    dx, dy = x[e, t, v] - pose[0, t, v], y[e, t, v] - pose[1, t, v]
                    far = 1.0 + (dx * dx + dy * dy) * narrow
                    share = weight[e, t, v] / (far * far)
                    mass[v] += share
                    px[v] += share * x[e, t, v]
                    py[v] += share * y[e, t, v]
            # row t of stiff * D'D, D the second difference: 1 -2 1 and its rows at both ends
            inner = min(t, 1) * min(frames - 1 - t, 1)
            main = stiff * ((t >= 2) + 4.0 * inner + (t + 2 < frames)) if frames > 2 else 0.0
            near = -2.0 * stiff * (inner + (t >= 2)) if frames > 2 else 0.0
            if t >= 2:
                for v in range(joints):
                    two = stiff * inverse[t - 2, v]
                    below = near - stiff * first[t - 1, v]
                    one = below * inverse[t - 1, v]
                    inverse[t, v] = 1.0 / (main + mass[v] - two * stiff - one * below)
                    first[t, v], second[t, v] = one, two
                    right[t, v] = px[v] - two * right[t - 2, v] - one * right[t - 1, v]
                    low[t, v] = py[v] - two * low[t - 2, v] - one * low[t - 1, v]
            else:
                for v in range(joints):
                    one = near * inverse[0, v] if t else 0.0
                    inverse[t, v] = 1.0 / (main + mass[v] - one * near)
                    first[t, v], second[t, v] = one, 0.0
                    right[t, v] = px[v] - (one * right[0, v] if t else 0.0)
                    low[t, v] = py[v] - (one * low[0, v] if t else 0.0)
        for v in range(joints):
            pose[0, frames - 1, v] = right[frames - 1, v] * inverse[frames - 1, v]
            pose[1, frames - 1, v] = low[frames - 1, v] * inverse[frames - 1, v]
            if frames > 1:
                pose[0, frames - 2, v] = right[frames - 2, v] * inverse[frames - 2, v] - first[frames - 1, v] * pose[0, frames - 1, v]
                pose[1, frames - 2, v] = low[frames - 2, v] * inverse[frames - 2, v] - first[frames - 1, v] * pose[1, frames - 1, v]
        for t in range(frames - 3, -1, -1):
            for v in range(joints):
                px[v] = right[t, v] * inverse[t, v] - first[t + 1, v] * pose[0, t + 1, v] - second[t + 2, v] * pose[0, t + 2, v]
                py[v] = low[t, v] * inverse[t, v] - first[t + 1, v] * pose[1, t + 1, v] - second[t + 2, v] * pose[1, t + 2, v]
            for v in range(joints):
                pose[0, t, v] = px[v]
                pose[1, t, v] = py[v]


@compiled
def unswap(x: Any, y: Any, weight: Any, pose: Any, scale: float, margin: float, limbs: Any, flip: Any) -> int:
    """Exchange left and right of a limb of one expert in one frame where that fits `pose` better; the number of exchanges.

    `limbs` (G, J) are the left joints of each limb. The misfit is the sum of r^2 / (1 + r^2), r = distance / scale,
    over the joints of both sides, and must fall by more than `margin`.
    """
    experts, frames, _ = x.shape
    narrow, count = 1.0 / scale**2, 0
    for t in range(frames):
        for e in range(experts):
            for limb in limbs:
                gain = 0.0
                for left in limb:
                    for side in (left, flip[left]):
                        if weight[e, t, side] > 0:
                            other = flip[side]
                            own = ((x[e, t, side] - pose[0, t, side]) ** 2 + (y[e, t, side] - pose[1, t, side]) ** 2) * narrow
                            far = ((x[e, t, side] - pose[0, t, other]) ** 2 + (y[e, t, side] - pose[1, t, other]) ** 2) * narrow
                            gain += own / (1.0 + own) - far / (1.0 + far)
                if gain > margin:
                    count += 1
                    for left in limb:
                        right = flip[left]
                        x[e, t, left], x[e, t, right] = x[e, t, right], x[e, t, left]
                        y[e, t, left], y[e, t, right] = y[e, t, right], y[e, t, left]
                        weight[e, t, left], weight[e, t, right] = weight[e, t, right], weight[e, t, left]
    return count


@compiled
def finish(
    x: Any, y: Any, scores: Any, rated: bool, pose: Any, width: float, near: float, hold: int, coords: Any, made: Any, winner: Any
) -> None:
    """Coordinates (T, V, 2), scores and winners (T, V) of the fused `pose`; inner gaps up to `hold` frames are kept.

    `scores` (E, T, V) is -1 where missing; not `rated`, they say nothing and the mean closeness counts. The arrays read may have more joints than those written.
    """
    experts, frames, joints = x.shape[0], x.shape[1], coords.shape[1]
    last = np.full(joints, -1)
    for t in range(frames):
        for v in range(joints):
            wrong, close, count, best, closest = 1.0, 0.0, 0, -1, math.inf
            for e in range(experts):
                if scores[e, t, v] >= 0:
                    dx, dy = x[e, t, v] - pose[0, t, v], y[e, t, v] - pose[1, t, v]
                    squared = dx * dx + dy * dy
                    apart = 1.0 + squared / width**2
                    wrong *= 1.0 - scores[e, t, v] / (apart * apart)
                    close += 1.0 / (apart * apart)
                    count += 1
                    if squared < closest:
                        closest, best = squared, e
            coords[t, v, 0] = coords[t, v, 1] = np.nan
            made[t, v], winner[t, v] = 0.0, -1
            if count == 0:
                continue
            coords[t, v, 0], coords[t, v, 1] = pose[0, t, v], pose[1, t, v]
            made[t, v] = 1.0 - wrong if rated else close / count
            winner[t, v] = best if closest <= near**2 else -2
            before, last[v] = last[v], t
            if before >= 0 and 1 < t - before <= hold + 1:
                for gap in range(before + 1, t):
                    coords[gap, v, 0], coords[gap, v, 1] = pose[0, gap, v], pose[1, gap, v]
                    made[gap, v] = max(made[before, v] * 0.5 ** (gap - before), made[t, v] * 0.5 ** (t - gap))
