"""The kernel mode: equal to a search over a fine grid, and not moved by a minority."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.fusion import fuse


def run(points, scores=None, **options):
    """The mode of points (E, 2) beside twelve joints that fix the unit of length at 100 pixels."""
    rest = np.zeros((len(points), 1, 13, 2))
    rest[:, :, 1:3, 1] = 100
    rest[:, 0, 5] = points
    if scores is not None:
        scores = np.tile(np.asarray(scores, float)[:, None, None], (1, 1, 13))
    return fuse(rest, scores, method="mean_shift", skeleton="body13", **options).coords[0, 5]


def height(place, points, weights, width):
    return (weights * np.exp(-0.5 * ((points - place) ** 2).sum(-1) / width**2)).sum()


@pytest.mark.parametrize("seed", range(8))
def test_no_place_is_denser(seed):
    rng = np.random.default_rng(seed)
    points, scores = rng.normal(0, 60, (5, 2)), rng.uniform(0.2, 1, 5)
    found = run(points, scores, width=0.4, refine=0)
    grid = np.stack(np.meshgrid(*[np.arange(-200, 200, 4.0)] * 2), -1).reshape(-1, 2)
    densest = max(height(place, points, scores**2, 40) for place in grid)
    assert height(found, points, scores**2, 40) > densest * 0.999


def test_a_minority_does_not_move_it():
    points = np.array([[0.0, 0], [10, 0], [20, 0], [400, 0], [430, 10]])
    np.testing.assert_allclose(run(points), [10, 0], atol=0.1)
    np.testing.assert_allclose(run(points, [0.3, 0.3, 0.3, 0.9, 0.9]), [415, 5], atol=1)
    np.testing.assert_allclose(run(points, [0.3, 0.3, 0.3, 0.9, 0.9], score_power=0), [10, 0], atol=0.1)


def test_refining_goes_on_to_the_densest_part():
    points = np.array([[0.0, 0], [2, 0], [4, 0], [40, 0], [48, 0]])
    coarse, fine = run(points, width=0.8, refine=0)[0], run(points, width=0.8, refine=4)[0]
    assert 10 < coarse < 30 and abs(fine - 2) < 1


def test_equal_peaks_go_to_the_lower_index():
    points = np.array([[300.0, 0], [0, 0]])
    np.testing.assert_allclose(run(points, width=0.3), [300, 0], atol=1e-3)
    np.testing.assert_allclose(run(points[::-1], width=0.3), [0, 0], atol=1e-3)
