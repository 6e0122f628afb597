"""What benchmarks that train are decided by, where it can be checked without training."""

from __future__ import annotations

from collections import Counter

import pytest

torch = pytest.importorskip("torch")

import tests.support.torch_setup  # noqa: F401  benchmarks can be imported

pytestmark = pytest.mark.slow


def test_every_class_is_held_out_three_times_and_five_seeds_share_them_out() -> None:
    from tmor_clips import CLASSES, held_out

    assert Counter(label for seed in range(15) for label in held_out(seed)) == dict.fromkeys(range(CLASSES), 3)
    for first in (0, 5, 10):
        shared = sorted(label for seed in range(first, first + 5) for label in held_out(seed))
        assert shared == list(range(CLASSES))


def test_a_class_counts_once_however_often_it_was_held_out() -> None:
    from tmor import by_class, over_classes

    runs = [{"zero": {"bowl": 20.0, "squat": 80.0}}, {"zero": {"bowl": 40.0}}]
    assert by_class(runs, "zero") == {"bowl": 30.0, "squat": 80.0}
    gain = over_classes({"bowl": 30.0, "squat": 80.0}, {"bowl": 10.0, "squat": 50.0, "jump": 0.0})
    assert gain["mean"] == 25.0 and gain["classes"] == 2 and 20.0 <= gain["low"] <= gain["high"] <= 30.0


def test_rows_of_mcc_are_paired_by_the_seeds_that_both_have() -> None:
    from mcc_ablation import over_none

    runs = {
        "none": [{"seed": 0, "top-1": 88.0}, {"seed": 1, "top-1": 90.0}],
        "nce": [{"seed": 1, "top-1": 85.0}, {"seed": 2, "top-1": 99.0}],
        "all": [{"seed": 0, "top-1": 89.0}, {"seed": 1, "top-1": 93.0}],
    }
    gains = over_none(runs)
    assert gains["nce"] == {"mean": -5.0, "n": 1}
    assert gains["all"]["mean"] == 2.0 and gains["all"]["n"] == 2 and gains["all"]["low"] < gains["all"]["high"]


def test_the_table_of_public_sets_says_how_many_seeds_there_are() -> None:
    from table import public_sets

    floors = {"nearest neighbour": 84.44, "ridge": 87.22, "random network": 69.63}
    one = {"floors": floors, "top-1": {"mean": 93.4, "low": 92.9, "high": 93.9, "each": [93.0, 93.8]}}
    result = {
        "data": {"natops": "NATOPS (Song and others), Kinect; a repository; a licence"},
        "details": {"natops": one},
    }
    assert public_sets(result).splitlines()[-1] == "| NATOPS | 93.4 (92.9 to 93.9) | 2 | 84.4 | 87.2 | 69.6 |"
