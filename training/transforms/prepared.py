"""Clips prepared once: what draws nothing at random is computed in the first epoch and kept on disk, or in memory.

Preparing a clip (choice of people, filling of missing joints, normalisation) takes several times as long as a random
view of it. A kept clip is the very array that would be made again, so a run is the same with and without, whoever
prepared it: worker processes, other seeds, probes and other streams of the same joints share what is on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3 as Hasher

from dataengine.core import skeletons
from dataengine.core.errors import TrainingError
from training.data.clip_store import ABOUT, ClipStore, unusable
from training.data.subsets import SubsetDataset
from training.data.types import SkeletonDataset, SkeletonSequence, remark
from training.transforms.preprocess import Preprocess

PLACES = ("auto", "memory", "off")
"""Values of `run.cache` that are no folder."""
FOLDER = "DATAENGINE_PREPARED"
"""Environment variable: the folder of prepared clips."""
PART_OF_MEMORY = 0.25
"""Part of a machine's memory that holds prepared clips at most, of all processes of a device together."""
ENTRY = 1000
"""Bytes that a clip takes in memory beside its arrays, about."""
LATER = ("stream", "keep_root", "mask")
"""Options of `Preprocess` that joints do not depend on."""
SOURCES = (
    "data/formats",
    "data/types.py",
    "data/rgb.py",
    "transforms/rgb.py",
    "transforms/preprocess.py",
    "transforms/normalise.py",
    "transforms/placement.py",
)
"""Code that prepared clips depend on."""


@dataclass(frozen=True)
class ClipCache:
    """Where prepared clips are kept.

    Attributes:
        root: the folder; None: in memory alone.
        limit: bytes in the folder.
        memory: bytes that one process holds of what is not on disk.
    """

    root: Path | None
    limit: float
    memory: float

    @classmethod
    def of(cls, place: str, gigabytes: float, workers: int = 1) -> ClipCache | None:
        """The cache that a configuration says; None for none.

        Args:
            place: see `run.cache`.
            gigabytes: see `run.cache_gb`.
            workers: processes that share the memory.

        Raises:
            TrainingError: an empty place.
        """
        if not place:
            raise TrainingError(f"run.cache is ''; allowed: {', '.join(PLACES)}, or a folder")
        limit = gigabytes * 1e9
        if place == "off" or limit <= 0:
            return None
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = min(limit, PART_OF_MEMORY * physical) / max(1, workers)
        if place == "memory":
            return cls(None, 0.0, memory)
        root = Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "dataengine" / "prepared")
        return cls((root if place == "auto" else Path(place)).expanduser().absolute(), limit, memory)


class PreparedDataset(SkeletonDataset):
    """A dataset whose clips are prepared, and kept.

    Args:
        dataset: the clips as they are stored.
        preprocess: prepares them; its `joints` gives a prepared clip back at once.
        cache: where they are kept; clips for which it has no room are prepared whenever they are read.
    """

    def __init__(self, dataset: SkeletonDataset, preprocess: Preprocess, cache: ClipCache) -> None:
        self.source, self.preprocess, self._limit = dataset, preprocess, cache.memory
        self.name, self.skeleton, self.labels = dataset.name, dataset.skeleton, dataset.labels
        self.fingerprint, self.keys, self.label_ids = dataset.fingerprint, dataset.keys, dataset.label_ids
        self.named, self.groups, self.columns = dataset.named, dataset.groups, dataset.columns
        self.span_labels, self.lengths = dataset.span_labels, dataset.lengths
        self.spans_known, self.spans_proposed = dataset.spans_known, dataset.spans_proposed
        self._held: dict[int, SkeletonSequence] = {}
        self.bytes = 0
        self._store = None if cache.root is None else _store(cache.root, cache.limit, dataset, preprocess)

    def __len__(self) -> int:
        return len(self.source)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_held": {}, "bytes": 0}  # a process that is started begins without any

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions, in this order: `keypoints` are prepared and not to be written to."""
        positions = [int(index) for index in indices]
        wanted = list(dict.fromkeys(positions))
        clips = {position: self._held[position] for position in wanted if position in self._held}
        if self._store is not None:
            stored = self._store.read(position for position in wanted if position not in clips)
            clips |= {n: dataclasses.replace(clip, prepared_by=self.preprocess) for n, clip in stored.items()}
        new = [position for position in wanted if position not in clips]
        for position, clip in zip(new, map(self._prepared, self.source.read(new) if new else ())):
            clips[position] = clip
            if self._store is None or not self._store.write(position, clip):
                self._hold(position, clip)
        return [clips[position] for position in positions]

    def _hold(self, position: int, clip: SkeletonSequence) -> None:
        size = ENTRY + clip.keypoints.nbytes + sum(np.asarray(value).nbytes for value in clip.features.values())
        if self.bytes + size <= self._limit:
            self._held[position] = clip
            self.bytes += size

    def _prepared(self, clip: SkeletonSequence) -> SkeletonSequence:
        made = self.preprocess.prepare(clip)
        made.joints.flags.writeable = False
        return dataclasses.replace(
            clip, keypoints=made.joints, scores=None, placed=made.placed, prepared_by=self.preprocess
        )


def prepared(
    datasets: SkeletonDataset | Sequence[SkeletonDataset], preprocess: Preprocess, cache: ClipCache | None
) -> list[SkeletonDataset]:
    """Datasets whose clips are prepared and kept; of subsets, what they are subsets of is. Without a cache as they
    are."""
    parts = [datasets] if isinstance(datasets, SkeletonDataset) else list(datasets)
    return [_prepared(part, preprocess, cache) for part in parts]


def _prepared(dataset: SkeletonDataset, preprocess: Preprocess, cache: ClipCache | None) -> SkeletonDataset:
    if isinstance(dataset, SubsetDataset):
        source = _prepared(dataset.source, preprocess, cache)
        return dataset if source is dataset.source else SubsetDataset(source, dataset.positions)
    if isinstance(dataset, PreparedDataset):
        return dataset if dataset.preprocess == preprocess else _prepared(dataset.source, preprocess, cache)
    return dataset if cache is None else PreparedDataset(dataset, preprocess, cache)


def _store(root: Path, limit: float, dataset: SkeletonDataset, preprocess: Preprocess) -> ClipStore:
    """The clips of a dataset and a preparation on disk; a note says where nothing can be written."""
    options = {
        field.name: repr(getattr(preprocess, field.name))
        for field in dataclasses.fields(preprocess)
        if field.name not in LATER
    }
    about = {"data": dataset.name, "clips": len(dataset), "preprocess": options, "version": version()}
    key = Hasher(f"{version()} {dataset.fingerprint} {len(dataset)} {options}".encode()).hexdigest()[:32]
    store = ClipStore(root, key, len(dataset), limit, about)
    with contextlib.suppress(OSError):
        os.utime(store.folder / ABOUT)
    if not store.complete and (why := unusable(root, limit)):
        remark(f"prepared clips are not written to {root} ({why}); they are held in memory, or set run.cache")
    return store


@functools.cache
def version() -> str:
    """What prepared clips depend on beside data and options: code, NumPy, the processor's architecture."""
    training = Path(__file__).resolve().parents[1]
    files = [file for name in SOURCES for file in sorted((training / name).glob("*.py")) or [training / name]]
    files.append(Path(skeletons.__file__))
    code: Any = Hasher()
    for file in files:
        code.update(file.read_bytes())
    return f"{code.hexdigest()[:16]} numpy {np.__version__} {platform.machine()}"
