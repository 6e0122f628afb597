"""Decoding of the outputs of ONNX pose networks and person detectors: pure functions, one per family.

Each function takes the outputs for N images; `size` is the width and height of an image. Top-down
experts give (N, V, 3): x, y in pixels of the image and score. Experts on whole frames give one
(M, 5 + 3 V) array per image: box xyxy, score, then x, y, score of every joint. Detectors give one
(M, 5) array per image. `NonMaximumSuppression` decides which people are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.core.errors import ExpertError
from dataengine.core.types import Float, Int

PERSON = 0
"""The class of people in COCO's order and in detectors of people alone."""
STRIDES = (8, 16, 32)
"""Pixels a cell of the three maps of YOLOX, in the order their cells are listed."""
CANDIDATES = 300
"""Boxes that overlaps are measured among, the best ones; bounds the time in crowds and noise."""


@dataclass(frozen=True)
class NonMaximumSuppression:
    """Greedy non-maximum suppression, best people first.

    Attributes:
        threshold: people with a lower score are left out.
        overlap: of two boxes with a larger intersection over union than this, the better one is kept.
        most: most people kept.
    """

    threshold: float
    overlap: float
    most: int

    def __call__(self, boxes: Float, scores: Float) -> Int:
        """Indices of the people to keep among boxes (A, 4) xyxy with scores (A,), best first."""
        order = np.flatnonzero(scores >= self.threshold)
        order = order[np.argsort(-scores[order], kind="stable")][:CANDIDATES]
        low, high = boxes[order, :2].astype(np.float64), boxes[order, 2:4].astype(np.float64)
        area = np.prod(np.maximum(high - low, 0), -1)
        free, kept = np.ones(len(order), np.bool_), []
        for k in range(len(order)):
            if free[k]:
                kept.append(k)
                shared = np.prod(np.maximum(np.minimum(high[k], high) - np.maximum(low[k], low), 0), -1)
                free &= shared <= self.overlap * np.maximum(area[k] + area - shared, 1e-9)
            if len(kept) == self.most:
                break
        return order[kept]


def simcc(outputs: Sequence[Float], size: tuple[int, int]) -> Float:
    """RTMPose and its kin: each joint as a classification of its x and of its y (arXiv 2107.03332, 2303.07399).

    Args:
        outputs: (N, V, a W) and (N, V, a H), the same number a of bins a pixel.

    Returns:
        (N, V, 3); the score is the lower of the two best bins' values, as published (open-mmlab/mmpose@759b39c,
        codecs/simcc_label.py); a joint with none above 0 is NaN.
    """
    across, down = outputs
    x = across.argmax(-1) * (size[0] / across.shape[-1])
    y = down.argmax(-1) * (size[1] / down.shape[-1])
    score = np.minimum(across.max(-1), down.max(-1)).astype(np.float64)
    found = score > 0
    return np.stack([np.where(found, x, np.nan), np.where(found, y, np.nan), np.where(found, score, 0)], -1)


def heatmap(outputs: Sequence[Float], size: tuple[int, int]) -> Float:
    """HRNet and other networks with a map a joint: the best cell, a quarter towards its higher neighbours.

    Args:
        outputs: (N, V, h, w) maps; cell c lies at pixel c W / w (open-mmlab/mmpose@759b39c, codecs/msra_heatmap.py).

    Returns:
        (N, V, 3); the score is the best cell's value; a joint with none above 0 is NaN.
    """
    (maps,) = outputs
    n, v, h, w = maps.shape
    flat = maps.reshape(n, v, -1)
    best, score = flat.argmax(-1), flat.max(-1).astype(np.float64)
    y, x = np.divmod(best, w)
    inner = (x > 1) & (x < w - 1) & (y > 1) & (y < h - 1)

    def beside(dx: int, dy: int) -> Float:
        where = np.clip(y + dy, 0, h - 1) * w + np.clip(x + dx, 0, w - 1)
        return np.asarray(np.take_along_axis(flat, where[..., None], -1)[..., 0])

    shift_x = np.where(inner, 0.25 * np.sign(beside(1, 0) - beside(-1, 0)), 0)
    shift_y = np.where(inner, 0.25 * np.sign(beside(0, 1) - beside(0, -1)), 0)
    found = score > 0
    at = np.stack([(x + shift_x) * (size[0] / w), (y + shift_y) * (size[1] / h)], -1)
    return np.concatenate([np.where(found[..., None], at, np.nan), np.where(found, score, 0)[..., None]], -1)


def rtmo(outputs: Sequence[Float], size: tuple[int, int], joints: int, nms: NonMaximumSuppression) -> list[Float]:
    """RTMO exported end to end (arXiv 2312.07526): boxes with scores (N, A, 5) and joints (N, A, V, 3)."""
    del size
    boxes, points = sorted(outputs, key=np.ndim)
    whole = np.concatenate([boxes[..., :5], points.reshape(*points.shape[:2], 3 * joints)], -1)
    return [people[nms(people[:, :4], people[:, 4])] for people in whole]


def yolo_pose(outputs: Sequence[Float], size: tuple[int, int], joints: int, nms: NonMaximumSuppression) -> list[Float]:
    """Pose networks of Ultralytics (YOLOv8, 11, 26).

    Args:
        outputs: (N, 5 + 3 V, A): middle and size of the box, score, joints; or, exported with its own choice of
            people, (N, A, 6 + 3 V): corners of the box, score, class, joints.
    """
    del size
    (all_,) = outputs
    if all_.shape[-1] == 6 + 3 * joints:
        people = [one[one[:, 5] == PERSON] for one in all_]
        whole = [np.concatenate([one[:, :5], one[:, 6:]], -1) for one in people]
    else:
        rows = all_.transpose(0, 2, 1)
        whole = [np.concatenate([_corners(one[:, :4]), one[:, 4:]], -1) for one in rows]
    return [one[nms(one[:, :4], one[:, 4])] for one in whole]


def labelled_boxes(outputs: Sequence[Float], size: tuple[int, int], nms: NonMaximumSuppression) -> list[Float]:
    """RTMDet and YOLOX exported end to end: boxes with scores (N, A, 5), and classes (N, A) where there are several."""
    del size
    boxes = next(o for o in outputs if o.ndim == 3)
    labels = next((o for o in outputs if o.ndim == 2), np.full(boxes.shape[:2], PERSON))
    people = [one[label == PERSON] for one, label in zip(boxes, labels, strict=True)]
    return [one[nms(one[:, :4], one[:, 4]), :5] for one in people]


def yolox(outputs: Sequence[Float], size: tuple[int, int], nms: NonMaximumSuppression) -> list[Float]:
    """YOLOX (arXiv 2107.08430): end to end, or as its authors export it, (N, A, 5 + K) relative to its cells."""
    if len(outputs) > 1 or outputs[0].shape[-1] == 5:
        return labelled_boxes(outputs, size, nms)
    (cells,) = outputs
    grids, strides = [], []
    for stride in STRIDES:
        across, down = np.meshgrid(np.arange(size[0] // stride), np.arange(size[1] // stride))
        grids.append(np.stack([across, down], -1).reshape(-1, 2))
        strides.append(np.full((across.size, 1), stride))
    grid, scale = np.concatenate(grids), np.concatenate(strides)
    if len(grid) != cells.shape[1]:
        raise ExpertError(
            "expert_failed", f"YOLOX answers {cells.shape[1]} cells, {len(grid)} belong to {size}", retryable=False
        )
    middle, extent = (cells[..., :2] + grid) * scale, np.exp(np.clip(cells[..., 2:4], -20, 20)) * scale
    scores = cells[..., 4] * cells[..., 5 + PERSON]
    boxes = _corners(np.concatenate([middle, extent], -1))
    return [np.concatenate([b[k], s[k, None]], -1) for b, s in zip(boxes, scores) for k in (nms(b, s),)]


def yolo(outputs: Sequence[Float], size: tuple[int, int], nms: NonMaximumSuppression) -> list[Float]:
    """Detectors of Ultralytics: (N, 4 + K, A), or with their own choice (N, A, 6): corners, score, class."""
    del size
    (all_,) = outputs
    if all_.shape[-1] == 6:
        people = [one[one[:, 5] == PERSON] for one in all_]
        return [one[nms(one[:, :4], one[:, 4]), :5] for one in people]
    rows = [np.concatenate([_corners(one[:4].T), one[4 + PERSON, :, None]], -1) for one in all_]
    return [one[nms(one[:, :4], one[:, 4])] for one in rows]


def _corners(boxes: Float) -> Float:
    """(..., 4) middle and size -> corners."""
    half = boxes[..., 2:4] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], -1)
