"""Whether what is measured on was learnt from: clips that stand in both splits, or that a network learnt from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dataengine.core.errors import DataEngineError
from training.data.subsets import label_subset
from training.data.types import SkeletonDataset
from training.runs import splits
from training.runs.run import Run


def learnt_by(run: Run, datasets: Sequence[SkeletonDataset]) -> NDArray[np.bool_]:
    """Which of N clips a run learnt from: those of its own files that are in its training split.

    Returns:
        (N,); all False where the files of the run are not there any more.
    """
    none = np.zeros(sum(map(len, datasets)), bool)
    own = run.config.data
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # told when the run was trained
            learnt = splits.open_split(own, "train")
            if own.label_fraction is not None:
                learnt = label_subset(learnt, own.label_fraction, run.config.run.seed)
    except DataEngineError:
        return none
    known = {(splits.absolute(dataset.name), key) for dataset in learnt for key in dataset.keys}
    found = [(splits.absolute(dataset.name), key) in known for dataset in datasets for key in dataset.keys]
    return np.array(found, bool)


def clips_in_both(train: Sequence[SkeletonDataset], val: Sequence[SkeletonDataset]) -> list[str]:
    """Ids of the clips of `val` whose id stands in `train`, too, in order. Datasets whose clips have no names of their
    own say nothing."""
    learnt = {key for dataset in train if dataset.named for key in dataset.keys}
    return [key for dataset in val if dataset.named for key in dataset.keys if key in learnt]


def tell_of_overlap(train: Sequence[SkeletonDataset], val: Sequence[SkeletonDataset], split: str) -> None:
    """Warn where clips that are measured on are learnt from, too, with their number.

    Args:
        train: what is learnt from.
        val: what is measured on.
        split: how messages call `val`, such as "split 'val'".
    """
    both = clips_in_both(train, val)
    if not both:
        return
    count = sum(len(dataset) for dataset in val)
    what = f"{len(both)} of its {count} clips are" if len(both) > 1 else f"1 of its {count} clips is"
    warnings.warn(
        f"{split}: {what} in the training split, too, for example {both[0]!r}: figures are too good by what "
        "was learnt by heart; take them out of one split",
        stacklevel=3,
    )
