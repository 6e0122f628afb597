"""Box propagation: person boxes that follow people between the frames in which people are detected."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from dataengine.core.errors import ComponentError
from dataengine.core.types import Bool, Float, Poses

_PAD = 0.12
"""Padding of the box around the joints, as a share of its longer edge: the median of detected boxes, 0.12 to 0.13."""

_MIN_SCORE, _MIN_JOINTS = 0.2, 4
"""Least score of a joint that counts, and least such joints of a person that a box follows."""

_STEP = 0.25
"""Most that an edge of a box moves per frame, as a share of the longer edge."""

_SAME, _TWINS = 0.8, 0.05
"""Overlap from which two boxes hold the same person, unless both hold people whose joints lie further apart than this
share of the box (median)."""


def next_boxes(poses: Poses, boxes: Float, before: Poses | None = None) -> Float:
    """The person boxes of the next frame, predicted from the poses of this frame.

    Every box moves to the padded extent of the person in it, and on by the last step of the person. A box without a
    person stays where it is. Of two boxes that come to hold the same person, the one of higher score stays.

    Args:
        poses: people estimated in this frame inside `boxes`, in any layout and order.
        boxes: (M, 4 or 5) xyxy pixels, and a score, in which the poses of this frame were estimated.
        before: people of the previous frame in the same layout; without them no step is added.

    Returns:
        (K, 4 or 5) float32, K <= M, in the order of `boxes`; scores are kept.

    Raises:
        ComponentError: boxes of another shape, or two layouts.
    """
    boxes = np.asarray(boxes, np.float32)
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 5):
        raise ComponentError(
            f"next_boxes takes boxes (M, 4 or 5): x0, y0, x1, y1 and perhaps a score; given shape {boxes.shape}"
        )
    if before is not None and before.coords.shape[1:] != poses.coords.shape[1:]:
        raise ComponentError(
            f"next_boxes takes poses of one layout; given {before.coords.shape[1:]} before {poses.coords.shape[1:]}"
        )
    moved = boxes.astype(np.float64)
    here = _owners(poses, moved)
    gone = _owners(before, moved) if before is not None else {}
    for m, person in here.items():
        seen = _visible(poses)[person]
        joints = poses.coords[person]
        low, high = joints[seen].min(0), joints[seen].max(0)
        pad = _PAD * float((high - low).max())
        step = np.zeros(2)
        if before is not None and m in gone:
            both = seen & _visible(before)[gone[m]]
            if both.sum() >= _MIN_JOINTS:
                step = np.median(joints[both] - before.coords[gone[m]][both], axis=0)
        target = np.concatenate([low - pad + step, high + pad + step])
        most = _STEP * float((moved[m, 2:4] - moved[m, :2]).max())
        moved[m, :4] += np.clip(target - moved[m, :4], -most, most)
    people = np.full((len(moved), *poses.coords.shape[1:]), np.nan)
    for m, person in here.items():
        people[m] = poses.coords[person]
    return moved[_distinct(moved, people)].astype(np.float32)


def _visible(poses: Poses) -> Bool:
    """(M, V) bool, joints with a position and a high enough score."""
    return np.asarray(np.isfinite(poses.coords).all(-1) & (poses.scores >= _MIN_SCORE))


def _owners(poses: Poses, boxes: Float) -> dict[int, int]:
    """Index of the person in every box that holds one, by the Hungarian algorithm on overlap with the boxes around
    joints."""
    sure = _visible(poses)
    people = np.flatnonzero(sure.sum(1) >= _MIN_JOINTS)
    if not len(people) or not len(boxes):
        return {}
    joints = np.where(sure[people, :, None], poses.coords[people], np.nan)
    low, high = np.nanmin(joints, 1), np.nanmax(joints, 1)
    pad = _PAD * (high - low).max(1, keepdims=True)
    overlap = _overlaps(boxes[:, :4], np.concatenate([low - pad, high + pad], 1))
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return {int(m): int(people[p]) for m, p in zip(rows, columns, strict=True) if overlap[m, p] > 0.1}


def _distinct(boxes: Float, people: Float) -> list[int]:
    """Rows of boxes that hold another person than all better boxes; `people` (M, V, 2) are in them, NaN where none."""
    overlap = _overlaps(boxes[:, :4], boxes[:, :4])
    scores = boxes[:, 4] if boxes.shape[1] == 5 else np.zeros(len(boxes))
    kept: list[int] = []
    for m in np.argsort(-scores, kind="stable").tolist():
        for k in kept:
            if overlap[m, k] >= _SAME:
                gaps = np.linalg.norm(people[m] - people[k], axis=-1)
                gaps = gaps[np.isfinite(gaps)]
                if not len(gaps) or np.median(gaps) <= _TWINS * (boxes[k, 2:4] - boxes[k, :2]).max():
                    break
        else:
            kept.append(m)
    return sorted(kept)


def _overlaps(boxes: Float, others: Float) -> Float:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4)."""
    extent = np.clip(
        np.minimum(boxes[:, None, 2:4], others[None, :, 2:4]) - np.maximum(boxes[:, None, :2], others[None, :, :2]),
        0,
        None,
    )
    shared = extent[..., 0] * extent[..., 1]
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0))
