"""The selection fusion once more, slowly: plain loops over float32 numbers, written from the docstring of `SSTA`."""

from __future__ import annotations

import math

import numpy as np

f32 = np.float32


def between(a, b):
    d = a - b
    return d[0] * d[0] + d[1] * d[1]


def closest_pair(seen):
    """`seen`: list of (expert, point)."""
    if len(seen) < 2:
        return seen[0][0] if seen else -1
    pairs = [(between(p, q), i, j) for n, (i, p) in enumerate(seen) for j, q in seen[n + 1 :]]
    _, i, j = min(pairs)
    points = dict(seen)
    total_i, total_j = (
        sum(math.sqrt(between(points[k].astype(float), p.astype(float))) for _, p in seen) for k in (i, j)
    )
    return i if total_i <= total_j else j


def fuse(coords, scores=None, ends=None, max_gap=5, max_step=0.0, box_unit=0.127):
    """`ends`: two lists of joints whose means are the ends of the unit of length, or None for the box."""
    E, T, V, _ = coords.shape
    out = np.full((T, V, 2), np.nan, f32)
    score, winner = np.zeros((T, V), f32), np.full((T, V), -1)
    C, support = np.zeros(T), np.zeros(T, int)
    memory, gap, unit, reach = [None] * V, [0] * V, 0.0, math.inf
    for t in range(T):
        for v in range(V):
            seen = [(e, coords[e, t, v]) for e in range(E) if not np.isnan(coords[e, t, v]).any()]
            if seen and memory[v] is not None:
                nearest, e = min((between(p, memory[v]), e) for e, p in seen)
                if nearest > (reach * (1 + gap[v])) ** 2:
                    e = closest_pair(seen)
            else:
                e = closest_pair(seen)
            winner[t, v] = e
            if e >= 0:
                memory[v], gap[v] = coords[e, t, v], 0
                score[t, v] = 1 if scores is None else scores[e, t, v]
            else:
                gap[v] += 1
                if gap[v] > max_gap:
                    memory[v] = None
                score[t, v] = score[t - 1, v] / 2 if memory[v] is not None else 0
            if memory[v] is not None:
                out[t, v] = memory[v]
        here = out[t][~np.isnan(out[t, :, 0])]
        diagonal = float(np.linalg.norm(here.max(0) - here.min(0))) if len(here) else 0.0
        if ends is None:
            unit = box_unit * diagonal
        else:
            measured = float(np.linalg.norm(out[t, ends[0]].mean(0) - out[t, ends[1]].mean(0)))
            unit = measured if not math.isnan(measured) else unit if unit > 0 else box_unit * diagonal
        length = max(unit, 0.01 * diagonal)
        apart = []
        for v in range(V):
            d = [
                math.sqrt(between(coords[e, t, v], out[t, v])) for e in range(E) if not np.isnan(coords[e, t, v]).any()
            ]
            support[t] += len(d)
            apart += d if len(d) > 1 else []
        C[t] = (
            0
            if support[t] == 0
            else 1
            if sum(apart) == 0
            else math.exp(-sum(apart) / len(apart) / length)
            if length > 0
            else 0
        )
        if max_step and length > 0:
            reach = max_step * length
    return out, score, C, support, winner
