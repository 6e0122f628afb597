"""Labelled pictures as the network of anchor poses takes them: one size, people's boxes and joints, augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dataengine.core.skeletons import convert
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Int, LabelledFrame
from dataengine.experts.anchor_classes import MIN_JOINTS, classify, normalise
from dataengine.experts.anchor_pose import MEAN_COLOUR
from dataengine.experts.preprocess import letterbox, warp

LEAST_SIDE = 2.0
"""Pixels; smaller people are not learned."""


@dataclass(frozen=True)
class Augmentation:
    """How pictures are changed.

    Attributes:
        flip: mirror half of the pictures. share: of pictures that are scaled, shifted, covered, blurred, recoloured.
    """

    flip: bool
    share: float


@dataclass(frozen=True)
class Labelled:
    """One picture with its people.

    Attributes:
        image: (h, w, 3) uint8. boxes: (M, 4) float32 xyxy pixels within the image.
        keypoints: (M, V, 2) float64 pixels, NaN where unknown.
    """

    image: np.ndarray
    boxes: Float
    keypoints: Float


def label(
    frame: LabelledFrame,
    size: tuple[int, int],
    skeleton: str,
    augmentation: Augmentation | None,
    rng: np.random.Generator,
) -> Labelled:
    """A picture of `size` (width, height) with its people in the layout `skeleton`; nothing is drawn without
    augmentation. Joints outside of the image are unknown; people with less than `MIN_JOINTS` known joints go."""
    batch = letterbox(frame.image[None], size, False, MEAN_COLOUR)
    image, move = np.asarray(batch.pixels)[0], batch.affines[0]
    points: Float = np.asarray(convert(frame.keypoints, frame.scores, frame.skeleton, skeleton)[0], np.float64)
    points, boxes = _moved(points, move), _moved(frame.boxes.reshape(-1, 2, 2), move)
    if augmentation is not None:
        image, points, boxes = _augment(image, points, boxes, skeleton, augmentation, rng)
    limit = np.array(size, np.float64)
    with np.errstate(invalid="ignore"):
        inside = np.asarray(((points > -1) & (points < limit + 1)).all(-1))
    points = np.where(inside[..., None], points, np.nan)
    corners = np.clip(np.sort(boxes, 1), 0, limit).reshape(-1, 4)
    large = (corners[:, 2:] - corners[:, :2] >= LEAST_SIDE).all(-1) & (inside.sum(-1) >= MIN_JOINTS)
    return Labelled(image, corners[large].astype(np.float32), points[large])


def classes_of(keypoints: Float, regions: Float, boxes: Float, anchors: Float) -> tuple[Float, Int]:
    """Joints (R, V, 2) in lengths of `regions` (R, 4), float32, and the nearest anchors of the joints in lengths of
    `boxes`. The class is -1 where a person has too few joints.
    """
    relative = normalise(keypoints, np.asarray(regions, np.float64)).astype(np.float32)
    return relative, classify(normalise(keypoints, np.asarray(boxes, np.float64)), anchors)


def _moved(points: Float, affine: Float) -> Float:
    return np.asarray(points @ affine[:, :2].T + affine[:, 2])


def _augment(
    image: np.ndarray, points: Float, boxes: Float, skeleton: str, how: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, Float, Float]:
    height, width = image.shape[:2]
    affine = np.eye(2, 3)
    changed = rng.random() < how.share
    if changed:
        scale = np.exp(rng.normal(0, 0.15))
        middle = np.array([width, height]) / 2
        shift = rng.normal(0, 0.06, 2) * (width, height)
        affine = np.concatenate([scale * np.eye(2), (middle - scale * middle + shift)[:, None]], 1)
    if how.flip and rng.random() < 0.5:
        affine = np.array([[-1.0, 0, width - 1], [0, 1, 0]]) @ np.vstack([affine, [0, 0, 1]])
        points = points[:, list(layout_of(skeleton).flip)]
    if (affine != np.eye(2, 3)).any():
        image = np.array(warp(image, affine, (width, height), MEAN_COLOUR))
        points, boxes = _moved(points, affine), _moved(boxes, affine)
    return (_degrade(np.array(image), boxes, rng) if changed else image), points, boxes


def _degrade(image: np.ndarray, boxes: Float, rng: np.random.Generator) -> np.ndarray:
    """Boxes before people, fewer pixels, other light, noise: each with some probability."""
    height, width = image.shape[:2]
    if len(boxes) and rng.random() < 0.5:
        low, high = boxes[rng.integers(len(boxes))]
        low, high = np.minimum(low, high), np.maximum(low, high)
        for _ in range(int(rng.integers(1, 4))):
            half = (high - low).max() * rng.uniform(0.05, 0.2, 2)
            at = rng.uniform(low, np.maximum(high, low + 1))
            corners = np.clip([at - half, at + half], -4096, 4096).astype(int)
            paint = rng.integers(0, 255, 3).tolist()
            cv2.rectangle(image, tuple(corners[0].tolist()), tuple(corners[1].tolist()), paint, -1)
    if rng.random() < 0.3:
        small = rng.uniform(0.35, 0.8)
        less = cv2.resize(
            image, (max(1, int(width * small)), max(1, int(height * small))), interpolation=cv2.INTER_AREA
        )
        image = np.asarray(cv2.resize(less, (width, height)))
    if rng.random() < 0.5:
        ramp = np.arange(256)[:, None] * rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3) + rng.uniform(-20, 20)
        image = np.asarray(cv2.LUT(image, np.clip(ramp, 0, 255).astype(np.uint8)[:, None]))
    if rng.random() < 0.3:
        noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(2, 15)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image
