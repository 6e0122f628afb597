"""Units: fixed groups of clips, in an append-only table of their own, `work/units`.

A clip gets its unit the first time that it is planned, and keeps it. A build of a few clips (`--limit`), or without one
of the sources, leaves the units of all others as they are. Each plan that brings new clips adds one part, numbered,
created if absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
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
        by_clip: clip_id -> unit. videos: clip_id -> video_id.
        parts: how many parts there are.
    """

    by_clip: Mapping[str, str]
    videos: Mapping[str, str]
    parts: int = 0

    def gone(self, taken: TakenDown) -> frozenset[str]:
        """Ids of the clips that were taken down, by their own id or by their video."""
        return frozenset({*taken.clips, *(clip for clip, video in self.videos.items() if video in taken.videos)})


def read(work: Path) -> Units:
    """The units of a build. One of an earlier version has those of its plan alone.

    Raises:
        LedgerError: a part cannot be read.
    """
    by_clip, videos = dict[str, str](), dict[str, str]()
    plan = work / "plan.parquet"
    parts = sorted((work / FOLDER).glob("part-*.parquet"))
    for path in [plan] * (not parts and plan.is_file()) + parts:
        try:
            table = pq.read_table(path, columns=SCHEMA.names, page_checksum_verification=path != plan)
        except (OSError, pa.ArrowInvalid) as error:
            raise LedgerError(
                f"{path} cannot be read: {str(error).splitlines()[0]}; put it back from a copy, or remove "
                f"{path.parent if path != plan else path} to have all clips planned and run anew"
            ) from error
        clips, video, unit = (table.column(name).to_pylist() for name in SCHEMA.names)
        by_clip |= dict(zip(clips, unit))
        videos |= dict(zip(clips, video))
    return Units(by_clip, videos, len(parts))


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
    clips, videos, units = (plan.column(name).to_pylist() for name in SCHEMA.names)
    rows = [(clip, video, unit) for clip, video, unit in zip(clips, videos, units) if clip not in known.by_clip]
    crossed = f"{work.parent}: another process planned clips at the same time; run the command again"
    if any(known.by_clip.get(clip, unit) != unit for clip, unit in zip(clips, units)):
        raise LeaseError(crossed)
    if not known.parts:  # of an earlier version: what its plan knows comes first
        rows = [(clip, known.videos[clip], unit) for clip, unit in known.by_clip.items()] + rows
    if not rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    clear_partials(folder)
    path = folder / f"part-{known.parts:05d}.parquet"
    table = pa.table([pa.array(column, pa.string()) for column in zip(*rows)], schema=SCHEMA)
    try:
        with staged(path, replace=False) as partial:
            pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
    except FileExistsError:
        raise LeaseError(crossed) from None
