"""Subsets of datasets: some of their clips, or balanced subsets of their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from blake3 import blake3
from numpy.typing import ArrayLike

from dataengine.core.errors import TrainingError, suggestion
from training.data.sampler import joined_labels
from training.data.types import Numbers, SkeletonDataset, SkeletonSequence, remark


def label_subsets(
    labels: ArrayLike, amounts: Sequence[float], seed: int = 0, by: str = "share"
) -> dict[float, Numbers]:
    """Indices of the labelled clips that a training split with few labels keeps, for each amount.

    Every class keeps the same share of its clips, rounded, and at least one clip. A smaller amount is a subset of a
    larger one.

    Args:
        labels: (N,), -1 for none.
        amounts: shares in (0, 1], or clips per class.
        seed: of the order in which the clips of a class are chosen.
        by: "share" or "shots".

    Returns:
        Ascending indices by amount.

    Raises:
        TrainingError: an amount outside its range, or an unknown `by`.
    """
    check_amounts(amounts, by)
    ids = np.asarray(labels, np.int64)
    rng = np.random.default_rng(seed)
    chosen_by_amount: dict[float, list[Numbers]] = {amount: [] for amount in amounts}
    for label in np.unique(ids[ids >= 0]):
        order = rng.permutation(np.flatnonzero(ids == label))
        for amount in amounts:
            count = max(1, round(amount * len(order))) if by == "share" else int(amount)
            chosen_by_amount[amount].append(order[:count])
    return {amount: np.sort(np.concatenate(parts)) for amount, parts in chosen_by_amount.items()}


def check_amounts(amounts: Sequence[float], by: str = "share") -> None:
    """Raises TrainingError where an amount is out of its range, or `by` is unknown; see `label_subsets`."""
    if by not in ("share", "shots"):
        raise TrainingError(f"few labels are given by {by!r}{suggestion(by, ('share', 'shots'))}")
    for amount in amounts:
        if by == "share" and not 0 < amount <= 1:
            raise TrainingError(f"label fraction {amount:g}: a share lies in (0, 1], such as 0.1 for a tenth")
        if by == "shots" and (amount < 1 or amount != int(amount)):
            raise TrainingError(f"{amount:g} shots: shots are whole numbers from 1")


def random_subset(datasets: Sequence[SkeletonDataset], most: int, seed: int = 0) -> list[SkeletonDataset]:
    """At most `most` clips of all datasets together, drawn at random, in their order."""
    count = sum(map(len, datasets))
    if count <= most:
        return list(datasets)
    return _parts(datasets, np.sort(np.random.default_rng(seed).choice(count, most, replace=False)))


def label_subset(datasets: Sequence[SkeletonDataset], fraction: float, seed: int) -> list[SkeletonDataset]:
    """A fraction of the labelled clips of every class, chosen by `label_subsets`; clips without a label are left out.

    Raises:
        TrainingError: no clip has a label.
    """
    _, ids = joined_labels(datasets)
    if not (ids >= 0).any():
        raise TrainingError(
            f"{', '.join(dataset.name for dataset in datasets)}: data.label_fraction is one of every class's clips, "
            "and no clip has a label"
        )
    return _parts(datasets, label_subsets(ids, (fraction,), seed)[fraction])


def with_spans(datasets: Sequence[SkeletonDataset], by_people: bool = False) -> list[SkeletonDataset]:
    """The clips of which the data say what happens when, if only that nothing does.

    Where nobody looked at a clip, that nothing is said of it does not mean that nothing happens in it.

    Args:
        datasets: the clips.
        by_people: without clips of which an annotator said it: they can be learnt from, and are no truth to measure on.
    """
    if not any(dataset.span_labels for dataset in datasets):
        return list(datasets)
    kept: list[SkeletonDataset] = []
    for dataset in datasets:
        known = dataset.spans_known
        if known is None:
            known = np.full(len(dataset), bool(dataset.span_labels))
        if by_people and dataset.spans_proposed is not None:
            known = known & ~dataset.spans_proposed
        if known.all():
            kept.append(dataset)
            continue
        first = dataset.keys[int(np.argmin(known))]
        remark(
            f"{dataset.name}: {'no person' if by_people else 'nobody'} said of {int((~known).sum())} of {len(dataset)} "
            f"clips what happens when, and they are left out, for example {first!r}"
        )
        if known.any():
            kept.append(SubsetDataset(dataset, np.flatnonzero(known).astype(np.int64)))
    return kept


def _parts(datasets: Sequence[SkeletonDataset], chosen: Numbers) -> list[SkeletonDataset]:
    """The clips at ascending positions in the concatenation of the datasets."""
    sizes = [len(dataset) for dataset in datasets]
    ends = np.cumsum(sizes)
    parts = [chosen[(chosen >= end - size) & (chosen < end)] - (end - size) for size, end in zip(sizes, ends)]
    return [SubsetDataset(dataset, positions) for dataset, positions in zip(datasets, parts) if len(positions)]


class SubsetDataset(SkeletonDataset):
    """Some clips of a dataset."""

    def __init__(self, dataset: SkeletonDataset, positions: Numbers) -> None:
        self.source, self.positions = dataset, positions
        self.name, self.skeleton, self.labels = dataset.name, dataset.skeleton, dataset.labels
        self.fingerprint = blake3(f"{dataset.fingerprint} {positions.tolist()}".encode()).hexdigest()
        self.keys: Sequence[str] = [dataset.keys[position] for position in positions.tolist()]
        self.label_ids: Numbers = np.asarray(dataset.label_ids, np.int64)[positions]
        self.named = dataset.named
        groups = dataset.groups
        self.groups = None if groups is None else [groups[position] for position in positions.tolist()]
        self.columns = {name: [values[k] for k in positions.tolist()] for name, values in dataset.columns.items()}
        self.span_labels, known, proposed = dataset.span_labels, dataset.spans_known, dataset.spans_proposed
        self.spans_known = None if known is None else known[positions]
        self.spans_proposed = None if proposed is None else proposed[positions]
        self.lengths = None if dataset.lengths is None else dataset.lengths[positions]

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions of the subset."""
        return self.source.read(self.positions[np.asarray(indices, np.int64)].tolist())
