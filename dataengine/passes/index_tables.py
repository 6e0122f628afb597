"""The index of a dataset, put together from what the passes made, as Arrow tables and in bounded memory.

Workers wrote tracks, joints and signatures into the tables of `measure`, a file a unit. The driver reads some hundred
units at a time, keeps the rows of the clips of the dataset, adds plan, decisions and places, and hands the rows to
`SortedTable`, which sorts them beyond memory. No row of these tables becomes a Python object.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataengine.core.errors import LedgerError
from dataengine.core.memory import give_back
from dataengine.core.types import Fail
from dataengine.dataset import index
from dataengine.dataset.sorted_table import SortedTable, ranges
from dataengine.passes.base import Column, Row
from dataengine.passes.pack import kept_clips, texts
from dataengine.passes.progress import BuildState, runs
from dataengine.passes.refine import generation_number
from dataengine.passes.table_pass import tables_of

PLANNED = ("clip_id", "source", "video_id", "start", "end", "split", "licence", "consent", "url", "subject")
"""Columns of index/clips as the plan has them."""
MEASURED = ("fps", "width", "height", "num_frames", "confidence_p10", "expert_disagreement")
"""Columns of index/clips as `measure` has them."""
FILTERED = ("pose_coverage", "jitter", "motion", "truncation", "bone_variation")
"""Columns of index/clips with the value of the filter of that name."""
DECIDED = ("label", "label_id", "duplicate_of")
"""Columns of index/clips as the decisions have them."""
UNITS_AT_ONCE = 256
"""Units whose tables are read and put together at a time."""


def write_index(build: BuildState, folder: Path) -> dict[str, int]:
    """Write every table of the index into `folder`, a folder for each.

    Returns:
        Rows of each table.
    """
    scratch = build.job.work / "staging" / f"index-{uuid.uuid4().hex}"
    bounds = ranges(build.plan.table.column("clip_id"))
    tables = {
        name: SortedTable(folder / name, schema, scratch / name, bounds) for name, schema in _schemas(build).items()
    }
    try:
        _fill(build, tables)
        counts = {name: table.num_rows for name, table in tables.items()}
        for name, table in tables.items():
            if name != "accuracy" or table.num_rows:  # only rendered sources know the truth
                table.write()
                give_back()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return counts


def _schemas(build: BuildState) -> dict[str, pa.Schema]:
    """The schema of each table, with what passes add."""
    schemas = {
        "clips": index.clips_schema(described(added_columns(build))),
        "tracks": index.tracks_schema(build.job.recipe.pose.experts, build.job.recipe.lifter is not None),
        "joints": index.JOINTS,
        "rejects": index.REJECTS,
        "signatures": index.SIGNATURES,
        "accuracy": index.ACCURACY,
    }
    return schemas | {name: schema for p in build.passes for name, schema in p.tables.items()}


def added_columns(build: BuildState) -> list[Column]:
    """The columns that passes add to those of `index.CLIPS`."""
    return [column for p in build.passes for column in p.columns if column.name not in index.CLIPS.names]


def described(columns: Sequence[Column]) -> list[Row]:
    """Columns as the manifest carries them."""
    return [
        {"name": c.name, "type": index.type_name(c.type), "null": c.null, "description": c.description} for c in columns
    ]


def _fill(build: BuildState, tables: Mapping[str, SortedTable]) -> None:
    kept, places, people = kept_clips(build), _Places(build), build.job.recipe.pose.max_people
    experts = list(build.job.recipe.pose.experts)
    for units, decided, measured in _batches(build, kept):
        accuracy = _flat(measured, "accuracy")
        tables["accuracy"].add(accuracy.select([n for n in accuracy.column_names if n in index.ACCURACY.names]))
        if not len(decided):
            continue
        mine = measured.take(pc.index_in(decided["clip_id"], measured["clip_id"]))
        if mine["clip_id"].null_count:
            raise LedgerError("pass measure: a clip of the dataset was not measured; build again")
        tables["clips"].add(_clip_rows(build, units, decided, mine, places, people))
        tracks = _flat(mine, "tracks")
        tracks = tracks.append_column("kept", pc.less(tracks["rank"], people))
        shares = tracks["shares"]
        for number, expert in enumerate(experts):
            tracks = tracks.append_column(f"share_{expert}", pc.list_element(shares, number))
        tables["tracks"].add(tracks.drop_columns(["shares"]))
        tables["joints"].add(_flat(mine, "joints"))
        tables["signatures"].add(mine.select(["clip_id", "hashes", "words"]))
    for p in (p for p in build.passes if p.tables):
        for name, rows in p.table_rows(build, Decisions(kept)).items():
            tables[name].add(rows)
    for rejects in _rejects(build):
        tables["rejects"].add(rejects)


def _batches(build: BuildState, kept: pa.Table) -> Iterator[tuple[list[str], pa.Table, pa.Table]]:
    """(units, rows of `kept`, tables of `measure`) of some units at a time, in the order of the plan."""
    ledger = build.job.ledger("measures")
    commits, places = build.commits(ledger.pass_name), runs(kept["unit"])
    units = [unit for unit in build.units if unit in commits and commits[unit].kept]
    tables = tables_of(ledger, units)
    for start in range(0, len(units), UNITS_AT_ONCE):
        part = units[start : start + UNITS_AT_ONCE]
        measured = pa.concat_tables(itertools.islice(tables, len(part))).combine_chunks()
        mine = [kept.slice(*places[unit]) for unit in part if unit in places]
        yield part, pa.concat_tables([kept.slice(0, 0), *mine]), measured


def _flat(table: pa.Table, name: str) -> pa.Table:
    """The rows of a column of lists of structs, each with the clip_id of its row."""
    lists = table[name].combine_chunks()
    rows = pc.list_flatten(lists)
    clip_ids = table["clip_id"].combine_chunks().take(pc.list_parent_indices(lists))
    return pa.table([clip_ids, *rows.flatten()], names=["clip_id", *(field.name for field in rows.type)])


def _clip_rows(
    build: BuildState, units: Sequence[str], decided: pa.Table, measured: pa.Table, places: _Places, people: int
) -> pa.Table:
    """Rows of index/clips of kept clips: `decided` and `measured` have a row for each, in the plan's order."""
    planned = pa.concat_tables([build.plan.table.slice(*build.units[unit]) for unit in units])
    planned = planned.take(pc.index_in(decided["clip_id"], planned["clip_id"].combine_chunks()))
    text = texts(build.job.recipe, decided.select(["clip_id", "label"]).to_pylist())
    columns = {name: planned[name] for name in PLANNED} | {"source_label": planned["label"]}
    columns |= {name: decided[name] for name in DECIDED} | {name: measured[name] for name in MEASURED}
    columns |= {name: measured[f"filter_{name}"] for name in FILTERED}
    columns["text"] = pa.array(text.values(), pa.string())
    columns["num_people"] = pc.min_element_wise(measured["num_tracks"], pa.scalar(people, pa.int32()))
    columns["confidence_mean"] = measured["filter_confidence"]
    columns["generation"] = pa.array([generation_number(build.job)] * len(decided), pa.int32())
    columns |= places.of(decided["clip_id"].to_pylist(), planned["split"].to_pylist())
    return pa.table(columns | _added(build, units, decided["clip_id"].to_pylist()))


def _added(build: BuildState, units: Sequence[str], clip_ids: Sequence[str]) -> dict[str, pa.Array]:
    """The columns that passes add, of clips of some units."""
    found: dict[str, pa.Array] = {}
    for p in (p for p in build.passes if p.columns):
        values: dict[str, Mapping[str, Any]] = {}
        for unit in units:
            values.update(p.clip_values(build, unit))
        for column in p.columns:
            cells = [values.get(clip_id, {}).get(column.name) for clip_id in clip_ids]
            found[column.name] = pa.array(cells, column.type)
    return found


class _Places:
    """Where samples lie, asked for in the order of the plan: the shards of a split hold its clips in that order."""

    def __init__(self, build: BuildState) -> None:
        self.ledger = build.job.ledger("pack")
        self.commits = build.commits("pack")
        self._next = {split: self._split(split) for split in {name.rpartition("-")[0] for name in self.commits}}

    def _split(self, split: str) -> Iterator[tuple[str, Row]]:
        for name in sorted(name for name in self.commits if name.rpartition("-")[0] == split):
            for place in json.loads(self.ledger.sidecar(self.commits[name])):
                yield f"shards/pose/{name}.tar", place

    def of(self, clip_ids: Sequence[str], splits: Sequence[str]) -> dict[str, pa.Array]:
        """Columns of index/clips of the next clips of the plan."""
        found = []
        for clip_id, split in zip(clip_ids, splits):
            shard, place = next(self._next.get(split, iter(())), ("", {}))
            if place.get("clip_id") != clip_id:
                raise LedgerError(f"pass pack: the shards of {split} do not hold {clip_id} in its place; build again")
            found.append((shard, place))
        cells = [cell for _, place in found for cell in place["entries"]]
        names, offsets, sizes = zip(*cells) if cells else ((), (), ())
        type_ = index.CLIPS.field("entries").type
        entries = pa.StructArray.from_arrays(
            [pa.array(names, pa.string()), pa.array(offsets, pa.uint64()), pa.array(sizes, pa.uint64())],
            fields=list(type_.value_type),
        )
        ends = [0, *itertools.accumulate(len(place["entries"]) for _, place in found)]
        columns = {name: pa.array([place[name] for _, place in found]) for name in ("offset", "size", "blake3")}
        columns["shard"] = pa.array([shard for shard, _ in found], pa.string())
        return columns | {"entries": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), entries, type=type_)}


class Decisions(Mapping[str, Row]):
    """clip_id -> its row of the decisions; a row is made when it is asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {clip_id: number for number, clip_id in enumerate(self.table["clip_id"].to_pylist())}

    def __getitem__(self, clip_id: str) -> Row:
        row: Row = self.table.slice(self._numbers[clip_id], 1).to_pylist()[0]
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return int(self.table.num_rows)


def _rejects(build: BuildState) -> Iterator[list[Row]]:
    """Rows of index/rejects, some at a time: what the plan left out, and what each pass threw out."""
    thrown_out = {outcome.clip_id: (name, outcome) for name, outcome in build.rejects()}
    columns = ["clip_id", "source", "video_id", "reason", "detail"]
    for batch in build.plan.table.select(columns).to_batches(max_chunksize=8192):
        rows = []
        for planned in batch.to_pylist():
            row: Row = {k: planned[k] for k in ("clip_id", "source", "video_id")}
            row |= {"value": None, "threshold": None, "retryable": False}
            if planned["reason"] is not None:
                rows.append(row | {"pass": "plan", "reason": planned["reason"], "detail": planned["detail"]})
            elif planned["clip_id"] in thrown_out:
                name, outcome = thrown_out[planned["clip_id"]]
                row |= {"pass": name, "detail": outcome.detail, "value": outcome.value, "threshold": outcome.threshold}
                if isinstance(outcome, Fail):
                    rows.append(row | {"reason": outcome.kind, "retryable": outcome.retryable})
                else:
                    rows.append(row | {"reason": outcome.reason})
        yield rows
