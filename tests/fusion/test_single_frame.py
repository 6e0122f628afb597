"""The fusions that look at one frame, or one expert, alone: equal to the formula written out."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core import registry
from dataengine.fusion import fuse


def views(experts=5, frames=20, missing=0.4, seed=0):
    rng = np.random.default_rng(seed)
    coords = rng.normal(200, 40, (experts, frames, 13, 2)).astype(np.float32)
    coords[rng.random(coords.shape[:-1]) < missing] = np.nan
    return coords, rng.uniform(0.1, 1, coords.shape[:-1]).astype(np.float32)


def test_mean():
    coords, scores = views()
    found = fuse(coords, scores, "mean", "body13", score_power=2).coords
    shares = np.where(np.isfinite(coords[..., 0]), scores.astype(float) ** 2, 0)[..., None]
    with np.errstate(invalid="ignore"):
        expected = (shares * np.nan_to_num(coords)).sum(0) / shares.sum(0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    trusted = registry.create("fusion", "mean").fuse(coords, None, "body13", expert_weights=[0, 0, 1, 0, 0]).coords
    np.testing.assert_allclose(trusted, coords[2], rtol=1e-6)


@pytest.mark.parametrize("experts", [1, 2, 3, 4, 7])
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_median(experts):
    coords, scores = views(experts)
    np.testing.assert_allclose(fuse(coords, scores, "median", "body13").coords, np.nanmedian(coords, axis=0), rtol=1e-6)


def test_best_goes_by_trust_then_scores_then_nearness():
    coords, scores = views(missing=0.2)
    best = registry.create("fusion", "best")
    totals = np.where(np.isfinite(coords[..., 0]), scores, 0).sum((1, 2))
    for expert_weights, expected in (
        (None, totals.argmax()),
        ([1, 2, 1, 0, 2], 1 + 3 * (totals[4] > totals[1])),
        ([0, 0, 0, 1, 0], 3),
    ):
        found = best.fuse(coords, scores, "body13", expert_weights)
        np.testing.assert_array_equal(found.coords, coords[expected])
        present = np.isfinite(coords[expected, ..., 0])
        np.testing.assert_array_equal(found.winner, np.where(present, expected, -1))
        np.testing.assert_array_equal(found.scores, np.where(present, scores[expected], 0))
    whole, _ = views(3, missing=0)
    whole[1] = (whole[0] + whole[2]) / 2
    assert (fuse(whole, None, "best", "body13").winner == 1).all()


def test_where_a_blend_is_far_from_everybody_nobody_wins():
    coords = np.zeros((2, 4, 13, 2))
    coords[:, :, 1:3, 1] = 100
    coords[1, :, 6] = 80
    for method in ("mean", "median"):
        found = fuse(coords, None, method, "body13")
        assert (found.winner[:, 6] == -2).all() and (np.delete(found.winner, 6, 1) == 0).all()
        assert (found.scores[:, 6] < 0.5).all() and (np.delete(found.scores, 6, 1) == 1).all()
