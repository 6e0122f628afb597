"""Compiled loops give the bits of the NumPy formulas that say what they do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("torch")

from training.transforms.preprocess import interpolate, visible
from training.transforms.spatial import move


def interpolated(array):
    """Each missing joint between the visible frames around it, by arrays of indices."""
    is_visible = np.isfinite(array).all(-1)
    if is_visible.all():
        return array.copy()
    total = array.shape[1]
    time = np.arange(total)[:, None]
    before = np.maximum.accumulate(np.where(is_visible, time, -1), axis=1)
    after = np.minimum.accumulate(np.where(is_visible, time, total)[:, ::-1], axis=1)[:, ::-1]
    low, high = np.where(before < 0, after, before), np.where(after == total, before, after)
    fraction = ((time - low) / np.maximum(high - low, 1)).astype(array.dtype)[..., None]
    low, high = np.minimum(low, total - 1)[..., None], np.maximum(high, 0)[..., None]
    begin = np.take_along_axis(array, low, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # infinity stands for a joint that is never seen
        out = begin + (np.take_along_axis(array, high, axis=1) - begin) * np.clip(fraction, 0, 1)
    for person, ever_visible in zip(out, is_visible.any(axis=1)):
        if ever_visible.any() and not ever_visible.all():
            person[:, ~ever_visible] = person[:, ever_visible].mean(1, keepdims=True)
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("missing", [0.0, 0.05, 0.5, 0.9])
def test_interpolation(dtype, missing):
    rng = np.random.default_rng(round(100 * missing))
    compared = 0
    for _ in range(12):
        array = rng.normal(size=(2, int(rng.integers(1, 60)), 7, int(rng.integers(2, 4)))).astype(dtype)
        array[rng.random(array.shape) < 0.02] = -0.0
        array[rng.random(array.shape[:3]) < missing] = np.nan
        array[..., 0][rng.random(array.shape[:3]) < missing / 4] = np.inf
        seen = np.isfinite(array).all(-1)
        assert np.array_equal(visible(array), seen)
        if seen.any((1, 2)).all():
            result = interpolate(array)
            assert result.dtype == dtype and result.tobytes() == interpolated(array).tobytes()
            turned = np.asfortranarray(array)
            assert np.array_equal(interpolate(turned), result)
            compared += 1
    assert compared > 4


def moved(array, degrees, scales, across, down):
    """The first two axes of every frame by a matrix and a shift, in double precision."""
    total, nodes = array.shape[1], len(degrees) - 1
    ends = np.append(np.arange(nodes) * total / nodes, total).round().astype(int)
    angle, size, x, y = (
        np.concatenate([np.linspace(v[n], v[n + 1], ends[n + 1] - ends[n]) for n in range(nodes)])
        for v in (np.deg2rad(degrees), scales, across, down)
    )
    rotation = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    out = array.copy()
    out[..., :2] = np.einsum("abt,mtvb->mtva", rotation, array[..., :2]) + np.stack([x, y], -1)[:, None]
    out[~array.any((2, 3))] = 0
    return out


@pytest.mark.parametrize("nodes", [1, 3])
def test_wander(nodes):
    rng = np.random.default_rng(nodes)
    for frames in (3, 4, 150):
        for channels in (2, 3):
            array = rng.normal(size=(2, frames, 17, channels)).astype(np.float32)
            array[1, rng.random(frames) < 0.3] = 0
            drawn = rng.normal(size=(4, nodes + 1)) * [[10], [0.1], [0.2], [0.2]] + [[0], [1], [0], [0]]
            drawn[2, 1] = drawn[2, 0]
            assert move(array, *drawn).tobytes() == moved(array, *drawn).tobytes()
