"""The annotator learns few labels on frozen features."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core.errors import TrainingError
from training.evaluate.annotator import fit_annotator
from training.evaluate.metrics import micro_f1


def frames(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features in which four labels, any number at once, lie along four directions; one label never occurs."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(99).normal(size=(12, 12)))[0][:4]
    truth = rng.random((rows, 4)) < (0.5, 0.3, 0.2, 0.1)
    features = 5 + 3 * (truth @ directions) + rng.normal(0, 0.3, (rows, 12))
    return features, np.column_stack([truth, np.zeros(rows, bool)])


def test_several_labels_at_once_are_learnt_from_few_rows() -> None:
    features, truth = frames(80)
    unseen, wanted = frames(500, seed=1)
    found = fit_annotator(features, truth).propose(unseen)
    shuffled = fit_annotator(features, np.random.default_rng(0).permutation(truth)).propose(unseen)
    assert micro_f1(found, wanted) > 0.97 > 0.7 > micro_f1(shuffled, wanted)
    assert not found[:, 4].any()


def test_labels_that_exclude_each_other() -> None:
    rng = np.random.default_rng(0)
    centres, ids = rng.normal(size=(3, 6)), rng.integers(0, 3, 60)
    features, truth = centres[ids] + rng.normal(0, 0.1, (60, 6)), np.eye(4, dtype=bool)[ids]
    annotator = fit_annotator(features, truth, exclusive=True)
    probabilities = annotator.probabilities(features)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (probabilities[:, 3] == 0).all() and (annotator.propose(features) == truth).all()


def test_equal_seeds_give_equal_annotators() -> None:
    features, truth = frames(40)
    one, two, other = (fit_annotator(features, truth, seed=seed, steps=20) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for x, y in zip(one.layers, two.layers) for a, b in zip(x, y))
    assert not np.array_equal(one.layers[0][0], other.layers[0][0])


def test_what_cannot_be_learnt_is_said() -> None:
    features, truth = frames(10)
    for rows, labels, exclusive, what in (
        (features[:0], truth[:0], False, "given"),
        (features, truth[:5], False, "given"),
        (features * np.nan, truth, False, "not finite"),
        (features, np.ones((10, 2)), True, "exactly one"),
    ):
        with pytest.raises(TrainingError, match=what):
            fit_annotator(rows, labels, exclusive)
    with pytest.raises(TrainingError, match=r"\(N, 12\)"):
        fit_annotator(features, truth, steps=2).probabilities(np.zeros((2, 3)))
