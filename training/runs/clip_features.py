"""The features that ranking and annotation work on: of a trained network's clips, or a table that `embed` wrote."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataengine.core.errors import TrainingError
from dataengine.core.progress import Progress
from training.data.sampler import joined_labels
from training.data.types import Array, SkeletonDataset
from training.runs.report import features_of
from training.runs.run import Run


@dataclass(frozen=True)
class ClipFeatures:
    """Features of clips.

    Attributes:
        clip_ids: N ids, each once.
        rows: (N, D) float32.
        labels: the class that the data give each clip, or None.
    """

    clip_ids: tuple[str, ...]
    rows: Array
    labels: tuple[str | None, ...]

    def index(self) -> dict[str, int]:
        """The number of each clip id."""
        return {clip_id: number for number, clip_id in enumerate(self.clip_ids)}


def of_clips(
    run: Run, datasets: Sequence[SkeletonDataset], device: Any = "cpu", progress: Progress | None = None
) -> ClipFeatures:
    """The features of all clips of some datasets, each the mean over three fixed crops.

    Raises:
        TrainingError: a clip is given twice.
    """
    keys = tuple(key for dataset in datasets for key in dataset.keys)
    _check_once(keys)
    with (progress or Progress()).step("features", len(keys)) as advance:
        rows = features_of(run, run.backbone.to(device).features, datasets, device, advance)
    names, ids = joined_labels(datasets)
    return ClipFeatures(keys, rows, tuple(names[label] if label >= 0 else None for label in ids.tolist()))


def of_table(path: str | os.PathLike[str]) -> ClipFeatures:
    """The features of a table that `dataengine-train embed` wrote.

    Raises:
        TrainingError: it cannot be read, has other columns, or names a clip twice.
    """
    where = Path(path)
    try:
        table = pl.read_parquet(where)
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).partition("\n")[0]
        raise TrainingError(f"{where}: no table of features can be read ({first}); write one with embed") from error
    missing = {"clip_id", "feature"} - set(table.columns)
    if missing or not len(table):
        what = f"has no column {' and '.join(sorted(missing))}" if missing else "is empty"
        raise TrainingError(f"{where} {what}; give a table that `dataengine-train embed` wrote")
    try:
        rows = np.array(table["feature"].to_list(), np.float32)
    except ValueError as error:
        raise TrainingError(f"{where}: the features of its clips are not of one size") from error
    keys = tuple(table["clip_id"].to_list())
    _check_once(keys)
    labels = table["label"].to_list() if "label" in table.columns else [None] * len(keys)
    return ClipFeatures(keys, rows, tuple(labels))


def _check_once(keys: Sequence[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise TrainingError(f"clip {key!r} is given twice; give each dataset once")
        seen.add(key)


def read_labels(path: str | os.PathLike[str], clip_ids: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """The labels that people wrote down: a CSV of clip_id and label; several labels of a clip are separated by `;`.

    Rows without a label are clips that nobody has annotated yet.

    Args:
        path: of the CSV.
        clip_ids: of the data; None: ids are not compared.

    Raises:
        TrainingError: the file cannot be read, lacks a column, gives a clip twice, or names clips that are not there.
    """
    where = Path(path)
    try:
        table = pl.read_csv(where, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).partition("\n")[0]
        raise TrainingError(f"{where}: no CSV of labels can be read: {first}") from error
    missing = {"clip_id", "label"} - set(table.columns)
    if missing:
        raise TrainingError(
            f"{where} has no column {' and '.join(sorted(missing))}: give clip_id and label; found "
            f"{', '.join(table.columns)}"
        )
    found: dict[str, tuple[str, ...]] = {}
    for clip_id, text in table.select("clip_id", "label").iter_rows():
        labels = tuple(dict.fromkeys(part.strip() for part in (text or "").split(";") if part.strip()))
        if not labels:
            continue
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
