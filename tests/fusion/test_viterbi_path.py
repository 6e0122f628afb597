"""The path over experts: exactly the cheapest, and what it is good for."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataengine.fusion import fuse, viterbi_path


def cost(x, y, weight, chosen, width, reach, cap, agreement):
    """Of the experts `chosen` [(frame, expert), ...] of one joint, straight from the definition."""
    total, last = 0.0, None
    for t, e in chosen:
        for k in range(len(x)):
            total -= (
                agreement * weight[k, t] / (1 + ((x[k, t] - x[e, t]) ** 2 + (y[k, t] - y[e, t]) ** 2) / width**2) ** 2
            )
        if last is not None:
            before, k = last
            step = ((x[k, before] - x[e, t]) ** 2 + (y[k, before] - y[e, t]) ** 2) ** 0.5
            total += min((step / reach / (t - before)) ** 2, cap)
        last = t, e
    return total


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    experts=st.integers(1, 4),
    frames=st.integers(1, 5),
    missing=st.sampled_from([0.0, 0.3, 0.7]),
    reach=st.sampled_from([0.3, 1.0, 5.0]),
    cap=st.sampled_from([0.0, 2.0, 50.0]),
    agreement=st.sampled_from([0.0, 1.0, 5.0]),
)
def test_no_other_path_is_cheaper(seed, experts, frames, missing, reach, cap, agreement):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 1, (2, experts, frames, 1))
    weight = rng.random((experts, frames, 1)) * (rng.random((experts, frames, 1)) >= missing)
    pose = np.full((2, frames, 1), np.nan)
    viterbi_path.trace(x, y, weight, 0.7, reach, cap, agreement, pose)
    seen = [t for t in range(frames) if (weight[:, t] > 0).any()]
    assert np.isfinite(pose[0, :, 0]).nonzero()[0].tolist() == seen
    flat = x[..., 0], y[..., 0], weight[..., 0]
    options = [[(t, e) for e in range(experts) if weight[e, t, 0] > 0] for t in seen]
    least = min(cost(*flat, chosen, 0.7, reach, cap, agreement) for chosen in product(*options))
    taken = [(t, int(np.abs(x[:, t, 0] - pose[0, t, 0]).argmin())) for t in seen]
    assert all(weight[e, t, 0] > 0 for t, e in taken)
    assert cost(*flat, taken, 0.7, reach, cap, agreement) == pytest.approx(least, abs=1e-9)


def still(frames=30):
    return np.tile(np.random.default_rng(0).uniform(0, 200, (13, 2)), (3, frames, 1, 1))


def test_a_wrong_start_is_not_followed():
    coords = still()
    coords[1] += 3
    coords[2] -= 3
    coords[0, :4] += 90  # the greedy selection would take the closest pair; here experts 1 and 2 are missing at first
    coords[1:, :4] = np.nan
    coords[0, 4:8] += 90
    found = fuse(coords, method="viterbi_path", skeleton="body13")
    assert (found.winner[4:] >= 0).all() and (np.abs(found.coords[4:] - still()[0, 4:]) < 4).all()


def test_it_is_the_same_backwards():
    rng = np.random.default_rng(1)
    coords = still() + rng.normal(0, 8, (3, 30, 13, 2))
    coords[rng.random(coords.shape[:-1]) < 0.2] = np.nan
    found, back = (fuse(c, method="viterbi_path", skeleton="body13", max_gap=0) for c in (coords, coords[:, ::-1]))
    np.testing.assert_allclose(back.coords[::-1], found.coords, atol=1e-4)


def test_gaps_are_bridged_in_a_line_up_to_hold():
    coords = still()
    coords[:, :, 4, 0] += np.arange(30)
    coords[:, 10:14, 4] = np.nan
    coords[:, 20:25, 4] = np.nan
    found = fuse(coords, np.full(coords.shape[:-1], 0.5), method="viterbi_path", skeleton="body13", max_gap=4)
    np.testing.assert_allclose(found.coords[9:15, 4, 0] - found.coords[9, 4, 0], np.arange(6), atol=1e-3)
    np.testing.assert_allclose(found.scores[9:15, 4] / found.scores[9, 4], [1, 0.5, 0.25, 0.25, 0.5, 1], rtol=1e-4)
    assert (found.winner[10:14, 4] == -1).all() and np.isnan(found.coords[20:25, 4]).all()
