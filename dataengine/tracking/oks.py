"""The tracker `oks`: what all experts saw, linked over time and over gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from dataengine.core.component import Tracker
from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import COMMON, convert, skeleton
from dataengine.core.types import Float, Poses, Track
from dataengine.tracking.association import (
    NUM_JOINTS,
    Sight,
    affinities,
    gather,
    group_sights,
    is_ghost,
    match,
    middles,
)

_SURE, _LATE = 0.4, 0.2
"""Affinity of links made before all others, and least one of a link after a gap."""

_EASE, _MIRROR = 2.0, 0.6
"""How much wider than COCO's the tolerance of OKS is from one frame to the next, and what a pose with left and right
exchanged counts; chosen with the other numbers on the training videos of Multi-Person PoseTrack."""

_FRESH = 0.3
"""Share of the newest step in a track's velocity."""


@dataclass
class _Path:
    """A track while it grows: where every joint was last, how fast the body moves, and the sights so far."""

    pose: Float
    box: Float
    time: float
    certain: bool = False
    """Whether a strong sight has ever been in it; only then it becomes a track."""
    velocity: Float = field(default_factory=lambda: np.zeros(2))
    sights: list[tuple[int, list[int]]] = field(default_factory=list)
    total: float = 0.0
    """Sum of the scores of all joints of all experts."""
    joints: int = 0

    def add(self, frame: int, time: float, rows: list[int], sight: Sight, pose: Float, box: Float) -> None:
        """Go on with the people `rows` of `sight`, whose median is `pose` (V, 2) and `box` (4,)."""
        if self.sights:
            moved = pose - self.pose
            moved = moved[moved[:, 0] == moved[:, 0]]
            step = (
                np.sort(moved, axis=0)[len(moved) // 2]
                if len(moved)
                else (box[:2] + box[2:] - self.box[:2] - self.box[2:]) / 2
            )
            if time > self.time:
                self.velocity = (1 - _FRESH) * self.velocity + _FRESH * step / (time - self.time)
            self.pose = np.where(pose == pose, pose, self.pose + step)
        self.box, self.time = box, time
        self.sights.append((frame, rows))
        self.total += float(sight.scores[rows].sum())
        self.joints += int((sight.scores[rows] > 0).sum())


@dataclass(frozen=True)
class OksTracker(Tracker):
    """Links what all experts saw into tracks, Hungarian on OKS and overlap, over gaps.

    In every frame the sights of one person by several experts are grouped (`associate`), then groups are matched to
    tracks moved on at constant velocity: first strong groups, those of two or more experts or of one strong sight, then
    the others, which is ByteTrack's order (arXiv 2110.06864, section 3); in each, first the pairs that surely belong
    together, then what is left. Whoever was seen weakly before a strong sight
    is part of the track too, but a track without any strong sight is none, and neither is a second sight of a person
    who is already there. The result does not depend on anything but the input; the order of experts decides ties only.

    Attributes:
        max_gap: seconds a track survives unseen.
        min_frames: a track seen in fewer frames is dropped (in clips shorter than twice that: in less than half of the frames).
        oks_weight: share of OKS in the affinity; the rest is the overlap of boxes.
        min_affinity: least affinity of two experts' sights of one person.
        min_link: least affinity of a sight to a track; higher after a gap.
        min_score: mean joint score from which a person whom one expert alone saw is a strong sight.
        min_joints: number of joints from which such a person is one.
        duplicate: a lone sight that is this similar to another group is a second sight of the same person.
    """

    max_gap: Annotated[float, Field(ge=0)] = 0.7
    min_frames: Annotated[int, Field(ge=1)] = 5
    oks_weight: Annotated[float, Field(ge=0, lt=1)] = 0.7
    min_affinity: Annotated[float, Field(ge=0, le=1)] = 0.3
    min_link: Annotated[float, Field(ge=0, le=1)] = 0.1
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
        paths = [p for p in paths if p.certain and len(p.sights) >= least]

        def place(path: _Path) -> tuple[float, ...]:
            first, rows = path.sights[0]
            return (
                -round(path.total / max(path.joints, 1) * len(path.sights), 6),
                first,
                *middles(sights[first], [rows])[1][0],
            )

        paths.sort(key=place)
        return [_finish(i, path, sights, len(experts)) for i, path in enumerate(paths)]

    def _step(self, alive: list[_Path], t: int, time: float, sight: Sight, num_experts: int) -> list[_Path]:
        """Prolong the tracks `alive` with what is seen at frame t and return the tracks that start there."""
        groups = group_sights(sight, num_experts, self.oks_weight, self.min_affinity)
        if not groups:
            return []
        poses, boxes = middles(sight, groups)
        weak = [is_ghost(sight, rows, self.min_score, self.min_joints) for rows in groups]
        taken: set[int] = set()
        turns = [
            (True, weakness, max(least, self.min_link)) for least in (_SURE, 0.0) for weakness in ({False}, {True})
        ]
        for certain, wanted, least in (*turns, (False, {False, True}, self.min_link)):
            free = [p for p in alive if p.certain == certain and p.time < time]
            columns = [g for g in range(len(groups)) if g not in taken and weak[g] in wanted]
            for i, j in self._linked(free, t, time, poses[columns], boxes[columns], least):
                g = columns[j]
                free[i].add(t, time, groups[g], sight, poses[g], boxes[g])
                free[i].certain |= not weak[g]
                taken.add(g)
        starts = []
        for g in sorted((g for g in range(len(groups)) if g not in taken), key=lambda g: (weak[g], -len(groups[g]), g)):
            others = sorted(taken)
            if len(groups[g]) < num_experts and others:
                similar = affinities(poses[g : g + 1], boxes[g : g + 1], poses[others], boxes[others], self.oks_weight)
                if similar.max() >= self.duplicate:
                    continue
            path = _Path(poses[g], boxes[g], time, not weak[g])
            path.add(t, time, groups[g], sight, poses[g], boxes[g])
            starts.append(path)
            taken.add(g)
        return starts

    def _linked(
        self, free: list[_Path], t: int, time: float, poses: Float, boxes: Float, least: float
    ) -> list[tuple[int, int]]:
        """Pairs of a free track and a sight of frame t."""
        if not free or not len(poses):
            return []
        shifts = np.stack([p.velocity * (time - p.time) for p in free])
        before = np.stack([p.pose for p in free]) + shifts[:, None]
        around = np.stack([p.box for p in free]) + np.tile(shifts, 2)
        waited = np.array([max(t - p.sights[-1][0], 1) for p in free], np.float64)
        affinity = affinities(before, around, poses, boxes, self.oks_weight, _EASE * waited, _MIRROR)
        affinity[(affinity < _LATE) & (waited > 1)[:, None]] = 0.0
        return match(affinity, least)


def _gather(frames: Sequence[Sequence[Poses]], experts: Sequence[str]) -> list[Sight]:
    """All frames in the common layout; every expert is converted once."""
    columns = []
    for e, layout in enumerate(experts):
        found = [frame[e] for frame in frames]
        counts = [len(p) for p in found]
        if sum(counts):
            coords, scores = convert(
                np.concatenate([p.coords for p in found]), np.concatenate([p.scores for p in found]), layout, COMMON
            )
        else:
            skeleton(layout)
            coords, scores = np.zeros((0, NUM_JOINTS, 2)), np.zeros((0, NUM_JOINTS))
        ends = np.cumsum(counts)
        columns.append(
            [Poses(coords[b - n : b], scores[b - n : b], p.boxes) for b, n, p in zip(ends, counts, found, strict=True)]
        )
    return [gather([column[t] for column in columns]) for t in range(len(frames))]


def _finish(track_id: int, path: _Path, sights: Sequence[Sight], num_experts: int) -> Track:
    coords = np.full((num_experts, len(sights), NUM_JOINTS, 2), np.nan, np.float32)
    scores = np.zeros((num_experts, len(sights), NUM_JOINTS), np.float32)
    boxes = np.full((len(sights), 4), np.nan, np.float32)
    for t, rows in path.sights:
        coords[sights[t].expert[rows], t] = sights[t].coords[rows]
        scores[sights[t].expert[rows], t] = sights[t].scores[rows]
        boxes[t] = middles(sights[t], [rows])[1][0]
    return Track(track_id, coords, scores, boxes)
