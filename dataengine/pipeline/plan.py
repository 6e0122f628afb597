"""Sources -> `plan.parquet`: every clip of a build, its unit, its rights; frozen.

A unit is a fixed group of clips (`dataengine.pipeline.units`). Clips that appear later make new units and leave the old
ones as they are; a clip that a source no longer lists, or that is beyond the limit of a build, is not in the plan, but
its unit is remembered; changed facts of a clip (a label, a media file) change its row only.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core.errors import LedgerError, RecipeError, SourceError
from dataengine.core.settings import find_folder
from dataengine.core.types import CLIP_FIELDS, Clip
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.index import locate
from dataengine.dataset.takedown_records import TakenDown
from dataengine.fetch.mirrors import EVALUATION_LISTS, mirror_tables
from dataengine.io.storage import write_durably
from dataengine.pipeline import units
from dataengine.pipeline.recipe import Recipe

SCHEMA = pa.schema(
    [
        pa.field(name, pa.float64() if name in ("start", "end", "span_start", "span_end") else pa.string())
        for name in CLIP_FIELDS
    ]
    + [pa.field("unit", pa.string()), pa.field("media_size", pa.int64()), pa.field("media_time", pa.int64())]
    + [pa.field("failure", pa.string())]
)
"""plan.parquet: the fields of `Clip`; the unit; size and modification time (ns) of the media file when it was planned,
-1 if absent; why the file could not be obtained (JSON: kind, detail, retryable), where that was tried."""


ROWS_AT_ONCE = 4096
"""Rows of clips in Python at a time: a plan may have a million."""

GROUP_ROWS = 4096
"""Rows of a row group of plan.parquet: what a worker reads for a unit."""


@dataclass(frozen=True)
class Plan:
    """A frozen plan: rows in the order of units; `roots` says where each source's files lie."""

    table: pa.Table
    roots: dict[str, str]

    @property
    def num_clips(self) -> int:
        return int(self.table.num_rows)

    def units(self) -> list[str]:
        """Names of units, in order."""
        return list(dict.fromkeys(self.table.column("unit").to_pylist()))

    def clips(self, unit: str | None = None) -> list[Clip]:
        """The clips of one unit, or all."""
        return [_clip(row) for row in self.rows(unit)]

    def rows(self, unit: str | None = None) -> list[dict[str, Any]]:
        table = self.table if unit is None else self.table.filter(pc.equal(self.table.column("unit"), unit))
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def iterate(self) -> Iterator[dict[str, Any]]:
        """All rows, one by one, without holding them."""
        for batch in self.table.to_batches(max_chunksize=8192):
            yield from batch.to_pylist()

    def row(self, clip_id: str) -> dict[str, Any]:
        """The row of one clip, which is in the plan."""
        found: dict[str, Any] = self.table.filter(pc.equal(self.table.column("clip_id"), clip_id)).to_pylist()[0]
        return found

    def clip(self, clip_id: str) -> Clip | None:
        """One clip by id, or None."""
        rows = self.table.filter(pc.equal(self.table.column("clip_id"), clip_id)).to_pylist()
        return _clip(rows[0]) if rows else None

    def with_failures(self, failures: Mapping[str, str]) -> Plan:
        """The plan with the column `failure` set, by clip id; clips with a media file have none."""
        ids, media = (self.table.column(name).to_pylist() for name in ("clip_id", "media"))
        values = [None if file else failures.get(clip_id) for clip_id, file in zip(ids, media)]
        column = self.table.schema.get_field_index("failure")
        return Plan(self.table.set_column(column, SCHEMA.field("failure"), pa.array(values, pa.string())), self.roots)

    def without(self, gone: TakenDown) -> Plan:
        """The plan with clips that were taken down marked so."""
        ids, videos, reasons, details = (
            self.table.column(name).to_pylist() for name in ("clip_id", "video_id", "reason", "detail")
        )
        for number, (clip_id, video_id) in enumerate(zip(ids, videos)):
            why = gone.reason(clip_id, video_id)
            if why is not None and reasons[number] is None:
                reasons[number], details[number] = "takedown", why
        table = self.table
        for name, values in (("reason", reasons), ("detail", details)):
            table = table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), pa.array(values, pa.string()))
        return Plan(table, self.roots)

    def media(self, clip: Clip) -> Path:
        """Where the clip's media file lies."""
        return Path(self.roots[clip.source]) / clip.media


def _clip(row: Mapping[str, Any]) -> Clip:
    return Clip(**{name: row[name] for name in CLIP_FIELDS})


def resolve_roots(recipe: Recipe, cache: Path, data_root: str | None) -> dict[str, str]:
    """Where each source's files lie: its path, else DATA_ROOT/<source>, else what the source makes itself.

    Raises:
        SourceError: a source has no place, or the place does not exist.
    """
    roots = {}
    for name in recipe.use:
        source = recipe.component("sources", name)
        path = recipe.source_path(name) or (str(Path(data_root) / name) if data_root else None)
        if source.makes_media and (path is None or (recipe.source_path(name) is None and not Path(path).is_dir())):
            path = str(source.prepare(cache))
        if path is None:
            raise SourceError(
                f"source {name!r} has no place: give --sources {name}=PATH, or --data-root DIR (or DATAENGINE_DATA), "
                "where it lies or is downloaded to"
            )
        if not Path(path).is_dir():
            raise SourceError(
                f"source {name!r}: {path} is not a folder; only a build downloads, and only what [fetch] mirrors knows"
            )
        roots[name] = str(Path(path).resolve())
    return roots


def check_places(recipe: Recipe) -> None:
    """Raise for a source whose stated place is no folder, before anything is obtained for it.

    Raises:
        SourceError: naming the source and the place.
    """
    for name in recipe.use:
        path = recipe.source_path(name)
        if path is not None and Path(path).exists() and not Path(path).is_dir():
            raise SourceError(f"source {name!r}: {path} is not a folder")
        if (
            path is not None
            and not Path(path).exists()
            and not recipe.component("sources", name).makes_media
            and not recipe.source_mirror(name)
        ):
            raise SourceError(f"source {name!r}: {path} is not a folder")


def guard_datasets(recipe: Recipe) -> list[tuple[str, str]]:
    """(name, folder) of the leak guard's sets that are datasets built before, by path; they also find
    near-duplicates."""
    return [(Path(name).name, locate(name)) for name in recipe.plan.leak_guard if Path(name).is_dir()]


def guard_list(name: str, roots: Iterable[str], data_root: str | None) -> Path | None:
    """The file of a list of `plan.leak_guard`, by path or by name; None where there is none.

    Args:
        name: path of a .csv or .csv.gz file, or its name in manifests/, the data root or a source's root.
        roots: of the sources.
        data_root: folder of all media, if any.
    """
    places = [*find_folder("manifests"), *([Path(data_root)] if data_root else []), *map(Path, roots)]
    tried = [Path(name), *(place / f"{name}{end}" for place in places for end in (".csv", ".csv.gz"))]
    return next((path for path in tried if path.suffix in (".csv", ".gz") and path.is_file()), None)


def leak_ids(
    recipe: Recipe,
    roots: Mapping[str, str],
    data_root: str | None,
    absent: Callable[[str], None] | None = None,
) -> frozenset[str]:
    """Video ids of the evaluation sets that the recipe keeps out.

    A set is a dataset built before, a path, or the name of a .csv or .csv.gz file in manifests/, the data root or a
    source's root, with a column youtube_id or video_id.

    The list of a published evaluation set that is not found is passed over where no source has video ids that it could
    name.

    Args:
        absent: gets what is wrong with a set that is not found, in place of an error.

    Raises:
        RecipeError: a set is not found or has no such column.
    """
    ids: set[str] = set()
    published: Mapping[str, Any] = {}
    if all(recipe.component("sources", name).own_ids for name in recipe.use):
        published = mirror_tables(recipe.fetch.mirrors)[1].get(EVALUATION_LISTS, {})
    for _, folder in guard_datasets(recipe):
        ids.update(Dataset(folder).clips.select("video_id").collect()["video_id"])
    for name in recipe.plan.leak_guard:
        if Path(name).is_dir():
            continue
        path = guard_list(name, roots.values(), data_root)
        if path is None and name in published:
            continue
        if path is None:
            text = (
                f"[plan] leak_guard: the list {name!r} was not found; "
                f"put {name}.csv (column youtube_id) in the data root, "
                "give the path of a .csv or of a built dataset, or build without the guard: --set 'plan.leak_guard=[]'"
            )
            if absent is None:
                raise RecipeError(text)
            absent(text)
            continue
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            reader = csv.DictReader(file)
            column = next((c for c in ("youtube_id", "video_id") if c in (reader.fieldnames or [])), None)
            if column is None:
                raise RecipeError(f"[plan] leak_guard: {path} has no column youtube_id or video_id")
            ids.update(row[column] for row in reader)
    return frozenset(ids)


def discover(
    recipe: Recipe,
    roots: Mapping[str, str],
    guarded: frozenset[str],
    limit: int | None,
    progress: Callable[[int], None],
    gone: TakenDown,
) -> Iterator[dict[str, Any]]:
    """All clips of the recipe's sources as plan rows without units, duplicates and guarded ones marked."""
    seen: set[str] = set()
    for name in recipe.use:
        source = recipe.component("sources", name)
        for clip in source.discover(Path(roots[name])):
            if clip.reason is None and clip.video_id in guarded:
                clip = dataclasses.replace(
                    clip, reason="leak_guard", detail="listed in " + ", ".join(recipe.plan.leak_guard)
                )
            if clip.reason is None and (why := gone.reason(clip.clip_id, clip.video_id)) is not None:
                clip = dataclasses.replace(clip, reason="takedown", detail=why)
            if clip.split == "train" and recipe.plan.splits:
                clip = dataclasses.replace(clip, split=own_split(recipe, clip))
            if clip.clip_id in seen:
                clip = _renamed(clip, seen)
            seen.add(clip.clip_id)
            size, time = _identity(Path(roots[name]) / clip.media) if clip.media and clip.reason is None else (-1, -1)
            yield {**_row(clip), "media_size": size, "media_time": time}
            if len(seen) % 1000 == 0:
                progress(len(seen))
            if limit is not None and len(seen) >= limit:
                return


def own_split(recipe: Recipe, clip: Clip) -> str:
    """The split of a clip that its source puts into train, by the recipe's shares: all clips of a video, or subject,
    together."""
    group = clip.subject if recipe.plan.split_by == "subject" and clip.subject is not None else clip.video_id
    place = int.from_bytes(blake3(f"{recipe.plan.seed} {clip.source} {group}".encode()).digest()[:8]) / 2**64
    for split, share in sorted(recipe.plan.splits.items()):
        if place < share:
            return split
        place -= share
    return "train"


def _row(clip: Clip) -> dict[str, Any]:
    return {name: getattr(clip, name) for name in CLIP_FIELDS}


def _renamed(clip: Clip, seen: set[str]) -> Clip:
    number = next(n for n in range(2, len(seen) + 3) if f"{clip.clip_id}-dup{n}" not in seen)
    detail = clip.detail or f"{clip.clip_id} was already planned from another row"
    return dataclasses.replace(
        clip, clip_id=f"{clip.clip_id}-dup{number}", reason=clip.reason or "duplicate_id", detail=detail
    )


def _identity(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def make(
    recipe: Recipe,
    work: Path,
    data_root: str | None = None,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda n: None,
    say: Callable[[str], None] = lambda text: None,
    absent: Callable[[str], None] | None = None,
) -> Plan:
    """Plan the build in `work`, keeping the units that an earlier plan there fixed. Writes nothing.

    Args:
        say: gets what the sources remark of their files.
        absent: for estimates: gets what is wrong with lists of the leak guard that are not found, which is no error.
    """
    roots = resolve_roots(recipe, work / "media", data_root)
    guarded = leak_ids(recipe, roots, data_root, absent)
    rows = discover(recipe, roots, guarded, limit, progress, TakenDown.of(work.parent))
    parts = [SCHEMA.empty_table()]
    while part := list(itertools.islice(rows, ROWS_AT_ONCE)):
        parts.append(pa.Table.from_pylist(part, SCHEMA))
    table = pa.concat_tables(parts)
    if not len(table):
        raise SourceError(f"sources {', '.join(recipe.use)} hold no clip at all under {', '.join(roots.values())}")
    for name in recipe.use:
        for remark in recipe.component("sources", name).remarks(Path(roots[name])):
            say(remark)
    names = units.assign(table["clip_id"].to_pylist(), units.read(work).by_clip, recipe.plan.clips_per_unit)
    table = table.set_column(SCHEMA.get_field_index("unit"), SCHEMA.field("unit"), pa.array(names, pa.string()))
    return Plan(table.take(pc.sort_indices(table["unit"])), roots)


def save(plan: Plan, work: Path) -> None:
    """Write the new units, then plan.parquet and roots.json, durably."""
    work.mkdir(parents=True, exist_ok=True)
    units.append(work, plan.table)
    sink = pa.BufferOutputStream()
    pq.write_table(plan.table, sink, compression="zstd", row_group_size=GROUP_ROWS)
    write_durably(work / "plan.parquet", sink.getvalue().to_pybytes())
    write_durably(work / "roots.json", json.dumps(plan.roots, indent=1, sort_keys=True).encode())


def load(work: Path, columns: Sequence[str] | None = None) -> Plan:
    """The plan saved in `work`, or some columns of it.

    Raises:
        LedgerError: there is none.
    """
    try:
        table = pq.read_table(work / "plan.parquet", schema=SCHEMA, columns=None if columns is None else list(columns))
        return Plan(table, json.loads((work / "roots.json").read_bytes()))
    except FileNotFoundError:
        raise LedgerError(f"{work} holds no plan: run `dataengine build` with this --out first") from None


def load_clips(work: Path, clip_ids: Sequence[str]) -> Plan:
    """The plan saved in `work` reduced to some clips, read a part at a time."""
    chosen, tables = pa.array(clip_ids, pa.string()), [SCHEMA.empty_table()]
    with pq.ParquetFile(work / "plan.parquet") as file:
        for number in range(file.num_row_groups):
            rows = pc.is_in(file.read_row_group(number, columns=["clip_id"]).column(0), value_set=chosen)
            if pc.any(rows).as_py():
                tables.append(file.read_row_group(number).filter(rows))
    return Plan(pa.concat_tables(tables), json.loads((work / "roots.json").read_bytes()))


@lru_cache(maxsize=64)
def load_unit(work: Path, unit: str, stamp: int) -> Plan:
    """The plan reduced to one unit; `stamp` is plan.parquet's modification time, so that a new plan is read anew."""
    parts, roots = _parts(work, stamp)
    tables = [SCHEMA.empty_table()]
    for number, (first, last) in enumerate(parts):
        if first <= unit <= last:
            rows = _part(work, stamp, number)
            tables.append(rows.filter(pc.equal(rows["unit"], unit)))
    return Plan(pa.concat_tables(tables), roots)


@lru_cache(maxsize=2)
def _parts(work: Path, stamp: int) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The first and last unit of each row group of a saved plan, and its roots: read once by each process."""
    del stamp
    column = SCHEMA.get_field_index("unit")
    metadata = pq.read_metadata(work / "plan.parquet")
    statistics = [metadata.row_group(n).column(column).statistics for n in range(metadata.num_row_groups)]
    return [(s.min, s.max) for s in statistics], json.loads((work / "roots.json").read_bytes())


@lru_cache(maxsize=2)
def _part(work: Path, stamp: int, number: int) -> pa.Table:
    """A row group of a saved plan; units that a process runs one after another often share it."""
    del stamp
    with pq.ParquetFile(work / "plan.parquet") as file:
        return file.read_row_group(number)
