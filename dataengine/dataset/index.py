"""The index of a dataset: Parquet tables of clips, tracks, joints and rejects, and the manifest that seals it.

Tables are sorted, split and compressed in one fixed way, so their bytes are a function of their rows. `MANIFEST.json`
is written last and names every file with its length and BLAKE3. A folder without a manifest is not a dataset yet.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataengine.core.errors import DatasetError, suggestion
from dataengine.io.remote import MissingFileError, read_range
from dataengine.io.storage import clear_partials, file_hash, staged
from dataengine.io.switch import interrupted

FORMAT_VERSION = 3
"""Increased when a reader of older datasets could misread a new one."""
MANIFEST = "MANIFEST.json"
APART = (MANIFEST, "README.md", "report.html", "tombstones/")
"""Files that may change after the dataset is sealed, and are therefore not in the manifest."""
PART_ROWS = 1 << 19
GROUP_ROWS = 1 << 15

Rows: TypeAlias = "Sequence[Mapping[str, Any]] | pa.Table"

_STRING, _SINGLE, _DOUBLE, _INT, _BYTES, _BOOL = (
    pa.string(),
    pa.float32(),
    pa.float64(),
    pa.int32(),
    pa.uint64(),
    pa.bool_(),
)


def _schema(*groups: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([(name, kind) for names, kind in groups for name in names.split()])


CLIPS: pa.Schema = _schema(
    ("clip_id source video_id", _STRING),
    ("start end", _DOUBLE),
    ("split label", _STRING),
    ("label_id", _INT),
    ("source_label text licence consent url fps", _STRING),
    ("width height num_frames num_people", _INT),
    ("subject", _STRING),
    (
        "pose_coverage confidence_mean confidence_p10 expert_disagreement jitter motion truncation bone_variation",
        _SINGLE,
    ),
    ("label_cosine label_margin", _SINGLE),
    ("label_rank", _INT),
    ("duplicate_of", _STRING),
    ("generation", _INT),
    ("shard", _STRING),
    ("offset size", _BYTES),
    ("blake3", _STRING),
    ("entries", pa.list_(pa.struct([("name", _STRING), ("offset", _BYTES), ("size", _BYTES)]))),
)
"""One row per clip; `dataengine.dataset.descriptions` says what each column means."""

TRACKS: pa.Schema = _schema(
    ("clip_id", _STRING),
    ("track_id rank", _INT),
    ("kept", _BOOL),
    ("support_mean", _SINGLE),
    ("num_frames", _INT),
    ("coverage score_mean confidence_mean confidence_p10 area motion jitter bone_variation", _SINGLE),
)
"""One row per person of a clip; `tracks_schema` adds the shares of the experts."""

LIFTED_TRACKS: pa.Schema = _schema(("lift_reprojection", _SINGLE))
"""Columns that `TRACKS` has beside in datasets with poses in space."""

JOINTS: pa.Schema = _schema(
    ("clip_id", _STRING), ("track_id", _INT), ("joint", _STRING), ("visible score_mean disagreement", _SINGLE)
)
"""One row per joint of a kept track."""

REJECTS: pa.Schema = _schema(
    ("clip_id source video_id pass reason detail", _STRING),
    ("value threshold", _DOUBLE),
    ("retryable", _BOOL),
)
"""One row a planned clip that is not in the dataset; `reason` is a key of `dataengine.core.reasons.REASONS`."""

ACCURACY: pa.Schema = _schema(("clip_id expert condition", _STRING), ("num_joints num_right", _INT))
"""One row per clip of a rendered source, expert and condition: how many joints of the expert are right."""

SIGNATURES: pa.Schema = _schema(("clip_id", _STRING), ("hashes", pa.list_(pa.uint64())), ("words", pa.binary()))
"""One row per clip: its signature for finding near-duplicates (`dataengine.dataset.near_duplicates`)."""

REVIEW: pa.Schema = _schema(("clip_id label proposed", _STRING), ("cosine margin", _SINGLE))
"""Only in datasets with features: one row per clip, kept or rejected, that is nearer to the texts of another label than
to those of its own. Proposals change no label."""

TOMBSTONES: pa.Schema = _schema(("clip_id reason", _STRING))
"""One row per clip that was taken down after the dataset was sealed; readers skip these clips at once."""

TABLES: dict[str, pa.Schema] = {"clips": CLIPS, "tracks": TRACKS, "joints": JOINTS, "rejects": REJECTS}
"""Tables of every dataset."""

MORE_TABLES: dict[str, pa.Schema] = {"accuracy": ACCURACY, "signatures": SIGNATURES, "review": REVIEW}
"""Tables of some datasets: `accuracy` of those with rendered sources, `review` of those with features."""


SPANS: pa.DataType = pa.list_(
    pa.struct(
        [("label", _STRING), ("start", _DOUBLE), ("end", _DOUBLE), ("label_from", _STRING), ("probability", _DOUBLE)]
    )
)
"""What happens when in a clip; the type of the column that the pass `spans` adds."""

_NESTED: dict[str, pa.DataType] = {"spans": SPANS}


def type_name(kind: pa.DataType) -> str:
    """The type of a column that a pass adds, as the manifest writes it; `clips_schema` reads it."""
    return next((name for name, nested in _NESTED.items() if nested == kind), str(kind))


def clips_schema(added: Iterable[Mapping[str, Any]] = ()) -> pa.Schema:
    """`CLIPS` with the columns that passes add.

    Args:
        added: what the manifest says under `columns`: name, type (see `type_name`) and null of each.
    """
    types = ((c["name"], _NESTED.get(c["type"]) or pa.type_for_alias(c["type"])) for c in added)
    fields = [pa.field(name, kind) for name, kind in types]
    return pa.schema([*CLIPS, *fields])


def tracks_schema(experts: Iterable[str], lifted: bool = False) -> pa.Schema:
    """`TRACKS` with a column share_<expert> per expert: the share of the joints of a track that the expert won.

    Args:
        experts: names of the experts of the dataset.
        lifted: whether the dataset holds poses in space, and so the columns of `LIFTED_TRACKS`.
    """
    shares = (pa.field(f"share_{expert}", _SINGLE) for expert in experts)
    return pa.schema([*TRACKS, *(LIFTED_TRACKS if lifted else ()), *shares])


def write_table(folder: str | os.PathLike[str], rows: Rows, schema: pa.Schema) -> list[Path]:
    """Write a table as `part-00000.parquet` and so on into `folder`, replacing the parts that lie there.

    Rows are sorted by clip_id, then by track_id where the table has it; equal rows keep their order. A key that a row
    lacks is null, and so is NaN. A table without rows is one empty part.

    Raises:
        DatasetError: a row has a column that the schema lacks, or a value of another type.
    """
    target = Path(folder)
    table = in_order(checked(rows, schema, target))
    count = max(1, -(-len(table) // PART_ROWS))
    paths = [write_part(target, number, table.slice(number * PART_ROWS, PART_ROWS)) for number in range(count)]
    drop_parts(target, count)
    return paths


def in_order(table: pa.Table) -> pa.Table:
    """A table of the index in the order of its rows in the files: by clip_id, then by track_id where it has it."""
    names = [name for name in ("clip_id", "track_id") if name in table.column_names]
    return table.sort_by([(name, "ascending") for name in names])


def write_part(folder: Path, number: int, table: pa.Table) -> Path:
    """Write one part file of a table, of at most `PART_ROWS` rows in order."""
    path = folder / f"part-{number:05d}.parquet"
    with staged(path) as partial:
        _write_parquet(partial, table.combine_chunks())  # chunks would show in the bytes
    return path


def drop_parts(folder: Path, count: int) -> None:
    """Remove the part files from number `count` on."""
    for stale in set(folder.glob("part-*.parquet")) - {
        folder / f"part-{number:05d}.parquet" for number in range(count)
    }:
        stale.unlink()


def checked(rows: Rows, schema: pa.Schema, target: Path) -> pa.Table:
    """Rows as a table of a schema, NaN as null; raises as `write_table`. `target` is what an error names."""
    given = rows.column_names if isinstance(rows, pa.Table) else {name for row in rows for name in row}
    if unknown := sorted(set(given) - set(schema.names)):
        raise DatasetError(f"{target}: unknown column {unknown[0]!r}{suggestion(unknown[0], schema.names)}")
    try:
        if isinstance(rows, pa.Table):
            columns = [
                rows[name].cast(kind) if name in given else pa.nulls(len(rows), kind)
                for name, kind in zip(schema.names, schema.types)
            ]
            table = pa.table(columns, schema=schema)
        else:
            table = pa.Table.from_pylist(list(rows), schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise DatasetError(f"{target}: a value does not fit its column: {str(error).splitlines()[0]}") from None
    for position, field in enumerate(schema):
        if pa.types.is_floating(field.type):
            column = table.column(position)
            table = table.set_column(
                position, field, pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
            )
    return table


def _write_parquet(path: Path, table: pa.Table) -> None:
    # one row group size and the statistics let a reader of one clip skip the rest of a sorted table
    pq.write_table(
        table,
        path,
        row_group_size=GROUP_ROWS,
        compression="zstd",
        compression_level=3,
        write_page_index=True,
        version="2.6",
    )


def write_tombstones(dataset: str | os.PathLike[str], rows: Rows, record: Mapping[str, Any] | None = None) -> Path:
    """Add a file of clips (clip_id, reason) to leave out from now on to the folder of a dataset; see
    `append_tombstones`."""
    return append_tombstones(Path(dataset) / "tombstones", rows, record)


def append_tombstones(folder: Path, rows: Rows, record: Mapping[str, Any] | None = None) -> Path:
    """Add a file of clips (clip_id, reason) to a folder, durably, under the next free number.

    Each number is given once, so concurrent writers lose no row. `record` (JSON) says who asked for it and why. The
    file holds the record and the BLAKE3 of the file before, so that no record can be changed or removed unnoticed.
    """
    table = checked(rows, TOMBSTONES, folder).sort_by("clip_id")
    for number in itertools.count():
        path = folder / tombstone_name(number)
        if path.exists():
            continue
        before = folder / tombstone_name(number - 1)
        chained = {**(record or {}), "previous": file_hash(before) if number else None}
        signed = table.replace_schema_metadata({"record": json.dumps(chained, sort_keys=True)})
        with contextlib.suppress(FileExistsError), staged(path, replace=False) as partial:
            _write_parquet(partial, signed)
            return path
    raise AssertionError("numbers do not end")


def read_records(dataset: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of the takedowns in the folder of a dataset; see `records_in`."""
    return records_in(Path(dataset) / "tombstones")


def records_in(folder: Path) -> list[dict[str, Any]]:
    """The records of the takedowns in a folder of tombstones, in order, each with its file and its clip ids.

    Raises:
        DatasetError: a record cannot be read.
    """
    found = []
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            table = pq.read_table(path)
            record = json.loads((table.schema.metadata or {}).get(b"record", b"{}"))
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{path} cannot be read: {str(error).splitlines()[0]}; it says which clips were taken down: put it "
                "back from a copy of the build or of the dataset"
            ) from error
        found.append({**record, "file": path.name, "clip_ids": table.column("clip_id").to_pylist()})
    return found


def tombstone_name(number: int) -> str:
    """The name of a file of tombstones. Numbers start at 0 without gaps, so that readers need no listing of the
    folder."""
    return f"part-{number:05d}.parquet"


def build_manifest(
    dataset: str | os.PathLike[str],
    counts: Mapping[str, int],
    fingerprint: str,
    known: Mapping[str, tuple[int, str]] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """The manifest of the dataset in a folder. Nothing may write into the folder; leftovers of killed writers are
    removed.

    Args:
        dataset: the folder.
        counts: rows by table, 'planned' clips, and other counts.
        fingerprint: digest of everything that the dataset is a function of.
        known: (bytes, blake3) by path relative to `dataset` of files that are hashed already, such as shards.
        facts: further entries, such as skeleton and experts.

    Returns:
        format_version, fingerprint, counts, the facts, and files: a list of {path, bytes, blake3}, sorted by path.
    """
    root = Path(dataset)
    clear_partials(root)
    files = []
    for name, path in sorted(data_files(root).items()):
        size = path.stat().st_size
        stated, digest = (known or {}).get(name, (size, ""))
        if stated != size:
            raise DatasetError(f"{path}: has {size} bytes, {stated} were written; run dataengine build again")
        files.append({"path": name, "bytes": size, "blake3": digest or file_hash(path)})
    return {
        **facts,
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "counts": dict(counts),
        "files": files,
    }


def data_files(dataset: str | os.PathLike[str]) -> dict[str, Path]:
    """The files under `dataset` that belong in the manifest, by relative path with forward slashes."""
    root = Path(dataset)
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file() or path.is_symlink()}
    return {name: path for name, path in found.items() if not name.startswith(APART[-1]) and name not in APART}


def write_manifest(dataset: str | os.PathLike[str], manifest: Mapping[str, Any]) -> Path:
    """Write the manifest, which makes the folder a dataset for readers."""
    path = Path(dataset) / MANIFEST
    with staged(path) as partial:
        partial.write_text(
            json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
    return path


def locate(path: str | os.PathLike[str]) -> str:
    """The folder or url of the dataset that `path` means: a build's OUT, its `dataset` folder, or a url of either.

    Raises:
        DatasetError: there is no dataset, or it is incomplete.
    """
    text = os.fspath(path).rstrip("/") or "/"
    for root in (text, f"{text}/dataset"):
        try:
            read_range(f"{root}/{MANIFEST}")
        except MissingFileError:
            continue
        return root
    if "://" not in text and any(interrupted(Path(text, name)) for name in ("", "dataset")):
        raise DatasetError(
            f"{text}: a build was stopped while it put the dataset in place; run it again, or dataengine gc, which "
            "finishes that"
        )
    if "://" not in text and not Path(text).is_dir():
        raise DatasetError(f"{text}: no such folder; give the OUT of a build, its dataset folder, or a url")
    raise DatasetError(f"{text}: dataset incomplete (it has no {MANIFEST}): run dataengine build or import again")


def read_manifest(dataset: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of the dataset at a folder or url.

    Raises:
        DatasetError: the manifest is absent (the dataset is incomplete), damaged, or of another format version.
    """
    where = f"{os.fspath(dataset)}/{MANIFEST}"
    try:
        manifest = json.loads(read_range(where))
    except MissingFileError:
        raise DatasetError(
            f"{os.fspath(dataset)}: dataset incomplete (it has no {MANIFEST}): run dataengine build or import again"
        ) from None
    except ValueError as error:
        raise DatasetError(f"{where}: damaged: {error}; run dataengine build again") from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        name = manifest.get("recipe", {}).get("name", "RECIPE") if isinstance(manifest, dict) else "RECIPE"
        out = os.fspath(dataset).removesuffix("/dataset")
        raise DatasetError(
            f"{where}: format version {version}; this dataengine reads {FORMAT_VERSION}: build the dataset again, with "
            f"the sources of before: dataengine build {name} --sources ... --out {out}"
        )
    if missing := {"fingerprint", "counts", "files"} - manifest.keys():
        raise DatasetError(f"{where}: damaged: it lacks {', '.join(sorted(missing))}; run dataengine build again")
    for name in (str(file.get("path")) for file in manifest["files"]):
        if name.startswith("/") or "\\" in name or "://" in name or ".." in name.split("/"):
            raise DatasetError(f"{where}: damaged: it names {name!r}, which is no file of a dataset; do not use it")
    return dict(manifest)
