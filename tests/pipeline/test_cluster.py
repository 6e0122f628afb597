"""A cluster of somebody else: a scheduler and workers that a command line started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest

from dataengine.core.errors import DataEngineError
from dataengine.pipeline.engine import Engine
from dataengine.pipeline.task import Receipt, Task
from tests.support.dask_processes import Started, dask_scheduler
from tests.support.said import Said

cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.slow


def runner(folder: Path, task: Task) -> Receipt:
    """Note each start of a clip; a clip called kill ends the worker."""
    quarantine = dict(task.quarantine)
    for clip in task.clips:
        if clip not in quarantine:
            with (folder / f"{clip}.starts").open("a") as file:
                file.write(f"{os.getpid()}\n")
            if clip == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if clip == "hang":
                time.sleep(3600)
            if clip.startswith("slow"):
                time.sleep(0.5)
    if not task.probe:
        (folder / f"{task.key}.done").write_text(repr(sorted(quarantine.items())))
    return Receipt(task.key, len(task.clips), len(task.clips), 0.0)


def starts(folder: Path, clip: str) -> int:
    return len((folder / f"{clip}.starts").read_text().split())


def run(started: Started, folder: Path, units: dict[str, str], **options: float) -> list[str]:
    """Run units on a cluster; what was said meanwhile."""
    said = Said()
    folder.mkdir(exist_ok=True)
    with Engine(scheduler=started.address, **options).open(said) as dispatcher:  # type: ignore[arg-type]
        dispatcher.run(
            runner, (folder,), [Task(key, tuple(clips.split())) for key, clips in units.items()], lambda receipt: None
        )
    return said.lines


def test_a_clip_that_kills_costs_on_a_foreign_scheduler_what_it_costs_on_ours(tmp_path: Path) -> None:
    """Dask's own settings of a scheduler try a task four times and move others between workers."""
    units = {"u0": "a b", "u1": "c kill d e", "u2": "f"}
    (tmp_path / "local").mkdir()
    with Engine(workers=2).open() as dispatcher:
        dispatcher.run(
            runner, (tmp_path / "local",), [Task(k, tuple(c.split())) for k, c in units.items()], lambda receipt: None
        )
    with dask_scheduler(tmp_path / "dask") as started:
        started.worker("--nworkers", "2")
        run(started, tmp_path / "foreign", units)
    assert (tmp_path / "foreign" / "u1.done").read_text() == "[('kill', 'worker_killed')]"
    assert starts(tmp_path / "foreign", "kill") == starts(tmp_path / "local", "kill") <= 8


def test_workers_with_several_threads_or_without_a_nanny_are_refused_by_name(tmp_path: Path) -> None:
    with dask_scheduler(tmp_path / "dask") as started:
        started.worker("--nthreads", "4", "--name", "many")
        started.worker("--no-nanny", "--name", "bare")
        later = threading.Timer(5, lambda: started.worker("--name", "good"))
        later.start()
        said = run(started, tmp_path / "out", {f"u{n}": "a" for n in range(4)})
        later.join()
    assert any("many" in line and "--nthreads 1" in line for line in said), said
    assert any("bare" in line and "--no-nanny" in line for line in said), said
    assert not any("good" in line for line in said), said
    assert sorted(path.name for path in (tmp_path / "out").glob("*.done")) == [f"u{n}.done" for n in range(4)]


def test_a_build_stops_in_one_line_when_every_worker_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataengine.pipeline.cluster.PATIENCE", 3.0)
    with dask_scheduler(tmp_path / "dask") as started:
        started.worker("--nthreads", "3", "--name", "many")
        with pytest.raises(DataEngineError, match=r"no worker left.*3 tasks at once"):
            run(started, tmp_path / "out", {"u0": "a"})


def test_a_lost_scheduler_is_one_line_and_what_was_finished_is_kept(tmp_path: Path) -> None:
    with dask_scheduler(tmp_path / "dask") as started:
        started.worker()
        (tmp_path / "out").mkdir()
        kill = threading.Thread(target=_kill_later, args=(started, tmp_path / "out" / "u0.done"))
        kill.start()
        with pytest.raises(DataEngineError, match="is gone; what was finished is kept"):
            run(started, tmp_path / "out", {f"u{n}": "slow" for n in range(40)})
        kill.join()
    assert (tmp_path / "out" / "u0.done").exists()


def _kill_later(started: Started, after: Path) -> None:
    while not after.exists():
        time.sleep(0.05)
    started.kill(started.scheduler)


def test_a_hung_clip_on_a_cluster_of_somebody_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataengine.pipeline.dispatch.GRACE", 5.0)
    with dask_scheduler(tmp_path / "dask") as started:
        started.worker()
        run(started, tmp_path / "out", {"u0": "a", "u1": "hang"}, clip_deadline=1.0)
    assert (tmp_path / "out" / "u1.done").read_text() == "[('hang', 'unit_timeout')]"


def test_a_scheduler_of_somebody_else_gets_its_settings_back(tmp_path: Path) -> None:
    from distributed import Client

    def settings(dask_scheduler: object) -> tuple[object, ...]:
        return (
            dask_scheduler.allowed_failures,  # type: ignore[attr-defined]
            dask_scheduler.WORKER_SATURATION,  # type: ignore[attr-defined]
            "stealing" in dask_scheduler.periodic_callbacks,  # type: ignore[attr-defined]
        )

    with dask_scheduler(tmp_path / "dask") as started:
        started.worker()
        with Client(started.address, set_as_default=False) as client:
            before = client.run_on_scheduler(settings)
            with Engine(scheduler=started.address).open():
                assert client.run_on_scheduler(settings) == (0, 1.0, False)
            assert client.run_on_scheduler(settings) == before == (3, 1.1, True)


def named(folder: Path, task: Task) -> Receipt:
    """Tell which worker runs it."""
    from distributed import get_worker

    return Receipt(task.key, 1, 1, 0.0, artifact=str(get_worker().name))


def test_what_the_workers_see_decides_the_device_and_gpus_that_join_later_count(tmp_path: Path) -> None:
    """The driver's own machine has no GPU here; a worker says by Dask's resource that it has one."""
    got: list[Receipt] = []
    with dask_scheduler(tmp_path / "dask") as started:
        started.worker("--name", "plain")
        with Engine(scheduler=started.address).open() as dispatcher:
            assert dispatcher.device("auto") == "cpu"
            with pytest.raises(DataEngineError, match=r"none of the 1 workers of tcp.* sees a GPU"):
                dispatcher.device("cuda")
            started.worker("--name", "37", "--resources", "GPU=1")
            assert dispatcher.cluster is not None
            until = time.monotonic() + 90
            while not dispatcher.cluster.slots(gpu=True) and time.monotonic() < until:
                time.sleep(0.1)
            assert dispatcher.device("auto") == "cuda"
            assert dispatcher.cluster.window(gpu=True) == 2 and dispatcher.cluster.window(gpu=False) == 4
            dispatcher.run(named, (tmp_path,), [Task(f"u{n}", ("a",)) for n in range(5)], got.append, gpu=True)
    assert [receipt.artifact for receipt in got] == ["37"] * 5


DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[3]]
import cloudpickle
import tests.pipeline.test_cluster as own
cloudpickle.register_pickle_by_value(own)
from dataengine.pipeline.engine import Engine
from dataengine.pipeline.task import Task
with Engine(scheduler=sys.argv[1]).open() as dispatcher:
    tasks = [Task(f"u{n}", ("slow",)) for n in range(400)]
    dispatcher.run(own.runner, (Path(sys.argv[2]),), tasks, lambda receipt: None)
"""


def busy_driver(started: Started, out: Path) -> subprocess.Popen[bytes]:
    """A driver in a process of its own, with units done and many left."""
    root = str(Path(__file__).resolve().parents[2])
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, started.address, str(out), root])
    until = time.monotonic() + 120
    while not (out / "u1.done").exists():
        assert driver.poll() is None and time.monotonic() < until, started.logs()
        time.sleep(0.1)
    return driver


def test_a_driver_that_is_killed_leaves_a_cluster_that_the_next_one_uses(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with dask_scheduler(tmp_path / "dask") as started:
        started.worker()
        driver = busy_driver(started, out)
        driver.kill()
        driver.wait()
        run(started, out, {"v0": "a", "v1": "b"})
        time.sleep(2.0)
        left = len(list(out.glob("u*.done")))
        assert (out / "v1.done").exists() and left < 100, "units of the dead driver are forgotten"


@pytest.mark.slow
def test_a_scheduler_forgets_the_questions_and_settings_of_a_driver_that_was_killed(tmp_path: Path) -> None:
    from distributed import Client

    def left(dask_scheduler: object) -> tuple[object, ...]:
        return (
            [name for name in dask_scheduler.worker_plugins if name.startswith("dataengine")],  # type: ignore[attr-defined]
            dask_scheduler.allowed_failures,  # type: ignore[attr-defined]
            "stealing" in dask_scheduler.periodic_callbacks,  # type: ignore[attr-defined]
        )

    out = tmp_path / "out"
    out.mkdir()
    with dask_scheduler(tmp_path / "dask") as started:
        started.worker()
        driver = busy_driver(started, out)
        with Client(started.address, set_as_default=False) as client:
            assert client.run_on_scheduler(left) == (["dataengine-admission"], 0, False)
            driver.kill()
            driver.wait()
            until = time.monotonic() + 60
            while client.run_on_scheduler(left) != ([], 3, True):
                assert time.monotonic() < until, client.run_on_scheduler(left)
                time.sleep(0.2)


def test_the_command_ends_with_one_line_and_exit_code_1_when_its_scheduler_is_lost(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "one.mp4").write_bytes(b"not asked for before there are workers")
    build = ["build", "posecap", "--overlay", "core", "--sources", f"folder={tmp_path / 'videos'}"]
    with dask_scheduler(tmp_path / "dask") as started:
        command = [sys.executable, "-m", "dataengine.cli", *build, "--out", str(tmp_path / "out")]
        driver = subprocess.Popen([*command, "--scheduler", started.address], stderr=subprocess.PIPE, text=True)
        assert driver.stderr is not None
        said = []
        for line in driver.stderr:
            said.append(line)
            if "waiting for workers" in line:  # comes after two seconds
                started.kill(started.scheduler)
        assert driver.wait(timeout=60) == 1
    assert "is gone; what was finished is kept" in said[-1] and "waiting for workers" in said[-2], said


def test_a_scheduler_that_is_stopped_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataengine.pipeline.silence.SILENT", 1.0)
    said = Said()
    with (
        dask_scheduler(tmp_path / "dask") as started,
        Engine(scheduler=started.address).open(said) as dispatcher,
    ):
        assert dispatcher.cluster is not None
        time.sleep(1.5)
        os.kill(started.scheduler.pid, signal.SIGSTOP)
        again = threading.Timer(4.0, os.kill, (started.scheduler.pid, signal.SIGCONT))
        again.start()
        dispatcher.cluster.workers()
        again.join()
    assert any(f"the scheduler of {started.address} has not answered for" in line for line in said.lines), said.lines


def test_a_scheduler_that_stays_stopped_ends_the_build_in_one_line_and_the_next_one_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataengine.pipeline.silence.LIMIT", 6.0)
    out, units = tmp_path / "out", {f"u{n}": "slow" for n in range(12)}
    with dask_scheduler(tmp_path / "dask") as started:
        started.worker()
        out.mkdir()
        stop = threading.Thread(target=_stop_later, args=(started, out / "u1.done"))
        stop.start()
        with pytest.raises(DataEngineError, match=r"has not answered for 6 s and is given up; what was") as caught:
            run(started, out, units)
        stop.join()
        assert "\n" not in str(caught.value)
    done = {path.stem for path in out.glob("*.done")}
    assert "u1" in done and len(done) < 12
    with dask_scheduler(tmp_path / "another") as started:
        started.worker()
        run(started, out, {key: clips for key, clips in units.items() if key not in done})
    assert len(list(out.glob("*.done"))) == 12


def _stop_later(started: Started, after: Path) -> None:
    while not after.exists():
        time.sleep(0.05)
    os.kill(started.scheduler.pid, signal.SIGSTOP)


def test_ctrl_c_ends_beside_a_scheduler_that_is_stopped(tmp_path: Path) -> None:
    begun = 0.0
    with dask_scheduler(tmp_path / "dask") as started:
        with pytest.raises(KeyboardInterrupt), Engine(scheduler=started.address).open():
            os.kill(started.scheduler.pid, signal.SIGSTOP)
            begun = time.monotonic()
            raise KeyboardInterrupt
        assert time.monotonic() - begun < 120, "it waited for ever"


OTHER_PYTHON = os.environ.get("DATAENGINE_OTHER_PYTHON")


@pytest.mark.skipif(not OTHER_PYTHON, reason="DATAENGINE_OTHER_PYTHON names no other Python with dask[distributed]")
@pytest.mark.parametrize("late", [False, True])
def test_a_worker_of_another_python_is_refused_by_name(late: bool, tmp_path: Path) -> None:
    said = Said()
    with dask_scheduler(tmp_path / "dask") as started:

        def other() -> None:
            command = [str(OTHER_PYTHON), "-m", "dask", "worker", started.address, "--nthreads", "1", "--name", "other"]
            with (tmp_path / "other.log").open("wb") as log:
                started.processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

        started.worker("--name", "good")
        if not late:
            other()
        with Engine(scheduler=started.address).open(said) as dispatcher:
            if late:
                other()
            assert dispatcher.cluster is not None
            until = time.monotonic() + 120
            while not said.lines and time.monotonic() < until:
                dispatcher.cluster.workers()
                time.sleep(0.2)
    assert "worker other on " in said.lines[0] and "the driver 3." in said.lines[0], said.lines
