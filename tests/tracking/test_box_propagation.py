"""Boxes between detections: they do not shrink onto a part of the body; detections are joined with the last pose."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core.errors import ComponentError
from dataengine.core.types import Float, Poses
from dataengine.tracking import next_boxes
from tests.support.bodies import BODY

LEGS = [9, 10, 11, 12]


def body(x: float, y: float = 100.0, size: float = 20.0) -> Float:
    return np.asarray(BODY * size + [x, y])


def poses(*people: Float, unsure: tuple[int, ...] = (), score: float = 0.8) -> Poses:
    """People in the common layout, joints of some numbers with a low score."""
    coords = np.stack(people).astype(np.float32)
    scores = np.full(coords.shape[:2], score, np.float32)
    scores[:, list(unsure)] = 0.1
    return Poses(coords, scores, np.concatenate([coords.min(1), coords.max(1), scores[:, :1]], 1))


def around(joints: Float, room: float = 0.12, score: float = 0.9) -> Float:
    """(1, 5) the box around joints with room on each side."""
    low, high = joints.min(0), joints.max(0)
    pad = room * (high - low).max()
    return np.concatenate([low - pad, high + pad, [score]])[None].astype(np.float32)


def test_a_box_does_not_shrink_onto_the_chest() -> None:
    """A network that sees of the legs only what the box shows: from one unsure frame the box must recover."""

    def seen(boxes: Float, t: int) -> Poses:
        joints = body(100)
        inside = (joints[:, 1] < boxes[0, 3]) & (t != 3)
        return poses(joints, unsure=tuple(n for n in LEGS if not inside[n]))

    first = boxes = around(body(100))
    before = None
    for t in range(8):
        here = seen(boxes, t)
        boxes, before = next_boxes(here, boxes, before), here
    np.testing.assert_allclose(boxes, first, atol=2)
    height = np.ptp(first[0, [1, 3]])
    shorter = next_boxes(poses(body(100), unsure=tuple(LEGS)), first)
    assert 0 < first[0, 3] - shorter[0, 3] <= 0.021 * height
    assert np.ptp(next_boxes(poses(body(100)), around(body(100), 0.0))[0, [1, 3]]) > 1.1 * np.ptp(body(100)[:, 1])


def test_a_box_keeps_its_size_while_it_moves() -> None:
    first = boxes = around(body(100))
    before = None
    for t in range(12):
        here = poses(body(100 + 9 * t), unsure=tuple(LEGS) if t % 4 == 2 else ())
        boxes, before = next_boxes(here, boxes, before), here
        assert (boxes[0, 0] <= here.coords[0, :, 0].min()) and (boxes[0, 2] >= here.coords[0, :, 0].max())
    assert np.ptp(boxes[0, [0, 2]]) == pytest.approx(np.ptp(first[0, [0, 2]]), abs=2)
    assert boxes[0, 0] == pytest.approx(first[0, 0] + 9 * 12, abs=10)


def test_a_detection_is_joined_with_the_last_pose_within_bounds() -> None:
    joints = body(100)
    old = around(joints)
    low, high = joints.min(0), joints.max(0)
    cut = np.array([[low[0] - 2, low[1] - 2, high[0] + 2, high[1] - 15, 0.6]], np.float32)
    found = next_boxes(poses(joints), old, None, cut)
    assert found.shape == (1, 5)
    assert found[0, 4] == np.float32(0.6)
    assert found[0, 3] > high[1]
    reach = joints.copy()
    reach[5] += [0, -300]
    bounded = next_boxes(poses(reach), old, None, cut)
    assert cut[0, 1] - bounded[0, 1] <= 0.25 * np.ptp(cut[0, [1, 3]]) + 1e-3
    far = cut + np.array([500, 0, 500, 0, 0], np.float32)
    both = next_boxes(poses(joints), old, None, far)
    np.testing.assert_array_equal(both[0], far[0])
    assert len(both) == 2
    np.testing.assert_array_equal(next_boxes(Poses.empty(13), np.zeros((0, 5)), None, cut), cut)


def test_a_sure_person_outlives_a_missed_detection_or_two() -> None:
    nobody = np.zeros((0, 5), np.float32)
    here, boxes = poses(body(100)), around(body(100), score=0.6)
    scores = []
    for _ in range(4):
        boxes = next_boxes(here, boxes, None, nobody)
        scores += boxes[:, 4].tolist()
    np.testing.assert_allclose(scores, [0.3, 0.15])
    assert next_boxes(poses(body(100), score=0.1), around(body(100)), None, nobody).shape == (0, 5)
    mostly = poses(body(100), unsure=tuple(range(5, 13)))
    assert next_boxes(mostly, around(body(100)), None, nobody).shape == (0, 5)


def test_a_second_box_of_the_same_person_goes_at_once() -> None:
    whole = around(body(100))
    chest = around(body(100)[:7], 0.05, score=0.95)
    (one,) = next_boxes(poses(body(100)), np.concatenate([chest, whole]))
    assert one[4] == np.float32(0.9)
    beside = around(body(170), score=0.8)
    assert len(next_boxes(poses(body(100)), np.concatenate([whole, beside]))) == 2


def test_two_people_keep_their_boxes_in_any_order() -> None:
    a, b = body(100), body(160, 115)
    boxes, found = np.concatenate([around(a), around(b)]), np.concatenate([around(b, 0.1), around(a, 0.1)])
    one = next_boxes(poses(a, b), boxes, None, found)
    other = next_boxes(poses(b, a), boxes[::-1], None, found)
    np.testing.assert_array_equal(one, other)
    assert len(one) == 2


def test_detected_boxes_of_another_shape_are_refused() -> None:
    with pytest.raises(ComponentError, match=r"boxes \(M, 4 or 5\)"):
        next_boxes(Poses.empty(13), np.zeros((0, 5)), None, np.zeros(5))
