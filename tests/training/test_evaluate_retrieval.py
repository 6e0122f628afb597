"""Motions compared with texts: plain loops, laws and planted structure."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
threadpoolctl = pytest.importorskip("threadpoolctl")

from dataengine.core.errors import TrainingError
from training.evaluate import retrieval
from training.evaluate.retrieval import ExtraScores


@pytest.fixture(autouse=True)
def one_thread():
    with threadpoolctl.threadpool_limits(1):
        yield


def pairs(num: int = 300, dim: int = 16, noise: float = 0.7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    texts = rng.standard_normal((num, dim))
    return texts + noise * rng.standard_normal((num, dim)), texts


def slow_ranks(queries: np.ndarray, gallery: np.ndarray, query_ids, gallery_ids) -> list[int]:
    """The rank of the first relevant item of each query, by a plain loop."""
    queries, gallery = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery))
    ranks = []
    for row, name in zip(queries, query_ids):
        order = np.argsort(-(gallery @ row), kind="stable")
        ranks.append(1 + next(n for n, item in enumerate(order) if gallery_ids[item] == name))
    return ranks


def test_retrieval_of_pairs_equals_a_loop_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "CELLS", 5000)
    motions, texts = pairs()
    motion_to_text, text_to_motion = retrieval.both_directions(motions, texts)
    for result, slow in (
        (motion_to_text, slow_ranks(motions, texts, range(300), range(300))),
        (text_to_motion, slow_ranks(texts, motions, range(300), range(300))),
    ):
        assert result.value == np.mean(np.array(slow) == 1) and result.details["R@5"] == np.mean(np.array(slow) <= 5)
        assert result.details["median rank"] == np.median(slow)
        assert result.baselines == {"chance": pytest.approx(1 / 300)} and result.details[
            "chance R@10"
        ] == pytest.approx(10 / 300)
    assert motion_to_text.value != text_to_motion.value


def test_retrieval_by_class_and_by_text() -> None:
    motions, texts = pairs(noise=3.0)
    labels = [f"class {n % 7}" for n in range(300)]
    found = retrieval.retrieval(motions, texts, labels, labels)
    slow = slow_ranks(motions, texts, labels, labels)
    assert found.value == np.mean(np.array(slow) == 1) > retrieval.retrieval(motions, texts).value
    # chance that 5 of 300 hold one of a class's 42 or 43: one minus the chance to miss
    missed = np.mean(
        [np.prod([(300 - r - n) / (300 - n) for n in range(5)]) for r in (labels.count(name) for name in labels)]
    )
    assert found.details["chance R@5"] == pytest.approx(1 - missed)
    lone = retrieval.retrieval(motions, texts[:10], labels, ["class 0"] * 10)
    assert (
        lone.value == 1
        and lone.details["queries"] == labels.count("class 0") == 300 - lone.details["queries without a relevant item"]
    )


def test_a_collapsed_encoder_finds_nothing() -> None:
    found = retrieval.retrieval(np.ones((50, 4)), np.ones((50, 4)))
    assert found.value == 0 and found.details["median rank"] == 50
    assert (
        retrieval.multiple_choice(
            np.ones((50, 4)), np.arange(50) % 15, np.ones((15, 4)), direction="motion to text"
        ).value
        == 0
    )


def test_one_of_fifteen() -> None:
    rng = np.random.default_rng(1)
    classes = rng.standard_normal((20, 32))
    labels = rng.integers(20, size=400)
    motions = classes[labels] + 3.0 * rng.standard_normal((400, 32))
    by_text = retrieval.multiple_choice(motions, labels, classes)
    by_motion = retrieval.multiple_choice(motions, labels, classes, direction="motion to text")
    for result in (by_text, by_motion):
        assert 0.3 < result.value < result.details["top-3"] < 1 and len(set(result.per_seed)) > 1
        assert result.baselines["chance"] == pytest.approx(1 / 15)
    easier = retrieval.multiple_choice(motions, labels, classes, ways=3)
    assert easier.value > by_text.value + 0.1
    # with as many ways as classes each motion meets every text: the plain accuracy, for every seed
    everything = retrieval.multiple_choice(motions, labels, classes, ways=20, direction="motion to text")
    assert set(everything.per_seed) == {retrieval.zero_shot(motions, labels, classes).value}
    noise = retrieval.multiple_choice(rng.standard_normal((400, 32)), labels, classes, questions=2000)
    assert abs(noise.value - 1 / 15) < 0.02


def test_class_embeddings_average_the_unit_vectors_of_their_texts() -> None:
    vectors = {"a": [2.0, 0.0], "b": [0.0, 5.0], "c": [3.0, 4.0]}
    found = retrieval.class_embeddings([["a", "b"], ["c"]], lambda texts: np.array([vectors[t] for t in texts]))
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]])
    with pytest.raises(TrainingError, match="class 1 has none"):
        retrieval.class_embeddings([["a"], []], lambda texts: np.ones((len(texts), 2)))


def test_zero_shot_alone_and_with_another_modality() -> None:
    rng = np.random.default_rng(2)
    classes = np.eye(6)
    labels = rng.integers(6, size=500)
    motions, videos = (classes[labels] + 0.6 * rng.standard_normal((500, 6)) for _ in range(2))
    seen = retrieval.similarities(videos, classes)
    alone = retrieval.zero_shot(motions, labels, classes)
    fused = retrieval.zero_shot(motions, labels, classes, ExtraScores(seen, temperature=0.1))
    assert fused.value > max(fused.baselines["motion alone"], fused.baselines["other alone"]) + 0.03
    assert fused.baselines["motion alone"] == alone.value and alone.baselines["chance"] == pytest.approx(1 / 6)
    assert retrieval.zero_shot(motions, labels, classes, ExtraScores(seen, weight=0)).value == alone.value


def test_two_streams() -> None:
    a, b = np.random.default_rng(3).standard_normal((2, 50, 4))
    np.testing.assert_allclose(retrieval.fuse_scores(a, b), retrieval.fuse_scores(b, a))
    np.testing.assert_allclose(retrieval.fuse_scores(a + 100, b - 3), retrieval.fuse_scores(a, b))
    np.testing.assert_array_equal(retrieval.fuse_scores(a, b, alpha=0).argmax(1), a.argmax(1))
    np.testing.assert_array_equal(retrieval.fuse_scores(a, b, alpha=1e6).argmax(1), b.argmax(1))
    np.testing.assert_allclose(retrieval.fuse_scores(a, b).sum(1), 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: retrieval.similarities(np.ones((2, 3)), np.ones((2, 4))), "not in one space"),
        (lambda: retrieval.fuse_scores(np.ones((2, 3)), np.ones((2, 4))), "same clips and classes"),
        (lambda: retrieval.retrieval(np.ones((2, 3)), np.ones((3, 3))), "give ids of both queries and items"),
        (lambda: retrieval.retrieval(np.ones((2, 3)), np.ones((3, 3)), [1, 2], [1, 2]), "2 ids for 3 features"),
        (lambda: retrieval.retrieval(np.ones((2, 3)), np.ones((2, 3)), [1, 2], [3, 4]), "nothing in common"),
        (
            lambda: retrieval.multiple_choice(np.ones((2, 3)), [0, 1], np.ones((2, 3))),
            "ways = 15: must lie between 2 and the number of classes, 2",
        ),
        (
            lambda: retrieval.multiple_choice(np.ones((2, 3)), [0, 1], np.ones((2, 3)), 2, direction="motion to txt"),
            "did you mean",
        ),
    ],
)
def test_mistakes_are_named(call, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        call()


def test_conse_names_new_classes_through_training_classes() -> None:
    """Random projections of training texts say nothing of a new class; mixtures of training classes do."""
    rng = np.random.default_rng(0)
    training = np.eye(4) + 0.5  # four texts, all near their mean
    projected = rng.standard_normal((4, 32))
    new = np.array([training[0] + training[1], training[2] + training[3], training[1] + training[2]])
    truth = rng.integers(3, size=200)
    parts = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0]])[truth]
    motions = parts @ projected + 0.5 * rng.standard_normal((200, 32))
    rows, columns = retrieval.conse(motions, projected, training, new)
    assert rows.shape == (200, 4) and columns.shape == (3, 4)
    assert retrieval.zero_shot(rows, truth, columns).value > 0.95
    # with a temperature near 0 a motion is the one nearest training class
    rows, _ = retrieval.conse(projected, projected, training, new, 1e-3)
    unit = training / np.linalg.norm(training, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, unit - unit.mean(0), atol=1e-12)
    with pytest.raises(TrainingError, match="two training classes"):
        retrieval.conse(motions, projected[:1], training[:1], new)
    with pytest.raises(TrainingError, match="in the space of the new ones"):
        retrieval.conse(motions, projected, training, new[:, :3])
