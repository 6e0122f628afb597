"""hf: a folder that Hugging Face `datasets` loads as it is: Parquet files and a card.

Format: README.md with a YAML head that names splits, files and features (huggingface.co/docs/hub, "Manual
configuration" and "Dataset cards"), and `data/SPLIT-00000.parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from dataengine.core.markdown import plain, rows
from dataengine.dataset import index
from dataengine.exports.base import SPANS, ExportedClip, ExportJob, LayoutExport
from dataengine.exports.space import ENTRY, in_space

SPLITS = {"val": "validation"}
"""What the Hub calls a split, where it is another word."""
GROUP_BYTES = 16 << 20
"""Bytes of keypoints and scores after which a row group is written: what is held in memory."""
LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "odc-by", "odbl", "pddl",
}  # fmt: skip
"""Licences that the Hub knows by these names; all others are 'other' there."""

_TEXT, _WHOLE, _REAL = pa.string(), pa.int32(), pa.float64()
_NUMBERS = pa.list_(pa.float32())
Columns: TypeAlias = Mapping[str, tuple[pa.DataType, str]]
COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "clip_id": (_TEXT, "id of the clip"),
    "source": (_TEXT, "where the video comes from"),
    "video_id": (_TEXT, "id of the video within its source"),
    "start": (_REAL, "start of the clip in the video, seconds"),
    "end": (_REAL, "end of the clip in the video, seconds"),
    "label": (pa.int64(), "class of the clip, null without one"),
    "source_label": (_TEXT, "label as the source gives it"),
    "text": (_TEXT, "sentence about the clip"),
    "licence": (_TEXT, "licence of the clip as its source states it, null where it is unknown"),
    "consent": (_TEXT, "consent of the people seen, as the source states it"),
    "url": (_TEXT, "web page of the video"),
    "subject": (_TEXT, "id of the person, where the source knows it"),
    "fps": (_REAL, "frames per second"),
    "frame_rate": (_TEXT, "the same as an exact fraction"),
    "width": (_WHOLE, "width of the picture, pixels"),
    "height": (_WHOLE, "height of the picture, pixels"),
    "num_frames": (_WHOLE, "T"),
    "num_people": (_WHOLE, "M"),
    "keypoints": (pa.list_(pa.list_(pa.list_(_NUMBERS))), "(M, T, V, 2) pixels from the top-left, NaN where unseen"),
    "scores": (pa.list_(pa.list_(_NUMBERS)), "(M, T, V) in [0, 1], 0 where unseen"),
}
"""Columns of the Parquet files with their meanings."""
SPACE = {
    ENTRY: (
        pa.list_(pa.list_(pa.list_(_NUMBERS))),
        "(M, T, V, 3) metres from the middle of the hips: x right, y down, z away from the camera; NaN where unknown",
    )
}
"""The column of joints in space, where it was asked for."""
WHEN: dict[str, tuple[pa.DataType, str]] = {
    SPANS: (
        index.SPANS,
        "what happens when: label, start and end in seconds, label_from (people or annotator) and probability; empty "
        "where people saw nothing happen, null where nobody said",
    )
}
"""The column of datasets that say what happens when."""
FEATURES: dict[pa.DataType, str] = {_TEXT: "string", _WHOLE: "int32", _REAL: "float64"}


@dataclass(frozen=True)
class HuggingFace(LayoutExport):
    """A folder for Hugging Face `datasets`: `data/SPLIT-00000.parquet` and README.md, the dataset card.

    `datasets.load_dataset(PATH)` reads it without a network. The split val is called validation there. Labels are a
    ClassLabel with names. A column `spans` says what happens when, where the dataset does. The format is made for
    publishing: clips of unknown licence are left out unless `--unknown-licence` is given.

    Attributes:
        layout: layout of the joints; 'own' is that of the dataset.
        shard_mb: size of keypoints and scores in MiB after which the next Parquet file begins.
        keypoints3d: add joints in space, of datasets whose poses are lifted.
    """

    publishes: ClassVar[bool] = True

    shard_mb: Annotated[int, Field(ge=1)] = 512
    keypoints3d: bool = False

    @property
    def wanted(self) -> tuple[str, ...] | None:
        return (ENTRY,) if self.keypoints3d else ()

    @property
    def columns(self) -> Columns:
        """Columns of the files with their types and meanings."""
        return COLUMNS | (SPACE if self.keypoints3d else {})

    def write(self, place: Path, job: ExportJob) -> None:
        (place / "data").mkdir()
        columns = {**self.columns, **(WHEN if job.span_labels else {})}
        own, schema = job.record["dataset"]["skeleton"], schema_of(columns)

        def given(split: str) -> Iterator[ExportedClip]:
            for clip in job.clips(split):
                if self.keypoints3d:
                    points = in_space(clip, own, job.skeleton.name, "export keypoints3d = false")
                    clip = replace(clip, others={ENTRY: points})
                yield clip

        for split in job.splits:
            name = SPLITS.get(split, split)
            for number, tables in enumerate(_files(given(split), schema, self.shard_mb << 20)):
                with pq.ParquetWriter(
                    place / "data" / f"{name}-{number:05d}.parquet", schema, compression="zstd", compression_level=3
                ) as writer:
                    for rows in tables:
                        writer.write_table(rows)
        (place / "README.md").write_text(card(job, columns), encoding="utf-8")


def _files(clips: Iterator[ExportedClip], schema: pa.Schema, most: int) -> Iterator[Iterator[pa.Table]]:
    """The row groups of each file in turn; a file is at an end once it holds `most` bytes."""
    groups = _groups(clips, schema)
    first = next(groups, None)
    while first is not None:
        left: list[tuple[pa.Table, int] | None] = [None]

        def inside(
            group: tuple[pa.Table, int] | None = first, left: list[tuple[pa.Table, int] | None] = left
        ) -> Iterator[pa.Table]:
            total = 0
            while group is not None and (not total or total + group[1] <= most):
                total += group[1]
                yield group[0]
                group = next(groups, None)
            left[0] = group

        yield inside()
        first = left[0]


def _groups(clips: Iterator[ExportedClip], schema: pa.Schema) -> Iterator[tuple[pa.Table, int]]:
    """Tables of some clips, with the bytes of their arrays."""
    held: list[ExportedClip] = []
    size = 0
    for clip in clips:
        held.append(clip)
        size += clip.keypoints.nbytes + clip.scores.nbytes + sum(one.nbytes for one in clip.others.values())
        if size >= GROUP_BYTES:
            yield rows_of(held, schema), size
            held, size = [], 0
    if held:
        yield rows_of(held, schema), size


def schema_of(columns: Columns) -> pa.Schema:
    """The schema of the Parquet files."""
    return pa.schema([(name, kind) for name, (kind, _) in columns.items()])


def rows_of(clips: list[ExportedClip], schema: pa.Schema) -> pa.Table:
    """Clips as rows of a file."""
    columns: list[pa.Array] = []
    for name, kind in zip(schema.names, schema.types):
        if name == "keypoints":
            columns.append(nested([clip.keypoints for clip in clips]))
        elif name == "scores":
            columns.append(nested([clip.scores for clip in clips]))
        elif name == ENTRY:
            columns.append(nested([clip.others[ENTRY] for clip in clips]))
        elif name == "fps":
            columns.append(pa.array([float(Fraction(clip.facts["fps"])) for clip in clips], kind))
        else:
            key = {"label": "label_id", "frame_rate": "fps"}.get(name, name)
            columns.append(pa.array([clip.facts[key] for clip in clips], kind))
    return pa.table(columns, schema=schema)


def nested(arrays: list[NDArray[np.float32]]) -> pa.Array:
    """Arrays of the same number of axes as rows of nested lists, without a Python object for each number."""
    made = pa.array(np.concatenate([array.reshape(-1) for array in arrays]), pa.float32())
    for axis in range(arrays[0].ndim - 1, -1, -1):
        # an array of shape s has prod(s[:axis]) lists of s[axis] members at this depth
        lengths = np.concatenate(
            [np.full(int(np.prod(array.shape[:axis], dtype=np.int64)), array.shape[axis]) for array in arrays]
        )
        made = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), made)
    return made


def card(job: ExportJob, columns: Columns) -> str:
    """README.md: the head that `datasets` and the Hub read, then what people read."""
    layout = job.skeleton.name
    splits = [(SPLITS.get(name, name), f"{one.clips:,}", f"{one.frames:,}") for name, one in job.splits.items()]
    licences = [(plain(name), f"{count:,}") for name, count in job.record["licences"].items()]
    meanings = [(f"`{name}`", meaning) for name, (_, meaning) in columns.items()]
    joints = ", ".join(job.skeleton.joints)
    return "\n\n".join(
        [
            _head(job, columns),
            "# Human poses in video",
            f"2D keypoints of people over time, one row per clip. M people, T frames, V = {job.skeleton.num_joints} "
            f"joints of the layout `{layout}`, in order: {joints}.",
            "```python\nimport datasets\n\ndata = datasets.load_dataset(PATH)  # a folder, or the name on the Hub\n```",
            "## Splits\n\n" + rows(("split", "clips", "frames"), splits),
            "## Licences\n\nEvery row states the licence of its clip. Poses are personal data where a person can be "
            "recognised by the way they move.\n\n" + rows(("licence", "clips"), licences),
            "## Columns\n\n" + rows(("column", "meaning"), meanings),
            f"Fingerprint of the dataset: `{job.record['dataset']['fingerprint']}`.\n",
        ]
    )


def _head(job: ExportJob, columns: Columns) -> str:
    """The YAML head. Names from data are written as JSON strings, which are YAML strings, too."""
    lines = [f"license: {_licence(job.licences)}", "tags: [human-pose, skeleton, video]", "configs:"]
    lines += ["- config_name: default", "  data_files:"]
    for split in job.splits:
        name = SPLITS.get(split, split)
        lines += [f"  - split: {name}", f"    path: data/{name}-*.parquet"]
    lines += ["dataset_info:", "  features:"]
    for name, (kind, _) in columns.items():
        lines.append(f"  - name: {name}")
        if name == "label" and job.labels:
            lines += ["    dtype:", "      class_label:", "        names:"]
            lines += [f"          '{number}': {json.dumps(label)}" for number, label in enumerate(job.labels)]
        elif pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
            lines.append("    list:")
            for field in kind.value_type:
                lines += [f"    - name: {field.name}", f"      dtype: {FEATURES[field.type]}"]
        elif pa.types.is_list(kind):
            depth, indent = str(kind).count("list<"), "    "
            for level in range(depth - 1):
                lines.append(f"{indent}{'  ' * level}sequence:")
            lines.append(f"{indent}{'  ' * (depth - 1)}sequence: float32")
        else:
            lines.append(f"    dtype: {FEATURES.get(kind, 'int64')}")
    return "---\n" + "\n".join(lines) + "\n---"


def _licence(licences: Mapping[str | None, int]) -> str:
    """The Hub's name of the licence of all clips, 'other' where they have several or one that it does not know."""
    names: set[Any] = {None if name is None else name.strip().lower().replace(" ", "-") for name in licences}
    one = {"cc0": "cc0-1.0"}.get(only := names.pop(), only) if len(names) == 1 else None
    return one if one in LICENCES else "other"
