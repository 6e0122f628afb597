"""Features of every clip as one Parquet table, to be joined with a dataset's clips."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

import dataengine
from dataengine.core.errors import DatasetError, TrainingError
from dataengine.core.progress import Progress
from dataengine.core.types import Bool
from dataengine.dataset.dataset import open as open_built_dataset
from dataengine.io.storage import check_place, staged
from training.data.formats import format_of, open_datasets
from training.data.loader import DataLoader
from training.data.types import SkeletonDataset
from training.runs.clip_features import check_once
from training.runs.export import FRAMES
from training.runs.features import SHOWS_POSE, TemporalCrops, motion_and_mask
from training.runs.no_pose import reasons, tell_of_no_pose
from training.runs.trained_network import TrainedNetwork
from training.transforms.prepared import ClipCache, prepared

GROUP = 4096
"""Clips of a row group."""


def schema(projected: bool = False, blocks: bool = False) -> pa.Schema:
    """Columns of the table, one row a clip.

    clip_id string; label string, null for none; split string, null where it is not known; feature list<float32>, the D
    features of the network; with `projected` also projection list<float32>, of unit length (see `Method.project`); with
    `blocks` also blocks list<float32>, the features of several blocks (see `Backbone.block_features`); reason string,
    why a clip has none of these, null for others (see `training.runs.no_pose`).
    """
    texts = [(name, pa.string()) for name in ("clip_id", "label", "split")]
    lists = ["feature", *(["projection"] if projected else []), *(["blocks"] if blocks else [])]
    return pa.schema([*texts, *((name, pa.list_(pa.float32())) for name in lists), ("reason", pa.string())])


def embed(
    run: TrainedNetwork,
    datasets: Any,
    path: str | os.PathLike[str],
    batch: int = 64,
    frames: int | None = None,
    workers: int = 0,
    device: Any = "cpu",
    progress: Progress | None = None,
    blocks: bool = False,
) -> Path:
    """Write the features of every clip; each clip is taken whole and resampled to `frames`.

        clips = dataengine.open("builds/posecap").clips
        near = clips.join(pl.scan_parquet("features.parquet"), on="clip_id").select("text", "feature").collect()

        SELECT label, count(*) FROM 'builds/posecap/dataset/index/clips/*.parquet' JOIN 'features.parquet' USING
        (clip_id) WHERE list_cosine_similarity(projection, $text) > 0.4 GROUP BY ALL       -- DuckDB

    Args:
        run: a finished run; it says how clips are preprocessed.
        datasets: one or several, paths or open (see `training.data.formats.open_datasets`); all their clips in their
            order.
        path: file of the table, see `schema`; it is written whole or not at all.
        batch: clips per forward pass.
        frames: T of the input. Default: that of the training.
        workers: processes that read clips.
        device: where the network runs.
        progress: what tells how far the work is. Default: nothing does.
        blocks: whether the features of several blocks are written, too.

    Raises:
        TrainingError: another ending than .parquet, an id stands at several clips, the run does not say how clips are
            preprocessed, or a clip does not fit the network.
    """
    if run.preprocess is None:
        raise TrainingError("the run does not say how clips are preprocessed; give one of training.runs.run.load_run")
    target = Path(path)
    if target.suffix != ".parquet":
        raise TrainingError(f"{target}: features are a table of lists; give a file that ends in .parquet")
    check_place(target)
    opened: list[SkeletonDataset] = open_datasets(datasets)
    keys = [key for dataset in opened for key in dataset.keys]
    check_once(keys)
    if frames is None:
        frames = FRAMES if run.config is None else run.config.view.frames
    splits = {key: split for dataset in opened for key, split in _splits(dataset).items()}
    cache = None if run.config is None else ClipCache.of(run.config.run.cache, run.config.run.cache_gb)
    clips = prepared(opened, run.preprocess, cache)
    loader = DataLoader(clips, TemporalCrops(run.preprocess, frames), batch, shuffle=False, workers=workers)
    columns = schema(projected=run.method is not None and run.method.projects, blocks=blocks)
    note = {
        "dataengine": dataengine.__version__,
        "network": type(run.backbone).__name__,
        "trained on": run.facts.get("data"),
        "data": loader.fingerprint,
    }
    columns = columns.with_metadata({"dataengine": json.dumps(note)})
    with (
        (progress or Progress()).step("embed", len(keys)) as advance,
        staged(target) as partial,
        pq.ParquetWriter(partial, columns, compression="zstd") as writer,
    ):
        batches: list[pa.RecordBatch] = []
        shows_pose: list[Bool] = []
        for part in _features(run, loader, device, blocks):
            ids = [keys[index] for index in part["index"].tolist()]
            labels = [loader.labels[label] if label >= 0 else None for label in part["label"].tolist()]
            shown = part[SHOWS_POSE].numpy()
            shows_pose.append(shown)
            values = [_lists(part[name], shown) for name in columns.names[3:-1]]
            texts = [pa.array(ids), pa.array(labels, pa.string()), _texts(ids, splits)]
            why = pa.array(reasons(shown).to_list(), pa.string())
            batches.append(pa.record_batch([*texts, *values, why], schema=columns))
            advance(len(ids))
            if sum(len(one) for one in batches) >= GROUP:
                writer.write_table(pa.Table.from_batches(batches), row_group_size=GROUP)
                batches = []
        if batches:
            writer.write_table(pa.Table.from_batches(batches), row_group_size=GROUP)
    tell_of_no_pose(keys, np.concatenate(shows_pose), "they have no features")
    return target


def _features(run: TrainedNetwork, loader: DataLoader, device: Any, blocks: bool) -> Iterator[dict[str, Tensor]]:
    """index, label, feature and projection of the clips, batch by batch; the network is left as it was."""
    owner = run.backbone if run.method is None else run.method
    before, home = owner.training, next(owner.parameters()).device
    owner.eval().to(device)
    try:
        with torch.no_grad():
            for sample in loader:
                motion = motion_and_mask(sample, "crop0", device)
                features = run.backbone.features(*motion)
                rows = {name: sample[name] for name in ("index", "label", SHOWS_POSE)}
                rows["feature"] = features.float().cpu()
                projected = None if run.method is None else run.method.project(features)
                if projected is not None:
                    rows["projection"] = projected.float().cpu()
                if blocks:
                    rows["blocks"] = run.backbone.block_features(*motion).float().cpu()
                yield rows
    finally:
        owner.train(before).to(home)


def _lists(rows: Tensor, shown: Bool) -> pa.ListArray:
    """(N, D) as N lists; null of clips that are not shown."""
    values = rows.contiguous().numpy()[shown]
    ends = np.concatenate([[0], np.cumsum(shown) * rows.shape[1]]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values.ravel()), mask=pa.array(~shown))


def _texts(ids: Sequence[str], values: Mapping[str, str]) -> pa.Array:
    return pa.array([values.get(key) for key in ids], pa.string())


def _splits(dataset: SkeletonDataset) -> dict[str, str]:
    """The split of each clip of a built dataset; null for other formats."""
    try:
        if format_of(dataset.name) != "built":
            return {}
        table = open_built_dataset(dataset.name).clips.select("clip_id", "split").drop_nulls().collect()
    except (TrainingError, DatasetError):
        return {}
    return dict(table.iter_rows())
