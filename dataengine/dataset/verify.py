"""verify: checks every file, digest, count and cross-reference of a dataset.

The shards are read once; the index is compared as tables. Damage is reported, never raised, and one damage does not
hide another: everything that can be read is checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.core import reasons
from dataengine.core.errors import DatasetError
from dataengine.core.progress import Progress
from dataengine.core.types import SPLITS
from dataengine.dataset.index import (
    MORE_TABLES,
    TABLES,
    clips_schema,
    data_files,
    locate,
    read_manifest,
    tracks_schema,
)
from dataengine.dataset.null_columns import null_columns
from dataengine.dataset.takedown_records import check_chain, check_records, home
from dataengine.dataset.verify_shards import Problem, check_shards, is_lifted, named_files, shard_files
from dataengine.io.storage import file_hash

__all__ = ["Problem", "verify"]


def verify(out: str | os.PathLike[str], progress: Progress | None = None) -> list[Problem]:
    """Check the dataset of a build's OUT, or a dataset folder.

    Args:
        out: the folder.
        progress: what tells how far the work is. Default: nothing does.

    Returns:
        All mistakes, sorted; empty for a sound dataset.

    Raises:
        DatasetError: there is no such folder.
    """
    try:
        root = Path(locate(out))
        manifest = read_manifest(root)
    except DatasetError as error:
        if not Path(out).is_dir():
            raise
        return [Problem("MANIFEST.json", str(error))]
    progress = progress or Progress()
    with progress.step("files", len(manifest["files"]), "files") as advance:
        problems = list(_check_files(root, manifest, advance))
    # a damaged table is reported once, as a file; comparing its rows would only repeat that
    damaged = {problem.path for problem in problems}
    tables: dict[str, pl.DataFrame] = {}
    for name in sorted({*TABLES, *(path.split("/")[1] for path in named_files(manifest) if path.startswith("index/"))}):
        found = _read_table(root, name, manifest, damaged)
        if isinstance(found, Problem):
            problems.append(found)
        elif found is not None:
            tables[name] = found
    problems += _check_tables(tables, manifest)
    own = {("clips", column["name"]) for column in manifest.get("columns", []) if column["null"]}
    for name, column in sorted({*null_columns(tables)} - own):
        what = f"column {column} is null in every row, which the schema does not allow; build the dataset again"
        problems.append(Problem(f"index/{name}", what))
    with progress.step("shards", len(shard_files(manifest)), "shards") as advance:
        problems += check_shards(root, manifest, tables, advance)
    problems += _check_tombstones(root)
    return sorted(set(problems))


def _check_files(root: Path, manifest: Mapping[str, Any], advance: Callable[[int], None]) -> Iterator[Problem]:
    there = data_files(root)
    for file in manifest["files"]:
        name, path = file["path"], there.pop(file["path"], None)
        if path is None or not path.is_file():
            yield Problem(name, "missing: the manifest names it")
        elif (size := path.stat().st_size) != file["bytes"]:
            yield Problem(name, f"has {size} bytes, the manifest says {file['bytes']}")
        elif (digest := file_hash(path)) != file["blake3"]:
            yield Problem(name, f"damaged: blake3 {digest[:12]}..., the manifest says {file['blake3'][:12]}...")
        advance(1)
    for name in there:
        yield Problem(name, "stray: the manifest does not name it")


def _expected(name: str, manifest: Mapping[str, Any], found: pa.Schema) -> pa.Schema | None:
    """The schema that a table must have; None for an unknown table. Passes add columns and tables by the manifest."""
    if name == "clips":
        return clips_schema(manifest.get("columns", []))
    if name == "tracks":
        experts = [column[6:] for column in found.names if column.startswith("share_")]
        return tracks_schema(experts, is_lifted(manifest))
    if name in manifest.get("tables", []):
        return found if found.field("clip_id").type == pa.string() else None
    return {**TABLES, **MORE_TABLES}.get(name)


def _read_table(root: Path, name: str, manifest: Mapping[str, Any], damaged: set[str]) -> pl.DataFrame | Problem | None:
    """The table; None where a damaged file of it is reported already; or the mistake that keeps it from being read."""
    folder = f"index/{name}"
    paths = [path for path in named_files(manifest) if path.startswith(f"{folder}/")]
    if damaged.intersection(paths):
        return None
    if not paths:
        return Problem(folder, "missing: every dataset has this table")
    try:
        parts = [pq.read_table(root / path) for path in paths]
        expected = _expected(name, manifest, parts[0].schema)
        if expected is None:
            known = [*TABLES, *MORE_TABLES, *manifest.get("tables", [])]
            return Problem(folder, f"unknown table; known: {', '.join(known)}")
        for path, part in zip(paths, parts):
            if not part.schema.equals(expected):
                return Problem(path, f"columns are not those of this format: {_difference(part.schema, expected)}")
        frame = pl.from_arrow(pa.concat_tables(parts))
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        return Problem(folder, f"cannot be read: {str(error).splitlines()[0]}")
    assert isinstance(frame, pl.DataFrame)
    return frame


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    ours, theirs = set(zip(expected.names, map(str, expected.types))), set(zip(found.names, map(str, found.types)))
    if ours == theirs:
        return "another order"
    return f"lacks {sorted(ours - theirs)}, has {sorted(theirs - ours)}"


def _check_tables(tables: Mapping[str, pl.DataFrame], manifest: Mapping[str, Any]) -> Iterator[Problem]:
    """Counts, ids and references between the tables that could be read."""
    counts: Mapping[str, int] = manifest["counts"]
    for name, table in tables.items():
        if counts.get(name, len(table)) != len(table):
            yield Problem(f"index/{name}", f"has {len(table)} rows, the manifest counts {counts[name]}")
        if name in TABLES and name not in counts:
            yield Problem("MANIFEST.json", f"does not count {name}")
        if table["clip_id"].null_count():
            yield Problem(f"index/{name}", f"{table['clip_id'].null_count()} rows have no clip_id")
        if not table["clip_id"].is_sorted():
            yield Problem(f"index/{name}", "rows are not sorted by clip_id")
    if "clips" in tables and "rejects" in tables:
        clips, rejects = tables["clips"], tables["rejects"]
        if (total := len(clips) + len(rejects)) != counts.get("planned", total):
            yield Problem(
                "MANIFEST.json", f"{counts['planned']} clips were planned, but {total} are in clips and rejects"
            )
        yield from _problems("index/rejects", "is in clips, too", rejects.join(clips, on="clip_id", how="semi"))
        yield from _check_references(tables, clips, rejects)
    for name, keys in (("clips", ["clip_id"]), ("rejects", ["clip_id"]), ("tracks", ["clip_id", "track_id"])):
        if name in tables:
            yield from _problems(
                f"index/{name}",
                "stands twice",
                tables[name].filter(tables[name].select(keys).is_duplicated()).unique("clip_id"),
            )
    if "rejects" in tables and "passes" in manifest:
        passes = ["plan", *(p["name"] for p in manifest["passes"])]
        unknown = tables["rejects"].filter(~_is_one("pass", passes))
        yield from _problems("index/rejects", "was thrown out by a pass that the manifest does not name", unknown)
    if "rejects" in tables:
        yield from _problems(
            "index/rejects",
            "has a reason outside the closed list",
            tables["rejects"].filter(~_is_one("reason", list(reasons.of_manifest(manifest)))),
        )
    if "clips" in tables:
        clips = tables["clips"]
        yield from _problems(
            "index/clips", f"has a split other than {', '.join(SPLITS)}", clips.filter(~_is_one("split", list(SPLITS)))
        )
        yield from _problems(
            "index/clips",
            "has a label without an id, or an id without a label",
            clips.filter(_one_sided("label", "label_id")),
        )
        pairs = clips.select("label", "label_id").drop_nulls().unique()
        for column in ("label", "label_id"):
            for value in pairs.filter(pl.col(column).is_duplicated())[column].unique().sort().to_list():
                yield Problem(
                    "index/clips",
                    f"{column} {value!r} goes with more than one {'label_id' if column == 'label' else 'label'}",
                )


def _is_one(column: str, allowed: list[str]) -> pl.Expr:
    return pl.col(column).is_in(allowed).fill_null(False)


def _one_sided(one: str, other: str) -> pl.Expr:
    return pl.col(one).is_null() != pl.col(other).is_null()


def _check_references(
    tables: Mapping[str, pl.DataFrame], clips: pl.DataFrame, rejects: pl.DataFrame
) -> Iterator[Problem]:
    planned = pl.concat([clips.select("clip_id"), rejects.select("clip_id")])
    for name in ("accuracy", "review"):
        if name in tables:
            yield from _problems(
                f"index/{name}",
                "is no planned clip",
                tables[name].join(planned, on="clip_id", how="anti").unique("clip_id"),
            )
    if "review" in tables:
        agreed = tables["review"].filter(pl.col("label").eq_missing(pl.col("proposed")))
        yield from _problems("index/review", "is proposed the label that it has", agreed)
    if "tracks" not in tables:
        return
    tracks = tables["tracks"]
    yield from _problems(
        "index/tracks", "is no clip of the dataset", tracks.join(clips, on="clip_id", how="anti").unique("clip_id")
    )
    kept = tracks.filter("kept")
    people = clips.select("clip_id", "num_people").join(
        kept.group_by("clip_id").len("num_kept"), on="clip_id", how="left"
    )
    yield from _problems(
        "index/tracks",
        "has other than num_people kept tracks",
        people.filter(~pl.col("num_people").eq_missing(pl.col("num_kept"))),
    )
    if "joints" in tables:
        joints = tables["joints"]
        lost = joints.join(tracks, on=["clip_id", "track_id"], how="anti").unique("clip_id")
        yield from _problems("index/joints", "has joints of a track that is not in tracks", lost)
        lost = kept.join(joints, on=["clip_id", "track_id"], how="anti").unique("clip_id")
        yield from _problems("index/joints", "has a kept track without joints", lost)


def _problems(path: str, what: str, rows: pl.DataFrame) -> Iterator[Problem]:
    for clip_id in rows["clip_id"].unique().sort().to_list():
        yield Problem(path, f"{clip_id} {what}")


def _check_tombstones(root: Path) -> Iterator[Problem]:
    """Mistakes in tombstones, and in the records of the build that they come from. Readers without a listing count the
    files up, so a gap would hide later files."""
    for path, what in check_chain(root / "tombstones"):
        yield Problem(f"tombstones/{path.name}", what)
    out = home(root)
    if out is not None:
        yield from (Problem(*found) for found in check_records(out, root))
