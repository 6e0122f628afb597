"""The splits of a run's data: what is learnt from and what is measured on, opened as a configuration says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dataengine.core.errors import DataEngineError, TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton
from training.config_tables import DataTable
from training.data.annotations import read_all
from training.data.formats import format_class, format_of, open_datasets
from training.data.formats.base import NoSplitsError
from training.data.formats.joints import aligned
from training.data.formats.ranges import is_url
from training.data.sampler import joined_labels
from training.data.spans import AnnotatedDataset
from training.data.subsets import random_subset
from training.data.types import Numbers, SkeletonDataset, remark

SEARCHED = 64
"""Clips in which a stored feature is looked for."""
FALLBACKS = ("val", "test")
"""Splits to measure on; where one does not exist, the other is taken."""
TRAIN = "train"
"""The split to learn from unless another one is named; of data without splits all clips are."""


def absolute(path: str) -> str:
    """The absolute path of a local file, valid from any folder; urls unchanged."""
    return path if is_url(path) or "::" in path else str(Path(path).absolute())


def open_split(
    table: DataTable,
    which: Literal["train", "val"],
    features: Sequence[str] = (),
    split: str | None = None,
    without: str = "",
    keep_nobody: bool = False,
) -> list[SkeletonDataset]:
    """The datasets to learn from, or those to measure on.

    Args:
        table: [data].
        which: "val" takes the paths of "train" where it has none of its own.
        features: stored features that are read beside the poses.
        split: in place of the table's; "" for all clips.
        without: how a configuration does without the features, for messages.
        keep_nobody: whether clips that show nobody are kept by formats that leave them out.

    Data whose clips belong to no split are taken whole, with a note: to learn from, and to measure on where they are
    named for that alone.

    Raises:
        TrainingError, DatasetError: nothing is named, one cannot be opened, or has no such split or feature; the
            message says what helps.
    """
    paths = table.train if which == "train" else table.val or table.train
    if not paths:
        raise TrainingError("no data is named: give --data PATH, or [data] train in the configuration")
    named = split is not None
    if split is None:
        split = table.split if which == "train" else table.val_split
    tars = all(path.endswith(".tar") for path in paths)
    sources: list[Any] = [list(paths)] if tars else list(paths)
    key = "--set data.split='\"NAME\"'" if which == "train" else "--set data.val_split='\"NAME\"'"
    if named:
        key = "--split NAME" if which == "train" else "--val-split (--split) NAME"
    may_be_whole = split == TRAIN if which == "train" else bool(table.val) and split in FALLBACKS
    opened: list[SkeletonDataset] = []
    for source in sources:
        try:
            opened += _open(source, table, split, tuple(features), key, without, keep_nobody)
        except NoSplitsError:
            if not may_be_whole:
                raise
            whole = _open(source, table, "", tuple(features), key, without, keep_nobody)
            hint = "give --val PATH, or a split of every clip, to measure on others" if which == "train" else ""
            remark(
                f"{names_of(whole)}: its clips belong to no split, so all {sum(map(len, whole))} are "
                + (f"learnt from; {hint}" if hint else "measured on")
            )
            opened += whole
    return aligned(opened)


def open_validation(
    table: DataTable, features: Sequence[str] = (), without: str = ""
) -> tuple[list[SkeletonDataset], str] | None:
    """The datasets to measure on and their split; None where the training data has no such split and no other is named.

    Raises:
        TrainingError, DatasetError: see `open_split`.
    """
    choices = [table.val_split]
    if table.val_split in FALLBACKS:
        choices += [split for split in FALLBACKS if split != table.val_split]
    first: DataEngineError | None = None
    for split in choices:
        try:
            return open_split(table, "val", features, split, without), split
        except DataEngineError as error:
            first = first or error
    assert first is not None
    if table.val or len(choices) == 1 or not _can_open(lambda: open_split(table, "val", features, "", without)):
        raise first
    return None


def _open(
    place: Any,
    table: DataTable,
    split: str,
    features: tuple[str, ...],
    key: str,
    without: str,
    keep_nobody: bool,
) -> list[SkeletonDataset]:
    def attempt(split: str, features: tuple[str, ...]) -> list[SkeletonDataset]:
        options = dict(table.options)
        if table.format is not None:
            options["format"] = table.format
        if table.layout is not None:
            options["layout"] = table.layout
        name = "webdataset" if isinstance(place, list) else table.format or format_of(place)
        if keep_nobody and "keep_nobody" in inspect.signature(format_class(name)).parameters:
            options["keep_nobody"] = True
        if features:
            entries = format_class(name).default_entries
            if entries is None:
                raise TrainingError(
                    f"{place}: a {name} file holds no features beside poses, and {features[0]} is asked for"
                )
            options["entries"] = list(dict.fromkeys((*options.get("entries", entries), *features)))
        paths = [place] if isinstance(place, str) else place
        if not table.spans:
            return open_datasets(paths, split or None, table.where, skeleton=table.skeleton, **options)
        spans = read_all(table.spans)
        own = None if spans.splits else split or None
        opened = open_datasets(paths, own, table.where, skeleton=table.skeleton, **options)
        of_table = split or None if spans.splits else None
        return [AnnotatedDataset(dataset, spans, of_table) for dataset in opened]

    try:
        return attempt(split, features)
    except DataEngineError as error:
        if features and _can_open(lambda: attempt(split, ())):
            hint = f", or do without: {without}" if without else ""
            raise TrainingError(f"{error}; build the dataset with [embed] features{hint}") from error
        if split and _can_open(lambda: attempt("", features)):
            raise type(error)(f'{error}; choose with {key}, where "" takes all clips') from error
        raise


def _can_open(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except DataEngineError:
        return False
    return True


def layout_name(skeleton: Skeleton) -> str | None:
    """The name of a built-in layout, to which other data can be converted; None for a layout of your own."""
    return skeleton.name if SKELETONS.get(skeleton.name) == skeleton else None


def label_ids(names: Sequence[str], datasets: Sequence[SkeletonDataset]) -> Numbers:
    """Labels as indices into the names of some dataset.

    Args:
        names: names of classes.
        datasets: N clips together.

    Returns:
        (N,) int64, -1 for a clip without a label, or with one that is not among the names.
    """
    own, ids = joined_labels(datasets)
    numbers = {name: number for number, name in enumerate(names)}
    table = np.array([*(numbers.get(name, -1) for name in own), -1], np.int64)
    return np.asarray(table[ids], np.int64)


def groups_of(datasets: Sequence[SkeletonDataset]) -> list[str] | None:
    """Who or what was filmed in each of N clips; None where the data do not say, or each clip is of another."""
    groups: list[str] = []
    for number, dataset in enumerate(datasets):
        own = dataset.keys if dataset.groups is None else dataset.groups
        groups += [f"{number}:{group}" for group in own]
    known = any(dataset.groups is not None for dataset in datasets)
    return groups if known and len(set(groups)) < len(groups) else None


def names_of(datasets: Sequence[SkeletonDataset]) -> str:
    """The datasets as a message calls them."""
    return ", ".join(dataset.name for dataset in datasets)


def facts(datasets: Sequence[SkeletonDataset]) -> dict[str, Any]:
    """What a figure was measured on: `names`, `clips` and `fingerprint`.

    Two figures can be compared if their fingerprints are equal.
    """
    fingerprint = " ".join(dataset.fingerprint for dataset in datasets)
    return {
        "names": [dataset.name for dataset in datasets],
        "clips": sum(map(len, datasets)),
        "fingerprint": fingerprint,
    }


def feature_width(datasets: Sequence[SkeletonDataset], feature: str) -> int:
    """The number of values of a stored feature.

    Raises:
        TrainingError: none of the clips that were read has it.
    """
    for part in random_subset(datasets, SEARCHED):
        for clip in part.read(range(len(part))):
            if feature in clip.features:
                return int(np.shape(clip.features[feature])[-1])
    raise TrainingError(
        f"{names_of(datasets)}: no clip has the feature {feature!r}; build the dataset with [embed] features"
    )
