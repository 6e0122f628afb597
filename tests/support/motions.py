"""Made-up motions whose class is how a body moves: which joints swing, and how fast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataengine.core.skeletons import skeleton
from training.data.types import SkeletonDataset, SkeletonSequence

CLASSES = ("wave left", "wave right", "squat", "walk")


class Motions(SkeletonDataset):
    """`count` clips of a standing body of 13 joints, each class with its own movement, in random places and sizes; with
    `space` with a depth, y up."""

    def __init__(
        self, count: int, seed: int = 0, name: str = "motions", video: int = 0, classes: int = 4, space: bool = False
    ) -> None:
        rng = np.random.default_rng(seed)
        self.name, self.skeleton, self.labels = name, skeleton("body13"), CLASSES
        self.span_labels = CLASSES
        self.label_ids = (np.arange(count) % classes).astype(np.int64)
        self.keys = [f"{name}-{k:04d}" for k in range(count)]
        self.fingerprint = f"{name}-{count}-{seed}-{space}"
        self.space = space
        self.clips = [self._clip(k, rng, video) for k in range(count)]

    def _clip(self, number: int, rng: np.random.Generator, video: int) -> SkeletonSequence:
        frames = int(rng.integers(30, 70))
        time = np.arange(frames) / 25 * rng.uniform(0.7, 1.4) * 2 * np.pi + rng.uniform(0, 6)
        x = np.tile(
            rng.normal(0, 0.02, 13) + np.array([0, -1, 1, -1.3, 1.3, -1.4, 1.4, -0.5, 0.5, -0.5, 0.5, -0.5, 0.5]),
            (frames, 1),
        )
        y = np.tile(np.array([-3, -2, -2, -1, -1, 0, 0, 0, 0, 1.5, 1.5, 3, 3]) + rng.normal(0, 0.02, 13), (frames, 1))
        swing = np.sin(time)[:, None]
        label = int(self.label_ids[number])
        if label < 2:
            y[:, [5 + label]] += 2 * swing - 2
            y[:, [3 + label]] += swing - 0.5
        elif label == 2:
            y[:, :9] += 0.8 + 0.8 * swing
        else:
            x[:, [11]] += swing
            x[:, [12]] -= swing
        array = np.stack([x, y], -1)[None] * rng.uniform(40, 80) + rng.uniform(100, 300, 2)
        array = (array + rng.normal(0, 0.5, array.shape)).astype(np.float32)
        if self.space:
            depth = 0.1 * (array[..., :1] - array[..., :1].mean())
            array = np.concatenate([array[..., :1], -array[..., 1:], depth], -1)
        told = (
            {}
            if not video
            else {
                "video": np.eye(video, dtype=np.float32)[[label]] + rng.normal(0, 0.05, (2, video)).astype(np.float32)
            }
        )
        spans = np.array([[label, 0, frames]])
        return SkeletonSequence(self.keys[number], array, None, label, (640, 480), 25.0, told, spans=spans)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        return [self.clips[index] for index in indices]
