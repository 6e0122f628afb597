"""Crops around labelled people, for students that look at one person at a time.

A crop is that of the expert that the student becomes: its map from a box to the picture of the network. For training
the crop is moved, scaled, turned, mirrored and recoloured at random, and the labels with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dataengine.core.skeletons import skeleton
from dataengine.core.types import Bool, Float, Frames, LabelledFrame

MOST_PER_SIDE = 4
"""Pixels per side of which a shrunk crop takes the mean."""


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for each crop.

    Attributes:
        scale: least and most factor of the side of the crop, drawn evenly in the logarithm.
        shift: most shift along each axis over the side of the crop.
        rotation: most rotation in degrees to either side; half of the crops are turned.
        flip: share of mirrored crops.
        colour: most change of brightness and of contrast, as a share.
    """

    scale: tuple[float, float] = (0.9, 1.3)
    shift: float = 0.06
    rotation: float = 30.0
    flip: float = 0.5
    colour: float = 0.2


@dataclass(frozen=True)
class PersonCrops:
    """Crops of N people.

    Attributes:
        pixels: (N, h, w, 3) uint8 RGB.
        points: (N, V, 2) float32 pixels of the crop, the centre of the first one at (0, 0); NaN without a label.
        weights: (N, V) float32, scores of the labels; 0 without a label and outside of the crop.
    """

    pixels: Frames
    points: Float
    weights: Float

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class CropRule:
    """How an expert cuts people out.

    Attributes:
        affine: the map (2, 3) from pixels of the frame to those of the crop around a box (4,) xyxy.
        size: width and height of crops.
        area: whether shrinking takes means over areas; else values are interpolated between the nearest pixels.
        layout: name of the network's joints.
    """

    affine: Callable[[Float], Float]
    size: tuple[int, int]
    area: bool
    layout: str

    def cut(
        self, frames: Sequence[LabelledFrame], rng: np.random.Generator | None, augmentation: Augmentation
    ) -> PersonCrops:
        """A crop of every labelled person of the frames.

        Args:
            rng: draws the augmentation; None: none.
        """
        flip = np.array(skeleton(self.layout).flip)
        pixels, points, weights = [], [], []
        for frame, box, labels, scores in people(frames, self.layout):
            affine = self.affine(box.astype(np.float64))
            mirrored = False
            if rng is not None:
                affine, mirrored = self._jittered(affine, rng, augmentation)
            image = self._warp(frame.image, affine)
            found = labels @ affine[:, :2].T + affine[:, 2]
            if mirrored:
                found, scores = found[flip], scores[flip]
            if rng is not None and augmentation.colour:
                image = _recoloured(image, rng, augmentation.colour)
            inside: Bool = np.all((found > -0.5) & (found < np.array(self.size) - 0.5), axis=-1)
            pixels.append(image)
            points.append(np.where(inside[:, None], found, np.nan))
            weights.append(np.where(inside, scores, 0))
        count, joints, (width, height) = len(pixels), len(flip), self.size
        return PersonCrops(
            np.array(pixels, np.uint8).reshape(count, height, width, 3),
            np.array(points, np.float32).reshape(count, joints, 2),
            np.array(weights, np.float32).reshape(count, joints),
        )

    def _jittered(self, affine: Float, rng: np.random.Generator, given: Augmentation) -> tuple[Float, bool]:
        """Another map, turned, scaled and shifted around the middle of the crop, and whether it mirrors."""
        size = np.array(self.size)
        middle = (size - 1) / 2
        scale = np.exp(-rng.uniform(*np.log(given.scale)))
        angle = np.deg2rad(rng.uniform(-given.rotation, given.rotation)) * (rng.random() < 0.5)
        shift = rng.uniform(-given.shift, given.shift, 2) * size
        mirrored = bool(rng.random() < given.flip)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if mirrored:
            turn = np.diag([-1.0, 1.0]) @ turn
        moved = np.concatenate([turn @ affine[:, :2], (turn @ (affine[:, 2] - middle) + middle + shift)[:, None]], 1)
        return moved, mirrored

    def _warp(self, image: Frames, affine: Float) -> Frames:
        shrink = 1 / np.sqrt(abs(np.linalg.det(affine[:, :2])))
        times = int(np.clip(np.ceil(shrink - 0.01), 1, MOST_PER_SIDE)) if self.area else 1
        width, height = self.size
        fine = times * (affine + np.array([[0, 0, 0.5], [0, 0, 0.5]])) - np.array([[0, 0, 0.5], [0, 0, 0.5]])
        out: Any = cv2.warpAffine(image, fine, (times * width, times * height), flags=cv2.INTER_LINEAR)
        shrunk: Frames = out if times == 1 else cv2.resize(out, self.size, interpolation=cv2.INTER_AREA)
        return shrunk


def people(frames: Sequence[LabelledFrame], layout: str) -> Iterator[tuple[LabelledFrame, Float, Float, Float]]:
    """Every labelled person: its frame, box (4,), labels (V, 2) float64 in a layout, and scores (V,).

    A joint whose name the labels' layout lacks has no label: eyes that are copies of a nose are nothing to learn from.
    People with fewer than two labels are left out.
    """
    wanted = skeleton(layout).joints
    for frame in frames:
        own = skeleton(frame.skeleton).joints
        order = np.array([own.index(joint) if joint in own else -1 for joint in wanted])
        points = np.where(order[:, None] >= 0, frame.keypoints[:, order].astype(np.float64), np.nan)
        scores = np.where(np.isfinite(points).all(-1), frame.scores[:, order], 0)
        for person in range(len(frame)):
            if (scores[person] > 0).sum() >= 2:
                seen = np.where(scores[person][:, None] > 0, points[person], np.nan)
                yield frame, frame.boxes[person], seen, scores[person]


def _recoloured(image: Frames, rng: np.random.Generator, most: float) -> Frames:
    """Another brightness and contrast, and a slight cast of colour."""
    gain = 1 + rng.uniform(-most, most) + rng.uniform(-most / 4, most / 4, 3)
    shift = 128 * rng.uniform(-most, most)
    table = np.clip(np.arange(256)[:, None] * gain + shift, 0, 255).astype(np.uint8)
    out: Frames = np.stack([table[image[..., c], c] for c in range(3)], -1)
    return out
