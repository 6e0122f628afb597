"""Passes over the table of all clips: what they are given, and what their inputs are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from dataengine.passes import table_pass
from dataengine.passes.job import Job
from dataengine.passes.table_pass import DECISIONS, Table
from dataengine.pipeline.recipe import fingerprint


@pytest.mark.parametrize("rows", [0, 1, 6, 7])
def test_the_digest_of_inputs_is_that_of_all_columns_at_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_pass, "ROWS_AT_ONCE", 3)
    cells = [None if n == 2 else f"é{n}" for n in range(rows)]
    plan = pa.table({name: pa.array(cells, pa.string()) for name in ("unit", *table_pass.PLAN_COLUMNS)})
    clips, digests, more = tuple(f"c{n}" for n in range(rows)), [["u0", "1"]], {"b": 1, "a": [None]}
    whole = plan.select(table_pass.PLAN_COLUMNS).to_pydict()
    assert table_pass._digest(digests, plan, clips, more) == fingerprint([digests, whole, clips, more])


def test_rows_of_a_table_may_be_changed_and_are_made_when_asked_for(tmp_path: Path) -> None:
    ids, units = ["a", "b", "c"], ["u0", "u0", "u1"]
    columns: dict[str, Any] = {field.name: pa.nulls(3, field.type) for field in DECISIONS}
    table = Table(cast(Job, None), pa.table(columns | {"clip_id": ids, "unit": units, "kept": [True] * 3}, DECISIONS))
    assert table.units() == ["u0", "u1"] and "rows" not in vars(table)
    table.rows[1]["label"] = "x"
    table.rows[2]["more"] = 1
    assert [row["label"] for row in table.rows] == [None, "x", None]
    assert [(unit, [row["clip_id"] for row in rows]) for unit, rows in table.by_unit()] == [
        ("u0", ids[:2]),
        ("u1", ["c"]),
    ]
    assert next(iter(table_pass.in_tables(table.rows, DECISIONS))).column("label").to_pylist() == [None, "x", None]
