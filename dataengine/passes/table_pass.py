"""Passes over the table of all clips: decisions that need to see every clip at once.

Each such pass makes a table of decisions with a row for every clip that it was given, kept or not. The last table holds
the decisions that the dataset is made by. Columns that a pass adds are carried on by the passes behind it.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core.errors import ComponentError
from dataengine.core.memory import give_back
from dataengine.core.types import Fail, Reject
from dataengine.dataset import index
from dataengine.passes.base import ALL, Pass, Row
from dataengine.passes.job import Job, finished
from dataengine.passes.progress import BuildState, PassState, runs
from dataengine.passes.unit_pass import check_reasons, receipt
from dataengine.pipeline import plan as plans
from dataengine.pipeline.ledger import Ledger
from dataengine.pipeline.plan import Plan
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

ROWS_AT_ONCE = 8192
"""Rows of decisions in Python at a time."""

PLAN_COLUMNS = ("clip_id", "source", "label", "split", "licence")
"""Columns of the plan that decisions may depend on; others may change without deciding anew."""


@dataclass
class Table:
    """What a table pass is given. Rows and the plan are made when they are asked for: there may be a million.

    Attributes:
        given: one row of `DECISIONS` and of the columns added before, for each clip given, in the plan's order.
    """

    job: Job
    given: pa.Table

    @cached_property
    def plan(self) -> Plan:
        """All planned clips."""
        return plans.load(self.job.work)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows given, which a pass may change."""
        return list(dicts(self.given))

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Unit -> the number of its first row, and how many rows it has."""
        return runs(self.given.column("unit"))

    def units(self) -> list[str]:
        """Names of the units that the rows belong to, in order."""
        return list(self.places)

    def by_unit(self) -> Iterator[tuple[str, list[Row]]]:
        """(unit, its rows) of one unit after another, made anew: changes of these rows do not show in `rows`."""
        for unit, (start, count) in self.places.items():
            yield unit, self.given.slice(start, count).to_pylist()

    def artifact(self, name: str, unit: str) -> Path:
        """The artifact of one unit of an earlier pass, such as `measures`."""
        return self.job.ledger(name).artifact(unit)

    def measured(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Row]]]:
        """(number of the first row, {column: value} of `measures` of each row) of one unit after another."""
        tables = tables_of(self.job.ledger("measures"), self.units(), ["clip_id", *columns])
        for (start, count), table in zip(self.places.values(), tables):
            found = {measured["clip_id"]: measured for measured in table.to_pylist()}
            yield start, [found[clip_id] for clip_id in self.given["clip_id"].slice(start, count).to_pylist()]

    def measures(self, columns: Sequence[str]) -> Iterator[tuple[Row, Row]]:
        """(row, {column: value} of `measures`) of every row, read unit by unit."""
        for start, found in self.measured(columns):
            yield from zip(self.rows[start : start + len(found)], found)


def dicts(table: pa.Table) -> Iterator[Row]:
    """The rows of a table of decisions; those of one value of a column share a text."""
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        texts = [name for name in ("clip_id", "unit", "label", "reason") if name in batch.schema.names]
        for row in batch.to_pylist():
            for name in texts:
                if row[name] is not None:
                    row[name] = sys.intern(row[name])
            yield row


def in_tables(rows: Iterable[Row], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of some thousand rows each."""
    left = iter(rows)
    while part := list(itertools.islice(left, ROWS_AT_ONCE)):
        yield pa.Table.from_pylist(part, schema)


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
    gives: ClassVar[str | None] = "decisions"
    adds: ClassVar[tuple[pa.Field, ...]] = ()

    def decide(self, table: Table) -> Iterable[Row]:
        """The rows of the table, in order, changed where the pass decides something (see `leave_out`). A pass has this,
        or `decisions`."""
        raise NotImplementedError(f"pass {self.name} has neither decide nor decisions")

    def decisions(self, table: Table, schema: pa.Schema) -> Iterable[pa.Table]:
        """The rows that the pass decides on, as tables of `schema`, one after another.

        `decide` may change any row until it has given the last one, so all rows are held. A pass that needs no row of a
        clip in Python overrides this.
        """
        return in_tables(list(self.decide(table)), schema)

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
        inputs = _digest(digests, build.plan.table, clips, self.inputs(build))
        commit = build.find(self.name, ALL, inputs)
        if commit is not None:
            state.commits, state.left = {ALL: commit}, ()
        else:
            state.tasks = [Task(ALL, clips, inputs)]
        return state

    def run(self, job: Job, task: Task) -> Receipt:
        begun, ledger = time.monotonic(), job.ledger(self.name)
        earlier = self._earlier(job)
        given = self._given(job, earlier, task.clips)
        schema = self._schema(given.schema)
        parts = self.decisions(Table(job, given), schema)
        decided = pa.concat_tables([schema.empty_table(), *parts]).combine_chunks()
        if not decided["clip_id"].equals(given["clip_id"]):
            raise ComponentError(f"pass {self.name}: lost, invented or reordered clips")
        kept = pc.fill_null(decided["kept"], False)
        check_reasons(self, job.recipe, set(decided["reason"].filter(pc.invert(kept)).unique().to_pylist()))
        staged = ledger.stage(ALL, "parquet")
        pq.write_table(decided, staged, compression="zstd", row_group_size=index.GROUP_ROWS)
        commit = ledger.commit(ALL, task.inputs, staged, (), time.monotonic() - begun)
        del parts
        give_back()
        return receipt(task, len(given), pc.sum(kept, min_count=0).as_py(), begun, commit)

    def _earlier(self, job: Job) -> Ledger | None:
        """The ledger of the table of decisions that this pass starts from."""
        before = list(job.passes)[: list(job.passes).index(self.name)]
        names = [name for name in before if job.passes[name].scope == "table"]
        return job.ledger(names[-1]) if names else None

    def _given(self, job: Job, earlier: Ledger | None, clips: Sequence[str]) -> pa.Table:
        """Rows of some clips as the table pass before decided them, or with no decision yet."""
        chosen = pa.array(clips, pa.string())
        if earlier is not None:
            table = pq.read_table(earlier.artifact(ALL))
            return table.filter(pc.is_in(table.column("clip_id"), value_set=chosen)).combine_chunks()
        planned = plans.load(job.work, ["clip_id", "unit"]).table
        planned = planned.filter(pc.is_in(planned.column("clip_id"), value_set=chosen)).combine_chunks()
        columns = {field.name: pa.nulls(len(planned), field.type) for field in DECISIONS}
        columns |= {name: planned[name] for name in planned.column_names} | {"kept": np.ones(len(planned), bool)}
        return pa.table(columns, DECISIONS)

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


def _digest(digests: Any, plan: pa.Table, clips: Sequence[str], more: Any) -> str:
    """`fingerprint` of digests, columns of the plan by name, clips, and more, without holding a text of them all."""

    def text(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()

    def parts() -> Iterator[bytes]:
        yield b"[" + text(digests) + b",{"
        for number, name in enumerate(sorted(PLAN_COLUMNS)):
            yield (b"," if number else b"") + text(name) + b":["
            yield from values(plan.column(name).slice(start, ROWS_AT_ONCE).to_pylist() for start in starts(len(plan)))
            yield b"]"
        yield b"},["
        yield from values(list(clips[start : start + ROWS_AT_ONCE]) for start in starts(len(clips)))
        yield b"]," + text(more) + b"]"

    def starts(count: int) -> range:
        return range(0, count, ROWS_AT_ONCE)

    def values(pieces: Iterable[list[Any]]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            yield (b"," if number else b"") + text(piece)[1:-1]

    hasher = blake3()
    for part in parts():
        hasher.update(part)
    return hasher.hexdigest()


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
