"""The engine: quarantine by bisection, deadlines, and that nothing is lost when workers die."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest

from dataengine.core.errors import DataEngineError, WeightsError
from dataengine.pipeline.engine import Engine
from dataengine.pipeline.journal import Journal
from dataengine.pipeline.quarantine import STRIKES, CrashBisector
from dataengine.pipeline.task import Receipt, Task

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def play(clips: list[str], killers: set[str], reason: str = "worker_killed") -> tuple[dict[str, str], int]:
    """Run one task with workers that die on any of `killers`; the quarantine it ends with, and how many tasks ran."""
    bisector, waiting, count = CrashBisector(), [Task("u", tuple(clips), "inputs")], 0
    while waiting:
        task = waiting.pop(0)
        count += 1
        assert count < 200 and task.inputs == "inputs"
        if killers & (set(task.clips) - dict(task.quarantine).keys()):
            again = bisector.lost(task, reason)
            assert again is not None
            waiting = again + waiting
        else:
            if not task.probe:
                assert task.clips == tuple(clips)
                return dict(task.quarantine), count
            waiting = bisector.finished(task) + waiting
    raise AssertionError("the task was lost")


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


def test_a_unit_that_dies_without_a_culprit_is_given_up() -> None:
    bisector, task = CrashBisector(), Task("u", ("a", "b"))
    for _ in range(40):
        again = bisector.lost(task, "worker_killed")
        if again is None:
            return
        for probe in again:
            if probe.probe:
                bisector.finished(probe)
    raise AssertionError("it is tried for ever")


def runner(folder: Path, task: Task) -> Receipt:
    quarantine = dict(task.quarantine)
    for clip in task.clips:
        if clip not in quarantine:
            if clip == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if clip == "hang":
                time.sleep(3600)
            if clip == "fail":
                raise FileNotFoundError(clip)
            if clip == "mistake":
                raise WeightsError("no weights")
            if clip == "once" and not (folder / "once.done").exists():
                (folder / "once.done").touch()
                os.kill(os.getpid(), signal.SIGKILL)
    if not task.probe:
        (folder / f"{task.key}.done").write_text(repr(sorted(quarantine.items())))
    return Receipt(task.key, len(task.clips), len(task.clips) - len(quarantine), 0.0)


def tasks(units: dict[str, str]) -> list[Task]:
    return [Task(key, tuple(clips.split())) for key, clips in units.items()]


def test_serial_runs_every_unit(tmp_path: Path) -> None:
    got: list[Receipt] = []
    with Engine(serial=True).open() as dispatcher:
        dispatcher.run(runner, (tmp_path,), tasks({"u0": "a", "u1": "b c"}), got.append)
    assert [(r.key, r.clips) for r in got] == [("u0", 1), ("u1", 2)]


def test_dask_survives_kills_and_quarantines_by_name(tmp_path: Path) -> None:
    units = {"u0": "a b", "u1": "c kill d e", "u2": "once f", "u3": "g"}
    got: list[Receipt] = []
    with Engine(workers=2).open() as dispatcher:
        dispatcher.run(runner, (tmp_path,), tasks(units), got.append)
    assert sorted(r.key for r in got) == ["u0", "u1", "u2", "u3"]
    assert (tmp_path / "u1.done").read_text() == "[('kill', 'worker_killed')]"
    assert all((tmp_path / f"{u}.done").read_text() == "[]" for u in ("u0", "u2", "u3"))


def test_a_hung_worker_is_restarted_and_the_clip_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataengine.pipeline.dispatch.GRACE", 5.0)
    with Engine(workers=1, clip_deadline=1.0).open() as dispatcher:
        dispatcher.run(runner, (tmp_path,), tasks({"u0": "a", "u1": "hang"}), work=tmp_path)
    ended = [line["reason"] for line in Journal(tmp_path).read() if line["event"] == "lost"]
    assert ended == ["unit_timeout"] * len(ended) and ended
    assert (tmp_path / "u1.done").read_text() == "[('hang', 'unit_timeout')]"
    assert (tmp_path / "u0.done").exists()


def kills_slowly(folder: Path, task: Task) -> Receipt:
    """Dies the first time; the process that starts workers is stopped then, as on a machine that is very busy."""
    if not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(int((folder / "starter").read_text()), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGKILL)
    return Receipt(task.key, 1, 1, 0.0)


@pytest.mark.slow
def test_a_worker_that_takes_long_to_come_back_is_not_given_up(tmp_path: Path) -> None:
    """Dask drops a worker that is away for 15 s by default, and the build would have none any more."""
    from multiprocessing import forkserver

    got: list[Receipt] = []
    with Engine(workers=1).open() as dispatcher:
        dispatcher.ready()
        starter = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        (tmp_path / "starter").write_text(str(starter))
        again = threading.Timer(25.0, os.kill, (starter, signal.SIGCONT))
        again.start()
        dispatcher.run(kills_slowly, (tmp_path,), tasks({"u0": "a"}), got.append)
        again.join()
    assert [receipt.key for receipt in got] == ["u0"]


@pytest.mark.parametrize("serial", [True, False])
def test_an_unexpected_error_in_one_unit_does_not_end_the_run(tmp_path: Path, serial: bool) -> None:
    with Engine(workers=1, serial=serial).open() as dispatcher:
        aside = dispatcher.run(runner, (tmp_path,), tasks({"u0": "fail", "u1": "a"}), work=tmp_path)
    assert [(found.task.key, found.kind) for found in aside] == [("u0", "unexpected_error")]
    assert "FileNotFoundError: fail (test_engine.py:" in aside[0].detail
    assert (tmp_path / "u1.done").exists()
    tries = [line for line in Journal(tmp_path).read() if line["event"] == "trouble"]
    assert len({line["attempt"] for line in tries}) == len(tries) == 3 and "Traceback" in tries[0]["trace"]


@pytest.mark.parametrize("serial", [True, False])
def test_a_mistake_of_the_user_ends_the_run_at_once(tmp_path: Path, serial: bool) -> None:
    with pytest.raises(WeightsError, match="no weights"), Engine(workers=1, serial=serial).open() as dispatcher:
        dispatcher.run(runner, (tmp_path,), tasks({"u0": "mistake", "u1": "a"}), work=tmp_path)


def test_an_absent_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataengine.pipeline.cluster_kinds.CONNECTED", 0.5)
    with (
        pytest.raises(DataEngineError, match="no Dask scheduler answers at"),
        Engine(scheduler="tcp://127.0.0.1:1").open(),
    ):
        pass


def where(folder: Path, task: Task) -> Receipt:
    from distributed import get_worker

    if task.key == "u0" and not (folder / "mark").exists():
        (folder / "mark").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Receipt(task.key, 0, 0, 0.0, artifact=str(get_worker().name))


def test_units_for_accelerators_stay_on_their_workers(tmp_path: Path) -> None:
    """One of two workers has the only GPU; it is killed once and comes back under its name."""
    got: list[Receipt] = []
    with Engine(workers=2, gpus=1).open() as dispatcher:
        dispatcher.run(where, (tmp_path,), tasks({f"u{n}": "a" for n in range(6)}), got.append, gpu=True)
    assert [r.key for r in got] == [f"u{n}" for n in range(6)]
    assert {r.artifact for r in got} == {"0"}
