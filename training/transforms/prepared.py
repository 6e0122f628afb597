"""Clips prepared once: what draws nothing at random is computed in the first epoch and held in memory.

Preparing a clip (choice of people, filling of missing joints, normalisation) takes several times as long as a random
view of it. A held clip is the very array that would be made again, so a run is the same with and without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from training.data.types import SkeletonDataset, SkeletonSequence
from training.transforms.preprocess import Preprocess


class PreparedDataset(SkeletonDataset):
    """A dataset whose clips are prepared, and held while they fit. Every process holds those that it has read.

    Args:
        dataset: the clips as they are stored.
        preprocess: prepares them; its `joints` gives a held clip back at once.
        limit: bytes that a process holds at most; clips beyond are prepared whenever they are read.
    """

    def __init__(self, dataset: SkeletonDataset, preprocess: Preprocess, limit: float) -> None:
        self.source, self._preprocess, self._limit = dataset, preprocess, limit
        self.name, self.skeleton, self.labels = dataset.name, dataset.skeleton, dataset.labels
        self.fingerprint, self.keys, self.label_ids = dataset.fingerprint, dataset.keys, dataset.label_ids
        self.named, self.groups, self.columns = dataset.named, dataset.groups, dataset.columns
        self._held: dict[int, SkeletonSequence] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.source)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_held": {}, "bytes": 0}  # a process that is started begins without any

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions, in this order: `keypoints` are prepared and not to be written to."""
        positions = [int(index) for index in indices]
        new = list(dict.fromkeys(position for position in positions if position not in self._held))
        made = dict(zip(new, map(self._prepared, self.source.read(new)))) if new else {}
        clips = [self._held[position] if position in self._held else made[position] for position in positions]
        for position, clip in made.items():
            size = clip.keypoints.nbytes + sum(np.asarray(value).nbytes for value in clip.features.values())
            if self.bytes + size <= self._limit:
                self._held[position] = clip
                self.bytes += size
        return clips

    def _prepared(self, clip: SkeletonSequence) -> SkeletonSequence:
        joints = self._preprocess.joints(clip)
        joints.flags.writeable = False
        return dataclasses.replace(clip, keypoints=joints, scores=None, prepared_by=self._preprocess)
