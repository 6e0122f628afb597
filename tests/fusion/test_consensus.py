"""The consensus fusion: laws, repairs, and that it is no worse than the best expert."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.linalg import norm

from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import SKELETONS, skeleton
from dataengine.fusion import fuse
from dataengine.fusion.observations import typical_scale
from dataengine.fusion.ssta import confidence
from tests.support.bodies import BODY

UNIT = 20.0


def walk(frames=80):
    """(T, 13, 2) a body of head-neck length 20 px that walks and swings its limbs."""
    t = np.arange(frames)[:, None]
    truth = np.tile(BODY * UNIT, (frames, 1, 1)) + np.stack([100 + 2 * t, 100 + 5 * np.sin(t / 7)], -1)
    phase = np.linspace(0, 3, 13)
    truth[:, 3:] += 15 * np.stack([np.sin(t / 4 + phase), np.cos(t / 4 + phase)], -1)[:, 3:]
    return truth


def views(truth, experts=3, noise=2.0, missing=0.05, seed=0):
    rng = np.random.default_rng(seed)
    coords = truth + rng.normal(0, noise, (experts, *truth.shape))
    coords[rng.random(coords.shape[:-1]) < missing] = np.nan
    return coords.astype(np.float32)


def run(coords, scores=None, **options):
    return fuse(coords, scores, method="consensus", skeleton=options.pop("skeleton", "body13"), **options)


def right(pose, truth, share=0.5):
    """Share of joints within `share` units of the truth."""
    return float((norm(pose - truth, axis=-1) <= share * UNIT).mean())


@pytest.mark.parametrize("name", [*sorted(SKELETONS), None])
def test_identical_experts_come_out_as_they_went_in(name):
    rng = np.random.default_rng(0)
    joints = skeleton(name).num_joints if name else 5
    one = rng.uniform(0, 300, (1, joints, 2)) + rng.normal(0, 3, (40, joints, 2)).cumsum(0)
    found = run(np.repeat(one[None], 3, 0), skeleton=name, unswap=False)
    np.testing.assert_allclose(found.coords, one, atol=1e-2)
    np.testing.assert_allclose(found.confidence, 1, atol=1e-3)
    assert (found.winner == 0).all() and (found.support == 3 * joints).all()
    np.testing.assert_allclose(found.scores, 1, atol=1e-3)


def test_noise_averages_out():
    truth = walk()
    coords = views(truth, noise=3.0, missing=0)
    errors = [norm(c - truth, axis=-1).mean() for c in coords]
    assert norm(run(coords).coords - truth, axis=-1).mean() < 0.62 * min(errors)
    assert norm(run(coords, smooth=0).coords - truth, axis=-1).mean() < 0.75 * min(errors)


def test_it_does_not_smooth_away_quick_motion():
    truth = walk()
    found = run(views(truth, noise=0.3, missing=0)).coords
    quick, kept = (norm(np.diff(p, 2, axis=0), axis=-1).mean() for p in (truth, found))
    assert kept > 0.97 * quick
    assert norm(found - truth, axis=-1).max() < 2


@pytest.mark.parametrize("who", [0, 1, 2])
def test_an_expert_on_another_person_is_left_alone(who):
    truth = walk()
    coords = views(truth)
    coords[who, 20:40] += np.float32([120, 40])
    found = run(coords)
    assert right(found.coords, truth) == 1
    assert (found.winner[20:40] != who).all()


def test_left_and_right_are_put_straight():
    truth = walk()
    truth[:, :, 0] += np.where(np.arange(13) % 2, 20, -20) * (np.arange(13) > 0)  # sides well apart
    coords = views(truth, missing=0)
    legs, arms = [8, 7, 10, 9, 12, 11], [2, 1, 4, 3, 6, 5]
    coords[0, 10:25, 7:13] = coords[0, 10:25][:, legs]
    coords[1, 20:30, 1:7] = coords[1, 20:30][:, arms]
    coords[2, 13:24, 7:13] = coords[2, 13:24][:, legs]  # two of three experts
    assert right(run(coords).coords, truth) == 1
    with_repair, without = (
        norm(run(coords, unswap=on).coords - truth, axis=-1)[13:24, 7:].mean() for on in (True, False)
    )
    assert with_repair < 0.85 * without  # three views to average, not one


def test_scores_say_whom_to_believe():
    truth = walk()
    coords = views(truth, experts=2, missing=0)
    coords = np.concatenate([coords, coords[1:]])
    wrong = (np.arange(80) // 20 % 2 == 0)[:, None]
    coords[1:, :, 5] += np.where(wrong, [35, 20], 0).astype(np.float32)  # two experts agree on a wrong wrist
    scores = np.full(coords.shape[:-1], 0.8, np.float32)
    scores[1:, :, 5] = np.where(wrong[:, 0], 0.2, 0.8)
    assert right(run(coords, scores).coords[:, 5], truth[:, 5]) > 0.95
    assert right(run(coords, scores, score_power=0).coords[:, 5], truth[:, 5]) < 0.8


def test_unequal_experts_are_no_worse_together_than_the_best():
    """The best expert is occluded for a while; scores are right 3 times in 4. Still pictures too."""
    truth = walk(200)
    rng = np.random.default_rng(1)
    coords = views(truth, noise=3)
    for e, rate in enumerate((0.1, 0.35, 0.4)):
        bad = np.repeat(rng.random((50, 13)) < rate, 4, axis=0)
        bad[100:150, 9:13] |= e == 0
        coords[e][bad] += rng.normal(0, 30, (int(bad.sum()), 2))
    good = norm(coords - truth, axis=-1) <= 0.5 * UNIT
    scores = np.where(rng.random(good.shape) < 0.75, good, ~good) * 0.6 + 0.2
    best = max(right(np.nan_to_num(c), truth) for c in coords)
    assert right(run(coords, scores).coords, truth) > best + 0.08
    stills = np.stack([run(coords[:, t : t + 1], scores[:, t : t + 1]).coords[0] for t in range(200)])
    assert right(stills, truth) > best - 0.02


def test_commutes_with_translation_scale_and_mirror():
    coords = views(walk(), noise=5)
    found = run(coords)
    np.testing.assert_allclose(
        run(coords + np.float32([64, -32])).coords, found.coords + np.float32([64, -32]), atol=2e-2
    )
    np.testing.assert_allclose(run(coords * 4).coords, found.coords * 4, atol=8e-2)
    flip = list(skeleton("body13").flip)
    mirrored = run((coords * np.float32([-1, 1]))[:, :, flip])
    np.testing.assert_allclose(mirrored.coords, (found.coords * np.float32([-1, 1]))[:, flip], atol=2e-2)


def test_order_of_experts_does_not_matter():
    coords = views(walk(), noise=4, missing=0)
    found, other = run(coords), run(coords[[2, 0, 1]])
    np.testing.assert_allclose(found.coords, other.coords, atol=1e-2)
    np.testing.assert_array_equal(np.array([2, 0, 1, -2, -1])[other.winner], found.winner)


def test_gaps_are_bridged_up_to_hold_and_ends_are_not():
    truth = walk()
    coords = views(truth, noise=0.5, missing=0)
    coords[:, 20:24, 4] = np.nan
    coords[:, 40:50, 4] = np.nan
    coords[:, :3, 4] = np.nan
    found = run(coords, np.full(coords.shape[:-1], 0.8), max_gap=4)
    assert right(found.coords[20:24, 4], truth[20:24, 4]) == 1
    np.testing.assert_allclose(found.scores[19:25, 4] / found.scores[19, 4], [1, 0.5, 0.25, 0.25, 0.5, 1], rtol=0.1)
    assert (found.winner[20:24, 4] == -1).all()
    for gap in (slice(40, 50), slice(0, 3)):
        assert (
            np.isnan(found.coords[gap, 4]).all()
            and (found.scores[gap, 4] == 0).all()
            and (found.winner[gap, 4] == -1).all()
        )
    assert np.isfinite(np.delete(found.coords, 4, axis=1)).all()


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("experts", [1, 2, 3])
def test_short_sequences(frames, experts):
    coords = views(walk(frames), experts, missing=0)
    found = run(coords)
    assert found.coords.shape == (frames, 13, 2) and np.isfinite(found.coords).all()
    assert (norm(found.coords - walk(frames), axis=-1) < 10).all()


def test_one_expert_is_rid_of_its_jumps():
    truth = walk()
    coords = views(truth, experts=1, noise=0.3, missing=0)
    coords[0, [15, 33, 60]] += np.float32([90, -70])
    found = run(coords)
    assert right(found.coords, truth) == 1
    assert (found.confidence == 1).all() and (found.support == 13).all()


def test_nothing_and_next_to_nothing():
    found = run(np.full((3, 6, 13, 2), np.nan))
    assert (
        np.isnan(found.coords).all()
        and (found.scores == 0).all()
        and (found.confidence == 0).all()
        and (found.winner == -1).all()
    )
    same_place = run(np.full((2, 6, 13, 2), 7.0))
    np.testing.assert_allclose(same_place.coords, 7)
    lone = np.full((2, 6, 13, 2), np.nan)
    lone[1, 3, 4] = 50
    assert np.flatnonzero(run(lone).winner.ravel() == 1).tolist() == [3 * 13 + 4]
    low = run(views(walk()), np.zeros((3, 80, 13)))
    assert np.isfinite(low.coords[:, 0]).all() and (low.scores == 0).all()


def test_confidence_is_that_of_ssta_about_the_result():
    coords = views(walk(), noise=6)
    found = run(coords, gamma=0.8)
    again, support = confidence(coords, found.coords, "body13")
    np.testing.assert_array_equal(found.confidence, again)
    np.testing.assert_array_equal(found.support, support)
    np.testing.assert_array_equal(found.kept, again >= np.float32(0.8))
    loose = run(coords, gamma=0.1)
    np.testing.assert_array_equal(loose.coords, found.coords)


def test_scores_fall_where_experts_disagree():
    truth = walk()
    coords = views(truth, missing=0)
    coords[0, :, 6] += np.float32([60, 0])
    found = run(coords)
    assert found.scores[:, 6].mean() < 0.75 < found.scores[:, 5].mean()
    assert found.scores.min() >= 0 and found.scores.max() <= 1


def test_unit_of_length():
    coords = views(walk(), noise=0, missing=0)
    np.testing.assert_allclose(typical_scale(coords, "body13"), UNIT, rtol=1e-5)
    assert 10 < typical_scale(coords, None) < 30
    assert typical_scale(np.full((2, 3, 13, 2), np.nan, np.float32), "body13") == 1


def test_user_mistakes_are_told():
    with pytest.raises(ComponentError, match="no option 'smoothness'"):
        run(views(walk()), smoothness=1)
    with pytest.raises(ComponentError, match="score_power"):
        run(views(walk()), score_power=-1)
    with pytest.raises(ComponentError, match="given shape"):
        run(np.zeros((3, 13, 2)))
