"""verify --work: checks the intermediates of a build against their records, and the plan, units and lock behind them.

A record names an artifact by size and BLAKE3, and gives each clip one outcome. Artifacts are read whole. Files that no
record names are no mistakes: `gc` removes them. The table of units gives every clip that was ever planned one unit,
the one of its row in the plan, and of every record of the present recipe that holds the clip.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dataengine.core.errors import DataEngineError, DatasetError
from dataengine.core.progress import Progress
from dataengine.dataset.verify import Problem
from dataengine.inspect.build import job_of
from dataengine.io.storage import file_hash
from dataengine.pipeline import units
from dataengine.pipeline.plan import load

_OUTCOMES = ("keep", "reject", "fail")
_UNIT = re.compile(r"u\d{6,}\.")
"""How the name of a record of a unit begins."""


def verify_work(out: Path, progress: Progress | None = None) -> list[Problem]:
    """Check the intermediates in `OUT/work`.

    Args:
        out: a build's OUT.
        progress: what tells how far the work is. Default: nothing does.

    Returns:
        All mistakes, sorted; empty where every record holds.

    Raises:
        DatasetError: the folder has no intermediates.
    """
    work = out / "work"
    if not work.is_dir():
        raise DatasetError(f"{out}: it has no folder work; verify without --work checks the dataset alone")
    problems, live = list(_check_plan(work)), frozenset[Path]()
    try:
        job = job_of(out)
        live = frozenset(job.ledger(p.name).folder for p in job.passes.values() if p.scope == "unit")
    except (DataEngineError, ValueError) as error:
        problems.append(Problem("recipe.lock.toml", _line(error)))
    by_clip: dict[str, str] = {}
    try:
        known = units.read(work)
        by_clip = known.by_clip
        problems += _check_units(work, known)
    except (DataEngineError, OSError, ValueError) as error:
        problems.append(Problem(f"work/{units.FOLDER}", _line(error)))
    records = sorted(path for path in work.glob("*/commits/*.json") if not path.name.startswith("."))
    with (progress or Progress()).step("records", len(records), "records") as advance:
        for path in records:
            of_units = by_clip if path.parent.parent in live else {}
            problems += _checked(work, path, of_units, advance)
    return sorted(set(problems))


def _check_plan(work: Path) -> Iterator[Problem]:
    """The plan, and that each of its clips stands in it once."""
    try:
        ids = load(work).table.column("clip_id").to_pylist()
    except DataEngineError as error:  # says what to do
        yield Problem("work/plan.parquet", f"cannot be read: {_line(error)}")
        return
    except (OSError, ValueError) as error:
        yield Problem("work/plan.parquet", f"cannot be read: {_line(error)}; run dataengine build again")
        return
    for clip_id, count in Counter(ids).items():
        if count > 1:
            yield Problem("work/plan.parquet", f"{clip_id} stands {count} times")


def _check_units(work: Path, known: units.Units) -> Iterator[Problem]:
    """The table of units: parts in number, each clip once, and every clip of the plan with the unit it has there."""
    folder = f"work/{units.FOLDER}"
    for number, path in enumerate(sorted((work / units.FOLDER).glob("part-*.parquet"))):
        if path.name != units.part_name(number):
            yield Problem(f"{folder}/{path.name}", f"{units.part_name(number)} is missing; put it back from a copy")
            break
    for clip_id, count in Counter(known.table.column("clip_id").to_pylist()).items():
        if count > 1:
            yield Problem(folder, f"{clip_id} stands {count} times; put its parts back from a copy")
    with suppress(DataEngineError, OSError, ValueError):  # a plan that cannot be read is told of by itself
        plan = load(work).table.select(["clip_id", "unit"])
        rows = list(zip(*(column.to_pylist() for column in plan.columns)))
        others = [(clip_id, unit) for clip_id, unit in rows if known.by_clip.get(clip_id) != unit]
        for clip_id, unit in others[:1]:
            said = f"is {_unit_of(clip_id, known.by_clip)}{_more(others)}; run dataengine build again"
            yield Problem("work/plan.parquet", f"{clip_id}, there of unit {unit}, {said}")


def _unit_of(clip_id: str, by_clip: Mapping[str, str]) -> str:
    return f"{f'of unit {by_clip[clip_id]}' if clip_id in by_clip else 'of no unit'} in work/{units.FOLDER}"


def _more(found: Sequence[object]) -> str:
    return f", and so for {len(found) - 1} more" if len(found) > 1 else ""


def _checked(work: Path, path: Path, by_clip: Mapping[str, str], advance: Callable[[int], None]) -> Iterator[Problem]:
    """A record, and its artifact; with `by_clip`, the unit of each clip, whether its clips are those of its unit."""
    name, again = path.relative_to(work.parent).as_posix(), "remove it and run dataengine build again"
    try:
        row: dict[str, Any] = json.loads(path.read_bytes())
        artifact, size, digest = str(row["artifact"]), int(row["size"]), str(row["blake3"])
        outcomes = [(str(one["clip_id"]), one["outcome"]) for one in row["outcomes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Problem(name, f"is no record: {_line(error)}; {again}")
        advance(1)
        return
    yield from _check_artifact(path.parent.parent / "data" / Path(artifact).name, size, digest, name, again)
    for clip_id, count in Counter(clip_id for clip_id, _ in outcomes).items():
        if count > 1:
            yield Problem(name, f"{clip_id} has {count} outcomes; {again}")
    if by_clip and _UNIT.match(path.name):
        others = [clip_id for clip_id, _ in outcomes if by_clip.get(clip_id) != path.name.partition(".")[0]]
        for clip_id in others[:1]:
            yield Problem(name, f"{clip_id} is {_unit_of(clip_id, by_clip)}{_more(others)}; {again}")
    for clip_id, outcome in outcomes:
        if outcome not in _OUTCOMES:
            yield Problem(name, f"{clip_id} has the outcome {outcome!r}; known: {', '.join(_OUTCOMES)}")
    advance(1)


def _check_artifact(path: Path, size: int, digest: str, record: str, again: str) -> Iterator[Problem]:
    try:
        found = path.stat().st_size
        if found != size:
            yield Problem(record, f"{path.name} has {found} bytes, the record says {size}; {again}")
        elif (hashed := file_hash(path)) != digest:
            yield Problem(
                record, f"{path.name} is damaged: blake3 {hashed[:12]}..., recorded {digest[:12]}...; {again}"
            )
        sidecar = path.with_name(f"{path.name}.json")
        if sidecar.exists():
            json.loads(sidecar.read_bytes())
    except FileNotFoundError:
        yield Problem(record, f"{path.name} is missing; {again}")
    except (OSError, ValueError) as error:
        yield Problem(record, f"{path.name} or what lies beside it cannot be read: {_line(error)}; {again}")


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
