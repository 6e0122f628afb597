"""Intervals: known numbers, coverage, laws."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core.errors import TrainingError
from training.evaluate import confidence_intervals as intervals


def test_over_seeds_is_students_interval() -> None:
    # t(0.975, 4) = 2.776445; standard deviation of 1..5 is 1.581139
    found = intervals.over_seeds([1, 2, 3, 4, 5])
    assert found.mean == 3 and found.half == pytest.approx(2.776445 * 1.581139 / 5**0.5, rel=1e-6)
    alone = intervals.over_seeds([0.5])
    assert alone.low is None and alone.high is None and alone.half is None


def test_paired_differences_are_surer_than_the_figures() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.normal(0.8, 0.05, 6)
    better = seeds + 0.02 + rng.normal(0, 0.002, 6)
    found = intervals.paired(better, seeds)
    assert found.low > 0 and found.half < intervals.over_seeds(seeds).half / 5
    with pytest.raises(TrainingError, match="same seeds; given 6 and 5"):
        intervals.paired(better, seeds[:5])


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    covered = np.zeros(3)
    for n in range(400):
        seeds = intervals.over_seeds(rng.normal(0.5, 0.1, 4), level=0.9)
        right = rng.random(150) < 0.8
        clips = intervals.bootstrap(right, level=0.9, draws=200, seed=n)
        share = intervals.wilson(int(right.sum()), 150, level=0.9)
        covered += [seeds.low < 0.5 < seeds.high, clips.low <= 0.8 <= clips.high, share.low <= 0.8 <= share.high]
    assert (np.abs(covered / 400 - 0.9) < 0.05).all(), covered / 400


def test_bootstrap_of_groups_is_wider_where_clips_of_a_video_agree() -> None:
    videos = np.repeat(np.arange(30), 10)
    right = (np.random.default_rng(2).random(30) < 0.5)[videos]
    of_clips, of_videos = intervals.bootstrap(right), intervals.bootstrap(right, groups=list(videos))
    assert of_videos.half > 2 * of_clips.half and of_videos.n == 30
    assert of_clips == intervals.bootstrap(right)
    assert of_clips.mean == of_videos.mean == right.mean()


def test_bootstrap_takes_any_statistic() -> None:
    rows = np.random.default_rng(3).random((80, 2))
    of_mean = intervals.bootstrap(rows[:, 0], seed=5)
    same = intervals.bootstrap(rows, lambda drawn: float(drawn[:, 0].mean()), seed=5)
    assert same.low == pytest.approx(of_mean.low) and same.high == pytest.approx(of_mean.high)


def test_wilson_equals_known_numbers_and_stays_in_bounds() -> None:
    # 15 of 20 at 95 %: 0.5313 to 0.8881
    found = intervals.wilson(15, 20)
    assert (round(found.low, 4), round(found.high, 4)) == (0.5313, 0.8881)
    assert intervals.wilson(0, 10).low == 0 and intervals.wilson(10, 10).high == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: intervals.over_seeds([]), "at least one finite value"),
        (lambda: intervals.over_seeds([np.nan]), "at least one finite value"),
        (lambda: intervals.over_seeds([1], level=95), "level = 95"),
        (lambda: intervals.bootstrap(np.zeros((3, 2))), "without a statistic"),
        (lambda: intervals.bootstrap([0, 1], groups=["a"]), "given 1 for 2 clips"),
        (lambda: intervals.wilson(3, 2), "3 right of 2"),
    ],
)
def test_mistakes_are_named(call, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        call()
