"""Passes over the table of all clips: decisions that need to see every clip at once.

Each such pass makes a table of decisions with a row for every clip that it was given, kept or not. The last table holds
the decisions that the dataset is made by. Columns that a pass adds are carried on by the passes behind it.
"""

from __future__ import annotations

import itertools
import sys
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataengine.core.errors import ComponentError
from dataengine.core.types import Fail, Reject
from dataengine.dataset import index
from dataengine.passes.base import ALL, Job, Pass, Row, finished
from dataengine.passes.progress import BuildState, PassState
from dataengine.passes.unit_pass import check_reasons, receipt
from dataengine.pipeline import plan as plans
from dataengine.pipeline.ledger import Ledger
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.recipe import fingerprint
from dataengine.pipeline.task import Receipt, Task

DECISIONS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("unit", pa.string()),
        ("kept", pa.bool_()),
        ("label", pa.string()),
        ("label_id", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),
    ]
)
"""One row for each clip given: the decision, the label the clip gets, and for a reject the value that missed a
threshold."""

READERS, READ_AHEAD = 4, 64
"""Files of units that are read at once, and those that wait in memory at most."""

PLAN_COLUMNS = ("clip_id", "source", "label", "split", "licence")
"""Columns of the plan that decisions may depend on; others may change without deciding anew."""


@dataclass
class Table:
    """What a table pass is given.

    Attributes:
        plan: all planned clips.
        rows: one row of `DECISIONS` and of the columns added before, for each clip given, in the plan's order.
    """

    job: Job
    plan: Plan
    rows: list[Row]

    def units(self) -> list[str]:
        """Names of the units that the rows belong to, in order."""
        return list(dict.fromkeys(row["unit"] for row in self.rows))

    def artifact(self, name: str, unit: str) -> Path:
        """The artifact of one unit of an earlier pass, such as `measures`."""
        return self.job.ledger(name).artifact(unit)

    def measures(self, columns: Sequence[str]) -> Iterator[tuple[Row, Row]]:
        """(row, {column: value} of `measures`) of every row, read unit by unit."""
        found: dict[str, Row] = {}
        tables = tables_of(self.job.ledger("measures"), self.units(), ["clip_id", *columns])
        for _, rows in itertools.groupby(self.rows, lambda row: row["unit"]):
            found = {measured["clip_id"]: measured for measured in next(tables).to_pylist()}
            for row in rows:
                yield row, found[row["clip_id"]]


def leave_out(row: Row, reason: str, detail: str, value: float | None = None, threshold: float | None = None) -> None:
    """Mark a row of decisions: the clip is left out for `reason`."""
    row.update(kept=False, reason=reason, detail=detail, value=value, threshold=threshold)


@dataclass(frozen=True)
class TablePass(Pass):
    """A pass over the table of all clips that are still on their way, run in the driver's process.

    Attributes:
        adds: fields of columns that it adds to the decisions, beside `columns`, which are added by themselves.
    """

    scope = "table"
    gives = "decisions"
    adds: ClassVar[tuple[pa.Field, ...]] = ()

    @abstractmethod
    def decide(self, table: Table) -> Iterable[Row]:
        """The rows of the table, in order, changed where the pass decides something (see `leave_out`)."""

    def reads(self, passes: Sequence[Pass]) -> tuple[str, ...]:
        before = passes[: next(n for n, p in enumerate(passes) if p.name == self.name)]
        tables = [p.name for p in before if p.scope == "table"]
        return tuple(dict.fromkeys([*super().reads(passes), *tables[-1:]]))

    def inputs(self, build: BuildState) -> Any:
        """What results depend on beside the recipe, the plan's columns and what earlier passes gave."""
        del build

    def state(self, build: BuildState) -> PassState:
        ledger, digests = build.job.ledger(self.name), list[Any]()
        state = PassState(self.name, self.scope, ledger.fingerprint, [ALL])
        given = build.given(self.name)
        clips = tuple(clip_id for unit in given.values() for clip_id in unit)
        state.left = clips
        for name in self.reads(build.passes):
            if not build.state(name).finished:
                return state
            digests += [[key, commit.digest] for key, commit in sorted(build.commits(name).items())]
        table = build.plan.table.select(PLAN_COLUMNS).to_pydict()
        inputs = fingerprint([digests, table, clips, self.inputs(build)])
        commit = build.find(self.name, ALL, inputs)
        if commit is not None:
            state.commits, state.left = {ALL: commit}, ()
        else:
            state.tasks = [Task(ALL, clips, inputs)]
        return state

    def run(self, job: Job, task: Task) -> Receipt:
        begun, ledger = time.monotonic(), job.ledger(self.name)
        plan = plans.load(job.work)
        earlier = self._earlier(job)
        given = self._given(plan, earlier, task.clips)
        names = [row["clip_id"] for row in given]
        decided = list(self.decide(Table(job, plan, given)))
        if [row["clip_id"] for row in decided] != names:
            raise ComponentError(f"pass {self.name}: lost, invented or reordered clips")
        check_reasons(self, job.recipe, {row["reason"] for row in decided if not row["kept"]})
        staged = ledger.stage(ALL, "parquet")
        schema = self._schema(DECISIONS if earlier is None else pq.read_schema(earlier.artifact(ALL)))
        pq.write_table(
            pa.Table.from_pylist(decided, schema), staged, compression="zstd", row_group_size=index.GROUP_ROWS
        )
        commit = ledger.commit(ALL, task.inputs, staged, (), time.monotonic() - begun)
        return receipt(task, len(names), sum(row["kept"] for row in decided), begun, commit)

    def _earlier(self, job: Job) -> Ledger | None:
        """The ledger of the table of decisions that this pass starts from."""
        before = list(job.passes)[: list(job.passes).index(self.name)]
        names = [name for name in before if job.passes[name].scope == "table"]
        return job.ledger(names[-1]) if names else None

    def _given(self, plan: Plan, earlier: Ledger | None, clips: Sequence[str]) -> list[Row]:
        chosen = pa.array(clips, pa.string())
        if earlier is not None:
            table = pq.read_table(earlier.artifact(ALL))
            return list(table.filter(pc.is_in(table.column("clip_id"), value_set=chosen)).to_pylist())
        planned = plan.table.select(["clip_id", "unit"])
        planned = planned.filter(pc.is_in(planned.column("clip_id"), value_set=chosen))
        blank = dict.fromkeys(DECISIONS.names) | {"kept": True}
        rows = (row for batch in planned.to_batches(max_chunksize=8192) for row in batch.to_pylist())
        return [blank | {"clip_id": sys.intern(row["clip_id"]), "unit": sys.intern(row["unit"])} for row in rows]

    def _schema(self, before: pa.Schema) -> pa.Schema:
        added = [*self.adds, *(pa.field(column.name, column.type) for column in self.columns)]
        return pa.schema([*before, *(field for field in added if field.name not in before.names)])

    def thrown_out(self, build: BuildState) -> Iterator[Reject | Fail]:
        if ALL not in build.commits(self.name):
            return
        columns = ["clip_id", "reason", "detail", "value", "threshold"]
        table = pq.read_table(build.job.ledger(self.name).artifact(ALL), columns=[*columns, "kept"])
        for row in table.filter(pc.invert(table.column("kept"))).select(columns).to_pylist():
            yield Reject(row["clip_id"], row["reason"], row["value"], row["threshold"], row["detail"])

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        ledger = job.ledger(self.name)
        if ledger.read(ALL) is None:
            return None
        rows = pq.read_table(ledger.artifact(ALL), filters=[("clip_id", "==", row["clip_id"])]).to_pylist()
        if not rows:
            return None
        facts = {k: v for k, v in rows[0].items() if v is not None}
        if facts["kept"]:
            return {"outcome": "keep", "decision": facts, "facts": self._facts(facts)}
        shown = {k: facts.get(k) for k in ("reason", "value", "threshold", "detail")}
        return {"outcome": "reject", **shown, "decision": facts, "facts": self._facts(facts)}

    def _facts(self, row: Row) -> Row:
        """What to show of a clip: the columns that this pass adds."""
        return {column.name: row[column.name] for column in self.columns if column.name in row}

    def clip_values(self, build: BuildState, unit: str) -> Mapping[str, Row]:
        if not self.columns:
            return {}
        names = [column.name for column in self.columns]
        rows = [] if build.decided(self.name) is None else build.decided_rows(self.name, unit, ["clip_id", *names])
        return {row["clip_id"]: {name: row[name] for name in names} for row in rows}


def tables_of(ledger: Ledger, units: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The tables of some finished units of a pass, in order; some are read ahead, since a shared disk takes its
    time."""

    def read(unit: str) -> pa.Table:
        with pq.ParquetFile(ledger.artifact(unit)) as file:
            return file.read(columns)

    with ThreadPoolExecutor(READERS) as threads:
        for start in range(0, len(units), READ_AHEAD):
            yield from threads.map(read, units[start : start + READ_AHEAD])


def decisions_of(job: Job, clips: Iterable[str], units: Iterable[str]) -> dict[str, Row]:
    """clip_id -> row of the decisions that the dataset is made by, for some clips of some units."""
    finished(job, "decisions", ALL)
    path = job.ledger("decisions").artifact(ALL)
    chosen = set(clips)
    rows = pq.read_table(path, filters=[("unit", "in", sorted(set(units)))]).to_pylist()
    return {row["clip_id"]: row for row in rows if row["clip_id"] in chosen}
