"""Features of frames as one Parquet table, so that annotators are trained again without the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.core.errors import TrainingError
from dataengine.core.progress import Progress
from dataengine.io.storage import check_place, staged
from training.runs.frame_features import ClipsOfRun, FrameFeatures

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("group", pa.string()),
        ("frames", pa.int32()),
        ("every", pa.int32()),
        ("fps", pa.float64()),
        ("shows_pose", pa.bool_()),
        ("width", pa.int32()),
        ("frame_features", pa.list_(pa.float32())),
    ]
)
"""A row a clip; see `FrameFeatures`. `frame_features` are the rows (S, width) one after the other."""
GROUP = 1 << 23
"""Numbers of a row group, about: 32 MB."""


def embed_frames(clips: ClipsOfRun, path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """Write the features of the frames of all clips as a table of `SCHEMA`, whole or not at all.

    Raises:
        TrainingError: the file does not end in .parquet.
    """
    target = Path(path)
    if target.suffix != ".parquet":
        raise TrainingError(f"{target}: a table of features ends in .parquet")
    check_place(target)
    with (
        (progress or Progress()).step("embed", len(clips.keys), "clips") as advance,
        staged(target) as partial,
        pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer,
    ):
        waiting: list[FrameFeatures] = []
        for clip in clips.read(range(len(clips.keys)), advance):
            waiting.append(clip)
            if sum(one.rows.size for one in waiting) >= GROUP:
                writer.write_table(_table(waiting))
                waiting = []
        if waiting:
            writer.write_table(_table(waiting))
    return target


def _table(clips: list[FrameFeatures]) -> pa.Table:
    ends = np.cumsum([0, *(clip.rows.size for clip in clips)])
    values = np.concatenate([clip.rows.ravel() for clip in clips])
    columns = [
        [clip.key for clip in clips],
        [clip.group for clip in clips],
        [clip.frames for clip in clips],
        [clip.every for clip in clips],
        [clip.fps for clip in clips],
        [clip.shows_pose for clip in clips],
        [clip.rows.shape[1] for clip in clips],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA)]
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values, pa.float32()))
    return pa.table([*arrays, lists], schema=SCHEMA)


class ClipsOfTable:
    """The clips of a table that `embed_frames` wrote.

    Attributes:
        keys: of the clips, each once.

    Raises:
        TrainingError: the file cannot be read, or is no such table.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            with pq.ParquetFile(self._path) as file:
                if not file.schema_arrow.equals(SCHEMA):
                    raise TrainingError(
                        f"{path}: its columns are {', '.join(file.schema_arrow.names)}, which are no features of "
                        "frames; give a table that `dataengine-train embed --frames` wrote, or a run"
                    )
                self.keys: tuple[str, ...] = tuple(file.read(["clip_id"])["clip_id"].to_pylist())
                sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        except (OSError, pa.ArrowException) as error:
            first = str(error).partition("\n")[0]
            raise TrainingError(f"{path}: no table of features can be read: {first}") from error
        self._starts = np.cumsum([0, *sizes])
        if len(set(self.keys)) < len(self.keys):
            raise TrainingError(f"{path}: a clip stands there twice; write it again with `embed --frames`")

    def read(self, numbers: Iterable[int], advance: Callable[[int], None] | None = None) -> Iterator[FrameFeatures]:
        """The features of the clips with these numbers; `advance` is given 1 after every clip."""
        held, part = -1, SCHEMA.empty_table()
        with pq.ParquetFile(self._path) as file:
            for number in numbers:
                group = int(np.searchsorted(self._starts, number, side="right")) - 1
                if group != held:
                    held, part = group, file.read_row_group(group)
                row = part.slice(number - int(self._starts[group]), 1)
                facts = row.select(SCHEMA.names[:-1]).to_pylist()[0]
                values = row["frame_features"].combine_chunks().flatten().to_numpy()
                rows = values.reshape(-1, facts["width"])
                yield FrameFeatures(
                    facts["clip_id"],
                    rows,
                    facts["every"],
                    facts["frames"],
                    facts["fps"],
                    facts["group"],
                    facts["shows_pose"],
                )
                if advance is not None:
                    advance(1)
