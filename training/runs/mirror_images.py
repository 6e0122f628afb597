"""Whether classes tell left from right, so that a mirrored clip is one of another class.

A preset of `view.steps` mirrors half of the clips. "Wave the left hand" mirrored is "wave the right hand": a network
that learns from both under one name cannot tell them apart. What the classes are is read from the training clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from training.data.subsets import random_subset
from training.data.types import Array, Numbers, SkeletonDataset
from training.runs.features import WHOLE_CLIP, Rows, extract_features, flat, mirror_view
from training.runs.splits import label_ids
from training.transforms.preprocess import Preprocess

CLIPS = 600
"""Clips that are looked at."""
FRAMES = 16
"""Poses of a clip that are compared."""
FEWEST = 3
"""Clips of a class that say anything of it."""
NEAR = 1.5
"""A mirrored clip is near another class within so many median distances of neighbours in that class."""
MOST = 0.5
"""Share of the clips of a class that must be nearest to one class, so that the class is taken for it."""


def exchanged(
    datasets: Sequence[SkeletonDataset], preprocess: Preprocess, names: Sequence[str]
) -> list[tuple[str, str]]:
    """Pairs of classes that are each other's mirror images.

    Of both classes, at least half of the clips have their nearest neighbour among all other clips in their own class,
    and at least half of the mirrored clips have it in the other one, about as near as clips of one class are.

    Args:
        datasets: labelled clips.
        preprocess: whose joints are compared.
        names: of the K classes.

    Returns:
        Pairs in the order of the classes; none where the layout does not name left and right joints.
    """
    joints = dataclasses.replace(preprocess, stream="joint")
    view = mirror_view(joints, FRAMES)
    if view is None:
        return []
    part = random_subset(datasets, CLIPS)
    ids = label_ids(names, part)
    plain, mirrored = (
        extract_features(flat, part, joints, FRAMES, WHOLE_CLIP, view=one)[0][ids >= 0] for one in (None, view)
    )
    known, count = ids[ids >= 0], len(names)
    near, other = _nearest(plain, plain), _nearest(mirrored, plain)
    reach = np.zeros(count)
    for label in np.unique(known):
        within = near.distance[(known == label) & (known[near.row] == label)]
        reach[label] = NEAR * np.median(within) if len(within) else 0.0
    own = _shares(known, known[near.row], np.full(len(known), True), count)
    there = known[other.row]
    taken = _shares(known, there, other.distance <= reach[there], count)
    likely = (np.bincount(known, minlength=count) >= FEWEST) & (np.diagonal(own) >= MOST)
    pairs = [(int(a), int(b)) for a, b in np.argwhere(taken >= MOST) if a < b and taken[b, a] >= MOST]
    return [(names[a], names[b]) for a, b in pairs if likely[a] and likely[b]]


class _Nearest(NamedTuple):
    """Nearest rows (N,), and how far they are."""

    row: Numbers
    distance: Array


def _nearest(queries: Rows, rows: Rows) -> _Nearest:
    """The nearest row of another clip for each query; query n is of the clip of row n."""
    apart = np.square(queries).sum(1)[:, None] + np.square(rows).sum(1) - 2 * queries @ rows.T
    np.fill_diagonal(apart, np.inf)
    index = apart.argmin(1)
    return _Nearest(index, np.sqrt(np.maximum(apart[np.arange(len(rows)), index], 0)))


def _shares(labels: Numbers, there: Numbers, counted: Any, classes: int) -> Array:
    """(K, K) share of the clips of a class that are counted and whose nearest row is of each class."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels[counted], there[counted]), 1)
    return np.asarray(counts / np.maximum(np.bincount(labels, minlength=classes), 1)[:, None])
