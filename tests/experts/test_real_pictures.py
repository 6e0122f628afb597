"""The published networks on annotated pictures, in the annotated boxes.

A wrong joint order, colour order, crop or scale shows at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataengine import experts
from dataengine.core.skeletons import BODY12, convert, skeleton
from dataengine.core.types import Float, Frames
from dataengine.io import weights

SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
"""Spread of annotated joints over the square root of a person's area (COCO)."""


def people(folder: Path) -> Iterator[tuple[Frames, Float, Float, float]]:
    """Picture, box (5,), joints (17, 3) and area of every annotated person."""
    given = json.loads((folder / "test_coco.json").read_text())
    names = {image["id"]: image["file_name"] for image in given["images"]}
    for person in given["annotations"]:
        if person["num_keypoints"]:
            picture = np.ascontiguousarray(cv2.imread(str(folder / names[person["image_id"]]))[..., ::-1])
            x, y, w, h = person["bbox"]
            joints = np.reshape(person["keypoints"], (-1, 3)).astype(np.float64)
            yield picture, np.array([x, y, x + w, y + h, 1.0]), joints, float(person["area"])


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("movenet", {"variant": "thunder"}, 0.78),
        ("movenet", {"variant": "lightning"}, 0.72),
        ("efficientpose", {}, 0.7),
    ],
)
def test_people_of_pictures_are_found(name: str, options: dict[str, str], least: float, shared_data: Path) -> None:
    """Mean object keypoint similarity over trunk and limbs."""
    expert = experts.create(name, min_mean=0.0, **options)
    if not all(weights.present(file) for file in expert.needs()):
        pytest.skip(f"weights of {name} are not here")
    body, found = skeleton("coco17").indices(BODY12), []
    with expert.load() as session:
        for picture, box, joints, area in people(shared_data / "keypoints2d" / "coco"):
            (poses,) = session.predict(picture[None], [box[None]])
            coords, _ = convert(poses.coords[0], poses.scores[0], expert.skeleton, "coco17")
            away = np.nan_to_num(np.linalg.norm(coords - joints[:, :2], axis=-1), nan=1e9)
            alike = np.exp(-(away**2) / (2 * area * (2 * SIGMAS) ** 2))
            counted = [j for j in body if joints[j, 2] > 0]
            found += [alike[counted].mean()] if counted else []
    assert len(found) >= 10
    assert np.mean(found) >= least, np.mean(found)
