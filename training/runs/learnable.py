"""What is told before a training begins: data from which nothing can be learnt, and clips that cannot be measured."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dataengine.core.errors import TrainingError
from training.data.rgb import have_pictures, is_pictures
from training.data.sampler import joined_labels
from training.data.subsets import random_subset
from training.data.types import SkeletonDataset, SkeletonSequence
from training.runs.measures import methods_without_labels
from training.runs.splits import names_of
from training.transforms.preprocess import Preprocess

LOOKED_AT = 64
"""Clips whose joints are looked at."""


def check_learnable(datasets: Sequence[SkeletonDataset], learns_labels: bool, method: str) -> None:
    """Refuse data from which nothing can be learnt; warn of what teaches little.

    Args:
        datasets: what is learnt from.
        learns_labels: whether the method learns classes.
        method: its name, for messages.

    Raises:
        TrainingError: one clip, one class, no label, no joint, or the same poses in every clip.
    """
    where, count = names_of(datasets), sum(map(len, datasets))
    if count < 2:
        raise TrainingError(
            f"{where}: {count or 'no'} clip{'' if count == 1 else 's'} to train on, and there is nothing to learn from "
            "fewer than two; give more data, or choose with --set data.split"
        )
    names, ids = joined_labels(datasets)
    counts = Counter(names[number] for number in ids[ids >= 0].tolist())
    if learns_labels:
        _check_classes(where, counts, names, count, method)
    elif len(counts) == 1:
        warnings.warn(
            f"{where}: every label is {next(iter(counts))!r}: figures that measure classes say nothing", stacklevel=3
        )
    _check_joints(where, [clip for part in random_subset(datasets, LOOKED_AT) for clip in part.read(range(len(part)))])


def check_prepared(datasets: Sequence[SkeletonDataset], preprocess: Preprocess) -> None:
    """Refuse clips of which nothing is left once they are prepared; warn where that is so of some. Pictures pass.

    Args:
        datasets: what is learnt from.
        preprocess: prepares them.

    Raises:
        TrainingError: all joints of all clips lie at one point.
    """
    if have_pictures(datasets):
        return
    clips = [clip for part in random_subset(datasets, LOOKED_AT) for clip in part.read(range(len(part)))]
    shown = [clip for clip in clips if np.isfinite(clip.keypoints).any()]
    empty = [clip for clip in shown if not preprocess.prepare(clip).joints.any()]
    if not empty:
        return
    values = np.concatenate([clip.keypoints[np.isfinite(clip.keypoints)] for clip in empty])
    what = (
        f"{names_of(datasets)}: prepared with preprocess.normalise {preprocess.normalise!r}, all joints of "
        f"{len(empty)} of {len(shown)} clips lie at one point, for example of {empty[0].key!r}"
    )
    seen = f"; their coordinates are from {values.min():.3g} to {values.max():.3g}: look at how the poses were made"
    if len(empty) == len(shown):
        raise TrainingError(f"{what}, so there is nothing to learn{seen}")
    warnings.warn(what + seen, stacklevel=3)


def tell_of_empty(datasets: Sequence[SkeletonDataset]) -> None:
    """Warn where clips that a network is asked about show no joint; some clips are looked at."""
    clips = [clip for part in random_subset(datasets, LOOKED_AT) for clip in part.read(range(len(part)))]
    empty = [clip.key for clip in clips if not np.isfinite(clip.keypoints).any()]
    if empty:
        warnings.warn(
            f"{names_of(datasets)}: {len(empty)} of {len(clips)} clips that were looked at show no joint, for example "
            f"{empty[0]!r}: what is said of these means nothing",
            stacklevel=3,
        )


def check_coordinates(datasets: Sequence[SkeletonDataset], preprocess: Preprocess, channels: int) -> None:
    """Refuse data of other coordinates than those that a network takes. Pictures pass.

    Args:
        datasets: clips that it is to be given, in its joints.
        preprocess: prepares them.
        channels: of the input of the network.

    Raises:
        TrainingError: the first clip of one of the datasets gives another number of channels.
    """
    for dataset in datasets:
        for clip in dataset.read([0] if len(dataset) and not is_pictures(dataset.skeleton) else []):
            scores = None if clip.scores is None else clip.scores[:, :2]
            given = preprocess(dataclasses.replace(clip, keypoints=clip.keypoints[:, :2], scores=scores)).shape[-1]
            if given != channels:
                raise TrainingError(
                    f"{dataset.name}: its clips have {clip.keypoints.shape[-1]} coordinates, which are {given} "
                    f"channels of the input, and the network takes {channels}; give data of as many, or choose "
                    "coordinates with preprocess.channels when it is trained"
                )


def _check_classes(where: str, counts: Counter[str], names: Sequence[str], clips: int, method: str) -> None:
    if not counts:
        raise TrainingError(
            f"{where}: no clip has a label, and {method} learns from labels; "
            "give labels (labels.csv of a folder, the `label` of a file), or take a method without: "
            f"{', '.join(methods_without_labels())}"
        )
    if len(counts) == 1:
        ((name, number),) = counts.items()
        raise TrainingError(
            f"{where}: all {number} labelled clips are of the class {name!r}: there is nothing to tell apart, and "
            "every figure would be 100 %; give clips of other classes, or take a method without labels: "
            f"{', '.join(methods_without_labels())}"
        )
    labelled = sum(counts.values())
    if max(counts.values()) == 1:
        warnings.warn(
            f"{where}: each of the {len(counts)} classes has one clip only: they can be learnt by heart, and nothing "
            "tells what a class has in common",
            stacklevel=4,
        )
    if absent := [name for name in names if name not in counts]:
        warnings.warn(
            f"{where}: {len(absent)} of {len(names)} classes have no training clip, for example {absent[0]!r}",
            stacklevel=4,
        )
    if labelled < clips:
        warnings.warn(
            f"{where}: without a label, so not learnt from: {clips - labelled} of {clips} clips", stacklevel=4
        )


def _check_joints(where: str, clips: Sequence[SkeletonSequence]) -> None:
    empty = sum(not np.isfinite(clip.keypoints).any() for clip in clips)
    if empty == len(clips):
        raise TrainingError(
            f"{where}: no joint of any of {len(clips)} clips is seen (all are NaN or there are no people): there is "
            "nothing to learn; look at how the poses were made"
        )
    if empty:
        warnings.warn(f"{where}: {empty} of {len(clips)} clips that were looked at show no joint", stacklevel=4)
    first = clips[0].keypoints
    if all(
        clip.keypoints.shape == first.shape and np.array_equal(clip.keypoints, first, equal_nan=True) for clip in clips
    ):
        raise TrainingError(
            f"{where}: all of {len(clips)} clips hold the same poses: there is nothing to tell apart; look at how the "
            "poses were made"
        )
    if all(_is_still(clip) for clip in clips):
        warnings.warn(
            f"{where}: nobody moves in any of {len(clips)} clips: every frame of a clip is the same", stacklevel=4
        )


def _is_still(clip: SkeletonSequence) -> bool:
    joints = clip.keypoints
    return joints.shape[1] < 2 or bool(np.array_equal(joints[:, 1:], joints[:, :-1], equal_nan=True))


def tell_of_unseen(train: Sequence[SkeletonDataset], val: Sequence[SkeletonDataset], split: str) -> None:
    """Warn, with the number of clips, of classes in what is measured on that no training clip has.

    Args:
        train: what is learnt from.
        val: what is measured on.
        split: how messages call `val`, such as "split 'val'".
    """
    if not val:
        return
    _tell_of_numbers([*train, *val])
    names, ids = joined_labels(train)
    seen = {names[number] for number in np.unique(ids[ids >= 0])}
    own, numbers = joined_labels(val)
    counts = Counter(own[number] for number in numbers[numbers >= 0].tolist())
    unseen = {name: number for name, number in counts.items() if name not in seen}
    if unseen and seen:
        clips, first = sum(unseen.values()), ", ".join(map(repr, list(unseen)[:3])) + (", ..." * (len(unseen) > 3))
        left_out = sum(number for name, number in unseen.items() if name not in names)
        effect = "left out of the figures" if left_out == clips else "counted as wrong"
        if 0 < left_out < clips:
            effect = f"left out of the figures ({left_out}) or counted as wrong ({clips - left_out})"
        warnings.warn(
            f"{split}: {clips} of its {len(numbers)} clips {'is' if clips == 1 else 'are'} of "
            f"{len(unseen)} class{'' if len(unseen) == 1 else 'es'} that training never saw ({first}), and {effect}",
            stacklevel=3,
        )
    if unlabelled := int((numbers < 0).sum()):
        warnings.warn(
            f"{split}: not measured, for want of a label: {unlabelled} of its {len(numbers)} clips",
            stacklevel=3,
        )


def _tell_of_numbers(datasets: Sequence[SkeletonDataset]) -> None:
    """Warn where some files name their classes and others number them: labels are compared as texts."""
    with_labels = [dataset for dataset in datasets if (np.asarray(dataset.label_ids) >= 0).any()]
    numbered = [dataset for dataset in with_labels if all(label.isdigit() for label in dataset.labels)]
    named = [dataset for dataset in with_labels if dataset not in numbered]
    if numbered and named:
        warnings.warn(
            f"{named[0].name} has classes by name ({named[0].labels[0]!r}), {numbered[0].name} by number "
            f"({numbered[0].labels[0]!r}): they are other classes; give names, for example as label_names of the file "
            "or data.options.labels",
            stacklevel=4,
        )
