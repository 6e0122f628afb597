"""Compiled loops of preparation and views, with the bits that the same formulas give in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from dataengine.core.jit import compiled


def _fill(array: Any, out: Any) -> Any:
    """See `training.transforms.preprocess.interpolate`; (M, V) bool, whether a joint is ever visible. A value that is
    there goes through the formula of one that is not, so that -0 becomes 0 for both."""
    people, frames, joints, channels = array.shape
    ever = np.zeros((people, joints), np.bool_)
    fraction = np.zeros(1, array.dtype)  # rounded to the precision of the array, as the products are
    for m in range(people):
        for v in range(joints):
            low = -1
            for t in range(frames):
                seen = True
                for c in range(channels):
                    seen = seen and np.isfinite(array[m, t, v, c])
                if not seen:
                    continue
                for gap in range(low + 1, t + 1):
                    start = t if low < 0 or gap == t else low
                    fraction[0] = 0.0 if start == t else (gap - low) / (t - low)
                    for c in range(channels):
                        begin = array[m, start, v, c]
                        out[m, gap, v, c] = begin + (array[m, t, v, c] - begin) * fraction[0]
                low = t
            ever[m, v] = low >= 0
            for t in range(low + 1, frames):
                for c in range(channels):
                    begin = array[m, low, v, c] if low >= 0 else np.nan
                    out[m, t, v, c] = begin + (begin - begin)
    return ever


def _turn(array: Any, rotation: Any, across: Any, down: Any, out: Any) -> None:
    """The first two axes of `array` (M, T, V, C) by a matrix and a shift per frame, into `out`; frames that are zero
    stay zero. `rotation` is (2, 2, T) float64; sums are made in double precision."""
    people, frames, joints, channels = array.shape
    for m in range(people):
        for t in range(frames):
            empty = True
            for v in range(joints):
                for c in range(channels):
                    empty = empty and array[m, t, v, c] == 0
            for v in range(joints):
                for c in range(2, channels):
                    out[m, t, v, c] = array[m, t, v, c]
                if empty:
                    out[m, t, v, 0] = out[m, t, v, 1] = 0
                else:
                    x, y = array[m, t, v, 0], array[m, t, v, 1]
                    out[m, t, v, 0] = (rotation[0, 0, t] * x + rotation[0, 1, t] * y) + across[t]
                    out[m, t, v, 1] = (rotation[1, 0, t] * x + rotation[1, 1, t] * y) + down[t]


fill = compiled(_fill)
turn = compiled(_turn)
