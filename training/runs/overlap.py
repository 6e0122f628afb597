"""Whether what is measured on was learnt from: clips that stand in both splits."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from training.data.types import SkeletonDataset


def clips_in_both(train: Sequence[SkeletonDataset], val: Sequence[SkeletonDataset]) -> list[str]:
    """Ids of clips of both splits, in the order of `val`. Datasets whose clips have no names of their own say
    nothing."""
    learnt = {key for dataset in train if dataset.named for key in dataset.keys}
    measured = dict.fromkeys(key for dataset in val if dataset.named for key in dataset.keys)
    return [key for key in measured if key in learnt]


def tell_of_overlap(train: Sequence[SkeletonDataset], val: Sequence[SkeletonDataset], split: str) -> None:
    """Warn where clips that are measured on are learnt from, too, with their number.

    Args:
        train: what is learnt from.
        val: what is measured on.
        split: how messages call the split of `val`.
    """
    both = clips_in_both(train, val)
    if not both:
        return
    count = sum(len(dataset) for dataset in val)
    what = f"{len(both)} of its {count} clips are" if len(both) > 1 else f"1 of its {count} clips is"
    warnings.warn(
        f"split {split!r}: {what} in the training split, too, for example {both[0]!r}: figures are too good by what "
        "was learnt by heart; take them out of one split",
        stacklevel=3,
    )
