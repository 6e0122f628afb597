"""Regions, tiles and merging of the people that MediaPipe's networks find."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.experts.isolation.workers.people import (
    BODY,
    Person,
    body_score,
    covered,
    finish,
    merge,
    region,
    similarity,
    tiles,
)


def person(
    x: float = 100.0, y: float = 100.0, size: float = 50.0, score: float = 0.9, upside_down: bool = False
) -> Person:
    """A standing body whose trunk's middle is (x, y) and whose trunk is `size` long."""
    landmarks = np.ones((33, 4))
    down = -1 if upside_down else 1
    heights = [-0.5, -0.5, 0, 0, 0.5, 0.5, 0.5, 0.5, 1.3, 1.3, 2.0, 2.0]
    landmarks[:, :2] = x, y - down * size
    for joint, height, side in zip(BODY, heights, [1, -1] * 6, strict=True):
        landmarks[joint, :2] = x + side * 0.3 * size, y + down * height * size
    landmarks[:, 2] = score
    hips = np.array([x, y + down * size / 2])
    return Person(landmarks, region(hips, hips - [0, down * 2 * size]), score)


@pytest.mark.parametrize(
    ("rim", "turn"),
    [((10.0, -10.0), 0.0), ((30.0, 10.0), np.pi / 2), ((-10.0, 10.0), -np.pi / 2), ((10.0, 30.0), -np.pi)],
)
def test_a_region_turns_with_the_body(rim: tuple[float, float], turn: float) -> None:
    np.testing.assert_allclose(region(np.array([10.0, 10.0]), np.array(rim)), [10, 10, 50, turn], atol=1e-12)


@pytest.mark.parametrize(
    ("height", "width", "num"), [(256, 340, 1), (1080, 1920, 1), (1920, 1080, 2), (7, 300, 1), (100, 100, 3)]
)
def test_tiles_cover_the_picture_and_overlap_by_half(height: int, width: int, num: int) -> None:
    seen = np.zeros((height, width), int)
    for x, y, side in tiles(height, width, num):
        assert min(x, y) >= 0 and x + side <= max(width, side) and y + side <= max(height, side)
        seen[y : y + side, x : x + side] += 1
    assert seen.min() == 1
    assert len(tiles(height, width, num)) <= 15 * (2 * num - 1)
    middle = seen[height // 2 if num > 1 else 0] if width > height else seen[:, width // 2 if num > 1 else 0]
    assert np.median(middle[len(middle) // 4 : -len(middle) // 4]) >= 2


@pytest.mark.parametrize(("height", "width", "num"), [(256, 340, 0), (200, 200, 1)])
def test_no_tiles_where_they_add_nothing(height: int, width: int, num: int) -> None:
    assert tiles(height, width, num) == []


def test_covered_regions() -> None:
    place = np.array([100.0, 100.0, 50.0, 0.0])
    assert covered(place, [place + [5, 0, 10, 1]])
    assert not covered(place, [place + [15, 0, 0, 0], place + [0, 0, 60, 0]])
    assert not covered(place, [])


def test_similarity_is_one_for_itself_and_falls_with_distance() -> None:
    a = person()
    values = [similarity(a.landmarks, person(x=100.0 + d).landmarks) for d in (0, 5, 20, 100)]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.01


def test_merging_keeps_everybody_once_best_first() -> None:
    first, again, second = person(score=0.8), person(x=102, score=0.9), person(x=200, score=0.7)
    assert merge([first, again, second], 4) == [again, second]
    assert merge([second, first, again], 1) == [again]
    assert merge([], 4) == []


def test_of_one_trunk_the_upright_body_stays() -> None:
    upright, fallen = person(score=0.5), person(score=0.9, upside_down=True)
    assert merge([fallen, upright], 4) == [upright]
    acrobat = person(x=300, score=0.6, upside_down=True)
    assert merge([upright, acrobat], 4) == [acrobat, upright]


def test_only_joints_inside_the_picture_count() -> None:
    landmarks = person(score=0.8).landmarks
    assert body_score(landmarks, 1000, 1000) == pytest.approx(0.8)
    assert body_score(landmarks, 101, 1000) == pytest.approx(0.8 * 4 / 12)  # shoulders and elbows


def test_finished_poses_have_no_joints_far_outside_and_boxes_inside() -> None:
    one = person()
    one.landmarks[[25, 26], :2] = [[-500, 100], [np.inf, 0]]
    one.landmarks[27, 2] = 0.001
    coords, scores, boxes = finish([one, person(x=-3.0)], 150, 210)
    assert [a.dtype for a in (coords, scores, boxes)] == [np.float32] * 3
    np.testing.assert_array_equal(np.isnan(coords).all(-1), scores == 0)
    assert (scores[0, [25, 26, 27]] == 0).all() and (scores[0, [11, 12]] > 0).all()
    assert (np.nanmax(coords, axis=(0, 1)) <= [231, 171]).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:4] <= [210, 150]).all() and (boxes[:, 2:4] > boxes[:, :2]).all()
    assert [a.shape for a in finish([], 10, 10)] == [(0, 33, 2), (0, 33), (0, 5)]
