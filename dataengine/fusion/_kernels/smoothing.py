"""Compiled loops of the robust spline; `dataengine.fusion.spline` describes the method.

Arrays are float64: x, y (E, T, V), weight (E, T, V) with 0 where missing, pose (2, T, V).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dataengine.core.jit import compiled


@compiled
def step_noise(x: Any, y: Any, weight: Any, scale: float) -> float:
    """Mean squared difference between the steps of two experts, from one frame to the next, pixels^2.

    The weight of a difference falls beyond `scale`. Where no two experts have the same step, the fourth difference of
    each expert replaces it: the mean square of white noise is 35/2 of that of a step, and movement adds next to
        nothing.
    Without anything to compare the result is 0.
    """
    experts, frames, joints = x.shape
    total = mass = 0.0
    narrow = 1.0 / scale**2
    for a in range(experts):
        for b in range(a + 1, experts):
            for t in range(1, frames):
                for v in range(joints):
                    dx = x[a, t, v] - x[a, t - 1, v] - x[b, t, v] + x[b, t - 1, v]
                    dy = y[a, t, v] - y[a, t - 1, v] - y[b, t, v] + y[b, t - 1, v]
                    both = min(min(weight[a, t, v], weight[a, t - 1, v]), min(weight[b, t, v], weight[b, t - 1, v])) > 0
                    squared = dx * dx + dy * dy
                    far = 1.0 + squared * narrow
                    share = 1.0 / (far * far) if both else 0.0
                    total += share * squared
                    mass += share
    if mass > 0.0:
        return total / mass
    for e in range(experts):
        for t in range(4, frames):
            for v in range(joints):
                seen = min(
                    weight[e, t - 4, v], weight[e, t - 3, v], weight[e, t - 2, v], weight[e, t - 1, v], weight[e, t, v]
                )
                if seen > 0:
                    dx = x[e, t - 4, v] - 4 * x[e, t - 3, v] + 6 * x[e, t - 2, v] - 4 * x[e, t - 1, v] + x[e, t, v]
                    dy = y[e, t - 4, v] - 4 * y[e, t - 3, v] + 6 * y[e, t - 2, v] - 4 * y[e, t - 1, v] + y[e, t, v]
                    squared = (dx * dx + dy * dy) / 17.5
                    far = 1.0 + squared * narrow
                    share = 1.0 / (far * far)
                    total += share * squared
                    mass += share
    return total / mass if mass > 0.0 else 0.0


@compiled
def spline(x: Any, y: Any, weight: Any, pose: Any, stages: Any) -> None:
    """Move `pose` towards the minimum of the sum of

        a^2 rho(distance of an observation to the pose / a)
        + w * b^2 rho(distance of the step of an expert to the step of the pose / b)
        + s * c^2 log(1 + (length of the second difference of the pose / c)^2)

    with rho(r) = r^2 / (1 + r^2) (Geman and McClure). The loss is minimised by iterative reweighting. Every row of
    `stages` holds the position scale a, step scale b, step weight w, stiffness s and bend scale c of one least-squares
    problem per joint: a matrix of five diagonals, which x and y share, solved by LDL^T for all joints at once. The
    weight of a step is the lower weight of its two observations.
    """
    experts, frames, joints = x.shape
    shape = (frames, joints)
    inverse, first, second, right, low = (
        np.empty(shape),
        np.empty(shape),
        np.empty(shape),
        np.empty(shape),
        np.empty(shape),
    )
    mass, px, py = np.empty(joints), np.empty(joints), np.empty(joints)
    link, lx, ly = np.zeros(joints), np.zeros(joints), np.zeros(joints)  # steps from this frame to the next
    bent = np.zeros((frames + 2, joints))  # weight of the second difference centred on frame t - 1
    for stage in range(len(stages)):
        position_precision, step_precision, bend_precision = (
            1.0 / stages[stage, 0] ** 2,
            1.0 / stages[stage, 1] ** 2,
            1.0 / stages[stage, 4] ** 2,
        )
        step_weight, stiffness = stages[stage, 2], stages[stage, 3]
        for t in range(1, frames - 1):
            for v in range(joints):
                dx = pose[0, t - 1, v] - 2.0 * pose[0, t, v] + pose[0, t + 1, v]
                dy = pose[1, t - 1, v] - 2.0 * pose[1, t, v] + pose[1, t + 1, v]
                bent[t + 1, v] = stiffness / (1.0 + (dx * dx + dy * dy) * bend_precision)
        for v in range(joints):
            link[v] = lx[v] = ly[v] = 0.0
        for t in range(frames):
            for v in range(joints):
                mass[v] = 1e-9 + link[v] + bent[t, v] + 4.0 * bent[t + 1, v] + bent[t + 2, v]
                px[v] = 1e-9 * pose[0, t, v] + lx[v]
                py[v] = 1e-9 * pose[1, t, v] + ly[v]
                first[t, v] = -2.0 * (bent[t, v] + bent[t + 1, v]) - link[v]
                link[v] = lx[v] = ly[v] = 0.0
            for e in range(experts):
                for v in range(joints):
                    dx, dy = x[e, t, v] - pose[0, t, v], y[e, t, v] - pose[1, t, v]
                    far = 1.0 + (dx * dx + dy * dy) * position_precision
                    share = weight[e, t, v] / (far * far)
                    mass[v] += share
                    px[v] += share * x[e, t, v]
                    py[v] += share * y[e, t, v]
                if t + 1 < frames and step_weight > 0.0:
                    for v in range(joints):
                        sx, sy = x[e, t + 1, v] - x[e, t, v], y[e, t + 1, v] - y[e, t, v]
                        dx, dy = sx - pose[0, t + 1, v] + pose[0, t, v], sy - pose[1, t + 1, v] + pose[1, t, v]
                        far = 1.0 + (dx * dx + dy * dy) * step_precision
                        share = step_weight * min(weight[e, t, v], weight[e, t + 1, v]) / (far * far)
                        link[v] += share
                        lx[v] += share * sx
                        ly[v] += share * sy
            for v in range(joints):
                px[v] -= lx[v]
                py[v] -= ly[v]
                mass[v] += link[v]
            if t >= 2:
                for v in range(joints):
                    two = bent[t, v] * inverse[t - 2, v]
                    below = first[t, v] - bent[t, v] * first[t - 1, v]
                    one = below * inverse[t - 1, v]
                    inverse[t, v] = 1.0 / (mass[v] - two * bent[t, v] - one * below)
                    first[t, v], second[t, v] = one, two
                    right[t, v] = px[v] - two * right[t - 2, v] - one * right[t - 1, v]
                    low[t, v] = py[v] - two * low[t - 2, v] - one * low[t - 1, v]
            else:
                for v in range(joints):
                    below = first[t, v] if t else 0.0
                    one = below * inverse[0, v] if t else 0.0
                    inverse[t, v] = 1.0 / (mass[v] - one * below)
                    first[t, v], second[t, v] = one, 0.0
                    right[t, v] = px[v] - (one * right[0, v] if t else 0.0)
                    low[t, v] = py[v] - (one * low[0, v] if t else 0.0)
        for t in range(frames - 1, -1, -1):
            for v in range(joints):
                px[v], py[v] = right[t, v] * inverse[t, v], low[t, v] * inverse[t, v]
            if t + 1 < frames:
                for v in range(joints):
                    px[v] -= first[t + 1, v] * pose[0, t + 1, v]
                    py[v] -= first[t + 1, v] * pose[1, t + 1, v]
            if t + 2 < frames:
                for v in range(joints):
                    px[v] -= second[t + 2, v] * pose[0, t + 2, v]
                    py[v] -= second[t + 2, v] * pose[1, t + 2, v]
            for v in range(joints):
                pose[0, t, v] = px[v]
                pose[1, t, v] = py[v]


@compiled
def unswap(x: Any, y: Any, weight: Any, pose: Any, scale: float, margin: float, limbs: Any, flip: Any) -> int:
    """Swap left and right of a limb of one expert in one frame where that fits `pose` better.

    The misfit is the sum of r^2 / (1 + r^2), r = distance / scale, over the left and right joints of the limb. A swap
    must lower the misfit by more than `margin`.

    Args:
        limbs: (G, J) left joints of each limb.
        flip: (V,) mirror of each joint.

    Returns:
        The number of swaps.
    """
    experts, frames, _ = x.shape
    narrow, count = 1.0 / scale**2, 0
    for t in range(frames):
        for e in range(experts):
            for limb in limbs:
                gain = 0.0
                for left in limb:
                    for joint in (left, flip[left]):
                        if weight[e, t, joint] > 0:
                            other = flip[joint]
                            own = (
                                (x[e, t, joint] - pose[0, t, joint]) ** 2 + (y[e, t, joint] - pose[1, t, joint]) ** 2
                            ) * narrow
                            far = (
                                (x[e, t, joint] - pose[0, t, other]) ** 2 + (y[e, t, joint] - pose[1, t, other]) ** 2
                            ) * narrow
                            gain += own / (1.0 + own) - far / (1.0 + far)
                if gain > margin:
                    count += 1
                    for left in limb:
                        right = flip[left]
                        x[e, t, left], x[e, t, right] = x[e, t, right], x[e, t, left]
                        y[e, t, left], y[e, t, right] = y[e, t, right], y[e, t, left]
                        weight[e, t, left], weight[e, t, right] = weight[e, t, right], weight[e, t, left]
    return count
