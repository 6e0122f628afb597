"""The engine: quarantine by bisection, deadlines, and that nothing is lost when workers die."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dataengine.core.errors import DataEngineError
from dataengine.pipeline.engine import STRIKES, Casebook, Engine, Ticket

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def play(clips: list[str], killers: set[str], reason: str = "worker_killed") -> tuple[dict[str, str], int]:
    """Run one unit against a casebook with workers that die on any of `killers`; the quarantine it ends with, and tickets run."""
    casebook, waiting, count = Casebook(), [Ticket("u", tuple(clips))], 0
    while waiting:
        ticket = waiting.pop(0)
        members = ticket.clips or tuple(clips)
        ticket = Ticket(ticket.unit, members, ticket.quarantine, ticket.probe)
        count += 1
        assert count < 200
        if killers & (set(members) - {name for name, _ in ticket.quarantine}):
            waiting = casebook.died(ticket, reason) + waiting
        else:
            if not ticket.probe:
                return dict(ticket.quarantine), count
            waiting = casebook.done(ticket) + waiting
    raise AssertionError("the unit was lost")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("killer", [0, -1])
def test_the_clip_that_kills_is_found(size: int, killer: int) -> None:
    clips = [f"c{n}" for n in range(size)]
    found, tickets = play(clips, {clips[killer]})
    assert found == {clips[killer]: "worker_killed"}
    assert tickets <= STRIKES * 2 + 4 * size.bit_length() + 2


def test_two_killers_are_both_found() -> None:
    clips = [f"c{n}" for n in range(8)]
    assert play(clips, {"c1", "c6"}, "unit_timeout")[0] == {"c1": "unit_timeout", "c6": "unit_timeout"}


def test_a_unit_that_dies_without_a_culprit_ends_the_build() -> None:
    casebook, ticket = Casebook(), Ticket("u", ("a", "b"))
    with pytest.raises(DataEngineError, match="no single clip"):
        for _ in range(40):
            probes = casebook.died(ticket, "worker_killed")
            for probe in probes:
                if probe.probe:
                    casebook.done(probe)


def runner(folder: Path, unit: str, quarantine: dict[str, str], only: list[str] | None) -> dict[str, Any]:
    clips = only if only is not None else (folder / unit).read_text().split()
    for clip in clips:
        if clip not in quarantine:
            if clip == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if clip == "hang":
                time.sleep(3600)
            if clip == "once" and not (folder / "once.done").exists():
                (folder / "once.done").touch()
                os.kill(os.getpid(), signal.SIGKILL)
    if only is None:
        (folder / f"{unit}.done").write_text(repr(sorted(quarantine.items())))
    return {"unit": unit}


def units_in(folder: Path, units: dict[str, list[str]]) -> dict[str, list[str]]:
    for unit, clips in units.items():
        (folder / unit).write_text(" ".join(clips))
    return units


def test_serial_runs_every_unit(tmp_path: Path) -> None:
    units, got = units_in(tmp_path, {"u0": ["a"], "u1": ["b", "c"]}), []
    with Engine(serial=True).open() as session:
        session.run(runner, (tmp_path,), units, got.append)
    assert [r["unit"] for r in got] == ["u0", "u1"]


def test_dask_survives_kills_and_quarantines_by_name(tmp_path: Path) -> None:
    units = units_in(tmp_path, {"u0": ["a", "b"], "u1": ["c", "kill", "d", "e"], "u2": ["once", "f"], "u3": ["g"]})
    got: list[dict[str, Any]] = []
    with Engine(workers=2).open() as session:
        session.run(runner, (tmp_path,), units, got.append)
    assert sorted(r["unit"] for r in got) == ["u0", "u1", "u2", "u3"]
    assert (tmp_path / "u1.done").read_text() == "[('kill', 'worker_killed')]"
    assert all((tmp_path / f"{u}.done").read_text() == "[]" for u in ("u0", "u2", "u3"))


def test_a_hung_worker_is_restarted_and_the_clip_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataengine.pipeline.engine.GRACE", 5.0)
    units = units_in(tmp_path, {"u0": ["a"], "u1": ["hang"]})
    with Engine(workers=1, clip_deadline=1.0).open() as session:
        session.run(runner, (tmp_path,), units, lambda receipt: None)
    assert (tmp_path / "u1.done").read_text() == "[('hang', 'unit_timeout')]"
    assert (tmp_path / "u0.done").exists()


def test_an_error_in_a_unit_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Engine(workers=1).open() as session:
        session.run(runner, (tmp_path,), {"absent": ["a"]}, lambda receipt: None)


def test_an_absent_scheduler_is_one_line() -> None:
    with (
        pytest.raises(DataEngineError, match="no Dask scheduler answers at"),
        Engine(scheduler="tcp://127.0.0.1:1").open(),
    ):
        pass


def where(folder: Path, unit: str, quarantine: dict[str, str], only: list[str] | None) -> dict[str, Any]:
    from distributed import get_worker

    if unit == "u0" and not (folder / "mark").exists():
        (folder / "mark").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"unit": unit, "worker": get_worker().name}


def test_units_for_accelerators_stay_on_their_workers(tmp_path: Path) -> None:
    """One of two workers has the only GPU; it is killed once and comes back under its name."""
    got: list[dict[str, Any]] = []
    with Engine(workers=2, gpus=1).open() as session:
        session.run(where, (tmp_path,), {f"u{n}": ["a"] for n in range(6)}, got.append, gpu=True)
    assert [r["unit"] for r in got] == [f"u{n}" for n in range(6)]
    assert {r["worker"] for r in got} == {0}
