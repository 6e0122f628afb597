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
"""Most that an edge of a box moves per frame, and most that it is moved outwards for the last pose where a person is
detected, as a share of the longer edge."""

_SHRINK = 0.02
"""Most that an edge moves inwards per frame beside the person's own motion, as a share of the longer edge. Legs that
are unsure in one frame would else be cut off in the next one, and the box would end up around the chest."""

_CLEARANCE = 0.05
"""Room around the joints of the last pose where its box is joined with a detected one, as a share of its longer
edge."""

_MATCH = 0.3
"""Least overlap of a detected box and the box of a person that is known."""

_MISSED, _FORGOTTEN = 0.5, 0.1
"""Factor on the score of a box for each frame that shows nobody in it and for each detection that misses its person,
and the score below which it is dropped."""

_INSIDE = 0.7
"""Share of the smaller of two boxes from which one without a person is a second box of the person in the other."""

_SAME, _TWINS = 0.8, 0.05
"""Overlap from which two boxes hold the same person, unless both hold people whose joints lie further apart than this
share of the box (median)."""


def next_boxes(poses: Poses, boxes: Float, before: Poses | None = None, detected: Float | None = None) -> Float:
    """The person boxes of the next frame, predicted from the poses of this frame.

    Every box moves on by the last step of the person in it, and grows to the padded extent of the person; it shrinks
    slowly. A box without a person stays where it is with half of its score, until that falls below a tenth; it goes at
    once where it lies in the box of a person, or around it. Of two boxes that come to hold the same person, the one of
    higher score stays.

    Where people are detected in the next frame, a detected box is joined with the extent of the person who was known
    there. Someone whom the detector misses keeps the predicted box with half of its score, as long as the last pose is
    sure and the score does not fall below a tenth.

    Args:
        poses: people estimated in this frame inside `boxes`, in any layout and order.
        boxes: (M, 4 or 5) xyxy pixels, and a score, in which the poses of this frame were estimated.
        before: people of the previous frame in the same layout; without them no step is added.
        detected: (D, 5) boxes of people detected in the next frame; None where nobody looked.

    Returns:
        (K, 4 or 5) float32; without `detected` K <= M, in the order of `boxes`. With `detected` (K, 5), those first
        that are detected.

    Raises:
        ComponentError: boxes of another shape, or two layouts.
    """
    boxes = np.asarray(boxes, np.float32)
    for given in (boxes,) if detected is None else (boxes, np.asarray(detected)):
        if given.ndim != 2 or given.shape[1] not in (4, 5):
            raise ComponentError(
                f"next_boxes takes boxes (M, 4 or 5): x0, y0, x1, y1 and perhaps a score; given shape {given.shape}"
            )
    if before is not None and before.coords.shape[1:] != poses.coords.shape[1:]:
        raise ComponentError(
            f"next_boxes takes poses of one layout; given {before.coords.shape[1:]} before {poses.coords.shape[1:]}"
        )
    moved = boxes.astype(np.float64)
    visible, earlier = _visible(poses), None if before is None else _visible(before)
    here = _owners(poses, visible, moved)
    gone = {} if before is None or earlier is None else _owners(before, earlier, moved)
    people = np.full((len(moved), *poses.coords.shape[1:]), np.nan)
    extents = np.full((len(moved), 4), np.nan)
    for m, person in here.items():
        seen = visible[person]
        joints = people[m] = poses.coords[person]
        step: Float = np.zeros(2)
        if before is not None and earlier is not None and m in gone:
            both = seen & earlier[gone[m]]
            if both.sum() >= _MIN_JOINTS:
                step = _medians(joints[both] - before.coords[gone[m]][both])
        extents[m] = np.concatenate([joints[seen].min(0) + step, joints[seen].max(0) + step])
        moved[m, :4] = _followed(moved[m, :4], step, _padded(extents[m], _PAD))
    if detected is None:
        kept = _with_hope(moved, sorted(here))
        return moved[kept][_distinct(moved[kept], people[kept])].astype(np.float32)
    half = {m for m, person in here.items() if 2 * visible[person].sum() >= people.shape[1]}
    return _joined(np.asarray(detected, np.float64), moved, people, extents, half)


def _followed(box: Float, step: Float, target: Float) -> Float:
    """A box (4,) that moves by a step (2,) and towards the box `target`, outwards faster than inwards."""
    most = _STEP * float((box[2:4] - box[:2]).max())
    moved = box + np.clip(np.concatenate([step, step]), -most, most)
    change = np.clip(target - moved, -most, most)
    inwards = _SHRINK / _STEP * most
    change = np.concatenate([np.minimum(change[:2], inwards), np.maximum(change[2:], -inwards)])
    return np.asarray(box + np.clip(moved + change - box, -most, most))


def _with_hope(boxes: Float, held: list[int]) -> list[int]:
    """Rows of boxes (M, 4 or 5) that hold somebody or may do so again; halves the scores of those that hold nobody."""
    if len(held) == len(boxes):
        return held
    low, high = boxes[:, None, :2], boxes[:, None, 2:4]
    sides = np.clip(np.minimum(high, boxes[None, held, 2:4]) - np.maximum(low, boxes[None, held, :2]), 0, None)
    area = np.prod(boxes[:, 2:4] - boxes[:, :2], axis=-1)
    least = np.minimum(area[:, None], area[None, held])
    second = (np.prod(sides, axis=-1) >= _INSIDE * least).any(1)
    kept = []
    for m in range(len(boxes)):
        if m not in held and boxes.shape[1] == 5:
            boxes[m, 4] *= _MISSED
        if m in held or not (second[m] or (boxes.shape[1] == 5 and boxes[m, 4] < _FORGOTTEN)):
            kept.append(m)
    return kept


def _padded(extent: Float, share: float) -> Float:
    """A box (4,) with room on each side, a share of its longer edge."""
    pad = share * float((extent[2:] - extent[:2]).max())
    return np.asarray(extent + np.array([-pad, -pad, pad, pad]))


def _joined(detected: Float, moved: Float, people: Float, extents: Float, sure: set[int]) -> Float:
    """The boxes of a frame in which people are detected; see `next_boxes`.

    Args:
        detected: (D, 5). moved: (M, 5), the predicted boxes. people: (M, V, 2), who is in them, NaN where nobody.
        extents: (M, 4), boxes around the joints of people, predicted. sure: rows of `moved` whose poses are sure.
    """
    joined, owner = detected.copy(), np.full((len(detected), *people.shape[1:]), np.nan)
    left = set(sure)
    if len(detected) and len(moved):
        overlap = _overlaps(detected, moved)
        for d, m in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
            if overlap[d, m] >= _MATCH:
                left.discard(int(m))
                owner[d] = people[m]
                if np.isfinite(extents[m]).all():
                    joined[d, :4] = _united(detected[d, :4], _padded(extents[m], _CLEARANCE))
    carried = np.array(sorted(left), np.int64)
    kept = np.concatenate([moved[carried], np.ones((len(carried), 5 - moved.shape[1]))], 1)
    kept[:, 4] *= _MISSED
    known = kept[:, 4] >= _FORGOTTEN
    every = np.concatenate([joined, kept[known]])
    return every[_distinct(every, np.concatenate([owner, people[carried][known]]))].astype(np.float32)


def _united(box: Float, other: Float) -> Float:
    """A box (4,) with edges moved outwards to those of another, within bounds."""
    most = _STEP * float((box[2:] - box[:2]).max())
    grown = np.concatenate([np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])])
    return np.asarray(box + np.clip(grown - box, -most, most))


def _visible(poses: Poses) -> Bool:
    """(M, V) bool, joints with a position and a high enough score."""
    return np.asarray(np.isfinite(poses.coords).all(-1) & (poses.scores >= _MIN_SCORE))


def _medians(rows: Float) -> Float:
    """(2,) medians of the columns of (K, 2), K > 0; quicker than numpy's for few rows."""
    ordered, middle = np.sort(rows, axis=0), len(rows) // 2
    return np.asarray((ordered[middle] + ordered[len(rows) - 1 - middle]) / 2)


def _owners(poses: Poses, sure: Bool, boxes: Float) -> dict[int, int]:
    """Index of the person in every box that holds one, by the Hungarian algorithm on overlap with the boxes around
    joints; `sure` (M, V) says which joints count."""
    people = np.flatnonzero(sure.sum(1) >= _MIN_JOINTS)
    if not len(people) or not len(boxes):
        return {}
    joints, counts = poses.coords[people], sure[people, :, None]
    low, high = np.where(counts, joints, np.inf).min(1), np.where(counts, joints, -np.inf).max(1)
    pad = _PAD * (high - low).max(1, keepdims=True)
    overlap = _overlaps(boxes[:, :4], np.concatenate([low - pad, high + pad], 1))
    if overlap.size == 1:
        return {0: int(people[0])} if overlap[0, 0] > 0.1 else {}
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return {int(m): int(people[p]) for m, p in zip(rows, columns, strict=True) if overlap[m, p] > 0.1}


def _distinct(boxes: Float, people: Float) -> list[int]:
    """Rows of boxes that hold another person than all better boxes; `people` (M, V, 2) are in them, NaN where none."""
    if len(boxes) < 2:
        return list(range(len(boxes)))
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
