"""Annotated pictures: read as COCO has them, mistakes in one line, and scores that mean what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dataengine.core.errors import RecipeError
from dataengine.core.skeletons import COMMON, convert
from dataengine.refine.truth import AnnotatedPictures, scores_of

BODY = np.array(
    [
        [50, 10], [52, 8], [48, 8], [54, 9], [46, 9], [60, 30], [40, 30], [65, 50], [35, 50], [66, 68], [34, 68],
        [56, 70], [44, 70], [56, 95], [44, 95], [56, 120], [44, 120],
    ],
    np.float64,
)  # fmt: skip
"""(17, 2) a standing person in COCO's order."""


def annotation(image: int, shift: float = 0.0, hidden: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
    points = np.concatenate([BODY + shift, np.full((17, 1), 2.0)], 1)
    points[list(hidden)] = 0
    box = [30.0 + shift, 5.0 + shift, 40.0, 120.0]
    return {"image_id": image, "bbox": box, "keypoints": points.ravel().tolist(), "area": 2500.0} | more


def write(folder: Path, annotations: list[dict[str, Any]], names: tuple[str, ...] = ("b.png", "a.png")) -> Path:
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((160, 120, 3), np.uint8))
    content = {"images": [{"id": n, "file_name": name} for n, name in enumerate(names)], "annotations": annotations}
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


def test_people_are_read_picture_by_picture(tmp_path: Path) -> None:
    people = [annotation(0), annotation(1, 5.0, (9,)), annotation(1, 20.0), annotation(0, iscrowd=1)]
    pictures = AnnotatedPictures.read(str(write(tmp_path, people)))
    assert [(picture.path.name, len(picture.joints)) for picture in pictures] == [("a.png", 2), ("b.png", 1)]
    joints, _ = convert(BODY[None].astype(np.float32), None, "coco17", COMMON)
    assert np.array_equal(pictures[1].joints, joints) and pictures[1].image().shape == (160, 120, 3)
    assert np.isnan(pictures[0].joints[0]).any(-1).sum() == 1 and pictures[0].boxes[1].tolist() == [50, 25, 90, 145]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "not in COCO's keypoint format"),
        ("no json", "not in COCO's keypoint format"),
        ('{"images": [], "annotations": []}', "annotates nobody"),
        ('{"images": [{"id": 1, "file_name": "../x.png"}], "annotations": [ONE]}', "lies outside of"),
        ('{"images": [{"id": 1, "file_name": "x.png"}], "annotations": [ONE]}', "x.png is missing"),
        ('{"images": [{"id": 2, "file_name": "x.png"}], "annotations": [ONE]}', "not in COCO's keypoint format"),
        ('{"images": [{"id": 1, "file_name": "x.png"}], "annotations": [{"image_id": 1}]}', "not in COCO's"),
        ('{"images": [{"id": 1, "file_name": "x\\u0000.png"}], "annotations": [ONE]}', "no name of a file"),
        ('{"images": [{"id": 1, "file_name": "truth.json"}], "annotations": [ONE]}', "is no picture"),
        ("[" * 100_000, "not in COCO's keypoint format"),
    ],
)
def test_mistakes_are_one_line(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(content.replace("ONE", json.dumps(annotation(1))))
    with pytest.raises(RecipeError, match=told) as caught:
        AnnotatedPictures.read(str(tmp_path / "truth.json"))
    assert "\n" not in str(caught.value) and "[refine.gate] truth" in str(caught.value)


def test_scores_of_right_near_swapped_and_absent_people(tmp_path: Path) -> None:
    (picture,) = AnnotatedPictures.read(str(write(tmp_path, [annotation(0), annotation(0, 40.0)], ("a.png",))))
    right = picture.joints
    for oks, share in (scores_of(picture, right), scores_of(picture, right[::-1])):
        assert oks.tolist() == [1, 1] and share.tolist() == [1, 1]
    oks, share = scores_of(picture, right[1:])
    assert oks.tolist() == pytest.approx([0, 1], abs=1e-9) and share.tolist() == [0, 1]
    near, near_share = scores_of(picture, right + 2)
    far, far_share = scores_of(picture, right + 12)
    assert (far < near).all() and (near < 1).all() and (far_share < 1).all() and near_share.tolist() == [1, 1]
    nobody = scores_of(picture, right[:0])
    assert nobody[0].tolist() == nobody[1].tolist() == [0, 0]
    lacking = right.copy()
    lacking[:, :6] = np.nan
    assert scores_of(picture, lacking)[0].tolist() == pytest.approx([7 / 13] * 2)


def test_similarity_is_that_of_coco(tmp_path: Path) -> None:
    """exp(-d^2 / (2 s^2 k^2)) with k = 2 sigma and s^2 the area, of one joint that is off."""
    (picture,) = AnnotatedPictures.read(str(write(tmp_path, [annotation(0)], ("a.png",))))
    moved = picture.joints.copy()
    moved[0, 1] += (3.0, 4.0)  # a shoulder, sigma 0.079
    expected = (12 + np.exp(-25 / (2 * 2500 * (2 * 0.079) ** 2))) / 13
    assert scores_of(picture, moved)[0][0] == pytest.approx(expected, rel=1e-5)
