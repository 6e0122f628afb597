"""Annotated pictures that the user gives to the gate, in COCO's keypoint format, and scores of poses against them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dataengine.core.errors import RecipeError
from dataengine.core.skeletons import COMMON, all_finite, convert
from dataengine.core.types import Float
from dataengine.filters.body import length
from dataengine.refine.measures import HEAD_OF_BOX, NEAR

JOINTS = 17
SIGMAS = np.array([0.026, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089])
"""Per-joint standard deviations of COCO over the square root of the area of the person, in the order of body13."""
FILLED = 0.53
"""Share of its box that a person fills about, where an annotation has no area."""


@dataclass(frozen=True)
class Picture:
    """One annotated picture.

    Attributes:
        joints: (P, 13, 2) float32 pixels in the common layout, NaN where not annotated.
        boxes: (P, 4) float32 xyxy. areas: (P,) float64 square pixels.
    """

    path: Path
    joints: Float
    boxes: Float
    areas: Float

    def image(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB.

        Raises:
            RecipeError: the file is no picture.
        """
        import cv2

        found = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if found is None:
            raise RecipeError(f"[refine.gate] {self.path} is no picture that can be read")
        image: NDArray[np.uint8] = cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
        return image


class AnnotatedPictures:
    """Reads annotations."""

    @staticmethod
    def read(truth: str, folder: str | None = None) -> list[Picture]:
        """The pictures with annotated people, in the order of their names.

        Args:
            truth: JSON with `images` (id, file_name) and `annotations` (image_id, bbox, 17 keypoints).
            folder: of the pictures; default: that of the file.

        Raises:
            RecipeError: the file cannot be read, is of another form, or a picture is not there or is none.
        """
        import cv2

        path = Path(truth)
        where = f"[refine.gate] truth = {truth!r}"
        try:
            content = json.loads(path.read_bytes())
            files = {image["id"]: str(image["file_name"]) for image in content["images"]}
            people: dict[Any, list[tuple[Float, Float, float]]] = {}
            for annotation in content["annotations"]:
                found = _person(annotation)
                if found is not None:
                    people.setdefault(annotation["image_id"], []).append(found)
            rows = sorted((files[image], mine) for image, mine in people.items())
        except OSError as error:
            raise RecipeError(f"{where} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise RecipeError(
                f"{where} is not in COCO's keypoint format ({type(error).__name__}: {' '.join(str(error).split())}); "
                "it has images (id, file_name) and annotations (image_id, bbox, 17 x 3 keypoints)"
            ) from error
        if not rows:
            raise RecipeError(f"{where} annotates nobody with at least one joint")
        root = (path.parent if folder is None else Path(folder)).resolve()
        pictures = []
        for name, mine in rows:
            if "\0" in name:
                raise RecipeError(f"{where} names {name!r}, which is no name of a file")
            file = (root / name).resolve()
            if not file.is_relative_to(root):
                raise RecipeError(f"{where} names {name!r}, which lies outside of {root}")
            if not file.is_file():
                raise RecipeError(f"{where}: {file} is missing; give its folder as pictures")
            if not cv2.haveImageReader(str(file)):
                raise RecipeError(f"{where}: {file} is no picture that can be read")
            joints, boxes, areas = zip(*mine)
            pictures.append(Picture(file, np.stack(joints), np.stack(boxes), np.array(areas, np.float64)))
        return pictures


def _person(annotation: Mapping[str, Any]) -> tuple[Float, Float, float] | None:
    """Joints (13, 2), box (4,) and area of an annotation; None where no joint, or a crowd, is annotated."""
    points = np.array(annotation["keypoints"], np.float32).reshape(JOINTS, 3)
    if annotation.get("iscrowd") or not (points[:, 2] > 0).any():
        return None
    coco = np.where(points[:, 2:] > 0, points[:, :2], np.nan)
    joints, _ = convert(coco, None, "coco17", COMMON)
    x, y, width, height = (float(value) for value in annotation["bbox"])
    if not (np.isfinite(joints).any() and width > 0 and height > 0):
        return None
    area = float(annotation.get("area") or FILLED * width * height)
    return joints, np.array([x, y, x + width, y + height], np.float32), area


def scores_of(picture: Picture, poses: Float) -> tuple[Float, Float]:
    """How near found people are to the annotated ones of a picture.

    Each annotated person is compared with the found one that is most similar, each found one with one of them.

    Args:
        poses: (M, 13, 2) float32 pixels, NaN where missing.

    Returns:
        OKS (P,) as COCO defines it, over the annotated joints, and the share (P,) of the annotated joints within half
        a head-neck length (a tenth of the box's diagonal where the head is not annotated); both 0 for nobody.
    """
    count = len(picture.joints)
    oks, pckh = np.zeros(count), np.zeros(count)
    if not len(poses):
        return oks, pckh
    known = all_finite(picture.joints)
    with np.errstate(invalid="ignore"):
        away = length(picture.joints[:, None].astype(np.float64) - poses[None])  # (P, M, 13)
    spread = 2 * (2 * SIGMAS) ** 2 * picture.areas[:, None, None]
    similar = np.where(np.isfinite(away), np.exp(-(np.where(np.isfinite(away), away, 0) ** 2) / spread), 0)
    each = (similar * known[:, None]).sum(-1) / known.sum(-1)[:, None]
    heads = _heads(picture)
    with np.errstate(invalid="ignore"):
        right = (away <= NEAR * heads[:, None, None]) & known[:, None]
    for person, found in zip(*linear_sum_assignment(-each)):
        oks[person] = each[person, found]
        pckh[person] = right[person, found].sum() / known[person].sum()
    return oks, pckh


def _heads(picture: Picture) -> Float:
    """(P,) head-neck lengths in pixels."""
    neck = picture.joints[:, 1:3].mean(1)
    found = length(picture.joints[:, 0] - neck)
    diagonal = length(picture.boxes[:, 2:] - picture.boxes[:, :2])
    lengths: Float = np.where(np.isfinite(found) & (found > 0), found, HEAD_OF_BOX * diagonal)
    return lengths
