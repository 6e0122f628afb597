"""How far a build is: for each pass the keys that are done, the tasks that are left, and the clips on their way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataengine.core.memory import give_back
from dataengine.core.types import Fail, Reject
from dataengine.passes.again import RETRYABLE, Again
from dataengine.passes.base import ALL, Pass, Row, Scope
from dataengine.passes.job import Job
from dataengine.passes.receipts import received
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.task import Receipt, Task
from dataengine.pipeline.troubles import SetAside

DECIDING = ("unit", "table")
"""Scopes of the passes that may throw clips out."""


@dataclass
class PassState:
    """One pass of a build.

    Attributes:
        keys: everything that the pass works on; None where that is decided by a pass that is not finished.
        commits: key -> record of what is done under the present fingerprints and inputs.
        tasks: what can run now.
        left: ids of the clips that are to go through at most; passes before this one may throw some out.
    """

    name: str
    scope: Scope
    fingerprint: str
    keys: Sequence[str] | None
    commits: dict[str, Commit] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    left: Sequence[str] = ()

    @property
    def units(self) -> int | None:
        """How many keys the pass has."""
        return None if self.keys is None else len(self.keys)

    @property
    def done(self) -> int:
        """How many keys are done."""
        return len(self.commits)

    @property
    def finished(self) -> bool:
        """Whether every key is done."""
        return self.keys is not None and all(key in self.commits for key in self.keys)

    def row(self) -> Row:
        """The state for JSON."""
        names = ("name", "scope", "fingerprint", "units", "done")
        return {**{name: getattr(self, name) for name in names}, "clips_left": len(self.left)}


def runs(column: pa.ChunkedArray) -> dict[str, tuple[int, int]]:
    """Value -> where its rows begin in a column, and how many there are; rows of a value lie together."""
    if not len(column):
        return {}
    encoded = pc.run_end_encode(column.combine_chunks())
    bounds = [0, *encoded.run_ends.to_pylist()]
    return {value: (a, b - a) for value, a, b in zip(encoded.values.to_pylist(), bounds, bounds[1:])}


class BuildState:
    """The state of every pass of a build, worked out when it is asked for.

    Attributes:
        again: which clips that failed count as left.
        drives: whether this is the driver, which makes the records count that are for the inputs of this build.
    """

    def __init__(self, plan: Plan, job: Job, again: Again = RETRYABLE, drives: bool = False) -> None:
        self.plan = plan
        self.job = job
        self.again = again
        self.drives = drives
        self.passes: list[Pass] = list(job.passes.values())
        self._states: dict[str, PassState] = {}
        self._out: dict[str, dict[str, Reject | Fail]] = {}
        self._memory: dict[tuple[str, ...], Any] = {}
        self._lasting: dict[tuple[str, ...], Any] = {}

    @cached_property
    def units(self) -> dict[str, tuple[int, int]]:
        """Unit -> where its rows begin in the plan, and how many there are; rows of a unit lie together."""
        return runs(self.plan.table.column("unit"))

    def rows(self, unit: str, columns: Sequence[str]) -> list[Row]:
        """Some columns of the plan of one unit. They are made when asked for, since a plan may have a million rows."""
        rows: list[Row] = self.plan.table.slice(*self.units[unit]).select(columns).to_pylist()
        return rows

    def alive(self, unit: str) -> list[str]:
        """Ids of the clips of a unit that the plan does not leave out."""
        return [row["clip_id"] for row in self.rows(unit, ["clip_id", "reason"]) if row["reason"] is None]

    def state(self, name: str) -> PassState:
        """The state of a pass."""
        if name not in self._states:
            self._states[name] = self.job.passes[name].state(self)
        return self._states[name]

    def states(self) -> list[PassState]:
        """The states of all passes, in order."""
        return [self.state(p.name) for p in self.passes]

    def find(self, name: str, key: str, inputs: str) -> Commit | None:
        """The record of a key of a pass for some inputs, or None."""
        return self.job.ledger(name).find(key, inputs, activate=self.drives)

    def commits(self, name: str) -> dict[str, Commit]:
        """Records of the finished keys of a pass."""
        return self.state(name).commits

    def take(self, name: str, keys: Sequence[str], commits: Mapping[str, Commit]) -> None:
        """Take a pass to be in a given state, whatever its ledger says."""
        p = self.job.passes[name]
        self._states[name] = PassState(name, p.scope, self.job.fingerprints[name], keys, dict(commits))

    def note(self, name: str, task: Task, receipt: Receipt | None) -> None:
        """Take note that one task of a pass has run.

        Raises:
            LedgerError: it left no record.
        """
        self.state(name).commits[task.key] = received(self.job.passes[name], self, task, receipt)

    def record(self, name: str, aside: Sequence[SetAside] = (), receipts: Mapping[str, Receipt] | None = None) -> None:
        """Take note that the tasks of a pass have run.

        Args:
            receipts: by key, of the tasks that were not set aside.
            aside: tasks that were set aside. Their clips count as failed in this build, and worth another try.

        Raises:
            LedgerError: a task left no record.
        """
        state, p = self.state(name), self.job.passes[name]
        set_aside = {found.task.key: found for found in aside}
        for task in state.tasks:
            if task.key in set_aside:
                state.commits[task.key] = self._aside(p, task, set_aside[task.key])
            elif task.key not in state.commits:
                self.note(name, task, (receipts or {}).get(task.key))
        state.tasks, state.left = [], ()
        self._out.pop(name, None)
        self._memory.clear()
        give_back()

    def _aside(self, p: Pass, task: Task, found: SetAside) -> Commit:
        """What stands for the record of a task that was set aside: the record that was there, as far as it holds, and
        a failure of every clip beside."""
        commit = p.commit_of(self, task.key, task.inputs)
        if commit is None:
            commit = Commit.aside(task.key, task.inputs)
        known = {outcome.clip_id for outcome in commit.outcomes}
        detail = f"the unit failed wherever it was tried: {found.kind}"
        failed = [Fail(clip_id, "set_aside", True, detail) for clip_id in task.clips if clip_id not in known]
        return replace(commit, outcomes=(*commit.outcomes, *failed))

    def out(self, name: str) -> Mapping[str, Reject | Fail]:
        """clip_id -> outcome of the clips that a pass threw out, as far as it is done."""
        if name not in self._out:
            self._out[name] = {o.clip_id: o for o in self.job.passes[name].thrown_out(self)}
        return self._out[name]

    def rejects(self) -> Iterator[tuple[str, Reject | Fail]]:
        """(pass, outcome) of every clip that a pass threw out; the first pass in order names it."""
        named: set[str] = set()
        for p in (p for p in self.passes if p.scope in DECIDING):
            for clip_id, outcome in self.out(p.name).items():
                if clip_id not in named:
                    named.add(clip_id)
                    yield p.name, outcome

    def given(self, name: str) -> dict[str, list[str]]:
        """Unit -> ids of the clips that neither the plan nor a pass before this one threw out."""
        clips: dict[str, list[str]] = self.remember(("given", name), lambda: self._given(name))
        return clips

    def _given(self, name: str) -> dict[str, list[str]]:
        gone: set[str] = set()
        for p in self.passes:
            if p.name == name:
                break
            if p.scope in DECIDING:
                gone |= self.out(p.name).keys()
        alive: dict[str, list[str]] = {}
        columns = (self.plan.table.column(column).to_pylist() for column in ("unit", "clip_id", "reason"))
        for unit, clip_id, reason in zip(*columns):
            if reason is None and clip_id not in gone:
                alive.setdefault(unit, []).append(sys.intern(clip_id))  # as records and decisions do
        return alive

    def decided(self, name: str) -> pa.Table | None:
        """The decisions of the clips that a table pass keeps, in the plan's order; None while it is not finished.

        A table of Arrow, since a plan may have a million clips."""
        commit = self.commits(name).get(ALL)
        if commit is None:
            return None

        def read() -> pa.Table:
            table = pq.read_table(self.job.ledger(name).checked(commit))
            return table.filter(table.column("kept")).combine_chunks()

        return self.remember((name, commit.artifact), read, lasting=True)

    def decided_rows(self, name: str, unit: str, columns: Sequence[str]) -> list[Row]:
        """Some columns of `decided` of one unit, which must be finished."""
        table = self.decided(name)
        assert table is not None, f"pass {name} is finished before its decisions are asked for"
        key = (name, self.commits(name)[ALL].artifact, "units")
        places: dict[str, tuple[int, int]] = self.remember(key, lambda: runs(table.column("unit")), lasting=True)
        if unit not in places:
            return []
        rows: list[Row] = table.slice(*places[unit]).select(columns).to_pylist()
        return rows

    def labels(self, name: str) -> set[str]:
        """The labels of the clips that a table pass keeps, as far as it is finished."""
        table = self.decided(name)
        return set() if table is None else {v for v in table.column("label").unique().to_pylist() if v is not None}

    def remember(self, key: tuple[str, ...], make: Callable[[], Any], lasting: bool = False) -> Any:
        """What `make()` gives, worked out once for `key`, until a pass has run; for good if `lasting`."""
        memory = self._lasting if lasting else self._memory
        if key not in memory:
            memory[key] = make()
        return memory[key]
