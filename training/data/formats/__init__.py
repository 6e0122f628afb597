"""Formats that sequences are read from, one file each; `open_dataset` finds out which format a path is of."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataengine.core.errors import TrainingError, suggestion
from dataengine.core.skeletons import SKELETONS
from training import registry
from training.data.formats.base import Format
from training.data.formats.joints import ConvertedDataset
from training.data.formats.ranges import is_url
from training.data.types import SkeletonDataset

ALLOWED = (
    "a built dataset (folder or url), WebDataset tars, a pyskl .pkl, a folder of UNIK's *_data_joint.npy, an .npz, "
    "BVH files, Mixamo characters as .npy, or a folder of videos"
)


def format_class(name: str) -> type[Format]:
    """The class of a format.

    Raises:
        TrainingError: there is no format of that name.
    """
    return registry.find("formats", name)


def format_of(path: str) -> str:
    """The name of the format that a path or url is of.

    Raises:
        TrainingError: no format recognises the path.
    """
    place = path.rstrip("/")
    for name in registry.names("formats"):
        if format_class(name).recognises(place):
            return name
    if not is_url(path) and not Path(path).exists():
        raise TrainingError(f"{path}: there is no such file or folder; allowed: {ALLOWED}")
    raise TrainingError(f"{path}: nothing here can be read; allowed: {ALLOWED}")


def open_dataset(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    split: str | None = None,
    where: str | None = None,
    skeleton: str | None = None,
    format: str | None = None,
    **options: Any,
) -> SkeletonDataset:
    """Open a dataset; which format it is follows from what lies there.

    Args:
        path: a built dataset's folder or url; a WebDataset tar, a pattern of them such as train-{000000..000012}.tar,
            a folder or list of them; a pyskl pickle; a folder of UNIK arrays; an npz file.
        split: only clips of this split.
        where: only clips that fulfil this SQL condition over what the dataset knows of each.
        skeleton: the layout to convert clips to, where they have another.
        format: the name of the format, where a path can be read in several: "videos" reads the pictures of a built
            dataset.
        options: of the format; see the classes in `training.registry.FORMATS`.

    Raises:
        TrainingError: nothing readable lies there, nothing is chosen, or an option is unknown or wrong.
        DatasetError: a dataset or shard is absent, incomplete or torn.
    """
    if isinstance(path, str | os.PathLike):
        place = os.fspath(path)
        name = format_of(place) if format is None else format
        cls = format_class(name)
        location = cls.location(place)
    else:
        name, location = "webdataset", [os.fspath(one) for one in path]
        cls = format_class(name)
        if wrong := [one for one in location if not is_url(one) and format_of(one) != name]:
            raise TrainingError(f"{wrong[0]}: a list of shards may hold tar files only; give other datasets one by one")
    allowed = list(inspect.signature(cls).parameters)[1:]
    for option in options:
        if option not in allowed:
            raise TrainingError(f"{name} has no option {option!r}{suggestion(option, [*allowed, 'skeleton'])}")
    dataset: SkeletonDataset = cls(location, split=split, where=where, **options)
    if skeleton is None or SKELETONS.get(skeleton) == dataset.skeleton:
        return dataset
    return ConvertedDataset(dataset, skeleton)


def open_datasets(
    dataset: Any, split: str | None = None, where: str | None = None, **options: Any
) -> list[SkeletonDataset]:
    """One or several datasets, opened.

    Args:
        dataset: a path or url, an open dataset, or a list of these; a list of tar files alone is one dataset.
        split, where, options: see `open_dataset`; for datasets that are not open yet.

    Raises:
        TrainingError: one cannot be opened.
    """
    if isinstance(dataset, SkeletonDataset):
        return [dataset]
    if isinstance(dataset, str | os.PathLike):
        return [open_dataset(dataset, split, where, **options)]
    parts = list(dataset)
    if not parts:
        raise TrainingError("no dataset was given; name at least one path, url or open dataset")
    if all(isinstance(part, str | os.PathLike) and os.fspath(part).endswith(".tar") for part in parts):
        return [open_dataset(parts, split, where, **options)]
    return [opened for part in parts for opened in open_datasets(part, split, where, **options)]
