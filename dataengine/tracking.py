"""Who is who: people matched across experts in every frame, then linked over time into tracks.

Both matchings are Hungarian on one affinity of two poses: object keypoint similarity (OKS, with the
per-joint constants of the COCO keypoint task) mixed with the overlap of their boxes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from dataengine.compiled import compiled
from dataengine.errors import ComponentError
from dataengine.skeletons import COMMON, convert, skeleton
from dataengine.types import Float, Int, Poses, Track

NUM_JOINTS = skeleton(COMMON).num_joints

_SIGMAS = np.array([0.026, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089])
"""COCO's per-joint standard deviations over the square root of the person's area, in the order of body13."""

_SPREAD = (2 * _SIGMAS) ** 2 * 0.53
"""Twice the squared constant of every joint in units of the box area; a person fills about 0.53 of the box."""

_FLIP = np.array(skeleton(COMMON).flip, np.int64)


@compiled
def _affinities(poses: Any, boxes: Any, others: Any, other_boxes: Any, spread: Any, flip: Any, weight: float, ease: Any) -> Any:
    """(N, M) affinity in [0, 1] of N poses (N, V, 2) with boxes (N, 4) to M others.

    `weight` is the share of OKS, less where few joints are shared; the better of OKS and OKS of the
    mirrored names counts, because experts confuse left and right. `ease` (N,) widens the tolerance.
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
            if mirrored * shared > straight * swapped:
                straight, shared = mirrored, swapped
            part = weight * shared / joints
            similar = straight / shared if shared else 0.0
            out[i, j] = (part * similar + (1.0 - weight) * overlap) / (part + 1.0 - weight)
    return out


@compiled
def _medians(values: Any, rows: Any, ends: Any) -> Any:
    """(G, K) median over groups of rows of `values` (N, K), NaN left out; group g is rows[ends[g - 1]:ends[g]]."""
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


def _middles(sight: _Sight, groups: Sequence[Sequence[int]]) -> tuple[Float, Float]:
    """Median poses (G, V, 2) and boxes (G, 4) of the people in `groups`."""
    rows, ends = np.array([n for group in groups for n in group]), np.cumsum([len(group) for group in groups])
    poses = _medians(sight.coords.reshape(len(sight.coords), -1), rows, ends)
    return poses.reshape(len(groups), -1, 2), _medians(sight.boxes, rows, ends)


def _match(affinity: Float, least: float) -> list[tuple[int, int]]:
    """Hungarian pairs (row, column) of most total affinity, those below `least` left out."""
    if affinity.shape == (1, 1):
        return [(0, 0)] if affinity[0, 0] >= least else []
    if not affinity.size:
        return []
    rows, columns = linear_sum_assignment(np.where(affinity >= least, affinity, 0.0), maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if affinity[i, j] >= least]


@dataclass(frozen=True)
class _Sight:
    """All people of one frame, experts one after another: coords (N, V, 2), scores (N, V), boxes (N, 4), expert (N,)."""

    coords: Float
    scores: Float
    boxes: Float
    expert: Int


def _group(sight: _Sight, num_experts: int, weight: float, least: float) -> list[list[int]]:
    """People of one frame that several experts saw, as lists of rows of `sight`; each expert at most once in a list.

    Every two experts are matched; the matches are then joined, strongest first, unless that would put
    two people of one expert together. The order of experts decides ties only.
    """
    count = len(sight.expert)
    if count == 0:
        return []
    owner = list(range(count))
    groups = {n: [n] for n in range(count)}
    if num_experts > 1 and count > 1:
        affinity = _affinities(sight.coords, sight.boxes, sight.coords, sight.boxes, _SPREAD, _FLIP, weight, np.ones(count))
        rows = [np.flatnonzero(sight.expert == e) for e in range(num_experts)]
        found = []
        for a, b in itertools.combinations([r for r in rows if len(r)], 2):
            block = affinity[a[0] : a[-1] + 1, b[0] : b[-1] + 1]
            found += [(-float(block[i, j]), int(a[i]), int(b[j])) for i, j in _match(block, least)]
        for _, i, j in sorted(found):
            one, two = owner[i], owner[j]
            if one == two or {int(sight.expert[n]) for n in groups[one]} & {int(sight.expert[n]) for n in groups[two]}:
                continue
            keep, drop = min(one, two), max(one, two)
            groups[keep] = sorted(groups[keep] + groups.pop(drop))
            for n in groups[keep]:
                owner[n] = keep
    return [groups[n] for n in sorted(groups)]


def _sight(per_expert: Sequence[Poses]) -> _Sight:
    filled = [(e, p) for e, p in enumerate(per_expert) if len(p)]
    if not filled:
        return _Sight(np.zeros((0, NUM_JOINTS, 2)), np.zeros((0, NUM_JOINTS)), np.zeros((0, 4)), np.zeros(0, np.int64))
    coords = np.concatenate([p.coords for _, p in filled]).astype(np.float64)
    scores = np.concatenate([p.scores for _, p in filled]).astype(np.float64)
    boxes = np.concatenate([np.asarray(p.boxes)[:, :4] for _, p in filled]).astype(np.float64)
    return _Sight(coords, scores, boxes, np.repeat(np.array([e for e, _ in filled]), [len(p) for _, p in filled]))


def associate(
    per_expert: Sequence[Poses], oks_weight: float = 0.7, min_affinity: float = 0.3, min_score: float = 0.0, min_joints: int = 0
) -> Int:
    """Match the people that several experts saw in one frame.

    Args:
        per_expert: what each expert saw, all in the layout body13.
        oks_weight: share of OKS in the affinity; the rest is the overlap of boxes.
        min_affinity: least affinity of two sights of one person.
        min_score, min_joints: a person whom one expert alone saw is left out when the mean score of the seen joints
            is below `min_score`, or fewer than `min_joints` are seen.

    Returns:
        (G, E) int64: index of the person in every expert's `Poses`, -1 where that expert missed them.

    Raises:
        ComponentError: poses in another layout.
    """
    for poses in per_expert:
        if poses.coords.shape[1:] != (NUM_JOINTS, 2):
            raise ComponentError(
                f"associate takes poses in {COMMON} ({NUM_JOINTS} joints); given {poses.coords.shape[1:]}: convert them first"
            )
    sight = _sight(per_expert)
    first = np.searchsorted(sight.expert, np.arange(len(per_expert)))
    kept = []
    for group in _group(sight, len(per_expert), oks_weight, min_affinity):
        if len(group) > 1 or not _is_ghost(sight, group, min_score, min_joints):
            row = np.full(len(per_expert), -1, np.int64)
            row[sight.expert[group]] = np.array(group) - first[sight.expert[group]]
            kept.append(row)
    return np.stack(kept) if kept else np.zeros((0, len(per_expert)), np.int64)


def _is_ghost(sight: _Sight, group: list[int], min_score: float, min_joints: int) -> bool:
    """Seen by one expert alone, and either with few joints or with low scores."""
    if len(group) > 1:
        return False
    seen = np.isfinite(sight.coords[group[0], :, 0])
    joints = int(seen.sum())
    return joints < max(min_joints, 1) or float(sight.scores[group[0]].sum()) / joints < min_score


@dataclass
class _Path:
    """A track while it grows: where every joint was last, how fast the body moves, and the sights so far."""

    pose: Float
    box: Float
    time: float
    velocity: Float = field(default_factory=lambda: np.zeros(2))
    sights: list[tuple[int, list[int]]] = field(default_factory=list)
    total: float = 0.0
    """Sum of the scores of all joints of all experts."""
    joints: int = 0

    def add(self, frame: int, time: float, rows: list[int], sight: _Sight, pose: Float, box: Float) -> None:
        """Go on with the people `rows` of `sight`, whose median is `pose` (V, 2) and `box` (4,)."""
        if self.sights:
            moved = pose - self.pose
            moved = moved[moved[:, 0] == moved[:, 0]]
            step = np.sort(moved, axis=0)[len(moved) // 2] if len(moved) else (box[:2] + box[2:] - self.box[:2] - self.box[2:]) / 2
            if time > self.time:
                self.velocity = 0.5 * self.velocity + 0.5 * step / (time - self.time)
            self.pose = np.where(pose == pose, pose, self.pose + step)
        self.box, self.time = box, time
        self.sights.append((frame, rows))
        self.total += float(sight.scores[rows].sum())
        self.joints += int((sight.scores[rows] > 0).sum())


@dataclass(frozen=True)
class OksTracker:
    """Links what all experts saw into tracks, Hungarian on OKS and overlap, over gaps.

    In every frame the sights of one person by several experts are grouped (`associate`), then groups are matched to
    tracks moved on at constant velocity. Groups of two or more experts, or of one strong sight, may start a track; a
    lone weak sight can only prolong one, and so can a second sight of a person who is already there. The result does
    not depend on anything but the input; the order of experts decides ties only.

    Attributes:
        max_gap: seconds a track survives unseen.
        min_frames: a track seen in fewer frames is dropped (in clips shorter than twice that: in less than half of the frames).
        oks_weight: share of OKS in the affinity; the rest is the overlap of boxes.
        min_affinity: least affinity of two experts' sights of one person.
        min_link: least affinity of a sight to a track.
        min_score: mean joint score from which a person whom one expert alone saw starts a track.
        min_joints: number of joints from which such a person starts a track.
        duplicate: a lone sight that is this similar to another group is a second sight of the same person.
    """

    max_gap: Annotated[float, Field(ge=0)] = 0.7
    min_frames: Annotated[int, Field(ge=1)] = 5
    oks_weight: Annotated[float, Field(ge=0, lt=1)] = 0.7
    min_affinity: Annotated[float, Field(ge=0, le=1)] = 0.3
    min_link: Annotated[float, Field(ge=0, le=1)] = 0.15
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.3
    min_joints: Annotated[int, Field(ge=0)] = 6
    duplicate: Annotated[float, Field(ge=0, le=1)] = 0.45

    def track(self, frames: Sequence[Sequence[Poses]], timestamps: Any, experts: Sequence[str]) -> list[Track]:
        """Make tracks of one clip.

        Args:
            frames: for every frame, what each expert saw, in that expert's own layout.
            timestamps: (T,) seconds, increasing.
            experts: name of each expert's layout.

        Returns:
            Tracks in the layout body13, best first: by mean score of the seen joints times number of frames, ties by
            first frame, then from left to right. `track_id` counts them from 0.

        Raises:
            ComponentError: arguments that do not fit together, or an unknown layout.
        """
        times = np.asarray(timestamps, np.float64)
        if times.shape != (len(frames),) or any(len(frame) != len(experts) for frame in frames):
            raise ComponentError(
                f"track takes {len(experts)} experts' poses and a timestamp a frame; given {len(frames)} frames, timestamps {times.shape}"
            )
        sights = _gather(frames, experts)
        paths: list[_Path] = []
        for t, sight in enumerate(sights):
            alive = [p for p in paths if times[t] - p.time <= self.max_gap + 1e-9]
            paths += self._step(alive, t, float(times[t]), sight, len(experts))
        least = min(self.min_frames, (len(frames) + 1) // 2)
        paths = [p for p in paths if len(p.sights) >= least]

        def place(path: _Path) -> tuple[float, ...]:
            first, rows = path.sights[0]
            return (-round(path.total / max(path.joints, 1) * len(path.sights), 6), first, *_middles(sights[first], [rows])[1][0])

        paths.sort(key=place)
        return [_finish(i, path, sights, len(experts)) for i, path in enumerate(paths)]

    def _step(self, alive: list[_Path], t: int, time: float, sight: _Sight, num_experts: int) -> list[_Path]:
        """Prolong the tracks `alive` with what is seen at frame t and return the tracks that start there."""
        groups = _group(sight, num_experts, self.oks_weight, self.min_affinity)
        if not groups:
            return []
        poses, boxes = _middles(sight, groups)
        weak = [_is_ghost(sight, rows, self.min_score, self.min_joints) for rows in groups]
        taken: set[int] = set()
        free = list(range(len(alive)))
        for wanted in (False, True):  # strong sights choose first
            columns = [g for g in range(len(groups)) if weak[g] == wanted]
            if not free or not columns:
                continue
            shifts = np.stack([alive[i].velocity * (time - alive[i].time) for i in free])
            before = np.stack([alive[i].pose for i in free]) + shifts[:, None]
            around = np.stack([alive[i].box for i in free]) + np.tile(shifts, 2)
            waited = np.array([max(t - alive[i].sights[-1][0], 1) for i in free], np.float64)
            affinity = _affinities(before, around, poses[columns], boxes[columns], _SPREAD, _FLIP, self.oks_weight, waited)
            pairs = _match(affinity, self.min_link)
            for i, j in pairs:
                g = columns[j]
                alive[free[i]].add(t, time, groups[g], sight, poses[g], boxes[g])
                taken.add(g)
            free = [n for i, n in enumerate(free) if i not in {i for i, _ in pairs}]
        starts = []
        strength = sorted((g for g in range(len(groups)) if g not in taken and not weak[g]), key=lambda g: (-len(groups[g]), g))
        for g in strength:
            others = sorted(taken)
            if len(groups[g]) < num_experts and others:
                similar = _affinities(
                    poses[g : g + 1], boxes[g : g + 1], poses[others], boxes[others], _SPREAD, _FLIP, self.oks_weight, np.ones(1)
                )
                if similar.max() >= self.duplicate:
                    continue
            path = _Path(poses[g], boxes[g], time)
            path.add(t, time, groups[g], sight, poses[g], boxes[g])
            starts.append(path)
            taken.add(g)
        return starts


def _gather(frames: Sequence[Sequence[Poses]], experts: Sequence[str]) -> list[_Sight]:
    """All frames in the common layout; every expert is converted once."""
    columns = []
    for e, layout in enumerate(experts):
        found = [frame[e] for frame in frames]
        counts = [len(p) for p in found]
        if sum(counts):
            coords, scores = convert(np.concatenate([p.coords for p in found]), np.concatenate([p.scores for p in found]), layout, COMMON)
        else:
            skeleton(layout)
            coords, scores = np.zeros((0, NUM_JOINTS, 2)), np.zeros((0, NUM_JOINTS))
        ends = np.cumsum(counts)
        columns.append([Poses(coords[b - n : b], scores[b - n : b], p.boxes) for b, n, p in zip(ends, counts, found, strict=True)])
    return [_sight([column[t] for column in columns]) for t in range(len(frames))]


def _finish(track_id: int, path: _Path, sights: Sequence[_Sight], num_experts: int) -> Track:
    coords = np.full((num_experts, len(sights), NUM_JOINTS, 2), np.nan, np.float32)
    scores = np.zeros((num_experts, len(sights), NUM_JOINTS), np.float32)
    boxes = np.full((len(sights), 4), np.nan, np.float32)
    for t, rows in path.sights:
        coords[sights[t].expert[rows], t] = sights[t].coords[rows]
        scores[sights[t].expert[rows], t] = sights[t].scores[rows]
        boxes[t] = _middles(sights[t], [rows])[1][0]
    return Track(track_id, coords, scores, boxes)


def rank(tracks: Sequence[Track], actor: Sequence[Sequence[float]] | None = None, timestamps: Any = None) -> list[Track]:
    """Order tracks for use and number them anew from 0.

    Args:
        tracks: in the tracker's order.
        actor: key boxes [[seconds, x0, y0, x1, y1], ...] of the person the clip is about: the track that overlaps
            them most (mean overlap over the frames between the first and the last key, boxes interpolated, a frame
            without the track counting 0) comes first. None, or no overlap at all, leaves the order as it is.
        timestamps: (T,) seconds of the tracks' frames on the clock of the keys; needed with `actor`.

    Raises:
        ComponentError: `actor` without timestamps, or not rows of five numbers.
    """
    order = list(tracks)
    if order and actor is not None and len(actor):
        keys = np.asarray(sorted(map(tuple, actor)), np.float64)
        times = np.asarray(timestamps if timestamps is not None else [], np.float64)
        if keys.ndim != 2 or keys.shape[1] != 5 or times.shape != order[0].boxes.shape[:1]:
            raise ComponentError(
                f"rank takes [seconds, x0, y0, x1, y1] rows and a timestamp a frame; given {keys.shape} and timestamps {times.shape}"
            )
        shares = [_overlap(track.boxes, times, keys) for track in order]
        best = int(np.argmax(shares))
        if shares[best] > 0:
            order.insert(0, order.pop(best))
    return [replace(track, track_id=i) for i, track in enumerate(order)]


def _overlap(boxes: Float, times: Float, keys: Float) -> float:
    """Mean overlap (intersection over union) of boxes (T, 4) with key boxes interpolated at `times`."""
    inside = (times >= keys[0, 0]) & (times <= keys[-1, 0])
    if not inside.any():
        inside = np.abs(times - keys[:, 0].mean()) == np.abs(times - keys[:, 0].mean()).min()
    target = np.stack([np.interp(times[inside], keys[:, 0], keys[:, c]) for c in range(1, 5)], axis=1)
    own = boxes[inside].astype(np.float64)
    sides = np.clip(np.minimum(own[:, 2:], target[:, 2:]) - np.maximum(own[:, :2], target[:, :2]), 0, None)
    shared = sides[:, 0] * sides[:, 1]
    union = (own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1]) + (target[:, 2] - target[:, 0]) * (target[:, 3] - target[:, 1]) - shared
    return float(np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0).mean())
