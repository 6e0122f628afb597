"""Experts that look at every k-th frame."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dataengine.core.types import Track
from dataengine.tracking.skipped_frames import fill_skipped, steps_at


def test_joints_move_in_a_straight_line_from_one_look_to_the_next() -> None:
    coords = np.full((2, 8, 2, 2), np.nan, np.float32)
    scores = np.zeros((2, 8, 2), np.float32)
    coords[0] = 5.0
    scores[0] = 0.5
    for t, x in ((0, 0.0), (3, 30.0), (6, 0.0)):
        coords[1, t, 0], scores[1, t, 0] = (x, 2 * x), 0.3 + x / 100
    coords[1, 0, 1], scores[1, 0, 1] = 7.0, 0.9  # the second joint is seen once
    track = Track(1, coords, scores, np.zeros((8, 4), np.float32))
    before = coords.copy()
    filled = fill_skipped(track, [1, 3])
    np.testing.assert_array_equal(filled.coords[0], coords[0])
    np.testing.assert_allclose(filled.coords[1, :7, 0, 0], [0, 10, 20, 30, 20, 10, 0])
    np.testing.assert_allclose(filled.coords[1, :7, 0, 1], [0, 20, 40, 60, 40, 20, 0])
    np.testing.assert_allclose(filled.scores[1, :7, 0], [0.3, 0.4, 0.5, 0.6, 0.5, 0.4, 0.3], rtol=1e-6)
    assert np.isnan(filled.coords[1, 7]).all() and filled.scores[1, 7].max() == 0
    assert np.isfinite(filled.coords[1, :, 1]).all(-1).tolist() == [True] + [False] * 7
    assert filled.scores[1, 1:, 1].max() == 0
    np.testing.assert_array_equal(coords, before)  # what was given stays
    assert fill_skipped(track, [1, 1]) is track


@pytest.mark.parametrize(
    ("fps", "steps"),
    [
        (6.0, [1, 1, 1]),
        (15.0, [1, 1, 1]),
        (20.0, [1, 2, 2]),
        (30000 / 1001, [1, 2, 2]),
        (60.0, [1, 2, 6]),
        (math.inf, [1, 2, 9]),
    ],
)
def test_looks_are_at_most_a_tenth_of_a_second_apart(fps: float, steps: list[int]) -> None:
    assert steps_at(fps, [1, 2, 9]) == steps
