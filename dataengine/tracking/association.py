"""Association: people of one frame matched across experts, by the Hungarian algorithm on an affinity of two poses.

The affinity is object keypoint similarity (OKS, with the per-joint constants of the COCO keypoint task) mixed with the
overlap of boxes. Linking over time uses the same affinity.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from dataengine.core.errors import ComponentError
from dataengine.core.jit import compiled
from dataengine.core.skeletons import COMMON, skeleton
from dataengine.core.types import Float, Int, Poses

NUM_JOINTS = skeleton(COMMON).num_joints

_SIGMAS = np.array([0.026, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089])
"""Per-joint standard deviations of COCO over the square root of the area of the person, in the order of body13."""

_SPREAD = (2 * _SIGMAS) ** 2 * 0.53
"""Twice the squared constant of every joint, relative to the area of the box; a person fills about 0.53 of the box."""

_FLIP = np.array(skeleton(COMMON).flip, np.int64)


@compiled
def _affinities(
    poses: Any,
    boxes: Any,
    others: Any,
    other_boxes: Any,
    spread: Any,
    flip: Any,
    weight: float,
    ease: Any,
    mirror: float,
) -> Any:
    """(N, M) affinity in [0, 1] of N poses (N, V, 2) with boxes (N, 4) to M others.

    `weight` is the share of OKS, lower where few joints are shared. Experts confuse left and right, so the better of
    OKS and `mirror` times the OKS of the mirrored joints counts. `ease` (N,) widens the tolerance.
    """
    count, joints, num = poses.shape[0], poses.shape[1], others.shape[0]
    out = np.zeros((count, num))
    for i in range(count):
        area = max((boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1]), 0.0)
        for j in range(num):
            other = max((other_boxes[j, 2] - other_boxes[j, 0]) * (other_boxes[j, 3] - other_boxes[j, 1]), 0.0)
            wide = max(min(boxes[i, 2], other_boxes[j, 2]) - max(boxes[i, 0], other_boxes[j, 0]), 0.0)
            high = max(min(boxes[i, 3], other_boxes[j, 3]) - max(boxes[i, 1], other_boxes[j, 1]), 0.0)
            union = area + other - wide * high
            overlap = wide * high / union if union > 0.0 else 0.0
            scale = max(area, other) * ease[i]
            straight = mirrored = 0.0
            shared = swapped = 0
            if scale > 0.0:
                for v in range(joints):
                    x, y = poses[i, v, 0], poses[i, v, 1]
                    if x != x:
                        continue
                    gap = (x - others[j, v, 0]) ** 2 + (y - others[j, v, 1]) ** 2
                    if gap == gap:
                        shared += 1
                        straight += np.exp(-gap / (scale * spread[v]))
                    gap = (x - others[j, flip[v], 0]) ** 2 + (y - others[j, flip[v], 1]) ** 2
                    if gap == gap:
                        swapped += 1
                        mirrored += np.exp(-gap / (scale * spread[v]))
            if mirror * mirrored * shared > straight * swapped:
                straight, shared = mirror * mirrored, swapped
            part = weight * shared / joints
            similar = straight / shared if shared else 0.0
            out[i, j] = (part * similar + (1.0 - weight) * overlap) / (part + 1.0 - weight)
    return out


def affinities(
    poses: Float,
    boxes: Float,
    others: Float,
    other_boxes: Float,
    weight: float,
    ease: Float | None = None,
    mirror: float = 1.0,
) -> Float:
    """(N, M) affinity of N poses and boxes to M others; see `_affinities`. Without `ease` the tolerance is that of
    COCO."""
    wide = np.ones(len(poses)) if ease is None else ease
    found: Float = _affinities(poses, boxes, others, other_boxes, _SPREAD, _FLIP, weight, wide, mirror)
    return found


@compiled
def _medians(values: Any, rows: Any, ends: Any) -> Any:
    """(G, K) median over groups of rows of `values` (N, K), without NaN; group g is rows[ends[g - 1]:ends[g]]."""
    out = np.full((len(ends), values.shape[1]), np.nan)
    sorted_values = np.empty(len(rows))
    start = 0
    for g in range(len(ends)):
        for k in range(values.shape[1]):
            count = 0
            for n in range(start, ends[g]):
                value = values[rows[n], k]
                if value == value:
                    place = count
                    while place > 0 and sorted_values[place - 1] > value:
                        sorted_values[place] = sorted_values[place - 1]
                        place -= 1
                    sorted_values[place] = value
                    count += 1
            if count:
                out[g, k] = 0.5 * (sorted_values[(count - 1) // 2] + sorted_values[count // 2])
        start = ends[g]
    return out


def median_people(people: FramePeople, groups: Sequence[Sequence[int]]) -> tuple[Float, Float]:
    """Median poses (G, V, 2) and boxes (G, 4) of the people in `groups`."""
    rows, ends = np.array([n for group in groups for n in group]), np.cumsum([len(group) for group in groups])
    poses = _medians(people.coords.reshape(len(people.coords), -1), rows, ends)
    return poses.reshape(len(groups), -1, 2), _medians(people.boxes, rows, ends)


def match(affinity: Float, least: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of highest total affinity, by the Hungarian algorithm, without pairs below `least`."""
    if affinity.shape == (1, 1):
        return [(0, 0)] if affinity[0, 0] >= least else []
    if not affinity.size:
        return []
    rows, columns = linear_sum_assignment(np.where(affinity >= least, affinity, 0.0), maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if affinity[i, j] >= least]


@dataclass(frozen=True)
class FramePeople:
    """All people of one frame, sorted by expert.

    Attributes:
        coords: (N, V, 2) float64 pixels.
        scores: (N, V) float64.
        boxes: (N, 4) float64 xyxy.
        expert: (N,) index of the expert.
    """

    coords: Float
    scores: Float
    boxes: Float
    expert: Int


def group_people(people: FramePeople, num_experts: int, weight: float, least: float) -> list[list[int]]:
    """Groups of rows of `people` that are one person; each expert occurs at most once in a group.

    Every two experts are matched. Matches are then merged, strongest first, unless that would put two people of one
    expert into one group. The order of experts decides ties only.
    """
    count = len(people.expert)
    if count == 0:
        return []
    owner = list(range(count))
    groups = {n: [n] for n in range(count)}
    if num_experts > 1 and count > 1:
        affinity = affinities(people.coords, people.boxes, people.coords, people.boxes, weight)
        rows = [np.flatnonzero(people.expert == e) for e in range(num_experts)]
        found = []
        for a, b in itertools.combinations([r for r in rows if len(r)], 2):
            block = affinity[a[0] : a[-1] + 1, b[0] : b[-1] + 1]
            found += [(-float(block[i, j]), int(a[i]), int(b[j])) for i, j in match(block, least)]
        for _, i, j in sorted(found):
            one, two = owner[i], owner[j]
            if one == two or {int(people.expert[n]) for n in groups[one]} & {
                int(people.expert[n]) for n in groups[two]
            }:
                continue
            keep, drop = min(one, two), max(one, two)
            groups[keep] = sorted(groups[keep] + groups.pop(drop))
            for n in groups[keep]:
                owner[n] = keep
    return [groups[n] for n in sorted(groups)]


def stack_experts(per_expert: Sequence[Poses]) -> FramePeople:
    """The people of all experts in one frame."""
    filled = [(e, p) for e, p in enumerate(per_expert) if len(p)]
    if not filled:
        return FramePeople(
            np.zeros((0, NUM_JOINTS, 2)), np.zeros((0, NUM_JOINTS)), np.zeros((0, 4)), np.zeros(0, np.int64)
        )
    coords = np.concatenate([p.coords for _, p in filled]).astype(np.float64)
    scores = np.concatenate([p.scores for _, p in filled]).astype(np.float64)
    boxes = np.concatenate([np.asarray(p.boxes)[:, :4] for _, p in filled]).astype(np.float64)
    return FramePeople(coords, scores, boxes, np.repeat(np.array([e for e, _ in filled]), [len(p) for _, p in filled]))


def associate(
    per_expert: Sequence[Poses],
    oks_weight: float = 0.7,
    min_affinity: float = 0.3,
    min_score: float = 0.0,
    min_joints: int = 0,
) -> Int:
    """Match people across the experts in one frame.

    Args:
        per_expert: poses of each expert in the layout body13.
        oks_weight: share of OKS in the affinity; the rest is the overlap of boxes.
        min_affinity: least affinity of two poses of one person.
        min_score, min_joints: a person of one expert alone is left out when the mean score of the seen joints is below
            `min_score`, or fewer than `min_joints` joints are seen.

    Returns:
        (G, E) int64: index of the person in the `Poses` of each expert, -1 where the expert missed the person.

    Raises:
        ComponentError: poses in another layout.
    """
    for poses in per_expert:
        if poses.coords.shape[1:] != (NUM_JOINTS, 2):
            raise ComponentError(
                f"associate takes poses in {COMMON} ({NUM_JOINTS} joints); "
                f"given {poses.coords.shape[1:]}: convert them first"
            )
    people = stack_experts(per_expert)
    first = np.searchsorted(people.expert, np.arange(len(per_expert)))
    kept = []
    for group in group_people(people, len(per_expert), oks_weight, min_affinity):
        if len(group) > 1 or not is_weak(people, group, min_score, min_joints):
            row = np.full(len(per_expert), -1, np.int64)
            row[people.expert[group]] = np.array(group) - first[people.expert[group]]
            kept.append(row)
    return np.stack(kept) if kept else np.zeros((0, len(per_expert)), np.int64)


def is_weak(people: FramePeople, group: list[int], min_score: float, min_joints: int) -> bool:
    """Whether one expert alone saw the person of a group, with few joints or with low scores."""
    if len(group) > 1:
        return False
    seen = np.isfinite(people.coords[group[0], :, 0])
    joints = int(seen.sum())
    return joints < max(min_joints, 1) or float(people.scores[group[0]].sum()) / joints < min_score
