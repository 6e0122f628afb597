"""Calibration of scores: found with and without annotations, its file, and what fusions make of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dataengine.core.component import Expert
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.skeletons import COMMON
from dataengine.fusion import fuse, score_calibration
from dataengine.fusion.calibration import load_calibration
from dataengine.fusion.observations import typical_scale
from dataengine.fusion.score_calibration import (
    FORMAT,
    RIGHT,
    ScoreCalibration,
    ScoreCurve,
    built_in,
    fit,
    fit_agreement,
)

NAMES = ("boaster", "modest", "plain")
SLOPES, INTERCEPTS = np.array([1.5, 0.8, 1.0]), np.array([-1.5, 2.0, 0.0])
MEANS = np.array([2.5, -0.5, 0.5])
"""Of the logits of the scores: the boaster says much and is right less often than it says, the modest one the other
way round."""
BODY = 30.0 * np.array(
    [[0, 0], [1, 1], [-1, 1], [1.3, 2], [-1.3, 2], [1.3, 3], [-1.3, 3]]
    + [[0.6, 3.5], [-0.6, 3.5], [0.6, 5], [-0.6, 5], [0.6, 6.5], [-0.6, 6.5]]
)  # fmt: skip


def people(count, frames=1, seed=0):
    """Truth (N, T, 13, 2), observations (N, 3, T, 13, 2), scores and probabilities (N, 3, T, 13) of being right."""
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=(count, frames, 1, 2)).cumsum(1)
    truth = BODY + 200 + rng.normal(size=(count, 1, 13, 2)) * 4 + walk
    logit = rng.normal(MEANS[:, None, None], 1.5, (count, 3, frames, 13))
    chance = 1 / (1 + np.exp(-(SLOPES[:, None, None] * logit + INTERCEPTS[:, None, None])))
    right = rng.random(chance.shape) < chance
    error = rng.normal(size=(*chance.shape, 2)) * np.where(right, 3.0, 90.0)[..., None]
    return truth, truth[:, None] + error, 1 / (1 + np.exp(-logit)), chance


def apart(found, scores, chance):
    """Mean distance of calibrated scores to the probabilities, per expert."""
    made = np.stack([found.apply(np.zeros((*s.shape, 2)), s, COMMON, NAMES)[1] for s in scores])
    return np.abs(made - chance).mean((0, 2, 3))


def test_annotated_poses_show_how_often_an_expert_is_right():
    truth, coords, scores, _ = people(60)
    found = fit(list(coords), list(scores), list(truth), list(np.ones(truth.shape[:3], bool)), [30.0] * 60, NAMES)
    _, _, unseen, chance = people(60, seed=1)
    assert (apart(found, unseen, chance) < 0.06).all()
    assert np.abs(unseen - chance).mean((0, 2, 3))[1] > 0.3


@pytest.mark.parametrize("frames", [1, 6])
def test_agreement_shows_it_without_annotations(frames):
    _, coords, scores, _ = people(120 // frames, frames)
    found = fit_agreement(list(coords), list(scores), NAMES)
    _, _, unseen, chance = people(60, seed=1)
    assert (apart(found, unseen, chance) < 0.1).all()


def test_experts_that_err_together_prove_less():
    rng = np.random.default_rng(0)
    coords = rng.uniform(0, 100, (3, 4, 13, 2))
    coords[1:, 0] = np.nan
    coords[2, 1] = np.nan
    scores = np.full((4, 13), 0.96, np.float32)
    made = score_calibration.of_related_experts(scores, coords)
    assert made[0] == pytest.approx(0.96)  # one expert: nothing to combine
    assert made[1] == pytest.approx(1 - 0.04 ** (1 / 1.5))
    assert made[2] == pytest.approx(0.8)
    assert (score_calibration.of_related_experts(np.zeros((4, 13)), coords) == 0).all()


def test_a_twin_is_no_second_opinion():
    """An expert and its copy always agree; named as one family they are not compared."""
    _, coords, scores, _ = people(120, 1)
    twins, rated = (np.concatenate([x, x[:, :1]], 1) for x in (coords, scores))
    four = [*NAMES, "twin"]
    _, _, unseen, chance = people(60, seed=1)
    alone = fit_agreement(list(twins), list(rated), four)
    related = fit_agreement(list(twins), list(rated), four, families=["a", "b", "c", "a"])
    assert apart(related, unseen, chance)[0] < 0.1
    assert apart(alone, unseen, chance)[0] > apart(related, unseen, chance)[0] + 0.02


def test_gradients_are_those_of_the_losses():
    _, coords, scores, _ = people(8, 4)
    group, count = score_calibration._joint_groups(COMMON)
    given = list(zip(coords, scores))
    pairs = score_calibration._thinned([score_calibration._pairs(*one, group, COMMON, NAMES) for one in given])
    steps = score_calibration._thinned([score_calibration._steps(*one, group, COMMON) for one in given])
    rng = np.random.default_rng(0)
    at, ahead = rng.normal(size=3 * (3 + count)) / 2, rng.normal(size=3 * (3 + count))
    low, high = (score_calibration._agreement_loss(at + d * ahead, pairs, steps, count)[0] for d in (-1e-6, 1e-6))
    slope = score_calibration._agreement_loss(at, pairs, steps, count)[1] @ ahead
    assert (high - low) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_calibrated_scores_make_every_fusion_better():
    """Raw, the boaster outshouts the modest expert, who is right most often."""
    truth, coords, scores, _ = people(60, 1, seed=2)
    known = ScoreCalibration({n: ScoreCurve(s, (i,) * 13) for n, s, i in zip(NAMES, SLOPES, INTERCEPTS)})

    def share(method, calibrated, **options):
        right = 0
        for goal, points, rated in zip(truth, coords, scores):
            given = known.apply(points, rated, COMMON, NAMES)[1] if calibrated else rated
            pose = fuse(points, given, method, COMMON, **options).coords
            right += (np.linalg.norm(pose - goal, axis=-1) <= RIGHT * 30).sum()
        return right / truth[..., 0].size

    single = max((np.linalg.norm(coords[:, e] - truth, axis=-1) <= RIGHT * 30).mean() for e in range(3))
    for method, options in (("best", {}), ("ssta", {"score_power": 1.0}), ("consensus", {})):
        assert share(method, True, **options) > share(method, False, **options) + 0.01, method
        assert share(method, True, **options) >= single - 0.01, method
    assert share("ssta", True, score_power=1.0) > share("ssta", True)


def test_experts_without_a_curve_keep_their_scores():
    _, coords, scores, _ = people(1)
    coords[0, 1, 0, 3] = np.nan
    identity = ScoreCurve(1.0, (0.0,) * 13)
    found = ScoreCalibration({"plain": ScoreCurve(0.5, (1.0,) * 13), "modest": identity})
    points, made = found.apply(coords[0], scores[0].astype(np.float32), COMMON, NAMES)
    np.testing.assert_array_equal(made[:2], scores[0, :2].astype(np.float32))
    np.testing.assert_array_equal(points, coords[0].astype(np.float32))
    assert (made[2] != scores[0, 2]).all()
    unscored = found.apply(coords[0], None, COMMON, NAMES)[1]
    assert unscored[0].min() == 1 and unscored[1, 0, 3] == 0 and 0.5 < unscored[2].min() < 1


def test_files_keep_a_calibration(tmp_path):
    found = ScoreCalibration({"a": ScoreCurve(1.25, tuple(np.arange(13) / 4), "three people")})
    found.save(tmp_path / "a.json")
    assert load_calibration(tmp_path / "a.json") == found
    with pytest.raises(WeightsError, match="there is no calibration"):
        load_calibration(tmp_path / "b.json")
    for text in ("", "[]", '{"format": "x"}', json.dumps({"format": FORMAT, "skeleton": "coco18", "experts": {}})):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(WeightsError, match=r"c\.json"):
            load_calibration(tmp_path / "c.json")
    broken = {"a": {"slope": -1, "intercept": [0] * 13}}
    (tmp_path / "c.json").write_text(json.dumps({"format": FORMAT, "skeleton": COMMON, "experts": broken}))
    with pytest.raises(WeightsError, match="a curve is a slope"):
        load_calibration(tmp_path / "c.json")


def test_wrong_arguments_are_named():
    _, coords, scores, _ = people(2)
    with pytest.raises(ComponentError, match="2 or more"):
        fit_agreement([coords[0][:1]], [scores[0][:1]], ["one"])
    with pytest.raises(ComponentError, match="a family for each of 3"):
        fit_agreement(list(coords), list(scores), NAMES, families=["a", "a", "a"])
    with pytest.raises(ComponentError, match="3 experts"):
        fit_agreement(list(coords), [None, None], NAMES)
    with pytest.raises(ComponentError, match="nothing to compare"):
        coords[:, 0, :, :6], coords[:, 1:, :, 6:], coords[:, 2] = np.nan, np.nan, np.nan
        fit_agreement(list(coords), list(scores), NAMES)
    with pytest.raises(ComponentError, match="convert them first"):
        built_in().apply(np.zeros((1, 1, 17, 2)), None, "coco17", ["a"])
    with pytest.raises(ComponentError, match="one name for each"):
        built_in().apply(np.zeros((1, 1, 13, 2)), None, COMMON, NAMES)


def test_every_built_in_curve_says_what_it_was_fitted_on():
    for name, curve in built_in().curves.items():
        assert len(curve.fitted_on) > 20, name


@pytest.mark.parametrize("method", ["consensus", "mean_shift", "viterbi_path", "ssta"])
def test_a_head_that_nobody_sees_leaves_the_unit_of_length(method):
    """An expert of a layout without a face: the other joints come out as they did with a head."""
    rng = np.random.default_rng(0)
    truth = (BODY + 200)[None] + rng.normal(size=(30, 1, 2)).cumsum(0)
    coords = truth + rng.normal(size=(3, 30, 13, 2)) * 3
    coords[rng.random((3, 30, 13)) < 0.05] += 80
    headless = coords.copy()
    headless[:, :, 0] = np.nan
    assert typical_scale(headless, COMMON) == pytest.approx(typical_scale(coords, COMMON), rel=0.3)
    whole, rest = (fuse(x.astype(np.float32), None, method, COMMON) for x in (coords, headless))
    assert np.isnan(rest.coords[:, 0]).all()
    away = np.linalg.norm(whole.coords[:, 1:] - rest.coords[:, 1:], axis=-1)
    assert np.percentile(away, 90) < 3.0
    np.testing.assert_allclose(rest.confidence, whole.confidence, atol=0.3)
    np.testing.assert_allclose(rest.scores[:, 1:], whole.scores[:, 1:], atol=0.3)


def test_no_expert_needs_a_curve():
    class Bare(Expert):
        skeleton = COMMON

        def load(self, device="cpu"):
            raise NotImplementedError

    assert Bare().score_calibration is None
