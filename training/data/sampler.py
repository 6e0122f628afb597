"""Which clip is at which position of an epoch, and its random numbers: pure functions of seed, epoch and position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dataengine.core.errors import TrainingError
from training.data.types import Numbers, SkeletonDataset

BatchSpec: TypeAlias = tuple[int, int, Numbers]
"""Of a batch: epoch, position of its first clip, and (n,) int64 indices of its clips."""

ORDER, MIX, DRAW, PARTNERS = 1, 2, 3, 4
"""What random numbers are for; each purpose has a stream of its own."""


def philox(seed: int, purpose: int, first: int, second: int) -> np.random.Generator:
    """The random numbers of (seed, purpose, first, second): Philox with these as key and as upper half of its
    counter."""
    key, counter = np.array([seed, purpose], np.uint64), np.array([0, 0, first, second], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


class SampleRng:
    """`philox(seed, purpose, epoch, position)` for clip after clip, without the cost of new generators.

    A generator is valid until the next call.
    """

    def __init__(self, seed: int, purpose: int = DRAW) -> None:
        self._bits = np.random.Philox(key=np.array([seed, purpose], np.uint64))
        self._state: Any = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def __call__(self, epoch: int, position: int) -> np.random.Generator:
        self._state["state"]["counter"][:] = 0, 0, epoch, position
        self._bits.state = self._state
        return self._generator


@dataclass(frozen=True)
class SampleOrder:
    """Which clip is at which position of an epoch.

    Attributes:
        groups: indices of clips, (n,) int64 each; within a group every clip comes equally often.
        counts: positions of an epoch that each group has.
        seed: of all permutations.
        shuffled: whether clips are permuted.
    """

    groups: tuple[Numbers, ...]
    counts: tuple[int, ...]
    seed: int
    shuffled: bool

    def __len__(self) -> int:
        return sum(self.counts)

    def epoch(self, number: int) -> Numbers:
        """Indices of clips by position, (len,) int64.

        The clips of a group come in an endless row of permutations, from which each epoch takes the next piece. So,
        over epochs too, no clip comes twice before all came once.
        """
        if not self.shuffled:
            return self.groups[0]
        pieces = [self._piece(group, number * count, count) for group, count in enumerate(self.counts)]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces)[philox(self.seed, MIX, 0, number).permutation(len(self))]

    def _piece(self, group: int, start: int, count: int) -> Numbers:
        indices = self.groups[group]
        size = len(indices)
        turns = range(start // size, -(-(start + count) // size))
        drawn = [philox(self.seed, ORDER, group, turn).permutation(size) for turn in turns]
        whole: Numbers = np.concatenate(drawn) if drawn else np.zeros(0, np.int64)
        return indices[whole[start - turns.start * size :][:count]]


def apportion(weights: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole numbers in the weights' proportion that sum to `total` (largest remainders first)."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * total
    whole = np.floor(exact).astype(np.int64)
    for index in np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]:
        whole[index] += 1
    return tuple(whole.tolist())


def shard_of(count: int, batch_size: int, rank: int, world: int) -> range:
    """Which of the `count` clips of a batch of all processes belong to the process `rank` of `world`."""
    if count == batch_size * world:
        return range(rank * batch_size, (rank + 1) * batch_size)
    return range(count * rank // world, count * (rank + 1) // world)


def batch_specs(
    order: SampleOrder, epoch: int, steps: range, batch_size: int, rank: int, world: int
) -> Iterator[BatchSpec]:
    """The batches of one process in these steps of an epoch."""
    indices, common = order.epoch(epoch), batch_size * world
    for first in range(steps.start * common, steps.stop * common, common):
        part = shard_of(min(common, len(indices) - first), batch_size, rank, world)
        yield epoch, first + part.start, indices[first + part.start : first + part.stop]


def joined_labels(datasets: Sequence[SkeletonDataset]) -> tuple[tuple[str, ...], Numbers]:
    """Class names of all datasets, and labels (N,) int64 as indices into them; classes of one name are one class."""
    names = list(dict.fromkeys(label for dataset in datasets for label in dataset.labels))
    numbers = {name: number for number, name in enumerate(names)}
    parts = []
    for dataset in datasets:
        table = np.array([*(numbers[label] for label in dataset.labels), -1], np.int64)
        parts.append(table[np.asarray(dataset.label_ids, np.int64)])
    return tuple(names), np.concatenate(parts)


def groups_of(
    datasets: Sequence[SkeletonDataset],
    label_ids: Numbers,
    weights: Sequence[float] | Mapping[str, float] | None,
    balance: bool,
) -> tuple[tuple[Numbers, ...], list[float]]:
    """Groups of clips that are drawn equally often, and how often each group is drawn relative to the others."""
    sizes = [len(dataset) for dataset in datasets]
    owners = np.repeat(np.arange(len(datasets)), sizes)
    if weights is None:
        parts, shares = [np.arange(len(owners))], [1.0]
    else:
        if isinstance(weights, Mapping):
            if set(weights) != {dataset.name for dataset in datasets}:
                raise TrainingError(
                    f"weights of {', '.join(map(repr, weights))}; allowed: one each of "
                    f"{', '.join(s.name for s in datasets)}"
                )
            weights = [weights[dataset.name] for dataset in datasets]
        shares = [float(weight) for weight in weights]
        if len(shares) != len(datasets) or not all(0 < share < np.inf for share in shares):
            raise TrainingError(f"weights={shares} of {len(datasets)} datasets; allowed: one positive number a dataset")
        parts = [np.flatnonzero(owners == owner) for owner in range(len(datasets))]
    if not balance:
        return tuple(parts), shares
    groups, split = [], []
    for part, share in zip(parts, shares):
        classes = np.unique(label_ids[part][label_ids[part] >= 0])
        if not len(classes):
            raise TrainingError("balance=True needs labels, and none of the clips has one")
        groups += [part[label_ids[part] == one] for one in classes]
        split += [share / len(classes)] * len(classes)
    return tuple(groups), split
