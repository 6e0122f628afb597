"""Square crops: where they lie, what they show, and the way back to the frame."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core.errors import ExpertError
from dataengine.core.skeletons import skeleton
from dataengine.core.types import Float, Frames
from dataengine.experts.square_crops import SquareCropProcessing, crop_square, squares_around

JOINTS = 17


def processing(padding: float = 1.0, size: int = 32, **options: float) -> SquareCropProcessing:
    given = {"min_score": 0.0, "min_mean": 0.0} | options
    return SquareCropProcessing("Test", size, "coco17", padding=padding, **given)


def answer(at: Float, score: float = 0.9) -> Float:
    """Every joint at the same place (2,) of a crop."""
    return np.concatenate([np.tile(at, (JOINTS, 1)), np.full((JOINTS, 1), score)], 1).astype(np.float32)


def test_squares_lie_around_the_middle_and_hold_the_longer_side() -> None:
    boxes = np.array([[10, 20, 50, 100, 1.0], [0, 0, 1.2, 1.3, 1.0]])
    assert squares_around(boxes, 1.0).tolist() == [[-10, 20, 80], [0, 0, 2]]
    assert squares_around(boxes[:1], 1.6).tolist() == [[-34, -4, 128]]
    assert squares_around(np.zeros((0, 5)), 1.0).shape == (0, 3)


def area_means(frame: Frames, left: int, top: int, side: int, size: int) -> Float:
    """A crop by loops: every pixel is the mean over its area of the frame; black outside."""
    height, width = frame.shape[:2]
    padded = np.zeros((side, side, 3))
    for y in range(side):
        for x in range(side):
            if 0 <= top + y < height and 0 <= left + x < width:
                padded[y, x] = frame[top + y, left + x]
    share = np.zeros((size, side))
    for n in range(size):
        for x in range(side):
            share[n, x] = max(0.0, min((n + 1) * side / size, x + 1) - max(n * side / size, x)) * size / side
    return np.asarray(np.einsum("ny,mx,yxc->nmc", share, share, padded))


@pytest.mark.parametrize(("left", "top", "side"), [(3, 2, 40), (-9, 5, 45), (20, 20, 50), (-7, -8, 96), (100, 0, 40)])
def test_a_crop_that_shrinks_shows_area_means_and_black_outside(left: int, top: int, side: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    out = np.full((32, 32, 3), 7, np.uint8)
    crop_square(frame, left, top, side, out)
    np.testing.assert_allclose(out, area_means(frame, left, top, side, 32), atol=0.51 + 1e-3)


def test_a_point_of_the_frame_comes_back() -> None:
    """A bright pixel of a frame is found at its own coordinates, whatever the crop: the first pixel lies at (0, 0)."""
    boxes = [np.array([box]) for box in ([5.0, 8, 45, 60, 1], [30.4, 2.2, 70.1, 33, 1], [0, 0, 80, 64, 1])]
    for padding in (1.0, 1.6):
        for x, y in ((37, 20), (33, 9)):
            frames = np.zeros((3, 64, 80, 3), np.uint8)
            frames[:, y, x] = 255
            made = processing(padding, 128)
            batch = made.preprocess(frames, boxes)
            answers = []
            for image in batch.pixels.astype(float).sum(-1):
                rows, columns = np.mgrid[:128, :128] + 0.5
                answers.append(answer(np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()))
            poses = made.postprocess(answers, batch)
            assert [len(pose) for pose in poses] == [1, 1, 1]
            for pose in poses:
                np.testing.assert_allclose(pose.coords, np.broadcast_to([x, y], pose.coords.shape), atol=0.1)


def test_the_affine_map_agrees_with_the_way_back() -> None:
    made = processing(1.3, 48)
    frames = np.zeros((1, 90, 120, 3), np.uint8)
    batch = made.preprocess(frames, [np.array([[20, 30, 81, 70, 0.5], [5, 5, 30, 80, 0.5]])])
    at = np.array([13.25, 40.5])
    poses = made.postprocess([answer(at), answer(at)], batch)[0]
    for n in range(2):
        np.testing.assert_allclose(poses.coords[n, 0], batch.to_frame(n, at - 0.5), rtol=1e-6)
    np.testing.assert_array_equal(poses.boxes, batch.boxes.astype(np.float32))


def test_people_stay_in_their_frames_and_weak_ones_go() -> None:
    made = processing(min_mean=0.3, min_score=0.2)
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    box = np.array([10.0, 10, 50, 50, 1])
    batch = made.preprocess(frames, [box[None], np.zeros((0, 5)), np.stack([box, box + [1, 0, 1, 0, 0]]), box[None]])
    answers = [answer(np.full(2, 10.0 + n), score) for n, score in enumerate((0.9, 0.25, 0.8, 0.1))]
    poses = made.postprocess(answers, batch)
    assert [len(pose) for pose in poses] == [1, 0, 1, 0]
    assert poses[2].scores[0, 0] == np.float32(0.8)
    assert made.postprocess([], made.preprocess(frames[:0], [])) == []


def test_the_same_person_in_two_boxes_is_one_person() -> None:
    made = processing()
    boxes = np.array([[10.0, 10, 50, 50, 0.9], [11, 10, 51, 52, 0.8]])
    batch = made.preprocess(np.zeros((1, 64, 64, 3), np.uint8), [boxes])
    spread = np.random.default_rng(0).uniform(4, 28, (JOINTS, 2))
    same = np.concatenate([spread, np.full((JOINTS, 1), 0.9)], 1)
    (pose,) = made.postprocess([same, same], batch)
    assert pose.boxes[:, 4].tolist() == [np.float32(0.9)]


def test_the_face_does_not_count_for_the_mean() -> None:
    """A person seen from behind has no face: trunk and limbs decide whether there is a person."""
    made = processing(min_mean=0.5)
    batch = made.preprocess(np.zeros((1, 64, 64, 3), np.uint8), [np.array([[10.0, 10, 50, 50, 1]])])
    behind = answer(np.full(2, 16.0), 0.6)
    behind[:5, 2] = 0.0
    (pose,) = made.postprocess([behind], batch)
    assert len(pose) == 1
    assert np.isnan(pose.coords[0, :5]).all()
    only_face = answer(np.full(2, 16.0), 0.4)
    only_face[skeleton("coco17").index("nose"), 2] = 1.0
    assert len(made.postprocess([only_face], batch)[0]) == 0


def test_boxes_are_needed() -> None:
    with pytest.raises(ExpertError, match="Test needs one array of person boxes per frame"):
        processing().preprocess(np.zeros((2, 8, 8, 3), np.uint8), None)
