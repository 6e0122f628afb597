"""Tracker `oks`: the people of all experts, linked over time and over gaps."""

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
    FramePeople,
    affinities,
    group_people,
    is_weak,
    match,
    median_people,
    stack_experts,
)

_SURE, _LATE = 0.4, 0.2
"""Affinity of links that are made before all others, and least affinity of a link after a gap."""

_EASE, _MIRROR = 2.0, 0.6
"""Factor of the tolerance of OKS from one frame to the next, and of the affinity of a pose with left and right swapped.
All constants were chosen on the training videos of Multi-Person PoseTrack."""

_FRESH = 0.3
"""Share of the newest step in the velocity of a track."""


@dataclass
class _Candidate:
    """A track while it grows: the last position of every joint, the velocity of the body, and the people so far."""

    pose: Float
    box: Float
    time: float
    certain: bool = False
    """Whether the candidate holds a strong group, and so becomes a track."""
    velocity: Float = field(default_factory=lambda: np.zeros(2))
    members: list[tuple[int, list[int]]] = field(default_factory=list)
    """Frames and the rows of their people."""
    total: float = 0.0
    """Sum of the scores of all joints of all experts."""
    joints: int = 0

    def add(self, frame: int, time: float, rows: list[int], people: FramePeople, pose: Float, box: Float) -> None:
        """Add the group `rows` of `people`, whose median is `pose` (V, 2) and `box` (4,)."""
        if self.members:
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
        self.members.append((frame, rows))
        self.total += float(people.scores[rows].sum())
        self.joints += int((people.scores[rows] > 0).sum())


@dataclass(frozen=True)
class OksTracker(Tracker):
    """Links the people of all experts into tracks, by the Hungarian algorithm on OKS and box overlap, over gaps.

    In every frame the people of all experts are grouped (`associate`). Groups are then matched to tracks that move on
    at constant velocity: strong groups first (two or more experts, or one expert with high scores), then weak ones.
    This is the order of ByteTrack (arXiv 2110.06864, section 3). Within each, pairs of high affinity are linked first.
    A track may begin with weak groups, but needs a strong one. A group that doubles a person of the frame begins no
    track. The result depends on the input only; the order of experts decides ties.

    Attributes:
        max_gap: longest time in which a track may miss, in seconds.
        min_frames: least frames of a track. In clips shorter than twice that: half of the frames.
        oks_weight: share of OKS in the affinity; the rest is the overlap of boxes.
        min_affinity: least affinity of two poses of one person by two experts.
        min_link: least affinity of a group to a track; higher after a gap.
        min_score: least mean joint score of a strong group of one expert.
        min_joints: least joints of a strong group of one expert.
        duplicate: affinity to another group from which a group is a duplicate of the same person.
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
            frames: for every frame the poses of each expert, in the layout of the expert.
            timestamps: (T,) seconds, increasing.
            experts: name of the layout of each expert.

        Returns:
            Tracks in the layout body13, best first: by mean score of the seen joints times number of frames, ties by
            first frame, then from left to right. `track_id` counts them from 0.

        Raises:
            ComponentError: arguments that do not fit together, or an unknown layout.
        """
        times = np.asarray(timestamps, np.float64)
        if times.shape != (len(frames),) or any(len(frame) != len(experts) for frame in frames):
            raise ComponentError(
                f"track takes poses of {len(experts)} experts and a timestamp per frame; "
                f"given {len(frames)} frames, timestamps {times.shape}"
            )
        per_frame = _in_common_layout(frames, experts)
        candidates: list[_Candidate] = []
        for t, people in enumerate(per_frame):
            alive = [p for p in candidates if times[t] - p.time <= self.max_gap + 1e-9]
            candidates += self._step(alive, t, float(times[t]), people, len(experts))
        least = min(self.min_frames, (len(frames) + 1) // 2)
        candidates = [p for p in candidates if p.certain and len(p.members) >= least]

        def order(candidate: _Candidate) -> tuple[float, ...]:
            first, rows = candidate.members[0]
            return (
                -round(candidate.total / max(candidate.joints, 1) * len(candidate.members), 6),
                first,
                *median_people(per_frame[first], [rows])[1][0],
            )

        candidates.sort(key=order)
        return [_finish(i, candidate, per_frame, len(experts)) for i, candidate in enumerate(candidates)]

    def _step(
        self, alive: list[_Candidate], t: int, time: float, people: FramePeople, num_experts: int
    ) -> list[_Candidate]:
        """Extend the tracks `alive` with the people of frame t; returns the tracks that start there."""
        groups = group_people(people, num_experts, self.oks_weight, self.min_affinity)
        if not groups:
            return []
        poses, boxes = median_people(people, groups)
        weak = [is_weak(people, rows, self.min_score, self.min_joints) for rows in groups]
        taken: set[int] = set()
        turns = [
            (True, weakness, max(least, self.min_link)) for least in (_SURE, 0.0) for weakness in ({False}, {True})
        ]
        for certain, strengths, least in (*turns, (False, {False, True}, self.min_link)):
            free = [p for p in alive if p.certain == certain and p.time < time]
            columns = [g for g in range(len(groups)) if g not in taken and weak[g] in strengths]
            for i, j in self._linked(free, t, time, poses[columns], boxes[columns], least):
                g = columns[j]
                free[i].add(t, time, groups[g], people, poses[g], boxes[g])
                free[i].certain |= not weak[g]
                taken.add(g)
        starts = []
        for g in sorted((g for g in range(len(groups)) if g not in taken), key=lambda g: (weak[g], -len(groups[g]), g)):
            others = sorted(taken)
            if len(groups[g]) < num_experts and others:
                similar = affinities(poses[g : g + 1], boxes[g : g + 1], poses[others], boxes[others], self.oks_weight)
                if similar.max() >= self.duplicate:
                    continue
            candidate = _Candidate(poses[g], boxes[g], time, not weak[g])
            candidate.add(t, time, groups[g], people, poses[g], boxes[g])
            starts.append(candidate)
            taken.add(g)
        return starts

    def _linked(
        self, free: list[_Candidate], t: int, time: float, poses: Float, boxes: Float, least: float
    ) -> list[tuple[int, int]]:
        """Pairs of a free track and a group of frame t."""
        if not free or not len(poses):
            return []
        shifts = np.stack([p.velocity * (time - p.time) for p in free])
        before = np.stack([p.pose for p in free]) + shifts[:, None]
        around = np.stack([p.box for p in free]) + np.tile(shifts, 2)
        waited = np.array([max(t - p.members[-1][0], 1) for p in free], np.float64)
        affinity = affinities(before, around, poses, boxes, self.oks_weight, _EASE * waited, _MIRROR)
        affinity[(affinity < _LATE) & (waited > 1)[:, None]] = 0.0
        return match(affinity, least)


def _in_common_layout(frames: Sequence[Sequence[Poses]], experts: Sequence[str]) -> list[FramePeople]:
    """The people of all frames in the common layout; every expert is converted once."""
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
    return [stack_experts([column[t] for column in columns]) for t in range(len(frames))]


def _finish(track_id: int, candidate: _Candidate, per_frame: Sequence[FramePeople], num_experts: int) -> Track:
    coords = np.full((num_experts, len(per_frame), NUM_JOINTS, 2), np.nan, np.float32)
    scores = np.zeros((num_experts, len(per_frame), NUM_JOINTS), np.float32)
    boxes = np.full((len(per_frame), 4), np.nan, np.float32)
    for t, rows in candidate.members:
        coords[per_frame[t].expert[rows], t] = per_frame[t].coords[rows]
        scores[per_frame[t].expert[rows], t] = per_frame[t].scores[rows]
        boxes[t] = median_people(per_frame[t], [rows])[1][0]
    return Track(track_id, coords, scores, boxes)
