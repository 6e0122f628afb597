"""verify: checks every file, digest, count and cross-reference of a dataset.

The shards are read once; the index is compared as tables. Damage is reported, never raised, and one damage does not
hide another: everything that can be read is checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3 as Hasher
from numpy.typing import NDArray

from dataengine.core import reasons
from dataengine.core.errors import DatasetError
from dataengine.core.types import SPLITS
from dataengine.dataset.index import (
    MORE_TABLES,
    TABLES,
    TOMBSTONES,
    clips_schema,
    data_files,
    locate,
    read_manifest,
    tombstone_name,
    tracks_schema,
)
from dataengine.dataset.null_columns import null_columns
from dataengine.io.shards import decode_entry, scan
from dataengine.io.storage import file_hash, mapped

Array: TypeAlias = NDArray[Any]

SHARED: tuple[str, ...] = (
    *(
        "clip_id",
        "source",
        "label",
        "label_id",
        "source_label",
        "text",
        "split",
        "fps",
        "width",
        "height",
        "num_frames",
    ),
    *("generation", "licence"),
)
"""Facts that KEY.json and the row of the clip share."""
ARRAYS: dict[str, tuple[str, Callable[[int, int, int], tuple[int, ...]]]] = {
    "keypoints.npy": ("float32", lambda m, t, v: (m, t, v, 2)),
    "scores.npy": ("float16", lambda m, t, v: (m, t, v)),
    "confidence.npy": ("float16", lambda m, t, v: (m, t)),
    "timestamps.npy": ("float32", lambda m, t, v: (t,)),
    "keypoints3d.npy": ("float16", lambda m, t, v: (m, t, v, 3)),
}
"""dtype and shape of the arrays of a sample with M people, T frames and V joints."""
FEATURES = ("_video.npy", "_text.npy", "_views.npy")
"""Endings of the entries of features, after the name of the model."""
ALWAYS = {"json", "keypoints.npy", "scores.npy", "confidence.npy", "timestamps.npy"}


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: the file (relative to the dataset), and what is wrong with it."""

    path: str
    what: str


def verify(out: str | os.PathLike[str]) -> list[Problem]:
    """Check the dataset of a build's OUT, or a dataset folder.

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
    problems = list(_check_files(root, manifest))
    # a damaged table is reported once, as a file; comparing its rows would only repeat that
    damaged = {problem.path for problem in problems}
    tables: dict[str, pl.DataFrame] = {}
    for name in sorted({*TABLES, *(path.split("/")[1] for path in _named(manifest) if path.startswith("index/"))}):
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
    problems += _check_shards(root, manifest, tables)
    problems += _check_tombstones(root)
    return sorted(set(problems))


def _named(manifest: Mapping[str, Any]) -> list[str]:
    return [file["path"] for file in manifest["files"]]


def _check_files(root: Path, manifest: Mapping[str, Any]) -> Iterator[Problem]:
    there = data_files(root)
    for file in manifest["files"]:
        name, path = file["path"], there.pop(file["path"], None)
        if path is None or not path.is_file():
            yield Problem(name, "missing: the manifest names it")
        elif (size := path.stat().st_size) != file["bytes"]:
            yield Problem(name, f"has {size} bytes, the manifest says {file['bytes']}")
        elif (digest := file_hash(path)) != file["blake3"]:
            yield Problem(name, f"damaged: blake3 {digest[:12]}..., the manifest says {file['blake3'][:12]}...")
    for name in there:
        yield Problem(name, "stray: the manifest does not name it")


def _expected(name: str, manifest: Mapping[str, Any], found: pa.Schema) -> pa.Schema | None:
    """The schema that a table must have; None for an unknown table. Passes add columns and tables by the manifest."""
    if name == "clips":
        return clips_schema(manifest.get("columns", []))
    if name == "tracks":
        return tracks_schema(column[6:] for column in found.names if column.startswith("share_"))
    if name in manifest.get("tables", []):
        return found if found.field("clip_id").type == pa.string() else None
    return {**TABLES, **MORE_TABLES}.get(name)


def _read_table(root: Path, name: str, manifest: Mapping[str, Any], damaged: set[str]) -> pl.DataFrame | Problem | None:
    """The table; None where a damaged file of it is reported already; or the mistake that keeps it from being read."""
    folder = f"index/{name}"
    paths = [path for path in _named(manifest) if path.startswith(f"{folder}/")]
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
        yield from _say("index/rejects", "is in clips, too", rejects.join(clips, on="clip_id", how="semi"))
        yield from _check_references(tables, clips, rejects)
    for name, keys in (("clips", ["clip_id"]), ("rejects", ["clip_id"]), ("tracks", ["clip_id", "track_id"])):
        if name in tables:
            yield from _say(
                f"index/{name}",
                "stands twice",
                tables[name].filter(tables[name].select(keys).is_duplicated()).unique("clip_id"),
            )
    if "rejects" in tables and "passes" in manifest:
        passes = ["plan", *(p["name"] for p in manifest["passes"])]
        unknown = tables["rejects"].filter(~_is_one("pass", passes))
        yield from _say("index/rejects", "was thrown out by a pass that the manifest does not name", unknown)
    if "rejects" in tables:
        yield from _say(
            "index/rejects",
            "has a reason outside the closed list",
            tables["rejects"].filter(~_is_one("reason", list(reasons.of_manifest(manifest)))),
        )
    if "clips" in tables:
        clips = tables["clips"]
        yield from _say(
            "index/clips", f"has a split other than {', '.join(SPLITS)}", clips.filter(~_is_one("split", list(SPLITS)))
        )
        yield from _say(
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
            yield from _say(
                f"index/{name}",
                "is no planned clip",
                tables[name].join(planned, on="clip_id", how="anti").unique("clip_id"),
            )
    if "review" in tables:
        agreed = tables["review"].filter(pl.col("label").eq_missing(pl.col("proposed")))
        yield from _say("index/review", "is proposed the label that it has", agreed)
    if "tracks" not in tables:
        return
    tracks = tables["tracks"]
    yield from _say(
        "index/tracks", "is no clip of the dataset", tracks.join(clips, on="clip_id", how="anti").unique("clip_id")
    )
    kept = tracks.filter("kept")
    people = clips.select("clip_id", "num_people").join(
        kept.group_by("clip_id").len("num_kept"), on="clip_id", how="left"
    )
    yield from _say(
        "index/tracks",
        "has other than num_people kept tracks",
        people.filter(~pl.col("num_people").eq_missing(pl.col("num_kept"))),
    )
    if "joints" in tables:
        joints = tables["joints"]
        lost = joints.join(tracks, on=["clip_id", "track_id"], how="anti").unique("clip_id")
        yield from _say("index/joints", "has joints of a track that is not in tracks", lost)
        lost = kept.join(joints, on=["clip_id", "track_id"], how="anti").unique("clip_id")
        yield from _say("index/joints", "has a kept track without joints", lost)


def _say(path: str, what: str, rows: pl.DataFrame) -> Iterator[Problem]:
    for clip_id in rows["clip_id"].unique().sort().to_list():
        yield Problem(path, f"{clip_id} {what}")


def _check_shards(root: Path, manifest: Mapping[str, Any], tables: Mapping[str, pl.DataFrame]) -> Iterator[Problem]:
    """Every sample against its row, and every row against its sample."""
    paths = [path for path in _named(manifest) if path.startswith("shards/")]
    rows: dict[str, dict[str, dict[str, Any]]] | None = None
    if "clips" in tables:
        rows = {}
        for row in (
            tables["clips"]
            .select("shard", "offset", "size", "blake3", "entries", "num_people", *SHARED)
            .iter_rows(named=True)
        ):
            rows.setdefault(str(row["shard"]), {})[row["clip_id"]] = row
        for shard in sorted(rows.keys() - set(paths)):
            yield Problem(shard, f"not in the manifest, but the index places {len(rows[shard])} clips in it")
    tracks = _kept_tracks(tables["tracks"]) if "tracks" in tables else None
    order: dict[str, list[str]] = {}
    for path in paths:
        if not (root / path).is_file():
            continue
        order[path] = []
        try:
            data = mapped(root / path)
            if path.startswith("shards/pose/"):
                yield from _check_shard(path, data, None if rows is None else rows.get(path, {}), tracks, order[path])
            else:
                order[path] += [key for key, _ in scan(data, path)]
        except DatasetError as error:
            yield Problem(path, str(error).removeprefix(f"{root}/").removeprefix(f"{path}: "))
    for path in order:
        if path.startswith("shards/video/"):
            pose = path.replace("shards/video/", "shards/pose/")
            if order[path] != order.get(pose):
                yield Problem(path, f"does not hold the samples of {pose} in their order")


def _kept_tracks(tracks: pl.DataFrame) -> dict[str, list[int]]:
    grouped = tracks.filter("kept").sort("clip_id", "rank").group_by("clip_id", maintain_order=True).agg("track_id")
    return dict(zip(grouped["clip_id"].to_list(), grouped["track_id"].to_list()))


def _check_shard(
    path: str,
    data: memoryview,
    rows: dict[str, dict[str, Any]] | None,
    tracks: Mapping[str, list[int]] | None,
    order: list[str],
) -> Iterator[Problem]:
    left = dict(rows or {})
    try:
        for key, members in scan(data, path):
            order.append(key)
            row = left.pop(key, None)
            if row is None and rows is not None:
                yield Problem(path, f"{key} has no row in index/clips that places it here")
                continue
            entries = {entry.name: data[entry.offset : entry.offset + entry.size] for entry in members}
            for what in _check_sample(entries, row, None if tracks is None else tracks.get(key, [])):
                yield Problem(path, f"{key} {what}")
            if row is not None:
                if [tuple(entry.values()) for entry in row["entries"] or ()] != [tuple(entry) for entry in members]:
                    yield Problem(path, f"{key} has entries other than index/clips says")
                if Hasher(data[row["offset"] : row["offset"] + row["size"]]).hexdigest() != row["blake3"]:
                    yield Problem(path, f"{key} does not have the blake3 that index/clips says, at its offset and size")
    except DatasetError as error:
        raise DatasetError(f"{error}; {len(left)} clips of the index lie behind it") from None
    for key in left:
        yield Problem(path, f"{key} is not in the shard, though index/clips places it here")


def _check_sample(
    entries: Mapping[str, memoryview], row: Mapping[str, Any] | None, tracks: list[int] | None
) -> Iterator[str]:
    """Mistakes in one sample, compared with its row and the ids of its kept tracks where these are known."""
    if missing := ALWAYS - entries.keys():
        yield f"lacks {', '.join(sorted(missing))}"
        return
    try:
        values = {name: decode_entry(name, data) for name, data in entries.items()}
        meta = values["json"]
        joints, frames = len(meta["joints"]), int(meta["num_frames"])
    except DatasetError as error:
        yield str(error)
        return
    except (KeyError, TypeError, ValueError) as error:
        yield f"has a json without joints or num_frames: {error!r}"
        return
    if row is not None:
        differing = [name for name in SHARED if meta.get(name) != row[name]]
        if differing:
            yield f"says another {', '.join(differing)} in its json than in index/clips"
    if tracks is not None and meta.get("tracks") != tracks:
        yield f"says tracks {meta.get('tracks')} in its json, index/tracks keeps {tracks}"
    people = values["keypoints.npy"].shape[0] if values["keypoints.npy"].ndim else 0
    if row is not None and people != row["num_people"]:
        yield f"holds {people} people, index/clips says {row['num_people']}"
    wrong = False
    for name, (dtype, shape) in ARRAYS.items():
        if name in values and (values[name].dtype != dtype or values[name].shape != shape(people, frames, joints)):
            wrong = True
            needed = f"{dtype} {shape(people, frames, joints)}"
            yield f"{name} is {values[name].dtype} {values[name].shape}, must be {needed}"
    if not wrong:
        yield from _check_values(values)


def _check_values(values: Mapping[str, Array]) -> Iterator[str]:
    keypoints, scores = values["keypoints.npy"], values["scores.npy"]
    absent = np.isnan(keypoints)
    unseen = absent.any(-1)
    if np.isinf(keypoints).any() or (unseen != absent.all(-1)).any():
        yield "keypoints.npy has infinite or half missing joints"
    if scores[unseen].any():
        yield f"scores.npy scores {np.count_nonzero(scores[unseen])} joints that are NaN; a joint not seen has score 0"
    if ((keypoints == 0).all(-1) & (scores == 0)).any():
        yield "keypoints.npy has joints at (0, 0) with score 0; a joint not seen is NaN"
    for name in ("scores.npy", "confidence.npy"):
        if not ((values[name] >= 0) & (values[name] <= 1)).all():
            yield f"{name} leaves [0, 1]"
    times = values["timestamps.npy"]
    if not (np.diff(times) > 0).all() or not np.isfinite(times).all():
        yield "timestamps.npy does not rise"
    yield from _check_features(values)


def _check_features(values: Mapping[str, Array]) -> Iterator[str]:
    """Mistakes in features: NAME_video and NAME_text (D,), NAME_views (K, D), of unit length; view 0 is NAME_video."""
    features = {name: value for name, value in values.items() if name.endswith(FEATURES)}
    for name, value in sorted(features.items()):
        if value.dtype != "float16" or value.ndim != 1 + name.endswith("_views.npy"):
            needed = "(K, D)" if name.endswith("_views.npy") else "(D,)"
            yield f"{name} is {value.dtype} {value.shape}, must be float16 {needed}"
        elif not (np.abs(np.linalg.norm(value.astype(np.float32), axis=-1) - 1) < 0.01).all():
            yield f"{name} is not of unit length"
        video = features.get(f"{name.rsplit('_', 1)[0]}_video.npy")
        if video is None:
            yield f"{name} is there without the feature of the video"
        elif value.shape[-1:] != video.shape[-1:]:
            yield f"{name} has {value.shape[-1:]} values, the feature of the video {video.shape[-1:]}"
        elif value.ndim == 2 and not np.array_equal(value[0], video):
            yield f"{name} begins with another view than the feature of the video"


def _check_tombstones(root: Path) -> Iterator[Problem]:
    """Mistakes in tombstones. Readers without a listing count the files up, so a gap would hide later files."""
    folder = root / "tombstones"
    previous = None
    for number, path in enumerate(sorted(folder.glob("*"))):
        name = f"tombstones/{path.name}"
        if path.name != tombstone_name(number):
            yield Problem(name, f"is not the next in number, which is {tombstone_name(number)}")
        try:
            if "clip_id" not in pq.read_schema(path).names or pq.read_table(path)["clip_id"].null_count:
                yield Problem(name, f"columns are not those of this format: {', '.join(TOMBSTONES.names)}")
            record = json.loads((pq.read_schema(path).metadata or {}).get(b"record", b"{}"))
            if record.get("previous", previous) != previous:
                yield Problem(
                    name, "its record does not follow from the file before it: one of them was changed or replaced"
                )
            previous = file_hash(path)
        except (OSError, pa.ArrowInvalid) as error:
            yield Problem(name, f"cannot be read: {str(error).splitlines()[0]}")
