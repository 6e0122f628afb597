"""The features that ranking and annotation work on: of a trained network's clips, or a table that `embed` wrote."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataengine.core.errors import TrainingError
from dataengine.core.progress import Progress
from dataengine.core.types import Bool
from dataengine.io.sheets import read_sheet
from training.data.sampler import joined_labels
from training.data.types import Array, SkeletonDataset
from training.runs.no_pose import keys_of, tell_of_no_pose
from training.runs.report import extract_of
from training.runs.run import Run

LEFT_OUT = "they are left out"
"""What becomes of clips that show no pose where clips are compared."""


@dataclass(frozen=True)
class ClipFeatures:
    """Features of clips.

    Attributes:
        clip_ids: N ids, each once.
        rows: (N, D) float32.
        labels: the class that the data give each clip, or None.
        shows_pose: (N,) whether each clip shows a pose: the rows of others mean nothing. Default: all do.
    """

    clip_ids: tuple[str, ...]
    rows: Array
    labels: tuple[str | None, ...]
    shows_pose: Bool = field(default_factory=lambda: np.ones(0, bool))

    def __post_init__(self) -> None:
        if len(self.shows_pose) != len(self.clip_ids):
            object.__setattr__(self, "shows_pose", np.ones(len(self.clip_ids), bool))

    def index(self) -> dict[str, int]:
        """The number of each clip id."""
        return {clip_id: number for number, clip_id in enumerate(self.clip_ids)}

    def with_pose(self) -> ClipFeatures:
        """Those of the clips that show a pose."""
        if self.shows_pose.all():
            return self
        where = np.flatnonzero(self.shows_pose).tolist()
        ids, labels = tuple(self.clip_ids[k] for k in where), tuple(self.labels[k] for k in where)
        return ClipFeatures(ids, self.rows[self.shows_pose], labels)


def of_clips(
    run: Run, datasets: Sequence[SkeletonDataset], device: Any = "cpu", progress: Progress | None = None
) -> ClipFeatures:
    """The features of all clips of some datasets, each the mean over three fixed crops.

    Raises:
        TrainingError: a clip is given twice.
    """
    keys = tuple(keys_of(datasets))
    check_once(keys)
    with (progress or Progress()).step("features", len(keys)) as advance:
        rows, _, shows_pose = extract_of(run, run.backbone.to(device).features, datasets, device, advance)
    _tell(", ".join(dataset.name for dataset in datasets), keys, shows_pose)
    names, ids = joined_labels(datasets)
    return ClipFeatures(keys, rows, tuple(names[label] if label >= 0 else None for label in ids.tolist()), shows_pose)


def of_table(path: str | os.PathLike[str]) -> ClipFeatures:
    """The features of a table that `dataengine-train embed` wrote.

    Raises:
        TrainingError: it cannot be read, has other columns, or names a clip twice.
    """
    where = Path(path)
    try:
        table = pl.read_parquet(where, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).partition("\n")[0]
        raise TrainingError(f"{where}: no table of features can be read ({first}); write one with embed") from error
    missing = {"clip_id", "feature"} - set(table.columns)
    if missing or not len(table):
        what = f"has no column {' and '.join(sorted(missing))}" if missing else "is empty"
        raise TrainingError(f"{where} {what}; give a table that `dataengine-train embed` wrote")
    shows_pose = table["feature"].is_not_null().to_numpy()
    try:
        found = np.array(table["feature"].drop_nulls().to_list(), np.float32)
    except ValueError as error:
        raise TrainingError(f"{where}: the features of its clips are not of one size") from error
    rows = np.zeros((len(table), *found.shape[1:]), np.float32)
    rows[shows_pose] = found
    keys = tuple(table["clip_id"].to_list())
    check_once(keys)
    _tell(str(where), keys, shows_pose)
    labels = table["label"].to_list() if "label" in table.columns else [None] * len(keys)
    return ClipFeatures(keys, rows, tuple(labels), shows_pose)


def _tell(name: str, keys: Sequence[str], shows_pose: Bool) -> None:
    """Say how many clips show no pose; raise where all do."""
    if len(keys) and not shows_pose.any():
        raise TrainingError(
            f"{name}: none of {len(keys)} clips shows a pose, so there is nothing to compare; look at how the poses "
            "were made"
        )
    tell_of_no_pose(keys, shows_pose, LEFT_OUT)


def check_once(keys: Sequence[str]) -> None:
    """Refuse ids that are not one clip's alone.

    Raises:
        TrainingError: an id stands at several clips.
    """
    key, count = max(Counter(keys).items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise TrainingError(
            f"the id {key!r} stands at {count} clips, and tables tell clips apart by their ids: give each dataset "
            "once, and each clip an id of its own"
        )


def read_labels(path: str | os.PathLike[str], clip_ids: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """The labels that people wrote down: a CSV of clip_id and label; several labels of a clip are separated by `;`.

    Rows without a label are clips that nobody has annotated yet.

    Args:
        path: of the CSV.
        clip_ids: of the data; None: ids are not compared.

    Raises:
        TrainingError: the file cannot be read, lacks a column, gives a label to no clip, gives a clip twice, or names
            clips that are not there.
    """
    where = Path(path)
    try:
        table = read_sheet(where)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise TrainingError(f"{where}: no CSV of labels can be read: {what}") from error
    missing = {"clip_id", "label"} - set(table.columns)
    if missing:
        raise TrainingError(
            f"{where} has no column {' and '.join(sorted(missing))}: give clip_id and label; found "
            f"{', '.join(table.columns)}"
        )
    found: dict[str, tuple[str, ...]] = {}
    for clip_id, text in table.select(pl.col("clip_id").str.strip_chars(), "label").iter_rows():
        labels = tuple(dict.fromkeys(part.strip() for part in (text or "").split(";") if part.strip()))
        if not labels:
            continue
        if not clip_id:
            raise TrainingError(f"{where}: a row with the label {text!r} has no clip_id")
        if clip_id in found and found[clip_id] != labels:
            raise TrainingError(f"{where}: clip {clip_id!r} stands there twice, with different labels")
        found[clip_id] = labels
    unknown = [] if clip_ids is None else sorted(set(found) - set(clip_ids))
    if unknown:
        raise TrainingError(
            f"{where} names {len(unknown)} of {len(found)} labelled clips that the data do not have, such as "
            f"{unknown[0]!r}"
        )
    return found
