"""Stages at the same time: what one has finished of a unit, the next begins, whatever other units do."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import pytest

from dataengine.passes.base import passes_of
from dataengine.passes.chain import chains
from dataengine.pipeline import recipe
from dataengine.pipeline.engine import Engine
from dataengine.pipeline.task import Receipt, Task
from dataengine.pipeline.troubles import RunOptions, Stage

UNITS = ("u0", "u1", "u2", "u3", "u4", "u5")


def work(folder: Path, stage: str, task: Task) -> Receipt:
    """The last unit's first stage waits for the first unit's second: with a barrier neither would ever begin."""
    begun, awaited = time.monotonic(), folder / f"second {UNITS[0]}"
    while (stage, task.key) == ("first", UNITS[-1]) and not awaited.exists():
        if time.monotonic() - begun > 120:
            raise AssertionError(f"{awaited.name} has not run")
        time.sleep(0.02)
    (folder / f"{stage} {task.key}").touch()
    return Receipt(task.key, 1, 1, 0.0)


def run(folder: Path, engine: Engine) -> list[str]:
    order: list[str] = []
    second: deque[Task] = deque()

    def handed_on(receipt: Receipt) -> None:
        order.append(f"first {receipt.key}")
        second.append(Task(receipt.key))

    first = deque(Task(unit) for unit in UNITS)
    stages = [
        Stage(work, (folder, "first"), first, RunOptions("first", receive=handed_on)),
        Stage(
            work, (folder, "second"), second, RunOptions("second", receive=lambda r: order.append(f"second {r.key}"))
        ),
    ]
    with engine.open() as dispatcher:
        assert dispatcher.run_chain(stages) == [[], []]
    return order


def test_a_unit_goes_on_while_others_have_not_begun(tmp_path: Path) -> None:
    order = run(tmp_path, Engine(workers=1))
    assert sorted(order) == sorted(f"{stage} {unit}" for stage in ("first", "second") for unit in UNITS)
    assert order.index("second u0") < order.index("first u5")
    for unit in UNITS:
        assert order.index(f"first {unit}") < order.index(f"second {unit}")


def test_without_a_cluster_stages_run_in_order(tmp_path: Path) -> None:
    (tmp_path / f"second {UNITS[0]}").touch()
    order = run(tmp_path, Engine(serial=True))
    assert order == [f"{stage} {unit}" for stage in ("first", "second") for unit in UNITS]


def test_passes_over_units_run_together_and_others_wait_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAENGINE_OFFLINE", "1")
    found = [[p.name for p in group] for group in chains(passes_of(recipe.load("posecap", "core", [])))]
    assert found[:2] == [["probe", "pose", "measure"], ["curate"]]
    assert all(len(group) == 1 for group in found[1:])
