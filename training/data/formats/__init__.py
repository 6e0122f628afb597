"""Formats that clips are read from, one file each; `open_source` finds out which a path is."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataengine.core.errors import TrainingError, suggestion
from dataengine.dataset.index import MANIFEST
from training.data.formats.joints import Converted
from training.data.formats.ranges import is_url
from training.data.types import Source

FORMATS = {
    "built": "training.data.formats.built:open_built",
    "webdataset": "training.data.formats.webdataset:WebDataset",
    "pyskl": "training.data.formats.pyskl:Pyskl",
    "unik": "training.data.formats.unik:Unik",
    "npz": "training.data.formats.npz:Npz",
}
ALLOWED = (
    "a built dataset (folder or url), WebDataset tars, a pyskl .pkl, a folder of UNIK's *_data_joint.npy, or an .npz"
)


def format_of(path: str) -> str:
    """The name of the format that a path or url is of.

    Raises:
        TrainingError: of none that is known.
    """
    own = path.rstrip("/")
    if "{" in path or "::" in path or own.endswith(".tar"):
        return "webdataset"
    if is_url(path):
        return "built"
    for ending, name in (
        (".npz", "npz"),
        (".npy", "unik"),
        ("_label.pkl", ""),
        (".pkl", "pyskl"),
        (".pickle", "pyskl"),
    ):
        if own.endswith(ending) and name and Path(path).is_file():
            return name
    if not Path(path).exists():
        raise TrainingError(f"{path}: there is no such file or folder; allowed: {ALLOWED}")
    if any(Path(path, folder, MANIFEST).is_file() for folder in ("", "dataset")):
        return "built"
    for pattern, name in (("*_data_joint.npy", "unik"), ("*.tar", "webdataset")):
        if Path(path).is_dir() and next(Path(path).glob(pattern), None):
            return name
    if Path(path, "dataset").is_dir() or Path(path, "index").is_dir():
        return "built"  # an unfinished one: opening it says so
    raise TrainingError(f"{path}: nothing here can be read; allowed: {ALLOWED}")


def open_source(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    split: str | None = None,
    where: str | None = None,
    skeleton: str | None = None,
    **options: Any,
) -> Source:
    """Open what clips are read from; which format it is follows from what lies there.

    Args:
        path: a built dataset's folder or url; a WebDataset tar, a pattern of them such as train-{000000..000012}.tar, a folder
            or list of them; a pyskl pickle; a folder of UNIK arrays; an npz file.
        split: only clips of this split.
        where: only clips that fulfil this SQL condition over what the source knows of each.
        skeleton: the layout to bring clips into, where they have another.
        options: of the format, see `training.data.formats.FORMATS` and the classes named there.

    Raises:
        TrainingError: nothing readable lies there, nothing is chosen, or an option is unknown or wrong.
        DatasetError: a dataset or shard is absent, incomplete or torn.
    """
    if isinstance(path, str | os.PathLike):
        kind, given = format_of(os.fspath(path)), os.fspath(path)
        place: Any = given
        if kind == "webdataset":
            place = (
                sorted(map(str, Path(given).glob("*.tar"))) if not is_url(given) and Path(given).is_dir() else [given]
            )
    else:
        kind, place = "webdataset", [os.fspath(one) for one in path]
        if wrong := [one for one in place if not is_url(one) and format_of(one) != kind]:
            raise TrainingError(f"{wrong[0]}: a list of shards may hold tar files only; give other sources one by one")
    module, _, name = FORMATS[kind].partition(":")
    opened = getattr(importlib.import_module(module), name)
    known = importlib.import_module(module).Built if kind == "built" else opened
    allowed = list(inspect.signature(known).parameters)[1:]
    for option in options:
        if option not in allowed:
            raise TrainingError(f"{kind} has no option {option!r}{suggestion(option, [*allowed, 'skeleton'])}")
    source: Source = opened(place, split=split, where=where, **options)
    return source if skeleton in (None, source.skeleton.name) else Converted(source, skeleton)
