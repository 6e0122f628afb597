"""Batches of sequences: the only place where the order of axes changes, from (M, T, V, C) to (N, C, T, V, M)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dataengine.core.errors import DataEngineError, TrainingError
from dataengine.core.jit import compiled
from training.data.entries import Entry, Motion, same_shape
from training.data.partners import PartnerDraw
from training.data.sampler import PARTNERS, BatchSpec, SampleRng
from training.data.types import Numbers, SampleTransform, SkeletonDataset, SkeletonSequence

Batch: TypeAlias = dict[str, Any]

RESERVED = ("label", "index", "position")
"""Entries of a batch that the loader itself makes."""


def _place(poses: Any, out: Any) -> None:
    """Copy poses (M', T', V, C) into `out` (C, T, V, M); what is missing or NaN becomes 0."""
    # NaN is the only number unequal to itself
    people, frames, joints, channels = poses.shape
    most, length = out.shape[3], out.shape[1]
    used, total = min(frames, length) * joints, length * joints
    flat, target = poses.reshape(people, frames * joints * channels), out.reshape(out.shape[0], total * most)
    for c in range(out.shape[0]):
        for m in range(most):
            if m < people:
                for i in range(used):
                    value = flat[m, i * channels + c]
                    target[c, i * most + m] = value if value == value else np.float32(0)
                for i in range(used, total):
                    target[c, i * most + m] = np.float32(0)
            else:
                for i in range(total):
                    target[c, i * most + m] = np.float32(0)


_placed = compiled(_place)


@dataclass(frozen=True)
class PadOrCrop:
    """The first people and frames of a clip as they are; what is missing is 0.

    Attributes:
        frames: T of the result.
        people: M of the result, the first of the clip.
        channels: C of the result; one more than the clip has adds its scores. None: the coordinates of the clip, 2 in
            the picture and 3 in space.
    """

    frames: int = 300
    people: int = 2
    channels: int | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "people", "channels"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise TrainingError(f"PadOrCrop: {name}={getattr(self, name)!r}; allowed: 1 and more")

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        """`motion`: (people, frames, V, channels) float32."""
        poses = sequence.keypoints
        channels = poses.shape[3] if self.channels is None else self.channels
        if channels == poses.shape[3] + 1:
            visible = np.isfinite(poses).all(-1, keepdims=True)
            scores = visible if sequence.scores is None else sequence.scores[..., None]
            poses = np.concatenate([poses, scores], -1, dtype=np.float32)
        if channels > poses.shape[3]:
            raise TrainingError(f"{sequence.key}: channels={channels} of a clip with {poses.shape[3]} coordinates")
        # laid out as the batch will be, which is then one copy
        out = np.empty((channels, self.frames, poses.shape[2], self.people), np.float32)
        _placed(np.ascontiguousarray(poses, np.float32), out)
        return {"motion": Motion(out.transpose(3, 1, 2, 0))}


def stack(name: str, values: Sequence[Any]) -> Batch:
    """An entry of a batch, and what belongs to it, by name.

    Args:
        name: of the entry.
        values: one per clip: entries of one class (see `training.data.entries`), arrays or numbers of one shape, or
            texts.

    Returns:
        Of an `Entry` what its class makes of it, arrays as tensors. Arrays and numbers as a tensor (N, ...) of their
        dtype; texts as a list.

    Raises:
        TrainingError: the shapes differ, or clips have entries of different classes.
    """
    kind = type(values[0])
    if isinstance(values[0], Entry):
        if any(type(value) is not kind for value in values):
            other = next(type(value).__name__ for value in values if type(value) is not kind)
            raise TrainingError(
                f"the sample transform gives {name!r} as {kind.__name__} of some clips and as {other} of others; "
                "allowed: one class"
            )
        made: Mapping[str, Any] = kind.stack(name, values)
    elif isinstance(values[0], str):
        made = {"": list(values)}
    else:
        arrays: list[NDArray[Any]] = [np.asarray(value) for value in values]
        same_shape(name, arrays)
        made = {"": np.stack(arrays)}
    return {
        name + suffix: torch.from_numpy(part) if isinstance(part, np.ndarray) else part for suffix, part in made.items()
    }


class BatchMaker(Dataset[Any]):
    """Makes the batch of a `BatchSpec` in any process. Our errors are returned; the loader raises them."""

    def __init__(
        self,
        datasets: Sequence[SkeletonDataset],
        starts: Numbers,
        labels: Numbers,
        transform: SampleTransform,
        seed: int,
        partners: PartnerDraw | None = None,
    ) -> None:
        self._datasets, self._starts, self._labels = datasets, starts, labels
        self._transform, self._seed, self._partners = transform, seed, partners
        self._rng: SampleRng | None = None
        self._partner_rng: SampleRng | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rng": None, "_partner_rng": None}

    def __getitem__(self, spec: BatchSpec) -> Batch | DataEngineError:
        try:
            return self._make(*spec)
        except DataEngineError as error:
            return error

    def _make(self, epoch: int, first: int, indices: Numbers) -> Batch:
        if self._rng is None:
            self._rng = SampleRng(self._seed)
        rng, transform = self._rng, self._transform
        clips, drawn = self._with_partners(epoch, first, indices)
        samples = [transform(clip, rng(epoch, first + k)) for k, clip in enumerate(clips)]
        names = samples[0].keys()
        if any(sample.keys() != names for sample in samples):
            raise TrainingError(
                f"the sample transform gives {sorted(names)} for some clips and others for others; all need the same "
                "entries"
            )
        batch: Batch = {}
        for name in names:
            batch |= stack(name, [sample[name] for sample in samples])
        if clash := sorted(batch.keys() & {*RESERVED, *drawn}):
            raise TrainingError(
                f"the sample transform gives {clash[0]!r}, which the loader itself fills; give it another name"
            )
        batch["label"] = torch.from_numpy(self._labels[indices])
        batch["index"] = torch.from_numpy(indices.copy())
        batch["position"] = torch.arange(first, first + len(indices))
        return batch | {name: torch.from_numpy(numbers) for name, numbers in drawn.items()}

    def _with_partners(
        self, epoch: int, first: int, indices: Numbers
    ) -> tuple[list[SkeletonSequence], dict[str, Numbers]]:
        """The clips of a batch with their partners, and what the batch says of these; see `DataLoader`."""
        partners = self._partners
        if partners is None:
            return self._read(indices), {}
        if self._partner_rng is None:
            self._partner_rng = SampleRng(self._seed, PARTNERS)
        rng = self._partner_rng
        drawn = [partners.draw(index, rng(epoch, first + k)) for k, index in enumerate(indices.tolist())]
        needed = np.unique([*indices.tolist(), *(index for each in drawn for index in each.values() if index >= 0)])
        read = dict(zip(needed.tolist(), self._read(needed)))
        clips = [
            replace(read[index], partners={name: read[number] for name, number in each.items() if number >= 0})
            for index, each in zip(indices.tolist(), drawn)
        ]
        said = {f"{name}_index": np.array([each[name] for each in drawn], np.int64) for name in partners.names}
        return clips, said | {f"{name}_group": partners.groups[name][indices] for name in partners.names}

    def _read(self, indices: Numbers) -> list[SkeletonSequence]:
        """The sequences with these numbers, counted over all datasets."""
        if len(self._datasets) == 1:
            return self._datasets[0].read(indices.tolist())
        clips: dict[int, SkeletonSequence] = {}
        owners = np.searchsorted(self._starts, indices, "right") - 1
        for owner in np.unique(owners).tolist():
            slots = np.flatnonzero(owners == owner)
            own = (indices[slots] - self._starts[owner]).tolist()
            clips.update(zip(slots.tolist(), self._datasets[owner].read(own)))
        return [clips[slot] for slot in range(len(indices))]
