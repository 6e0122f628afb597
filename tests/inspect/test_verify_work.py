"""verify --work: intermediates of a sound build hold, and every planted damage is found and named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine.core.errors import DatasetError
from dataengine.inspect.verify_work import verify_work
from tests.support.commands import dataengine


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def artifact(out: Path) -> Path:
    return min(path for path in (out / "work").glob("pose-*/data/*") if path.suffix != ".json")


def record(out: Path) -> Path:
    return min((out / "work").glob("pose-*/commits/*.json"))


def twice(out: Path) -> None:
    row = json.loads(record(out).read_bytes())
    record(out).write_text(json.dumps({**row, "outcomes": [*row["outcomes"], row["outcomes"][0]]}))


def other_outcome(out: Path) -> None:
    row = json.loads(record(out).read_bytes())
    record(out).write_text(json.dumps({**row, "outcomes": [{**row["outcomes"][0], "outcome": "lost"}]}))


def doubled_plan(out: Path) -> None:
    table = pq.read_table(out / "work/plan.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), out / "work/plan.parquet")


def part(out: Path) -> Path:
    return out / "work/units/part-00000.parquet"


def changed_units(out: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the column of units in the table of units."""
    table = pq.read_table(part(out))
    units = pa.array(change(table.column("unit").to_pylist()), pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("unit"), "unit", units), part(out))


def doubled_unit(out: Path) -> None:
    table = pq.read_table(part(out))
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), part(out))


def lost_unit(out: Path) -> None:
    pq.write_table(pq.read_table(part(out)).slice(1), part(out))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: flipped(artifact(out)), r"work/pose-\w+/commits/.*is damaged: blake3 .*build again"),
        (lambda out: artifact(out).unlink(), "is missing; remove it"),
        (lambda out: artifact(out).write_bytes(b"short"), "has 5 bytes, the record says "),
        (lambda out: record(out).write_text("{"), "is no record: "),
        (lambda out: record(out).write_text("[]"), "is no record: "),
        (twice, "has 2 outcomes"),
        (other_outcome, "has the outcome 'lost'; known: keep, reject, fail"),
        (doubled_plan, "work/plan.parquet.*stands 2 times"),
        (doubled_unit, "work/units: .* stands 2 times; put its parts back"),
        (lost_unit, "work/plan.parquet: .*, there of unit u000000, is of no unit in work/units; run"),
        (lost_unit, r"work/pose-\w+/commits/u000000.json: .* is of no unit in work/units; remove it"),
        (
            lambda out: changed_units(out, lambda units: ["u000009"] * len(units)),
            r"work/probe-\w+/commits/u000000.json: .* is of unit u000009 in work/units, and so for .*; remove it",
        ),
        (lambda out: part(out).rename(part(out).with_name("part-00002.parquet")), "part-00000.parquet is missing; put"),
        (lambda out: flipped(part(out)), "work/units: .*part-00000.parquet cannot be read: "),
        (lambda out: (out / "work/plan.parquet").write_bytes(b"no"), "work/plan.parquet.*cannot be read"),
        (lambda out: (out / "recipe.lock.toml").write_text("[recipe"), "recipe.lock.toml"),
    ],
)
def test_every_damage_to_intermediates_is_named(
    sample_build: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copytree(sample_build / "work", out / "work")
    shutil.copy(sample_build / "recipe.lock.toml", out)
    damage(out)
    told = "\n".join(f"{problem.path}: {problem.what}" for problem in verify_work(out))
    assert re.search(message, told), told


def test_a_sound_build_has_none(sample_build: Path, tmp_path: Path) -> None:
    assert verify_work(sample_build) == []
    with pytest.raises(DatasetError, match="has no folder work"):
        verify_work(tmp_path)
    assert dataengine("verify", str(sample_build), "--work").returncode == 0
