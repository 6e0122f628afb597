"""Images for the built-in experts and peaks in their maps: pure functions on arrays."""

from __future__ import annotations

import cv2
import numpy as np

from dataengine.core.types import Float, Frames, Poses
from dataengine.experts.batching import InputBatch
from dataengine.experts.preprocess import GREY, crop_affine

NUM_JOINTS = 14
WHOLE = (192, 144)
"""Width and height of images made of whole frames."""


def sigmoid(x: Float) -> Float:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))))


def square(v: Float) -> Float:
    return np.asarray((v * v).sum(-1))


def peaks(heat: Float, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map, row and column of all local maxima of (J, h, w) above `least`."""
    across = np.pad(heat, ((0, 0), (1, 1), (1, 1)))
    rows = np.maximum(np.maximum(across[:, :-2], across[:, 1:-1]), across[:, 2:])
    around = np.maximum(np.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
    j, y, x = np.nonzero((heat >= around) & (heat > least))
    return j, y, x


def maxima(heat: Float, least: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the local maxima of (h, w) above `least`, best first, at most `most`."""
    _, y, x = peaks(heat[None], least)
    order = np.argsort(-heat[y, x], kind="stable")[:most]
    return y[order], x[order]


def intersection_over_union(a: Float, b: Float) -> float:
    sides = np.clip(np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2]), 0, None)
    union = np.prod(a[2:4] - a[:2]) + np.prod(b[2:4] - b[:2]) - np.prod(sides)
    return float(np.prod(sides) / max(union, 1e-9))


def letterbox_grey(frames: Frames) -> InputBatch:
    """Frames scaled into the centre of grey images (T, 144, 192, 3)."""
    num, height, width = frames.shape[:3]
    scale = min(WHOLE[0] / width, WHOLE[1] / height)
    affine = np.array(
        [
            [scale, 0, (WHOLE[0] - 1) / 2 - scale * (width - 1) / 2],
            [0, scale, (WHOLE[1] - 1) / 2 - scale * (height - 1) / 2],
        ]
    )
    pixels = (
        np.stack([warp_area(frame, affine, WHOLE) for frame in frames])
        if num
        else np.zeros((0, *WHOLE[::-1], 3), np.uint8)
    )
    boxes = np.tile(np.array([0.0, 0.0, width, height, 1.0]), (num, 1))
    return InputBatch(pixels, np.arange(num), np.tile(affine, (num, 1, 1)), boxes, num, width, height)


def crop_area(frame: np.ndarray, box: Float, size: tuple[int, int], padding: float) -> tuple[np.ndarray, Float]:
    """The part of a frame around a box as an image of `size`, and the affine map (2, 3) of pixels."""
    affine = crop_affine(box, size, padding)
    return warp_area(frame, affine, size), affine


def warp_area(frame: np.ndarray, affine: Float, size: tuple[int, int]) -> np.ndarray:
    """A scaled and shifted frame; area interpolation first where bilinear interpolation alone would alias."""
    scale = float(affine[0, 0])
    if scale < 0.5:
        # only the rows and columns that will be seen
        low = np.maximum(np.floor(-affine[:, 2] / scale).astype(int), 0)
        high = np.minimum(
            np.ceil((np.array(size) - affine[:, 2]) / scale).astype(int) + 1, (frame.shape[1], frame.shape[0])
        )
        if (high <= low).any():
            return np.full((size[1], size[0], 3), GREY, np.uint8)
        part = np.ascontiguousarray(frame[low[1] : high[1], low[0] : high[0]])
        wide, tall = (max(1, round(2 * scale * side)) for side in part.shape[1::-1])
        small = cv2.resize(part, (wide, tall), interpolation=cv2.INTER_AREA)
        ratio = np.array((small.shape[1] / part.shape[1], small.shape[0] / part.shape[0]))
        # pixel u of the small part is pixel (u + 0.5) / ratio - 0.5 + low of the frame
        shift = scale * (0.5 / ratio - 0.5 + low) + affine[:, 2]
        affine = np.concatenate([np.diag(scale / ratio), shift[:, None]], 1)
        frame = small
    return np.asarray(
        cv2.warpAffine(frame, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=GREY)
    )


def poses_of_people(
    people: list[tuple[Float, Float, Float]], width: int, height: int, min_score: float, min_mean: float
) -> Poses:
    """Joints (14, 2), scores (14,) and box (5,) of each person -> `Poses`, doubtful and far-out joints left out."""
    keep = []
    for coords, scores, box in people:
        reach = 0.1 * np.array((width, height))
        near = ((coords > -reach) & (coords < np.array((width, height)) + reach)).all(-1)
        seen = near & (scores >= min_score)
        if seen.sum() >= 3 and scores.mean() >= min_mean:
            keep.append((np.where(seen[:, None], coords, np.nan), np.where(seen, scores, 0), box))
    if not keep:
        return Poses.empty(NUM_JOINTS)
    coords, scores, boxes = (np.stack(part).astype(np.float32) for part in zip(*keep, strict=True))
    return Poses(coords, scores, boxes)
