"""Ranking: which clips stand for all."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from dataengine.core.errors import TrainingError
from training.evaluate import ranking
from training.evaluate.ranking import by_classifier, by_k_means, covered, facility_location, k_centres, medoid


def clustered(
    seed: int, sizes: tuple[int, ...] = (60, 40, 20, 10, 5, 3, 2, 1), dim: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unit length around as many directions as there are sizes, and the direction of each."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(dim, dim)))[0][: len(sizes)]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    rows = centres[owner] + rng.normal(0, 0.03, (len(owner), dim))
    order = rng.permutation(len(rows))
    return rows[order], owner[order]


def test_each_pick_is_the_farthest_from_all_picks_before() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 5))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = k_centres(rows, first=7)
    picks = [7]
    while len(picks) < 40:
        nearest = [min(np.linalg.norm(unit[i] - unit[p]) for p in picks) if i not in picks else -1 for i in range(40)]
        picks.append(int(np.argmax(nearest)))
    assert found.order.tolist() == picks
    assert found.radius[-1] == pytest.approx(0, abs=1e-6) and (np.diff(found.radius) <= 1e-12).all()


def test_the_radius_is_at_most_twice_that_of_the_best_choice() -> None:
    for seed in range(5):
        rows = np.random.default_rng(seed).normal(size=(14, 3))
        best = min(covered(rows, some).radius[-1] for some in combinations(range(14), 3))
        assert best <= k_centres(rows, 3).radius[-1] <= 2 * best


def test_a_ranking_goes_on_from_what_is_known() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 8))
    whole = k_centres(rows, 20)
    rest = k_centres(rows, 12, known=whole.order[:8].tolist())
    assert rest.order.tolist() == whole.order[8:20].tolist()
    np.testing.assert_allclose(rest.radius, whole.radius[8:20])


def test_the_first_pick_is_the_medoid() -> None:
    rows = np.random.default_rng(2).normal(size=(30, 4)) + 1
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    sums = np.square(unit[:, None] - unit[None]).sum((1, 2))
    assert medoid(rows) == k_centres(rows, 1).order[0] == by_classifier(rows, 1).order[0] == int(sums.argmin())


@pytest.mark.parametrize("warm", [True, False])
def test_the_classifier_picks_from_groups_that_have_none(warm: bool) -> None:
    hit = []
    for seed in range(2):
        rows, owner = clustered(seed)
        found = by_classifier(rows, 8, seed=seed, warm=warm)
        assert len(set(found.order.tolist())) == 8
        hit.append(len(set(owner[found.order].tolist())))
    assert min(hit) >= 6  # eight clips drawn at random hit four groups on average
    again = by_classifier(rows, 8, seed=1, warm=warm)
    assert again.order.tolist() == found.order.tolist()


def test_k_means_takes_a_clip_of_every_large_group_first() -> None:
    rows, owner = clustered(0, (60, 40, 20, 10))
    found = by_k_means(rows, 4, seed=1)
    assert (
        owner[found.order].tolist() == [0, 1, 2, 3]
        and by_k_means(rows, 4, seed=1).order.tolist() == found.order.tolist()
    )
    middle = rows[owner == 0].mean(0)
    distances = np.linalg.norm(rows - middle, axis=1)
    assert distances[found.order[0]] <= np.quantile(distances[owner == 0], 0.1), "the clip nearest to the centre"
    known = np.flatnonzero(owner == 0)[:1].tolist()
    later = by_k_means(rows, 3, known=known, seed=1).order
    assert sorted(owner[later].tolist()) == [1, 2, 3] and not set(later.tolist()) & set(known)
    doubled = np.repeat(np.eye(3), 4, axis=0)  # fewer places than picks
    assert sorted(by_k_means(doubled, 12).order.tolist()) == list(range(12))


def test_facility_location_takes_what_a_search_over_all_clips_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = clustered(4, (30, 20, 9, 3))
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distance = np.square(rows[:, None] - rows[None]).sum(2)
    for known in ([], [7, 40]):
        picked = list(known)
        for _ in range(12):
            cost = [np.minimum(distance[:, [*picked, k]].min(1), 4.0).sum() for k in range(len(rows))]
            cost = [np.inf if k in picked else value for k, value in enumerate(cost)]
            picked.append(int(np.argmin(cost)))
        for tried in (1, 5, 1000):
            monkeypatch.setattr(ranking, "TRIED", tried)
            found = facility_location(rows, 12, known).order.tolist()
            assert found == picked[len(known) :], tried
    assert facility_location(rows, 1).order[0] == medoid(rows)


def test_facility_location_covers_drawn_clips_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, owner = clustered(0, (60, 40, 20, 10))
    monkeypatch.setattr(ranking, "REFERENCES", 40)
    steps: list[int] = []
    found = facility_location(rows, 8, seed=1, advance=steps.append)
    assert set(owner[found.order[:4]].tolist()) == {0, 1, 2, 3} and sum(steps) == 8
    assert facility_location(rows, 8, seed=1).order.tolist() == found.order.tolist()
    doubled = np.repeat(np.eye(3), 4, axis=0)  # most picks gain nothing
    assert sorted(facility_location(doubled).order.tolist()) == list(range(12))


def test_every_clip_is_ranked_once_by_default() -> None:
    rows, _ = clustered(3, (9, 4, 2))
    for found in (k_centres(rows), facility_location(rows), by_classifier(rows), by_classifier(rows, known=[3, 4])):
        assert len(set(found.order.tolist())) == len(found.order)
    assert sorted(k_centres(rows).order.tolist()) == list(range(15))
    assert not set(by_classifier(rows, known=[3, 4]).order.tolist()) & {3, 4}


@pytest.mark.parametrize("rank", [k_centres, by_classifier, by_k_means, facility_location])
def test_what_cannot_be_ranked_is_said(rank: object) -> None:
    rows = np.eye(4)
    for options, what in (
        ({"count": 0}, "at least one"),
        *([] if rank in (by_k_means, facility_location) else [({"first": 9}, "0..3")]),
        ({"known": [4]}, "outside 0..3"),
        ({"known": [0, 1, 2, 3]}, "ranked already"),
    ):
        with pytest.raises(TrainingError, match=what):
            rank(rows, **options)  # type: ignore[operator]
    with pytest.raises(TrainingError, match="not finite"):
        rank(rows * np.nan)  # type: ignore[operator]
