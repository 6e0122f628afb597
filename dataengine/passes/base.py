"""The passes of a build: what each reads, what enters its fingerprint, and the unit function it runs.

One file a pass. A unit function gets the clips that earlier passes kept and gives back exactly one
outcome for each; what it makes of them goes into one artifact file.
"""

from __future__ import annotations

import functools
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dataengine.core.errors import ExpertError, LedgerError, MediaError
from dataengine.core.types import Clip, Fail, Keep, Outcome
from dataengine.experts.batching import is_out_of_memory
from dataengine.io import shards
from dataengine.io.storage import write_durably
from dataengine.pipeline import plan as plans
from dataengine.pipeline.ledger import Commit, Ledger
from dataengine.pipeline.recipe import Recipe, fingerprint, validate


@dataclass(frozen=True)
class Pass:
    """One pass over units.

    Attributes:
        name, version: the version enters the fingerprint; raise it when results change.
        after: passes whose artifacts it reads; the last one's kept clips are its clips.
        columns: plan columns it reads; others may change without work.
        extension: of its artifacts.
        config: the part of the recipe (and weights) that its results depend on.
        run: the unit function.
    """

    name: str
    version: int
    after: tuple[str, ...]
    columns: tuple[str, ...]
    extension: str
    config: Callable[[Recipe], dict[str, Any]]
    run: Callable[[Unit], list[Outcome]]


@dataclass(frozen=True)
class Job:
    """What every worker needs to know about a build: written once to `work/`, read by path."""

    work: Path
    recipe: Recipe
    device: str
    fingerprints: Mapping[str, str]

    def ledger(self, pass_name: str) -> Ledger:
        return Ledger(self.work, pass_name, self.fingerprints[pass_name])


@dataclass
class Unit:
    """What a unit function sees."""

    job: Job
    name: str
    clips: list[Clip]
    artifact: Path
    plan: plans.Plan
    before: Callable[[Clip], None] = field(default=lambda clip: None)

    @property
    def recipe(self) -> Recipe:
        return self.job.recipe

    def arrays(self, pass_name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(clip_id, decoded entries) of an earlier pass whose artifacts are shards."""
        for key, entries in shards.iterate(self.job.ledger(pass_name).artifact(self.name)):
            yield key, shards.decode(entries)

    def rows(self, pass_name: str) -> dict[str, dict[str, Any]]:
        """Rows by clip_id of an earlier pass whose artifacts are tables."""
        return {
            row["clip_id"]: row for row in pq.read_table(self.job.ledger(pass_name).artifact(self.name)).to_pylist()
        }

    def each(
        self, work: Callable[[Clip], Outcome], lanes: int = 1, then: Callable[[Clip], None] | None = None
    ) -> list[Outcome]:
        """Run `work` on every clip; whatever it raises becomes the clip's typed failure.

        Args:
            lanes: clips under way at once, each in a thread.
            then: called for every clip in the caller's thread after its work, in the order of the clips.
        """
        with ThreadPoolExecutor(lanes, thread_name_prefix="clip") if lanes > 1 else nullcontext() as threads:
            outcomes = []
            for clip, outcome in zip(
                self.clips, (map if threads is None else threads.map)(lambda c: self._one(work, c), self.clips)
            ):
                outcomes.append(outcome)
                if then is not None:
                    then(clip)
        return outcomes

    def _one(self, work: Callable[[Clip], Outcome], clip: Clip) -> Outcome:
        self.before(clip)
        try:
            try:
                return work(clip)
            except Exception as error:
                if not (is_out_of_memory(error) or (isinstance(error, ExpertError) and error.retryable)):
                    raise
            self.before(clip)
            return work(clip)
        except MediaError as error:
            return Fail(clip.clip_id, error.kind, error.retryable, error.detail, error.value, error.threshold)
        except ExpertError as error:
            return Fail(clip.clip_id, error.kind, error.retryable, error.detail)
        except (LedgerError, KeyboardInterrupt):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                return Fail(clip.clip_id, "out_of_memory", True, str(error)[:500])
            if isinstance(error, OSError) and error.errno == 28:  # a full disk is the build's failure, not the clip's
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            detail = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            return Fail(clip.clip_id, "internal_error", False, detail[:500])


@functools.cache
def unit_passes() -> dict[str, Pass]:
    """The passes that run unit by unit, in order."""
    from dataengine.passes import measure, pose
    from dataengine.passes import probe as fetch

    return {p.name: p for p in (fetch.PASS, pose.PASS, measure.PASS)}


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """Fingerprint of every unit pass under a recipe: its configuration, version, and what it reads."""
    found: dict[str, str] = {}
    for name, p in unit_passes().items():
        found[name] = fingerprint([name, p.version, p.config(recipe), [found[a] for a in p.after]])
    return found


def inputs_digest(p: Pass, rows: Sequence[Mapping[str, Any]], upstream: Sequence[Commit]) -> str:
    """Digest of what one unit of a pass reads: its rows' columns, and the commits it builds on."""
    return fingerprint(
        [[[row[c] for c in ("clip_id", "reason", *p.columns)] for row in rows], [commit.digest for commit in upstream]]
    )


def save_job(job: Job, work: Path) -> Path:
    """Write the job where workers can read it; the name holds the content's hash."""
    content = {
        "recipe": job.recipe.to_toml(),
        "overlay": job.recipe.overlay,
        "device": job.device,
        "fingerprints": dict(job.fingerprints),
    }
    path = work / f"job-{fingerprint(content)[:12]}.json"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(content, sort_keys=True, indent=1).encode())
    return path


@functools.lru_cache(maxsize=8)
def load_job(path: Path) -> Job:
    """The job that `save_job` wrote."""
    content = json.loads(path.read_bytes())
    recipe = validate(content["recipe"], str(path), content["overlay"])
    return Job(path.parent, recipe, content["device"], content["fingerprints"])


def run_unit(
    job_path: Path, pass_name: str, unit: str, quarantine: Mapping[str, str], only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Run one unit of one pass and commit it; called in a worker.

    Args:
        job_path: what `save_job` gave.
        quarantine: clip_id -> reason of clips that must not be run again.
        only: run just these clips and commit nothing: a probe for the clip that kills workers.

    Returns:
        A small receipt: unit, seconds, and counts of outcomes.
    """
    job, p = load_job(job_path), unit_passes()[pass_name]
    path = job.work / "plan.parquet"
    plan = plans.load_unit(job.work, unit, path.stat().st_mtime_ns)
    upstream = [_commit(job, name, unit) for name in p.after]
    digest = inputs_digest(p, plan.rows(), upstream)
    ledger = job.ledger(pass_name)
    begun = time.monotonic()
    wanted = set(upstream[-1].kept) if upstream else {clip.clip_id for clip in plan.clips() if clip.reason is None}
    clips = [clip for clip in plan.clips() if clip.clip_id in wanted]
    held = [
        Fail(c.clip_id, quarantine[c.clip_id], False, f"stands in quarantine since pass {pass_name}")
        for c in clips
        if c.clip_id in quarantine
    ]
    runnable = [c for c in clips if c.clip_id not in quarantine and (only is None or c.clip_id in only)]
    staged, beat = ledger.stage(unit, p.extension), pulse(job.work, unit)
    try:
        outcomes = p.run(Unit(job, unit, runnable, staged, plan, lambda clip: beat.touch()))
        if [o.clip_id for o in outcomes] != [c.clip_id for c in runnable]:
            raise AssertionError(f"pass {pass_name}: unit {unit} lost or invented clips")
        if only is None:
            order = {c.clip_id: n for n, c in enumerate(clips)}
            every = tuple(sorted([*outcomes, *held], key=lambda o: order[o.clip_id]))
            ledger.commit(unit, digest, staged, every, time.monotonic() - begun)
    finally:
        for leftover in (staged, beat):
            leftover.unlink(missing_ok=True)
    kept = sum(isinstance(o, Keep) for o in outcomes)
    return {"unit": unit, "clips": len(clips), "kept": kept, "seconds": time.monotonic() - begun}


def pulse(work: Path, unit: str) -> Path:
    """The file that a worker touches before each clip of a unit."""
    return work / "staging" / f"{unit}.beat"


def _commit(job: Job, pass_name: str, unit: str) -> Commit:
    commit = job.ledger(pass_name).read(unit)
    if commit is None:
        raise LedgerError(f"pass {pass_name}: unit {unit} is not finished; build again")
    return commit
