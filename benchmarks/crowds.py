"""Annotated crowds as a perfect detector would see them, and made worse.

The Multi-Person PoseTrack data: street and sport, up to 16 people in a frame, every person annotated with which joints
are visible.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.core.types import Poses

Array = NDArray[Any]
Detections = list[Poses]
SHARED = Path(os.environ.get("DATAENGINE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
FAULTS = ("none", "missed", "jittered", "ghosts", "all")


@dataclass(frozen=True)
class Video:
    """People of one annotated video: joints (N, 13, 2) NaN where not visible, and whose they are in which frame."""

    joints: Array
    frame: Array
    person: Array
    num_frames: int


def crowds(train: bool) -> list[Video]:
    """The annotated videos of one side of the split, in the layout body13."""
    data = np.load(SHARED / "tracks" / "bonn_posetrack.npz")
    names = list(data["joint_names"])
    points = np.where((data["state"] == 2)[..., None], data["points"], np.nan)
    head = (points[:, names.index("upper_neck")] + points[:, names.index("head_top")]) / 2
    limbs = [
        points[:, names.index(f"{side}_{j}")]
        for j in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in "lr"
    ]
    joints = np.stack([head, *limbs], 1)
    out = []
    for video in np.flatnonzero(data["video_train"] == train):
        rows = np.flatnonzero((data["video_index"] == video) & np.isfinite(joints[..., 0]).any(1))
        out.append(Video(joints[rows], data["frame"][rows], data["track_id"][rows], int(data["video_frames"][video])))
    return out


def around(joints: Array) -> Array:
    """(N, 4) boxes around the seen joints (N, V, 2), widened by a tenth of the longer side and 4 pixels."""
    low, high = np.nanmin(joints, 1), np.nanmax(joints, 1)
    pad = 0.1 * (high - low).max(1, keepdims=True) + 4
    return np.concatenate([low - pad, high + pad], 1)


def detections(video: Video, fault: str, seed: int) -> Detections:
    """What a detector would give: everything visible, or made worse by `fault`."""
    rng = np.random.default_rng((seed, 7))
    joints = video.joints.copy()
    scores = rng.uniform(0.6, 1.0, len(joints))
    there = np.ones(len(joints), np.bool_)
    if fault in ("missed", "all"):  # gone for 5 frames on average, a sixth of the time
        for person in np.unique(video.person):
            rows = np.flatnonzero(video.person == person)
            hidden = 0
            for row in rows:
                hidden = hidden - 1 if hidden > 0 else (rng.geometric(0.2) if rng.random() < 0.04 else 0)
                there[row] = hidden == 0
    if fault in ("jittered", "all"):
        size = around(joints)
        size = np.sqrt((size[:, 2] - size[:, 0]) * (size[:, 3] - size[:, 1]))
        joints += rng.normal(0, 0.05, joints.shape) * size[:, None, None]
        lost = rng.random(joints.shape[:2]) < 0.15
        lost[np.isnan(np.where(lost, np.nan, joints[..., 0])).all(1)] = False
        joints[lost] = np.nan
        scores *= rng.uniform(0.7, 1.0, len(scores))
    ghosts = _ghosts(video, rng) if fault in ("ghosts", "all") else []
    out = []
    for t in range(video.num_frames):
        rows = np.flatnonzero((video.frame == t) & there)
        people = [(joints[r], scores[r]) for r in rows] + [(pose, score) for when, pose, score in ghosts if when == t]
        people = [people[i] for i in rng.permutation(len(people))]
        out.append(_poses(people))
    return out


def _ghosts(video: Video, rng: np.random.Generator) -> list[tuple[int, Array, float]]:
    """People where nobody is: somebody's joints elsewhere, half of them missing, for 3 frames on average, one in four
    frames."""
    out = []
    low, high = np.nanmin(video.joints, (0, 1)), np.nanmax(video.joints, (0, 1))
    for t in range(video.num_frames):
        if rng.random() < 0.25:
            pose = video.joints[rng.integers(len(video.joints))]
            pose = pose - np.nanmean(pose, 0) + rng.uniform(low, high)
            some = rng.random(len(pose)) < 0.5
            pose = np.where(some[:, None], np.nan, pose) if np.isfinite(pose[~some]).any() else pose
            score = rng.uniform(0.2, 0.7)
            for later in range(t, min(t + rng.geometric(1 / 3), video.num_frames)):
                out.append((later, pose + rng.normal(0, 2, pose.shape), score))
    return out


def _poses(people: list[tuple[Array, float]]) -> Poses:
    if not people:
        return Poses.empty(13)
    coords = np.stack([pose for pose, _ in people]).astype(np.float32)
    confidence = np.array([score for _, score in people], np.float32)
    scores = np.where(np.isfinite(coords[..., 0]), confidence[:, None], 0).astype(np.float32)
    return Poses(coords, scores, np.concatenate([around(coords), confidence[:, None]], 1).astype(np.float32))
