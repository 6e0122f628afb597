"""Calibration of named experts: what it learns, what it leaves alone, and its file."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.linalg import norm

from dataengine.core.errors import ComponentError, WeightsError
from dataengine.fusion import calibration as module
from dataengine.fusion import fuse
from dataengine.fusion._kernels.trees import BoostedTrees
from dataengine.fusion.calibration import FORMAT, Calibration

sklearn = pytest.importorskip("sklearn.ensemble", reason="needs the extra 'train'")

EXPERTS = ("late", "blind", "plain")
BODY = np.array(
    [[0, 0.5], [0.8, 1.5], [-0.8, 1.5], [1, 2.7], [-1, 2.7], [1, 3.7], [-1, 3.7]]
    + [[0.5, 3.8], [-0.5, 3.8], [0.5, 5.4], [-0.5, 5.4], [0.5, 7], [-0.5, 7]]
)  # fmt: skip
BIAS = {"late": (0.15, -0.1), "plain": (-0.05, 0.0)}
LEGS = range(9, 13)


def people(count, frames=1, seed=0):
    """Truth (N, T, 13, 2) and units (N,) of bodies of many sizes, and what three experts make of them (N, E, T, 13, 2).

    "late" and "plain" have a bias; "blind" takes knees and ankles of one side for those of the other now and then;
    everybody is far off now and then, in sequences for some frames on end.
    """
    rng = np.random.default_rng(seed)
    unit = rng.uniform(10, 60, count)
    shape = BODY + rng.normal(0, 0.15, (count, 1, 13, 2))
    moving = np.cumsum(rng.normal(0, 0.02, (count, frames, 13, 2)), axis=1)
    truth = (shape + moving) * unit[:, None, None, None] + rng.uniform(100, 400, (count, 1, 1, 2))
    steady = max(frames // 5, 1)
    errors = rng.normal(0, 0.06, (count, 3, frames, 13, 2))
    for e, name in enumerate(EXPERTS):
        errors[:, e] += BIAS.get(name, (0, 0))
        bad = np.repeat(rng.random((count, -(-frames // steady), 13)) < 0.08, steady, axis=1)[:, :frames]
        errors[:, e] += bad[..., None] * rng.normal(0, 1.5, (count, 1, 13, 2))
    coords = truth[:, None] + errors * unit[:, None, None, None, None]
    crossed = rng.random((count, frames)) < 0.4
    swapped = coords[:, 1][:, :, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 9, 12, 11]]
    coords[:, 1][crossed] = swapped[crossed]
    return truth, unit, coords.astype(np.float32)


def learned(count, frames=1, seed=0, **options):
    truth, unit, coords = people(count, frames, seed)
    return Calibration.fit(
        list(coords), list(truth), np.ones(truth.shape[:3], bool), unit, "body13", EXPERTS, **options
    )


@pytest.fixture(scope="module", autouse=True)
def fewer_trees():
    """Learning a few people needs fewer trees, and tests are to be quick."""
    with pytest.MonkeyPatch.context() as patch:
        for options in (module._SIZE, module._CHANCE, module._SHIFT):
            patch.setitem(options, "max_iter", 50)
            patch.setitem(options, "learning_rate", 0.15)
        yield


@pytest.fixture(scope="module")
def calibration(fewer_trees):
    return learned(120)


def applied(calibration, coords, experts=EXPERTS, scores=None):
    found = [
        calibration.apply(c, None if scores is None else scores[n], "body13", experts) for n, c in enumerate(coords)
    ]
    return np.stack([c for c, _ in found]), np.stack([s for _, s in found])


@pytest.fixture(scope="module")
def unseen(calibration):
    """Truth, units, coordinates as seen and calibrated, and scores of people it did not learn from."""
    truth, unit, coords = people(120, seed=1)
    return truth, unit, coords, *applied(calibration, coords)


def errors(coords, truth, unit):
    return norm(coords - truth[:, None], axis=-1) / unit[:, None, None, None]


def test_bias_is_found(calibration):
    for e, name in enumerate(EXPERTS):
        np.testing.assert_allclose(np.median(calibration.bias[e], axis=0), BIAS.get(name, (0, 0)), atol=0.02)


def test_observations_come_nearer_to_the_truth(unseen):
    truth, unit, coords, moved, _ = unseen
    before, after = errors(coords, truth, unit), errors(moved, truth, unit)
    assert np.median(after[:, 0]) < 0.5 * np.median(before[:, 0])
    assert (np.median(after, axis=(0, 2, 3)) <= np.median(before, axis=(0, 2, 3)) + 0.005).all()


def test_scores_are_probabilities(unseen):
    """Right as often as they say, for every expert and for low and high scores; and they tell right from wrong."""
    truth, unit, coords, _, scores = unseen
    right = errors(coords, truth, unit) <= 0.5
    for e in range(3):
        assert abs(scores[:, e].mean() - right[:, e].mean()) < 0.02
    for low, high in ((0, 0.2), (0.2, 0.6), (0.6, 0.9), (0.9, 1.01)):
        some = (scores >= low) & (scores < high)
        if some.sum() > 100:
            assert abs(scores[some].mean() - right[some].mean()) < 0.12
    ranks = np.argsort(np.argsort(scores.ravel()))
    good = right.ravel()
    area = (ranks[good].sum() - good.sum() * (good.sum() - 1) / 2) / (good.sum() * (~good).sum())
    assert area > 0.95
    assert scores[:, 1, 0][:, list(LEGS)].mean() < scores[:, 2, 0][:, list(LEGS)].mean() - 0.2


@pytest.mark.parametrize("method", ["mean_shift", "mean", "consensus"])
def test_every_fusion_gains(unseen, method):
    truth, unit, coords, moved, scores = unseen

    def share(observations, rated):
        poses = np.stack(
            [fuse(c, None if rated is None else rated[n], method, "body13").coords for n, c in enumerate(observations)]
        )
        return (norm(poses - truth, axis=-1) <= 0.15 * unit[:, None, None]).mean()

    assert share(moved, scores) > share(coords, None) + 0.03


def test_commutes_with_translation_and_scale(calibration):
    _, _, coords = people(5, seed=2)
    moved, scores = applied(calibration, coords)
    again, same = applied(calibration, coords * 4 + np.float32([256, -128]))
    np.testing.assert_allclose(again, moved * 4 + np.float32([256, -128]), atol=0.05)
    np.testing.assert_allclose(same, scores, atol=1e-3)


def test_missing_stays_missing(calibration):
    _, _, coords = people(20, seed=3)
    coords[np.random.default_rng(0).random(coords.shape[:-1]) < 0.2] = np.nan
    coords[0] = np.nan
    coords[1, :, :, 4] = np.nan
    moved, scores = applied(calibration, coords)
    np.testing.assert_array_equal(np.isnan(moved), np.isnan(coords))
    seen = np.isfinite(coords).all(-1)
    assert (scores[~seen] == 0).all() and (scores[seen] > 0).all() and (scores <= 1).all()


def test_unknown_experts_pass_and_do_not_matter(calibration):
    _, _, coords = people(4, seed=4)
    more = np.concatenate([coords[:, :1] + 50, coords[:, [2, 0, 1]]], axis=1)
    own = np.random.default_rng(0).random(more.shape[:-1]).astype(np.float32)
    moved, scores = applied(calibration, more, ("stranger", "plain", "late", "blind"))
    alone, known = applied(calibration, coords)
    np.testing.assert_array_equal(moved[:, 0], more[:, 0])
    np.testing.assert_array_equal(moved[:, [2, 3, 1]], alone)
    np.testing.assert_array_equal(scores[:, [2, 3, 1]], known)
    assert (scores[:, 0] == 1).all()
    _, scores = applied(calibration, more, ("stranger", "plain", "late", "blind"), own)
    np.testing.assert_array_equal(scores[:, 0], own[:, 0])
    moved, scores = applied(calibration, coords[:, :1], ("stranger",))
    np.testing.assert_array_equal(moved, coords[:, :1])


def test_an_absent_expert_is_bearable(calibration, unseen):
    truth, unit, coords, *_ = unseen
    moved, scores = applied(calibration, coords[:, [0, 2]], ("late", "plain"))
    assert np.median(errors(moved, truth, unit)[:, 0]) < 0.6 * np.median(errors(coords, truth, unit)[:, 0])
    assert (scores > 0).all()


def test_joints_never_annotated_pass_through():
    truth, unit, coords = people(60)
    visible = np.ones(truth.shape[:3], bool)
    visible[:, :, 0] = False
    calibration = Calibration.fit(
        list(coords), np.where(visible[..., None], truth, np.nan), visible, unit, "body13", EXPERTS
    )
    moved, scores = calibration.apply(coords[0], np.full(coords.shape[1:-1], 0.3), "body13", EXPERTS)
    np.testing.assert_array_equal(moved[:, :, 0], coords[0, :, :, 0])
    np.testing.assert_allclose(scores[:, :, 0], 0.3)
    assert (moved[:, :, 1:] != coords[0, :, :, 1:]).all()


def test_sequences_tell_what_single_frames_cannot():
    calibration = learned(16, frames=15, seed=5)
    assert calibration.temporal
    truth, unit, coords = people(16, frames=15, seed=6)
    _, scores = applied(calibration, coords)
    right = errors(coords, truth, unit) <= 0.5
    assert scores[right].mean() > 0.9 > 0.5 > scores[~right].mean()
    short, _ = applied(calibration, coords[:, :, :1])  # one frame is a sequence too
    assert np.isfinite(short).all()


def test_learning_twice_gives_equal_files_and_loading_equal_answers(tmp_path, calibration):
    small = learned(40)
    small.save(tmp_path / "a.npz")
    learned(40).save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    calibration.save(tmp_path / "c.npz")
    _, _, coords = people(3, seed=7)
    for own, read in zip(applied(calibration, coords), applied(Calibration.load(tmp_path / "c.npz"), coords)):
        np.testing.assert_array_equal(own, read)


@pytest.mark.parametrize("classes", [True, False])
def test_trees_answer_as_scikit_learn_does(classes):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 6))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[:, 3] = np.round(rows[:, 3])
    goal = np.nan_to_num(rows[:, 0] * rows[:, 1]) + np.isnan(rows[:, 2]) + rng.normal(0, 0.1, 3000)
    other = rng.normal(size=(1000, 6)) * 2
    other[rng.random(other.shape) < 0.2] = np.nan
    if classes:
        model = sklearn.HistGradientBoostingClassifier(max_iter=40, random_state=0).fit(rows[:, :6], goal > 0.3)
        found, expected = 1 / (1 + np.exp(-BoostedTrees.from_sklearn(model)(other))), model.predict_proba(other)[:, 1]
    else:
        model = sklearn.HistGradientBoostingRegressor(loss="absolute_error", max_iter=40, random_state=0).fit(
            rows, goal
        )
        found, expected = BoostedTrees.from_sklearn(model)(other), model.predict(other)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_applying_needs_the_core_alone(tmp_path, calibration):
    calibration.save(tmp_path / "c.npz")
    code = (
        "import sys, numpy as np; from dataengine.fusion.calibration import Calibration;"
        f"c = Calibration.load({str(tmp_path / 'c.npz')!r});"
        "c.apply(np.random.default_rng(0).normal(size=(3, 1, 13, 2)), None, 'body13', c.experts);"
        "assert not {'sklearn', 'torch', 'av', 'joblib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_files_are_told(tmp_path, calibration):
    path = tmp_path / "c.npz"
    with pytest.raises(WeightsError, match="there is no calibration"):
        Calibration.load(path)
    for content in (b"", b"nothing of the kind", b"PK\x03\x04 torn"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="is not a calibration"):
            Calibration.load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(WeightsError, match="is not a calibration"):
        Calibration.load(tmp_path / "array.npy")
    calibration.save(path)
    with np.load(path) as file:
        arrays = dict(file)

    def refused(match, **changed):
        np.savez(tmp_path / "d.npz", **{k: v for k, v in (arrays | changed).items() if v is not None})
        with pytest.raises(WeightsError, match=match):
            Calibration.load(tmp_path / "d.npz")

    refused("format 'dataengine calibration 0'.*fit it again", format=np.array("dataengine calibration 0"))
    refused("format 'none'", format=None)
    refused("lack the array 'chance.left'", **{"chance.left": None})
    refused("does not exist", **{"chance.left": np.zeros_like(arrays["chance.left"])})
    refused("array threshold has type float32", **{"size.threshold": arrays["size.threshold"].astype(np.float32)})
    refused("do not fit", bias=arrays["bias"][:2])
    refused("unknown skeleton", skeleton=np.array("body99"))
    refused("allow_pickle|pickled", bias=np.array([{}], dtype=object))
    assert str(arrays["format"]) == FORMAT


def test_user_mistakes_are_told(calibration):
    _, _, coords = people(1)
    with pytest.raises(ComponentError, match="layout 'body13'"):
        calibration.apply(np.zeros((3, 1, 17, 2)), None, "coco17", EXPERTS)
    with pytest.raises(ComponentError, match="one name for each of 3 experts"):
        calibration.apply(coords[0], None, "body13", EXPERTS[:2])
    with pytest.raises(ComponentError, match="one name for each"):
        calibration.apply(coords[0], None, "body13", ("late", "late", "plain"))
    truth, unit, coords = people(20)
    seen = np.ones(truth.shape[:3], bool)
    with pytest.raises(ComponentError, match="20 sequences of coords and 19 of truth"):
        Calibration.fit(list(coords), truth[1:], seen, unit, "body13", EXPERTS)
    with pytest.raises(ComponentError, match="10 or more"):
        Calibration.fit(list(coords[:4]), truth[:4], seen[:4], unit[:4], "body13", EXPERTS)
    with pytest.raises(ComponentError, match="scale > 0"):
        Calibration.fit(list(coords), truth, seen, unit * 0, "body13", EXPERTS)
    with pytest.raises(ComponentError, match="sequence 0: 2 experts"):
        Calibration.fit(list(coords), truth, seen, unit, "body13", EXPERTS[:2])
    with pytest.raises(ComponentError, match="too little"):
        Calibration.fit(list(coords), truth, np.zeros_like(seen), unit, "body13", EXPERTS)
