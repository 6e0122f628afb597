"""Probes against scikit-learn, slow loops and planted structure."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
threadpoolctl = pytest.importorskip("threadpoolctl")
sklearn_linear = pytest.importorskip("sklearn.linear_model")

from dataengine.core.errors import TrainingError
from training.data.subsets import label_subsets
from training.evaluate import collapse, logistic, probes, retrieval
from training.evaluate.metrics import top_k
from training.evaluate.probes import LabelledFeatures
from training.evaluate.result import Result, of_seeds, plain, table


@pytest.fixture(autouse=True)
def one_thread():
    with threadpoolctl.threadpool_limits(1):
        yield


def clouds(num: int, dim: int = 24, classes: int = 6, noise: float = 1.0, seed: int = 0) -> LabelledFeatures:
    """Classes around random centres that are the same for every seed, in directions of very different length."""
    centres = np.random.default_rng(99).standard_normal((classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=num)
    features = (centres[labels] + noise * rng.standard_normal((num, dim))) * np.geomspace(1, 0.01, dim) + 0.3
    return LabelledFeatures(features.astype(np.float32), labels)


@pytest.mark.parametrize("strength", [0.03, 3.0])
def test_logistic_regression_equals_scikit_learn(strength: float) -> None:
    train, test = clouds(300), clouds(200, seed=1)
    ours = logistic.fit(train.features, train.labels, 6, strength, precise=True)
    rows = (logistic.unit(train.features) - ours.mean) / ours.scale
    theirs = sklearn_linear.LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(rows, train.labels)
    np.testing.assert_allclose(ours.weight, theirs.coef_.T, atol=2e-5)
    np.testing.assert_allclose(ours.bias - ours.bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-5)
    fast = logistic.fit(train.features, train.labels, 6, strength)
    assert np.abs(logistic_shares(fast, test) - logistic_shares(ours, test)).max() < 0.01


def logistic_shares(model: logistic.Logistic, side: LabelledFeatures) -> np.ndarray:
    return retrieval.softmax(model.scores(side.features))


def test_scale_of_features_and_a_start_elsewhere_change_nothing() -> None:
    train, test = clouds(300), clouds(100, seed=1)
    plain_fit = logistic.fit(train.features, train.labels, 6, 0.3, precise=True)
    scaled = logistic.fit(1000 * train.features, train.labels, 6, 0.3, precise=True)
    started = logistic.fit(
        train.features, train.labels, 6, 0.3, precise=True, start=logistic.fit(train.features, train.labels, 6, 0.01)
    )
    for other in (scaled, started):
        np.testing.assert_allclose(logistic_shares(other, test), logistic_shares(plain_fit, test), atol=1e-5)


def test_a_class_without_training_clips_is_never_predicted() -> None:
    train, test = clouds(300), clouds(100, seed=1)
    some = train.take(np.flatnonzero(train.labels != 2))
    scores = logistic.fit(some.features, some.labels, 6).scores(test.features)
    assert (scores.argmax(1) != 2).all() and 0 < top_k(scores, test.labels) < 1


def test_constant_features_give_the_prior() -> None:
    labels = np.array([0] * 6 + [1] * 2)
    model = logistic.fit(np.ones((8, 5)), labels, 2)
    np.testing.assert_allclose(retrieval.softmax(model.scores(np.ones((1, 5)))), [[0.75, 0.25]], atol=1e-4)


def test_strength_is_chosen_on_the_training_side() -> None:
    train, test = clouds(240, noise=3.0), clouds(200, noise=3.0, seed=1)
    best, tried = logistic.choose_strength(train.features, train.labels, 6, (0.0001, 0.01, 1.0))
    assert tried[f"{best:g}"] == max(tried.values()) and len(tried) == 3
    folds = logistic.folds_of(train.labels, 3)
    counts = np.array([np.bincount(train.labels[folds == f], minlength=6) for f in range(3)])
    assert (counts.max(0) - counts.min(0) <= 1).all()
    result = probes.linear_probe(train, test, 6, strength=None, strengths=(0.0001, 0.01, 1.0))
    assert result.details["strength"] == best and result.details["cross-validation"] == tried


def test_linear_probe_learns_and_says_what_it_is_compared_with() -> None:
    result = probes.linear_probe(clouds(300), clouds(200, seed=1), 6).with_baselines(random_network=0.4)
    assert result.value > 0.9 and result.interval.low < result.value < result.interval.high
    assert set(result.baselines) == {"chance", "largest class", "random network"}
    assert {"top-5", "mean class accuracy", "strength", "clips"} <= set(result.details)


def test_subsets_are_nested_stratified_and_repeatable() -> None:
    labels = np.repeat(np.arange(5), [100, 40, 10, 3, 1])
    found = label_subsets(labels, (0.05, 0.1, 0.5), seed=3)
    assert set(found[0.05]) < set(found[0.1]) < set(found[0.5])
    np.testing.assert_array_equal(np.bincount(labels[found[0.1]]), [10, 4, 1, 1, 1])
    np.testing.assert_array_equal(found[0.1], label_subsets(labels, (0.1,), seed=3)[0.1])
    assert not np.array_equal(found[0.1], label_subsets(labels, (0.1,), seed=4)[0.1])
    shots = label_subsets(labels, (1, 5), by="shots")
    np.testing.assert_array_equal(np.bincount(labels[shots[5]]), [5, 5, 5, 3, 1])


def test_few_shot_grows_with_labels() -> None:
    train, test = clouds(300, noise=2.0), clouds(300, noise=2.0, seed=1)
    few, more = probes.few_shot(train, test, 6, (0.05, 0.5), seeds=(0, 1, 2))
    assert few.value + 0.05 < more.value and len(few.per_seed) == 3
    assert few.name == "linear probe, 5 % of labels" and few.interval.method == "t over seeds"
    shots = probes.few_shot(train, test, 6, (2,), seeds=(0,), by="shots", classifier="knn")[0]
    assert shots.interval.low is None and 0.2 < shots.value < more.value


def test_nearest_neighbours_equal_a_loop() -> None:
    train, test = clouds(120), clouds(40, seed=1)
    found = probes.knn_scores(train, test.features, 6, k=7, temperature=0.1)
    known, asked = logistic.unit(train.features), logistic.unit(test.features)
    for row, votes in zip(asked, found):
        similar = known @ row
        slow = np.zeros(6)
        for n in np.argsort(-similar)[:7]:
            slow[train.labels[n]] += np.exp(similar[n] / 0.1)
        np.testing.assert_allclose(votes, slow / slow.sum(), rtol=1e-4)
    assert probes.knn(train, train, 6, k=1).value == 1


def test_big_k_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = clouds(50), clouds(30, seed=1)
    whole = probes.knn_scores(train, test.features, 6, k=500)
    monkeypatch.setattr(probes, "CELLS", 100)
    np.testing.assert_allclose(probes.knn_scores(train, test.features, 6, k=50), whole, rtol=1e-5)


def test_runs_of_several_seeds_are_joined() -> None:
    runs = [
        Result("probe", "top-1", v, baselines={"chance": 0.1}, details={"seed": n})
        for n, v in enumerate((0.5, 0.6, 0.7))
    ]
    joined = probes.over_runs(runs)
    assert (
        joined.value == pytest.approx(0.6)
        and joined.per_seed == (0.5, 0.6, 0.7)
        and joined.baselines == {"chance": pytest.approx(0.1)}
    )
    with pytest.raises(TrainingError, match="results of one evaluation"):
        probes.over_runs([*runs, Result("other", "top-1", 0.5)])


def test_results_are_strict_json_and_come_back(tmp_path) -> None:
    result = of_seeds(
        "probe",
        "top-1",
        [0.5, 0.75],
        baselines={"chance": 0.1},
        details={"each": np.array([0.5, np.nan]), 1: (np.int64(3),)},
    )
    path = tmp_path / "a" / "result.json"
    text = result.to_json(path)
    assert "NaN" not in text and path.read_text() == text and [p.name for p in path.parent.iterdir()] == ["result.json"]
    back = Result.from_json(path)
    assert (
        back.value == result.value
        and back.interval == result.interval
        and back.details == {"each": [0.5, None], "1": [3]}
    )
    assert back.to_json() == text
    assert str(result) == "probe  top-1 62.5 %  [0.0, 100.0] 95 % t over seeds, n 2  |  chance 10.0"
    assert "| probe | top-1 | 62.5 % | 0.0 to 100.0 (t over seeds, n 2) | chance 10.0 |" in table([result])
    path.write_text("{}")
    with pytest.raises(TrainingError, match="no result can be read"):
        Result.from_json(path)


def test_collapse_shows() -> None:
    rng = np.random.default_rng(0)
    even = rng.standard_normal((3000, 16)).astype(np.float32)
    gone = np.ones((500, 16), np.float32) + 1e-4 * rng.standard_normal((500, 16)).astype(np.float32)
    line = np.outer(rng.standard_normal(400), np.ones(16)).astype(np.float32)
    good, bad = collapse.statistics(torch.from_numpy(even)), collapse.statistics(gone)
    assert 0.95 < good["spread"] <= 1.01 and bad["spread"] < 1e-3
    assert good["effective_rank"] > 15.9 and bad["effective_rank"] < 1.05 and collapse.effective_rank(line) < 1.001
    assert good["uniformity"] < -3 and bad["uniformity"] > -1e-5
    # two singular values of 3 and 1: shares .75 and .25
    rows = torch.tensor([[1.0, 0.0]] * 9 + [[0.0, 1.0]])
    assert collapse.effective_rank(rows) == pytest.approx(
        np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))), rel=1e-6
    )


def test_alignment_and_uniformity_equal_slow_loops() -> None:
    a, b = (np.random.default_rng(n).standard_normal((20, 5)).astype(np.float32) for n in (0, 1))
    u, v = logistic.unit(a), logistic.unit(b)
    assert collapse.alignment(a, b) == pytest.approx(np.mean(((u - v) ** 2).sum(1)), rel=1e-5)
    pairs = [np.exp(-2 * ((u[i] - u[j]) ** 2).sum()) for i in range(20) for j in range(i)]
    assert collapse.uniformity(a) == pytest.approx(np.log(np.mean(pairs)), rel=1e-4)
    assert collapse.statistics(a, a)["alignment"] == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: logistic.fit(np.zeros((3, 2)), [0, 1, 1], 2, strength=0), "C of a logistic regression"),
        (lambda: logistic.fit(np.full((3, 2), np.nan), [0, 1, 1], 2), "3 of 3 features are not finite"),
        (lambda: logistic.fit(np.zeros((3, 2)), [0, 1, 2], 2), "label 2 lies outside"),
        (lambda: logistic.choose_strength(np.zeros((2, 2)), [0, 1], 2), "at least 2 folds"),
        (lambda: label_subsets([0, 1], (10,)), "a share lies in"),
        (lambda: label_subsets([0, 1], (1.5,), by="shots"), "shots are whole numbers"),
        (lambda: label_subsets([0, 1], (1,), by="shot"), "did you mean 'shots'"),
        (lambda: probes.few_shot(clouds(20), clouds(20), 6, classifier="nn"), "did you mean 'knn'"),
        (lambda: probes.knn(clouds(20), clouds(20), 6, k=0), "both are positive"),
        (lambda: Result("a", "top-1", float("nan")), "finite values"),
        (lambda: plain({1, 2}), "given set"),
        (lambda: collapse.spread(np.zeros(3)), "at least two features"),
        (lambda: collapse.alignment(np.zeros((3, 2)), np.zeros((4, 2))), "have one shape"),
    ],
)
def test_mistakes_are_named(call, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        call()
