"""Units: fixed groups of clips, in an append-only table of their own, `work/units`.

A clip gets its unit the first time that it is planned, and keeps it. A build of a few clips (`--limit`), or without one
of the sources, leaves the units of all others as they are. Each plan that brings new clips adds one part, numbered,
created if absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataengine.core.errors import LeaseError, LedgerError
from dataengine.dataset.takedown_records import TakenDown
from dataengine.io.storage import clear_partials, staged

FOLDER = "units"
SCHEMA = pa.schema([("clip_id", pa.string()), ("video_id", pa.string()), ("unit", pa.string())])
"""Columns of a part, one row per clip."""


@dataclass(frozen=True)
class Units:
    """The units of every clip that was ever planned.

    Attributes:
        table: columns of `SCHEMA`, one row per clip.
        parts: how many parts there are.
    """

    table: pa.Table
    parts: int = 0

    @cached_property
    def by_clip(self) -> dict[str, str]:
        """clip_id -> unit."""
        return dict(zip(self.table.column("clip_id").to_pylist(), self.table.column("unit").to_pylist()))

    def names(self) -> set[str]:
        """Names of all units."""
        return set(self.table.column("unit").unique().to_pylist())

    def gone(self, taken: TakenDown) -> frozenset[str]:
        """Ids of the clips that were taken down, by their own id or by their video."""
        videos = pc.is_in(self.table.column("video_id"), value_set=pa.array(list(taken.videos), pa.string()))
        return frozenset({*taken.clips, *self.table.filter(videos).column("clip_id").to_pylist()})


def read(work: Path) -> Units:
    """The units of a build. One of an earlier version has those of its plan alone.

    Raises:
        LedgerError: a part cannot be read.
    """
    plan = work / "plan.parquet"
    parts = sorted((work / FOLDER).glob("part-*.parquet"))
    tables = [SCHEMA.empty_table()]
    for path in [plan] * (not parts and plan.is_file()) + parts:
        try:
            table = pq.read_table(path, columns=SCHEMA.names, page_checksum_verification=path != plan)
        except (OSError, pa.ArrowInvalid) as error:
            raise LedgerError(
                f"{path} cannot be read: {str(error).splitlines()[0]}; put it back from a copy, or remove "
                f"{path.parent if path != plan else path} to have all clips planned and run anew"
            ) from error
        tables.append(table.cast(SCHEMA))
    return Units(pa.concat_tables(tables), len(parts))


def part_name(number: int) -> str:
    """The file name of a part."""
    return f"part-{number:05d}.parquet"


def assign(clip_ids: Iterable[str], known: Mapping[str, str], clips_per_unit: int) -> list[str]:
    """The unit of each clip: the one it has, or a new one of `clips_per_unit` clips, numbered on."""
    first = 1 + max((int(unit[1:]) for unit in known.values()), default=-1)
    found, fresh = list[str](), 0
    for clip_id in clip_ids:
        unit = known.get(clip_id)
        if unit is None:
            unit = f"u{first + fresh // clips_per_unit:06d}"
            fresh += 1
        found.append(unit)
    return found


def append(work: Path, plan: pa.Table) -> None:
    """Add the clips of a plan that have no unit yet to the table, durably; for the driver, who holds the lease.

    Raises:
        LeaseError: another process added units since the plan was made.
    """
    folder, known = work / FOLDER, read(work)
    table = plan.select(SCHEMA.names).cast(SCHEMA)
    crossed = f"{work.parent}: another process planned clips at the same time; run the command again"
    before = known.by_clip
    clips, units = (table.column(name).to_pylist() for name in ("clip_id", "unit"))
    if any(before.get(clip, unit) != unit for clip, unit in zip(clips, units)):
        raise LeaseError(crossed)
    table = table.filter(pa.array([clip not in before for clip in clips], pa.bool_()))
    if not known.parts:  # of an earlier version: what its plan knows comes first
        table = pa.concat_tables([known.table, table])
    if not table.num_rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    clear_partials(folder)
    path = folder / part_name(known.parts)
    try:
        with staged(path, replace=False) as partial:
            pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
    except FileExistsError:
        raise LeaseError(crossed) from None
