"""verify --work: checks the intermediates of a build against their records, and the plan and the lock they belong to.

A record names an artifact by size and BLAKE3, and gives each clip one outcome. Artifacts are read whole. Files that no
record names are no mistakes: `gc` removes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dataengine.core.errors import DataEngineError, DatasetError
from dataengine.core.progress import Progress
from dataengine.dataset.verify import Problem
from dataengine.inspect.build import job_of
from dataengine.io.storage import file_hash
from dataengine.pipeline.plan import load

_OUTCOMES = ("keep", "reject", "fail")


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
    problems = list(_check_plan(out, work))
    records = sorted(path for path in work.glob("*/commits/*.json") if not path.name.startswith("."))
    with (progress or Progress()).step("records", len(records), "records") as advance:
        problems += [problem for path in records for problem in _checked(work, path, advance)]
    return sorted(set(problems))


def _check_plan(out: Path, work: Path) -> Iterator[Problem]:
    """The lock, the plan, and that each clip of the plan stands in it once."""
    try:
        job_of(out)
    except (DataEngineError, ValueError) as error:
        yield Problem("recipe.lock.toml", _line(error))
    try:
        ids = load(work).table.column("clip_id").to_pylist()
    except (DataEngineError, OSError, ValueError) as error:
        yield Problem("work/plan.parquet", f"cannot be read: {_line(error)}; run dataengine build again")
        return
    for clip_id, count in Counter(ids).items():
        if count > 1:
            yield Problem("work/plan.parquet", f"{clip_id} stands {count} times")


def _checked(work: Path, path: Path, advance: Callable[[int], None]) -> Iterator[Problem]:
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
