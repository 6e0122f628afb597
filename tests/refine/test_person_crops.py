"""Crops around labelled people: as the expert cuts them, and labels that move with the picture."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core.skeletons import skeleton
from dataengine.core.types import Float, LabelledFrame
from dataengine.experts import movenet
from dataengine.refine.movenet import MoveNetStudent
from dataengine.refine.person_crops import Augmentation, CropRule

BODY = skeleton("body13")
COCO = skeleton("coco17")


def labelled(seed: int = 0, layout: str = "body13") -> LabelledFrame:
    """A picture with one person whose joints are white dots on black."""
    rng = np.random.default_rng(seed)
    joints = skeleton(layout).num_joints
    points = rng.uniform((60, 40), (140, 200), (1, joints, 2)).round().astype(np.float32)
    image = np.zeros((240, 200, 3), np.uint8)
    for x, y in points[0].astype(int):
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    low, high = points.min(1), points.max(1)
    room = 0.05 * (high - low)
    return LabelledFrame(
        "a:0", image, points, np.ones((1, joints), np.float32), np.concatenate([low - room, high + room], -1), layout
    )


def test_a_crop_without_augmentation_is_that_of_the_expert() -> None:
    frame, student = labelled(), MoveNetStudent()
    crops = student.rule.cut([frame], None, Augmentation())
    boxes = np.concatenate([frame.boxes, [[1]]], 1)
    batch = movenet.MoveNet(variant="lightning").processing.preprocess(frame.image[None], [boxes])
    assert np.abs(crops.pixels.astype(int) - batch.pixels).mean() < 6  # both shrink or enlarge by their own filter
    affine = batch.affines[0]
    wanted = frame.keypoints[0] @ affine[:, :2].T + affine[:, 2]
    order = COCO.indices(BODY.joints)
    np.testing.assert_allclose(crops.points[0, order], wanted, atol=1e-3)


def test_joints_that_the_labels_lack_by_name_have_no_label() -> None:
    crops = MoveNetStudent().rule.cut([labelled()], None, Augmentation())
    eyes = COCO.indices(("left_eye", "right_eye", "left_ear", "right_ear"))
    assert not crops.weights[0, eyes].any() and np.isnan(crops.points[0, eyes]).all()
    assert (np.delete(crops.weights[0], eyes) == 1).all()


@pytest.mark.parametrize("area", [False, True])
def test_labels_move_with_the_picture_and_sides_are_exchanged_in_mirrored_ones(area: bool) -> None:
    student = MoveNetStudent()
    rule = CropRule(student.rule.affine, (192, 192), area, "coco17")
    wild = Augmentation(scale=(0.7, 2.0), shift=0.2, rotation=180, flip=0.5, colour=0.1)
    frame = labelled(3, "coco17")
    for seed in range(20):
        crops = rule.cut([frame], np.random.default_rng(seed), wild)
        again = rule.cut([frame], np.random.default_rng(seed), wild)
        np.testing.assert_array_equal(crops.pixels, again.pixels)
        for (x, y), weight in zip(crops.points[0], crops.weights[0]):
            assert (weight > 0) == bool(np.isfinite(x))
            if weight > 0 and 3 < x < 188 and 3 < y < 188:
                assert crops.pixels[0, round(float(y)), round(float(x))].min() > 60


def chirality(points: Float) -> float:
    """The sign of the turn from nose to left to right shoulder."""
    nose, left, right = points[COCO.indices(("nose", "left_shoulder", "right_shoulder"))]
    a, b = left - nose, right - nose
    return float(np.sign(a[0] * b[1] - a[1] * b[0]))


def test_mirroring_keeps_bodies_possible() -> None:
    """A mirrored body whose sides are named anew turns the same way as the body before."""
    frame = labelled(5, "coco17")
    rule = MoveNetStudent().rule
    before = rule.cut([frame], None, Augmentation()).points[0]
    for flip in (0.0, 1.0):
        still = Augmentation(scale=(1.0, 1.0), shift=0.0, rotation=0.0, flip=flip)
        after = rule.cut([frame], np.random.default_rng(0), still).points[0]
        assert chirality(after) == chirality(before)
        if flip:
            np.testing.assert_allclose(after[list(COCO.flip), 0], 191 - before[:, 0], atol=1e-3)


def test_nobody_is_no_crop() -> None:
    frame = labelled()
    empty = LabelledFrame("a:1", frame.image, frame.keypoints[:0], frame.scores[:0], frame.boxes[:0], "body13")
    lonely = LabelledFrame("a:2", frame.image, frame.keypoints, 0 * frame.scores, frame.boxes, "body13")
    crops = MoveNetStudent().rule.cut([empty, lonely], None, Augmentation())
    assert len(crops) == 0 and crops.pixels.shape == (0, 192, 192, 3) and crops.points.shape == (0, 17, 2)
