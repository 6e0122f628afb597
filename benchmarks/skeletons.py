"""LabelledFeatures skeleton sets of the shared folder as datasets, and what is reached on them without learning. Not a
benchmark by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.skeletons import Skeleton, skeleton
from training.data.subsets import label_subsets
from training.data.types import Array, Numbers, SkeletonDataset, SkeletonSequence
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PLACEHOLDER = 2.0
"""Penn Action writes joints it could not guess within so many pixels of the origin along both axes."""
HDM_UNIT = 0.0254 / 0.45
"""Metres in a unit of HDM05's ASF files."""
STRENGTH = 300.0
"""Of the ridge on Penn Action, fixed in advance."""
PENN_JOINTS = (
    "nose", "right_shoulder", "left_shoulder", "right_elbow", "left_elbow", "right_wrist", "left_wrist",
    "right_hip", "left_hip", "right_knee", "left_knee", "right_ankle", "left_ankle",
)  # fmt: skip
"""Anatomical names in the order of the file: the data set's own description has left and right exchanged."""


@dataclass
class Memory(SkeletonDataset):
    """A dataset whose clips are in memory."""

    name: str
    skeleton: Skeleton
    labels: tuple[str, ...]
    clips: tuple[SkeletonSequence, ...]
    fingerprint: str
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.keys = [clip.key for clip in self.clips]
        self.label_ids = np.array([clip.label for clip in self.clips], dtype=np.int64)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions."""
        return [self.clips[index] for index in indices]

    def subset(self, indices: Sequence[int] | Numbers, name: str) -> Memory:
        """The clips at these positions as a dataset with its own fingerprint."""
        clips = tuple(self.clips[index] for index in indices)
        mark = hashlib.sha256(f"{self.fingerprint} {[int(index) for index in indices]}".encode()).hexdigest()
        return Memory(f"{self.name} {name}", self.skeleton, self.labels, clips, mark)


def _split(
    name: str,
    layout: str,
    file: Any,
    points: Array,
    clips: Callable[[int, Array], SkeletonSequence],
    shared_names: Sequence[str],
) -> tuple[Memory, Memory]:
    """Train and test of a file that has `offsets`, `train` and `label_names`."""
    mark = hashlib.sha256(points.tobytes() + file["label"].tobytes() + file["train"].tobytes()).hexdigest()
    parts = np.split(points, file["offsets"][1:-1])
    sequences = tuple(clips(number, part[None]) for number, part in enumerate(parts))
    whole = Memory(name, skeleton(layout), tuple(shared_names), sequences, mark)
    return whole.subset(np.flatnonzero(file["train"]), "train"), whole.subset(np.flatnonzero(~file["train"]), "test")


def penn(shared: Path = SHARED) -> tuple[Memory, Memory]:
    """Penn Action, 1,258 and 1,068 clips of 15 classes, in pixels.

    Placeholders are unseen, joints that annotators guessed are kept. There are no scores: which joints are visible
    tells the class by itself (61.6 % from visibility alone).
    """
    layout = skeleton("body13")
    with np.load(shared / "skeleton" / "penn_action.npz", allow_pickle=False) as stored:
        file = {name: stored[name] for name in stored}
    points = file["keypoints"].copy()
    points[~file["visible"] & (np.abs(points).max(-1) < PLACEHOLDER)] = np.nan
    points = points[:, [PENN_JOINTS.index(joint) for joint in layout.joints]]

    def clip(number: int, part: Array) -> SkeletonSequence:
        width, height = (int(v) for v in file["frame_size"][number])
        facts = {"viewpoint": str(file["viewpoint"][number])}
        return SkeletonSequence(
            str(file["names"][number]), part, None, int(file["label"][number]), (width, height), features=facts
        )

    return _split("Penn Action", layout.name, file, points, clip, [str(v) for v in file["label_names"]])


def nw_ucla(shared: Path = SHARED) -> tuple[Memory, Memory]:
    """Northwestern-UCLA, views 1 and 2 (1,020 clips) and view 3 (464), 10 classes, metres, y up."""
    with np.load(shared / "skeleton" / "nw_ucla.npz", allow_pickle=False) as stored:
        file = {name: stored[name] for name in stored}
    points = file["joints"].copy()
    points[(points == 0).all(-1)] = np.nan

    def clip(number: int, part: Array) -> SkeletonSequence:
        facts = {"subject": int(file["subject"][number]), "view": int(file["view"][number])}
        return SkeletonSequence(str(file["names"][number]), part, None, int(file["label"][number]), features=facts)

    return _split("NW-UCLA", "kinect20", file, points, clip, [str(v) for v in file["label_names"]])


def hdm05(shared: Path = SHARED) -> tuple[Memory, Memory]:
    """HDM05's 11 classes, three subjects (188 clips) and the other two (99), metres, y up, 30 frames a second."""
    with np.load(shared / "skeleton" / "hdm05_subset.npz", allow_pickle=False) as stored:
        file = {name: stored[name] for name in stored}

    def clip(number: int, part: Array) -> SkeletonSequence:
        facts = {"subject": str(file["subject"][number])}
        return SkeletonSequence(
            str(file["names"][number]), part, None, int(file["label"][number]), fps=float(file["fps"]), features=facts
        )

    points = (file["joints"] * HDM_UNIT).astype(np.float32)
    return _split("HDM05", "hdm31", file, points, clip, [str(v) for v in file["label_names"]])


def ten_percent(dataset: Memory, seed: int, share: float = 0.1) -> Memory:
    """A share of every class's clips, the one that few-shot probes of the seed take."""
    return dataset.subset(label_subsets(dataset.label_ids, (share,), seed)[share], f"{share:.0%} seed {seed}")


def flat(dataset: SkeletonDataset, preprocess: Preprocess, frames: int = 32, mirror: bool = False) -> Array:
    """(N, D) float64: each clip prepared and resampled, its numbers in one row; or the mirrored clips."""
    view = View(frames, ({"name": "flip", "chance": float(mirror)},), dataset.skeleton)
    rng = np.random.default_rng(0)
    rows = [preprocess(clip, view, rng).ravel() for clip in dataset.read(range(len(dataset)))]
    return np.stack(rows).astype(np.float64)


def _both(
    train: SkeletonDataset, test: SkeletonDataset, preprocess: Preprocess | None, mirror: bool
) -> tuple[Array, Numbers, Array]:
    """Rows to learn from with their labels, and rows to tell."""
    preprocess = preprocess or Preprocess(train.skeleton)
    rows = [flat(train, preprocess)] + ([flat(train, preprocess, mirror=True)] if mirror else [])
    return np.concatenate(rows), np.tile(train.label_ids, len(rows)), flat(test, preprocess)


def one_nn(
    train: SkeletonDataset, test: SkeletonDataset, mirror: bool = False, preprocess: Preprocess | None = None
) -> float:
    """Per cent of test clips whose nearest training clip (or mirrored one) has their class; 32 frames, straight
    distance."""
    rows, labels, queries = _both(train, test, preprocess, mirror)
    apart = np.square(rows).sum(1) - 2 * queries @ rows.T
    return 100 * float((labels[apart.argmin(1)] == test.label_ids).mean())


def ridge(
    train: SkeletonDataset,
    test: SkeletonDataset,
    mirror: bool = False,
    preprocess: Preprocess | None = None,
    strength: float = STRENGTH,
) -> float:
    """Per cent of test clips classified right by ridge regression onto the classes; 32 frames, not standardised,
    intercept not shrunk."""
    rows, labels, queries = _both(train, test, preprocess, mirror)
    centre, goal = rows.mean(0), np.eye(len(train.labels))[labels]
    rows = rows - centre
    weight = np.linalg.solve(rows.T @ rows + strength * np.eye(rows.shape[1]), rows.T @ (goal - goal.mean(0)))
    predictions = ((queries - centre) @ weight + goal.mean(0)).argmax(1)
    return 100 * float((predictions == test.label_ids).mean())
