"""Which clip stands where in an epoch, and the random numbers it is drawn with: pure functions of seed, epoch and position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dataengine.core.errors import TrainingError
from training.data.types import Numbers, Source

Token: TypeAlias = tuple[int, int, Numbers]
"""Epoch, first position, and the places of a batch's clips."""

ORDER, MIX, DRAW = 1, 2, 3
"""What random numbers are for; each purpose has its own stream."""


def philox(seed: int, purpose: int, first: int, second: int) -> np.random.Generator:
    """The random numbers of (seed, purpose, first, second): Philox with these as key and as upper half of its counter."""
    key, counter = np.array([seed, purpose], np.uint64), np.array([0, 0, first, second], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


class Dice:
    """`philox(seed, DRAW, epoch, position)` clip after clip, without the cost of a new generator each; valid until the next call."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, DRAW], np.uint64))
        self._state: Any = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def __call__(self, epoch: int, position: int) -> np.random.Generator:
        self._state["state"]["counter"][:] = 0, 0, epoch, position
        self._bits.state = self._state
        return self._generator


@dataclass(frozen=True)
class Order:
    """Which clip stands where in an epoch.

    Attributes:
        groups: places of clips, (n,) int64 each; within a group every clip comes equally often.
        shares: how many positions of an epoch each group has.
        seed: of all permutations.
        shuffled: whether there are any.
    """

    groups: tuple[Numbers, ...]
    shares: tuple[int, ...]
    seed: int
    shuffled: bool

    def __len__(self) -> int:
        return sum(self.shares)

    def epoch(self, number: int) -> Numbers:
        """Places by position, (len,) int64.

        A group's clips come in one endless row of permutations, from which each epoch takes the next piece: so also over
        epochs none comes twice before all came once.
        """
        if not self.shuffled:
            return self.groups[0]
        pieces = [self._piece(group, number * share, share) for group, share in enumerate(self.shares)]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces)[philox(self.seed, MIX, 0, number).permutation(len(self))]

    def _piece(self, group: int, start: int, count: int) -> Numbers:
        places = self.groups[group]
        size = len(places)
        turns = range(start // size, -(-(start + count) // size))
        drawn = [philox(self.seed, ORDER, group, turn).permutation(size) for turn in turns]
        whole: Numbers = np.concatenate(drawn) if drawn else np.zeros(0, np.int64)
        return places[whole[start - turns.start * size :][:count]]


def shares_of(weights: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole numbers in the weights' proportion that sum to `total` (largest remainders first)."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * total
    whole = np.floor(exact).astype(np.int64)
    for place in np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]:
        whole[place] += 1
    return tuple(whole.tolist())


def share_of(count: int, batch_size: int, rank: int, world: int) -> range:
    """Which of the `count` clips of a batch of all processes are this one's."""
    if count == batch_size * world:
        return range(rank * batch_size, (rank + 1) * batch_size)
    return range(count * rank // world, count * (rank + 1) // world)


def tokens(order: Order, epoch: int, steps: range, batch_size: int, rank: int, world: int) -> Iterator[Token]:
    """One process's tokens of these steps of an epoch."""
    places, common = order.epoch(epoch), batch_size * world
    for first in range(steps.start * common, steps.stop * common, common):
        share = share_of(min(common, len(places) - first), batch_size, rank, world)
        yield epoch, first + share.start, places[first + share.start : first + share.stop]


def joined_labels(sources: Sequence[Source]) -> tuple[tuple[str, ...], Numbers]:
    """Class names of all sources and each clip's index into them: classes of one name are one class."""
    names = list(dict.fromkeys(label for source in sources for label in source.labels))
    numbers = {name: number for number, name in enumerate(names)}
    parts = []
    for source in sources:
        table = np.array([*(numbers[label] for label in source.labels), -1], np.int64)
        parts.append(table[np.asarray(source.label_ids, np.int64)])
    return tuple(names), np.concatenate(parts)


def groups_of(
    sources: Sequence[Source], label_ids: Numbers, weights: Sequence[float] | Mapping[str, float] | None, balance: bool
) -> tuple[tuple[Numbers, ...], list[float]]:
    """Groups of clips that are drawn equally often, and how often each group is."""
    sizes = [len(source) for source in sources]
    owners = np.repeat(np.arange(len(sources)), sizes)
    if weights is None:
        parts, shares = [np.arange(len(owners))], [1.0]
    else:
        if isinstance(weights, Mapping):
            if set(weights) != {source.name for source in sources}:
                raise TrainingError(
                    f"weights of {', '.join(map(repr, weights))}; allowed: one each of {', '.join(s.name for s in sources)}"
                )
            weights = [weights[source.name] for source in sources]
        shares = [float(weight) for weight in weights]
        if len(shares) != len(sources) or not all(0 < share < np.inf for share in shares):
            raise TrainingError(f"weights={shares} of {len(sources)} sources; allowed: one positive number a source")
        parts = [np.flatnonzero(owners == owner) for owner in range(len(sources))]
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
