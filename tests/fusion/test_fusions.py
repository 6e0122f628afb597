"""What every registered fusion keeps to."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
from numpy.linalg import norm

from dataengine.core import registry
from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import skeleton
from dataengine.fusion import fuse
from dataengine.fusion.ssta import confidence

NAMES = registry.names("fusion")
LAYOUTS = {13: "body13", 14: "body14", 17: "posetics17"}

pytestmark = pytest.mark.parametrize("method", NAMES)


def body(frames=30, joints=13, seed=0):
    """(T, V, 2) a body about 300 pixels high whose joints swing."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)[:, None]
    phase, place = rng.uniform(0, 6, joints), rng.uniform(-150, 150, (joints, 2))
    return place + 400 + np.stack([t * 1.5 + 12 * np.sin(t / 6 + phase), 9 * np.cos(t / 5 + phase)], -1)


def views(experts=3, frames=30, joints=13, noise=3.0, missing=0.1, seed=0):
    rng = np.random.default_rng(seed)
    coords = body(frames, joints, seed) + rng.normal(0, noise, (experts, frames, joints, 2))
    coords[rng.random(coords.shape[:-1]) < missing] = np.nan
    return coords.astype(np.float32), rng.uniform(0.2, 1, coords.shape[:-1]).astype(np.float32)


def lawful(found, coords):
    """Shapes, types, ranges, and that NaN, score 0 and winner -1 mean the same."""
    experts, frames, joints, _ = coords.shape
    assert found.coords.shape == (frames, joints, 2) and found.coords.dtype == np.float32
    assert found.scores.shape == found.winner.shape == (frames, joints)
    assert found.confidence.shape == found.support.shape == found.kept.shape == (frames,)
    assert (found.scores.dtype, found.winner.dtype, found.support.dtype) == (np.float32, np.int8, np.int32)
    seen, present = np.isfinite(coords).all(-1), np.isfinite(found.coords).all(-1)
    assert (np.isnan(found.coords).any(-1) == ~present).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all() and (found.scores[~present] == 0).all()
    assert ((found.winner >= -2) & (found.winner < experts)).all()
    chosen = found.winner >= 0
    assert present[found.winner != -1].all() and (found.winner[~seen.any(0)] == -1).all()
    assert np.take_along_axis(seen, np.maximum(found.winner, 0)[None].astype(int), 0)[0][chosen].all()
    np.testing.assert_array_equal(found.support, (seen & present).sum((0, 2)))
    np.testing.assert_array_equal(found.kept, found.confidence >= np.float32(0.18))


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 30])
@pytest.mark.parametrize("experts", [1, 2, 3, 7])
@pytest.mark.parametrize("scored", [False, True])
def test_any_number_of_experts_and_frames(method, frames, experts, scored):
    coords, scores = views(experts, frames)
    found = fuse(coords, scores if scored else None, method, "body13")
    lawful(found, coords)
    if method != "best":  # which leaves gaps
        np.testing.assert_array_equal(np.isfinite(found.coords[..., 0]) | ~np.isfinite(coords[..., 0]).any(0), True)


@pytest.mark.parametrize("joints", [1, 5, 13, 14, 17])
@pytest.mark.parametrize("named", [False, True])
def test_any_layout(method, joints, named):
    coords, scores = views(joints=joints)
    layout = LAYOUTS.get(joints) if named else None
    found = fuse(coords, scores, method, layout)
    lawful(found, coords)
    if joints > 1:  # one joint has no size
        assert np.nanmedian(norm(found.coords - body(joints=joints), axis=-1)) < 6


@pytest.mark.parametrize("experts", [1, 2, 3, 5])
@pytest.mark.parametrize("layout", ["body13", "posetics17", None])
def test_identical_experts_fuse_to_themselves(method, experts, layout):
    coords, scores = views(1, joints=skeleton(layout).num_joints if layout else 6, missing=0, noise=0.5)
    coords, scores = coords.repeat(experts, 0), scores.repeat(experts, 0)
    found = fuse(coords, None, method, layout, **({"unswap": False} if method in ("spline", "consensus") else {}))
    if experts > 1 or method not in ("spline", "consensus"):  # one expert's noise is smoothed
        np.testing.assert_allclose(found.coords, coords[0], atol=0.02)
        np.testing.assert_allclose(found.confidence, 1, atol=1e-3)
        np.testing.assert_allclose(found.scores, 1, atol=1e-3)
    else:
        assert norm(found.coords - coords[0], axis=-1).max() < 3
    assert (found.winner == 0).all()


@pytest.mark.parametrize("layout", ["body13", None])
def test_commutes_with_translation_scale_and_mirror(method, layout):
    coords, scores = views(noise=5)
    found = fuse(coords, scores, method, layout)
    moved = fuse(coords + np.float32([128, -64]), scores, method, layout)
    np.testing.assert_allclose(moved.coords, found.coords + np.float32([128, -64]), atol=0.02)
    grown = fuse(coords * 4, scores, method, layout)
    np.testing.assert_allclose(grown.coords, found.coords * 4, atol=0.08)
    flip = list(skeleton("body13").flip)
    mirrored = fuse((coords * np.float32([-1, 1]))[:, :, flip], scores[:, :, flip], method, layout)
    np.testing.assert_allclose(mirrored.coords, (found.coords * np.float32([-1, 1]))[:, flip], atol=0.02)
    for other in (moved, grown):
        np.testing.assert_allclose(other.scores, found.scores, atol=1e-3)
        np.testing.assert_allclose(other.confidence, found.confidence, atol=1e-3)
        assert (other.winner == found.winner).mean() > 0.995  # a distance may lie on the border of a blend


def test_order_of_experts_decides_ties_only(method):
    coords, scores = views(5, missing=0)  # two experts are as near to their middle
    order = [2, 0, 4, 3, 1]
    found, other = fuse(coords, scores, method, "body13"), fuse(coords[order], scores[order], method, "body13")
    np.testing.assert_allclose(other.coords, found.coords, atol=0.02)
    np.testing.assert_allclose(other.scores, found.scores, atol=1e-3)
    assert (np.array([*order, -2, -1])[other.winner] == found.winner).mean() > 0.995


def test_nothing_and_next_to_nothing(method):
    nothing = np.full((3, 6, 13, 2), np.nan)
    found = fuse(nothing, None, method, "body13")
    lawful(found, nothing)
    assert np.isnan(found.coords).all() and (found.confidence == 0).all() and not found.kept.any()
    same_place = fuse(np.full((2, 6, 13, 2), 7.0), None, method, "body13")
    np.testing.assert_allclose(same_place.coords, 7, atol=1e-5)
    lone = nothing.copy()
    lone[1, 3, 4] = 50
    found = fuse(lone, None, method, "body13", **({"max_gap": 0} if method == "ssta" else {}))
    assert np.flatnonzero(found.winner.ravel() == 1).tolist() == [3 * 13 + 4]
    np.testing.assert_allclose(found.coords[3, 4], 50, atol=1e-4)
    assert np.isfinite(found.coords[..., 0]).sum() == 1


def test_half_a_coordinate_is_missing(method):
    coords, scores = views(missing=0)
    coords[:, 5:8, 3, 1] = np.nan
    whole = coords.copy()
    whole[:, 5:8, 3] = np.nan
    found, other = (fuse(c, scores, method, "body13") for c in (coords, whole))
    np.testing.assert_array_equal(found.coords, other.coords)
    np.testing.assert_array_equal(found.winner, other.winner)


def test_scores_of_zero_and_nan(method):
    coords, scores = views(missing=0)
    low = fuse(coords, np.zeros_like(scores), method, "body13")
    lawful(low, coords)
    assert np.isfinite(low.coords).all() and (low.scores == 0).all()
    gone = scores.copy()
    gone[:, 10] = np.nan
    zero = np.nan_to_num(gone, nan=0.0)
    np.testing.assert_array_equal(
        fuse(coords, gone, method, "body13").coords, fuse(coords, zero, method, "body13").coords
    )


def test_confidence_is_about_the_result(method):
    coords, scores = views()
    found = fuse(coords, scores, method, "body13", gamma=0.9, norm="torso")
    certain, support = confidence(coords, found.coords, "body13", "torso")
    np.testing.assert_array_equal(found.support, support)
    np.testing.assert_allclose(found.confidence, certain, atol=1e-6)
    np.testing.assert_array_equal(found.kept, found.confidence >= np.float32(0.9))
    np.testing.assert_array_equal(fuse(coords, scores, method, "body13").coords, found.coords)


def test_what_is_given_stays_as_it_is(method):
    coords, scores = views()
    before = coords.copy(), scores.copy()
    first = fuse(coords, scores, method, "body13")
    np.testing.assert_array_equal(coords, before[0])
    np.testing.assert_array_equal(scores, before[1])
    again = fuse(coords.astype(np.float64), scores.tolist(), method, "body13")
    np.testing.assert_array_equal(first.coords, again.coords)


def test_trust_in_one_expert(method):
    coords, scores = views(missing=0)
    coords[1] += 30
    fusion = registry.create("fusion", method)
    alike = fusion.fuse(coords, scores, "body13", expert_weights=[0.5, 0.5, 0.5])
    np.testing.assert_allclose(alike.coords, fusion.fuse(coords, scores, "body13").coords, atol=1e-3)
    if method in ("ssta", "median"):
        return
    found = fusion.fuse(coords, None, "body13", expert_weights=[0.01, 0.98, 0.01])
    assert np.median(norm(found.coords - coords[1], axis=-1)) < 5


def test_mistakes_are_told(method):
    coords, scores = views()
    with pytest.raises(ComponentError, match="given shape"):
        fuse(coords[0], None, method)
    with pytest.raises(ComponentError, match="gamma"):
        fuse(coords, scores, method, gamma=2)
    with pytest.raises(ComponentError, match="no option"):
        fuse(coords, scores, method, widht=2)
    if method != "ssta":
        for expert_weights in ([1, 1], [0, 0, 0], [-1, 1, 1], [np.nan, 1, 1]):
            with pytest.raises(ComponentError, match="expert_weights"):
                registry.create("fusion", method).fuse(coords, scores, "body13", expert_weights)


def test_the_check_of_options_is_built_once_for_all_calls(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    coords, scores = views(frames=4)
    fuse(coords, scores, method, "body13")
    built, adapter = list[object](), pydantic.TypeAdapter
    monkeypatch.setattr(pydantic, "TypeAdapter", lambda cls: built.append(cls) or adapter(cls))
    for _ in range(5):
        fuse(coords, scores, method, "body13")
    assert not built, "building the check takes a hundred times longer than a call"
