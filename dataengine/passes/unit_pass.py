"""Passes over units: the base class owns the loop over clips, the typed failures, the quarantine and the commit."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.core.errors import (
    ComponentError,
    EnvironmentFailure,
    ExpertError,
    LedgerError,
    MediaError,
    MissingExtraError,
    RecipeError,
    WeightsError,
)
from dataengine.core.failures import is_out_of_memory
from dataengine.core.reasons import REASONS
from dataengine.core.types import Clip, Fail, Keep, Outcome, Reject
from dataengine.io import shards
from dataengine.passes.base import Pass, Row
from dataengine.passes.job import Job
from dataengine.passes.progress import BuildState, PassState
from dataengine.pipeline import plan as plans
from dataengine.pipeline.attempts import Heartbeat, described, environment_failure
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.quarantine import BLAMED
from dataengine.pipeline.recipe import Recipe, fingerprint
from dataengine.pipeline.task import Receipt, Task

MISTAKES = (RecipeError, ComponentError, MissingExtraError, WeightsError)
"""Errors that say what a user can mend; they end the build, whichever clip met them first."""


@dataclass
class Unit:
    """What a unit pass is given: the clips of one unit that it is to run, and what earlier passes made of them.

    Attributes:
        clips: to run, in the plan's order.
        artifact: where the pass writes what it makes.
        plan: the rows of this unit.
        heartbeat: where the unit gives signs of life.
    """

    job: Job
    name: str
    clips: list[Clip]
    artifact: Path
    plan: plans.Plan
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    _reading: dict[str, Any] = field(default_factory=dict, repr=False)
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def recipe(self) -> Recipe:
        return self.job.recipe

    def arrays(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(clip_id, decoded entries) of an earlier pass whose artifacts are shards, such as `poses`."""
        for key, entries in shards.iterate(self.job.ledger(name).artifact(self.name)):
            yield key, shards.decode(entries)

    def arrays_of(self, name: str, clip_id: str) -> dict[str, Any]:
        """Decoded entries of one clip of an earlier pass whose artifacts are shards, such as `poses`.

        Clips are asked for in the order of the unit, so that the artifact is read once.

        Raises:
            LedgerError: the artifact does not hold the clip behind the one asked for before.
        """
        reader, latest = self._reading.get(name, (None, None))
        if reader is None:
            reader = self.arrays(name)
        while latest is None or latest[0] != clip_id:
            latest = next(reader, None)
            if latest is None:
                raise LedgerError(f"pass {name}: unit {self.name} holds no {clip_id} behind those asked for before")
            self._reading[name] = (reader, latest)
        return dict(latest[1])

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make()` gives, made once for `key` in this unit: what clips of one file, or all clips, share."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def rows(self, name: str) -> dict[str, Row]:
        """Rows by clip_id of an earlier pass whose artifacts are tables, such as `measures`."""
        table = pq.read_table(self.job.ledger(name).artifact(self.name))
        return {row["clip_id"]: row for row in table.to_pylist()}

    def each(
        self, work: Callable[[Clip], Outcome], in_flight: int = 1, then: Callable[[Clip], None] | None = None
    ) -> list[Outcome]:
        """Run `work` on every clip; whatever it raises becomes the clip's typed failure.

        Args:
            in_flight: clips under way at once, each in a thread.
            then: called for every clip in the caller's thread after its work, in the order of the clips.
        """
        if in_flight == 1:
            return [self._then(clip, self._one(work, clip), then) for clip in self.clips]
        with ThreadPoolExecutor(in_flight, thread_name_prefix="clip") as threads:
            running = [threads.submit(self._one, work, clip) for clip in self.clips]
            try:
                return [self._then(clip, found.result(), then) for clip, found in zip(self.clips, running)]
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def beat(self, clip: Clip) -> None:
        """Tell that a clip goes on. A pass calls this for each batch of frames; a clip that is quiet for the deadline
        is taken to hang."""
        self.heartbeat.step(clip.clip_id)

    @staticmethod
    def _then(clip: Clip, outcome: Outcome, then: Callable[[Clip], None] | None) -> Outcome:
        if then is not None:
            then(clip)
        return outcome

    def _one(self, work: Callable[[Clip], Outcome], clip: Clip) -> Outcome:
        self.beat(clip)
        try:
            return self._tried(work, clip)
        except EnvironmentFailure as error:
            raise EnvironmentFailure(error.kind, error.detail, error.clip_id or clip.clip_id) from error
        except MediaError as error:
            failure = environment_failure(error, clip.clip_id)
            if failure is not None:
                raise failure from error
            retryable = error.retryable or self._left(clip, error)
            return Fail(clip.clip_id, error.kind, retryable, error.detail, error.value, error.threshold)
        except (LedgerError, *MISTAKES):
            raise
        except Exception as error:
            failure = environment_failure(error, clip.clip_id)
            if failure is not None:
                raise failure from error
            if is_out_of_memory(error):
                return Fail(clip.clip_id, "out_of_memory", True, str(error)[:500])
            if isinstance(error, ExpertError):
                return Fail(clip.clip_id, error.kind, error.retryable, error.detail)
            return Fail(clip.clip_id, "internal_error", True, described(error)[:500])
        finally:
            self.heartbeat.end(clip.clip_id)

    def _tried(self, work: Callable[[Clip], Outcome], clip: Clip) -> Outcome:
        """The outcome of a clip; memory that ran out, and an expert that may answer the next time, are tried twice."""
        try:
            return work(clip)
        except Exception as error:
            if not (is_out_of_memory(error) or (isinstance(error, ExpertError) and error.retryable)):
                raise
        self.beat(clip)
        return work(clip)

    def _left(self, clip: Clip, error: MediaError) -> bool:
        """Whether the clip's file was there when it was planned, and has left alone.

        A file that has left together with the others of its folder tells of a mount, not of the clip.

        Raises:
            EnvironmentFailure: the file's folder is gone or empty.
        """
        if error.kind != "media_missing" or not clip.media or self.plan.row(clip.clip_id)["media_size"] < 0:
            return False
        path = self.plan.media(clip)
        if _holds_anything(path.parent):
            return True
        root = Path(self.plan.roots[clip.source])
        whole = not _holds_anything(root)
        what = f"the folder of the source {clip.source!r}" if whole else f"the folder of {path.name!r}"
        where = root if whole else path.parent
        detail = f"{what}, {where}, is empty or cannot be reached, and held files when they were planned"
        raise EnvironmentFailure("media_unreachable", detail, None if whole else clip.clip_id) from error


def _holds_anything(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


@dataclass(frozen=True)
class UnitPass(Pass):
    """A pass over units. A subclass has `examine` and `schema` for a table with a row for each clip, or `process`.

    Attributes:
        plan_columns: columns of the plan that it reads, beside clip_id; others may change without work.
        extension: of its artifacts.
        schema: of its table, with a column clip_id, where its artifacts are tables.
        streams: whether a unit may run as soon as the passes before have finished that unit (`step`). A pass with a
            `state` of its own, which asks for all units, sets False.
    """

    scope = "unit"
    streams: ClassVar[bool] = True
    plan_columns: ClassVar[tuple[str, ...]] = ()
    extension: ClassVar[str] = "parquet"
    schema: ClassVar[pa.Schema | None] = None

    def examine(self, unit: Unit, clip: Clip) -> Mapping[str, Any] | Reject:
        """What the pass makes of one clip: its row of the table without clip_id, or why the clip is left out.

        What it raises becomes the clip's typed failure: `MediaError` and `ExpertError` by their kind, running out of
        memory is tried once more, and all else is an `internal_error`.
        """
        raise NotImplementedError(f"pass {self.name} has neither `examine` nor `process`")

    def process(self, unit: Unit) -> list[Outcome]:
        """Run all clips of a unit and write `unit.artifact`; one outcome for each clip, in order."""
        rows: list[Row] = []

        def one(clip: Clip) -> Outcome:
            found = self.examine(unit, clip)
            if isinstance(found, Reject):
                return found
            rows.append({"clip_id": clip.clip_id, **found})
            return Keep(clip.clip_id)

        outcomes = unit.each(one)
        pq.write_table(pa.Table.from_pylist(rows, self.table_schema(unit.recipe)), unit.artifact, compression="zstd")
        return outcomes

    def table_schema(self, recipe: Recipe) -> pa.Schema:
        """The schema of the table of a unit."""
        del recipe
        assert self.schema is not None, f"pass {self.name} makes tables and needs a schema"
        return self.schema

    def state(self, build: BuildState) -> PassState:
        state = PassState(self.name, self.scope, build.job.fingerprints[self.name], list(build.units))
        left: list[str] = []
        for unit in build.units:
            found = self.step(build, unit)
            if isinstance(found, Commit):
                state.commits[unit] = found
                continue
            if found is not None:
                state.tasks.append(found)
            left += build.alive(unit) if found is None else found.clips
        state.left = left
        return state

    def step(self, build: BuildState, unit: str) -> Commit | Task | None:
        """The record of a unit that is done, else its task; None while a pass that it reads has not finished the
        unit."""
        read = self.reads(build.passes)
        rows = build.rows(unit, list(dict.fromkeys(("clip_id", "reason", *self.plan_columns))))
        given = _given(build, read, unit, rows)
        if given is None:
            return None
        kept, upstream = given
        inputs = inputs_digest(self.plan_columns, rows, upstream)
        if any(build.commits(name)[unit].is_aside for name in read if build.job.passes[name].scope == "unit"):
            return Commit.aside(unit, inputs)
        commit = build.find(self.name, unit, inputs)
        if commit is not None and not build.again.wants_unit(commit):
            return commit
        clips = tuple(row["clip_id"] for row in rows if row["reason"] is None and row["clip_id"] in kept)
        return Task(unit, clips, inputs, replaces="" if commit is None else commit.digest)

    def run(self, job: Job, task: Task) -> Receipt:
        begun, ledger = time.monotonic(), job.ledger(self.name)
        plan = plans.load_unit(job.work, task.key, (job.work / "plan.parquet").stat().st_mtime_ns)
        chosen, quarantine = set(task.clips), dict(task.quarantine)
        clips = [clip for clip in plan.clips() if clip.clip_id in chosen]
        runnable = [clip for clip in clips if clip.clip_id not in quarantine]
        staged = ledger.stage(task.key, self.extension)
        commit = None
        try:
            outcomes = self.process(Unit(job, task.key, runnable, staged, plan, Heartbeat(task.attempt)))
            check_outcomes(self, job.recipe, task.key, [clip.clip_id for clip in runnable], outcomes)
            if not task.probe:
                every = in_order(clips, [*outcomes, *quarantined(self, clips, quarantine)])
                seconds = time.monotonic() - begun
                commit = ledger.commit(task.key, task.inputs, staged, every, seconds, replaces=task.replaces)
        finally:
            staged.unlink(missing_ok=True)
        return receipt(task, len(clips), sum(isinstance(o, Keep) for o in outcomes), begun, commit)

    def clip_values(self, build: BuildState, unit: str) -> Mapping[str, Row]:
        if not self.columns or unit not in build.commits(self.name):
            return {}
        names = [column.name for column in self.columns]
        table = pq.read_table(build.job.ledger(self.name).artifact(unit), columns=["clip_id", *names])
        return {row["clip_id"]: {name: row[name] for name in names} for row in table.to_pylist()}

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        step = super().explain(job, row)
        if step is not None and step["outcome"] == "keep" and self.columns:
            names = [column.name for column in self.columns]
            path = job.ledger(self.name).artifact(row["unit"])
            found = pq.read_table(path, columns=["clip_id", *names], filters=[("clip_id", "==", row["clip_id"])])
            step["facts"] = {name: found.column(name)[0].as_py() for name in names} if found.num_rows else {}
        return step


def _given(build: BuildState, read: Sequence[str], unit: str, rows: Sequence[Row]) -> tuple[set[str], list[Any]] | None:
    """The clips of a unit that the passes read have kept, and digests of what they gave; None while one is
    unfinished."""
    kept: set[str] = {row["clip_id"] for row in rows}
    digests: list[Any] = []
    for name in read:
        p = build.job.passes[name]
        if p.scope == "table":
            if build.decided(name) is None:
                return None
            mine = build.decided_rows(name, unit, ("clip_id", "label"))
            kept &= {row["clip_id"] for row in mine}
            digests.append([[row["clip_id"], row["label"]] for row in mine])
            digests += [] if (more := p.unit_digest(build, unit)) is None else [more]
        else:
            commit = build.commits(name).get(unit)
            if commit is None:
                return None
            kept &= set(commit.kept)
            digests.append(commit.digest)
    return kept, digests


def inputs_digest(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], upstream: Sequence[Any]) -> str:
    """Digest of what one unit of a pass reads: columns of its rows of the plan, and digests of what it builds on."""
    return fingerprint([[[row[c] for c in ("clip_id", "reason", *columns)] for row in rows], list(upstream)])


def quarantined(p: Pass, clips: Sequence[Clip], quarantine: Mapping[str, str]) -> list[Fail]:
    """The failures of the clips that must not be run again in this build.

    What brought about a failure of the environment is worth another try in the next one; what kills workers is not,
    unless it is released.
    """
    details = {True: "it failed alike each time, where other clips did not", False: f"quarantined by pass {p.name}"}
    blamed = {c.clip_id: quarantine[c.clip_id] in BLAMED.values() for c in clips if c.clip_id in quarantine}
    return [Fail(clip_id, quarantine[clip_id], again, details[again]) for clip_id, again in blamed.items()]


def in_order(clips: Sequence[Clip], outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Outcomes in the order of the clips."""
    order = {clip.clip_id: n for n, clip in enumerate(clips)}
    return tuple(sorted(outcomes, key=lambda outcome: order[outcome.clip_id]))


def check_outcomes(p: Pass, recipe: Recipe, key: str, given: Sequence[str], outcomes: Sequence[Outcome]) -> None:
    """Hold a pass to its word: every clip given comes out once, in order, with a reason that is listed."""
    if [o.clip_id for o in outcomes] != list(given):
        raise ComponentError(f"pass {p.name}: unit {key} lost, invented or reordered clips")
    check_reasons(p, recipe, {o.kind if isinstance(o, Fail) else o.reason for o in outcomes if not isinstance(o, Keep)})


def check_reasons(p: Pass, recipe: Recipe, given: set[str]) -> None:
    """Refuse reasons that neither the built-in list nor the pass's own names."""
    unknown = given - REASONS.keys() - p.own_reasons(recipe).keys()
    if unknown:
        raise ComponentError(f"pass {p.name} gives the reason {min(unknown)!r}; name it in its `reasons`")


def receipt(task: Task, clips: int, kept: int, begun: float, commit: Commit | None) -> Receipt:
    """The receipt of a task that began at `begun` (monotonic seconds)."""
    seconds, host, pid = time.monotonic() - begun, socket.gethostname(), os.getpid()
    if commit is None:
        return Receipt(task.key, clips, kept, seconds, host=host, pid=pid)
    told = (commit.inputs, commit.artifact, commit.digest, commit.to_json())
    return Receipt(task.key, clips, kept, seconds, *told, host, pid)
