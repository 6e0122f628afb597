"""Metrics equal published implementations and slow loops, and obey their laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataengine.core.errors import TrainingError
from training.evaluate import metrics

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def golden(name: str):
    return np.load(GOLDEN / f"{name}.npz", allow_pickle=False)


@pytest.mark.parametrize(("scores", "ending"), [("score", ""), ("score_ties", "_ties")])
def test_frame_map_equals_scikit_learn(scores: str, ending: str) -> None:
    with golden("metric_frame_map") as file:
        mean, each = metrics.frame_map(file[scores], file["label"])
        np.testing.assert_allclose(each, file[f"ap{ending}"], rtol=0, atol=1e-10)
        assert abs(mean - file[f"mean_ap{ending}"]) < 1e-10


def test_frame_map_of_valid_frames_and_over_all_classes() -> None:
    with golden("metric_frame_map") as file:
        mean, each = metrics.frame_map(file["score"], file["label"], valid=file["valid"])
        np.testing.assert_allclose(each, file["ap_valid"], rtol=0, atol=1e-10)
        assert abs(mean - file["mean_ap_valid"]) < 1e-10
        assert abs(metrics.frame_map(file["score"], file["label"], micro=True)[0] - file["ap_micro"]) < 1e-10


@pytest.mark.parametrize(("interpolated", "name"), [(True, "ap"), (False, "ap_not_interpolated")])
def test_event_map_equals_activitynet(interpolated: bool, name: str) -> None:
    with golden("metric_event_map") as file:
        found = metrics.event_map(file["truth"], file["prediction"], file["thresholds"], interpolated)
        np.testing.assert_allclose(found.ap, file[name], rtol=0, atol=1e-10)
        if interpolated:
            np.testing.assert_allclose(list(found.at.values()), file["mean_ap"], rtol=0, atol=1e-10)
            assert abs(found.average - file["average"]) < 1e-10


@pytest.mark.parametrize(("background", "ending"), [(None, "with_all"), (0, "without_0")])
def test_segments_equal_the_slow_loops(background: int | None, ending: str) -> None:
    with golden("metric_segments") as file:
        truth, found = file["truth"], file["prediction"]
        edits = [100 * metrics.edit_score(p, t, background) for p, t in zip(found, truth)]
        np.testing.assert_allclose(edits, file[f"edit_each_{ending}"], rtol=0, atol=1e-10)
        for n, overlap in enumerate(file["overlaps"]):
            counts = [metrics.segment_counts(p, t, overlap, background) for p, t in zip(found, truth)]
            np.testing.assert_array_equal(counts, file[f"counts_tp_fp_fn_{ending}"][n])
            assert (
                abs(100 * metrics.f1_at(list(found), list(truth), overlap, background) - file[f"f1_{ending}"][n])
                < 1e-10
            )
        assert abs(100 * metrics.frame_accuracy(list(found), list(truth)) - file["frame_accuracy"]) < 1e-10


def test_top_k_equals_a_loop_and_takes_the_lower_class_of_equals() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 4, (200, 9)).astype(float), rng.integers(-1, 9, 200)
    for k in (1, 3, 5):
        slow = [label in np.argsort(-row, kind="stable")[:k] for row, label in zip(scores, labels) if label >= 0]
        assert metrics.top_k(scores, labels, k) == np.mean(slow)
    assert metrics.top_k(np.zeros((4, 2)), [0, 1, 1, 1]) == 0.25


def test_top_k_accepts_classes_that_are_never_predicted() -> None:
    assert metrics.top_k([[0.0, -np.inf], [1.0, -np.inf]], [0, 1]) == 0.5


def test_confusion_counts_rows_as_truth_and_accuracies_follow_it() -> None:
    counts = metrics.confusion([0, 1, 1, 2, 0], [0, 0, 1, 2, -1], 4)
    np.testing.assert_array_equal(counts, [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(metrics.class_accuracies([0, 1, 1, 2], [0, 0, 1, 2], 4), [0.5, 1, 1, np.nan])
    assert metrics.mean_class_accuracy([0, 1, 1, 2], [0, 0, 1, 2], 4) == pytest.approx(2.5 / 3)


def test_segment_laws() -> None:
    labels = [3, 3, 1, 1, 1, 0, 3]
    np.testing.assert_array_equal(metrics.segments(labels, background=0), [[3, 0, 2], [1, 2, 5], [3, 6, 7]])
    assert metrics.segments([]).shape == (0, 3)
    assert metrics.edit_score(labels, labels) == 1 and metrics.f1_at([labels], [labels], 0.9) == 1
    assert (
        metrics.edit_score([0, 0], [0, 0], background=0) == 1
        and metrics.f1_at([[0, 0]], [[0, 0]], 0.5, background=0) == 1
    )
    assert metrics.edit_score([1], [2]) == 0
    # over-segmentation costs the edit score, and frames hardly
    jumpy = [3, 3, 1, 0, 1, 0, 3]
    assert metrics.edit_score(jumpy, labels) < 0.75 < metrics.frame_accuracy([jumpy], [labels])


def test_an_event_is_found_once() -> None:
    truth = [[0, 1, 0.0, 10.0]]
    twice = [[0, 1, 0.0, 10.0, 0.9], [0, 1, 0.0, 10.0, 0.8], [5, 1, 0.0, 10.0, 1.0]]
    assert metrics.event_map(truth, twice, (0.5,)).average == pytest.approx(0.5)
    assert metrics.event_map(truth, np.zeros((0, 5)), (0.5,)).average == 0


def test_micro_f1_equals_a_count() -> None:
    assert metrics.micro_f1([[1, 0], [1, 1]], [[1, 1], [0, 1]]) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.top_k(np.zeros((2, 3)), [-1, -1]), "none of 2 clips has a label"),
        (lambda: metrics.top_k(np.zeros((2, 3)), [0, 3]), "label 3 has no column"),
        (lambda: metrics.top_k([[np.nan, 0], [0, 1]], [0, 1]), "1 of 2 clips have NaN"),
        (lambda: metrics.top_k(np.zeros((2, 3)), [0]), "want rows of as many clips"),
        (lambda: metrics.confusion([5], [0], 3), "classes go from 0 to 2"),
        (lambda: metrics.frame_map(np.zeros((2, 3)), np.zeros((2, 4))), "of one shape"),
        (lambda: metrics.average_precision([0, 1], [0, np.nan]), "NaN"),
        (lambda: metrics.event_map(np.zeros((0, 4)), np.zeros((0, 5))), "at least one true event"),
        (lambda: metrics.micro_f1([[1]], [1]), "differ in shape"),
    ],
)
def test_mistakes_are_named(call, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        call()
