"""Features of every clip as one Parquet table, to be joined with a dataset's clips."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

import dataengine
from dataengine.core.errors import DatasetError, TrainingError
from dataengine.dataset.dataset import open as open_dataset
from dataengine.io.storage import staged
from training.data.formats import format_of
from training.data.loader import Feed, open_sources
from training.data.types import Source
from training.distributed import unit
from training.runs.export import FRAMES, Trained
from training.runs.features import Parts

GROUP = 4096
"""Clips of a row group."""


def schema(projected: bool = False) -> pa.Schema:
    """Columns of the table, one row a clip.

    clip_id string; label string, null for none; split string, null where it is not known; feature list<float32>, the D
    features of the network; where the method has a space that texts share, also projection list<float32>, of unit length.
    """
    texts = [(name, pa.string()) for name in ("clip_id", "label", "split")]
    return pa.schema(
        [*texts, ("feature", pa.list_(pa.float32())), *([("projection", pa.list_(pa.float32()))] if projected else [])]
    )


def embed(
    run: Trained,
    sources: Any,
    path: str | os.PathLike[str],
    batch: int = 64,
    frames: int | None = None,
    workers: int = 0,
    device: Any = "cpu",
) -> Path:
    """Write what a network says of every clip; each clip is taken whole and resampled to `frames`.

        clips = dataengine.open("builds/posecap").clips
        near = clips.join(pl.scan_parquet("features.parquet"), on="clip_id").select("text", "feature").collect()

        SELECT label, count(*) FROM 'builds/posecap/dataset/index/clips/*.parquet' JOIN 'features.parquet' USING (clip_id)
        WHERE list_cosine_similarity(projection, $text) > 0.4 GROUP BY ALL       -- DuckDB

    Args:
        run: a finished run; it says how clips are prepared.
        sources: one or several datasets, paths or open (see `training.data.loader.open_sources`); all of their clips in their order.
        path: the table's file, see `schema`; whole or not at all.
        batch: clips at a time.
        frames: T; by default what the run was trained with.
        workers: processes that read clips.
        device: where the network runs.

    Raises:
        TrainingError: a clip is given twice, the run says not how clips are prepared, or a clip does not fit the network.
    """
    if run.prepare is None:
        raise TrainingError("the run does not say how clips are prepared; give one of training.runs.train.load_run")
    opened: list[Source] = open_sources(sources)
    keys = [key for source in opened for key in source.keys]
    if len(set(keys)) < len(keys):
        raise TrainingError(
            f"clip {next(k for k in keys if keys.count(k) > 1)!r} is given twice; embed each dataset once"
        )
    if frames is None:
        frames = FRAMES if run.config is None else run.config.view.frames
    splits = {key: split for source in opened for key, split in _splits(source).items()}
    feed = Feed(opened, Parts(run.prepare, frames), batch, shuffle=False, workers=workers)
    columns = schema(projected=hasattr(run.method, "project_motion"))
    note = {
        "dataengine": dataengine.__version__,
        "network": type(run.backbone).__name__,
        "trained on": run.facts.get("data"),
        "data": feed.fingerprint,
    }
    columns = columns.with_metadata({"dataengine": json.dumps(note)})
    target = Path(path)
    with staged(target) as partial, pq.ParquetWriter(partial, columns, compression="zstd") as writer:
        rows: list[pa.RecordBatch] = []
        for part in _encoded(run, feed, device):
            ids = [keys[index] for index in part["index"].tolist()]
            labels = [feed.labels[label] if label >= 0 else None for label in part["label"].tolist()]
            values = [_lists(part[name]) for name in columns.names[3:]]
            rows.append(
                pa.record_batch(
                    [pa.array(ids), pa.array(labels, pa.string()), _texts(ids, splits), *values], schema=columns
                )
            )
            if sum(map(len, rows)) >= GROUP:
                writer.write_table(pa.Table.from_batches(rows), row_group_size=GROUP)
                rows = []
        if rows:
            writer.write_table(pa.Table.from_batches(rows), row_group_size=GROUP)
    return target


def _encoded(run: Trained, feed: Feed, device: Any) -> Iterator[dict[str, Tensor]]:
    """index, label, feature and projection of the clips, batch by batch; the network is left as it was."""
    owner = run.backbone if run.method is None else run.method
    before, home = owner.training, next(owner.parameters()).device
    owner.eval().to(device)
    project = getattr(run.method, "project_motion", None)
    try:
        with torch.no_grad():
            for drawn in feed:
                features = run.backbone.features(drawn["part0"].to(device))
                said = {"index": drawn["index"], "label": drawn["label"], "feature": features.float().cpu()}
                yield said if project is None else said | {"projection": unit(project(features)).float().cpu()}
    finally:
        owner.train(before).to(home)


def _lists(rows: Tensor) -> pa.ListArray:
    """(N, D) as N lists."""
    values = rows.contiguous().numpy()
    return pa.ListArray.from_arrays(
        pa.array(range(0, values.size + 1, values.shape[1]), pa.int32()), pa.array(values.ravel())
    )


def _texts(ids: Sequence[str], known: Mapping[str, str]) -> pa.Array:
    return pa.array([known.get(key) for key in ids], pa.string())


def _splits(source: Source) -> dict[str, str]:
    """The split of each clip of a built dataset; of others nothing is known."""
    try:
        if format_of(source.name) != "built":
            return {}
        table = open_dataset(source.name).clips.select("clip_id", "split").drop_nulls().collect()
    except (TrainingError, DatasetError):
        return {}
    return dict(table.iter_rows())
