"""What a run does about trouble: it waits for workers, restarts processes, sets hosts and units aside, and stops."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dataengine.core.errors import DataEngineError, EnvironmentFailure
from dataengine.inspect.hosts import hosts as hosts_of
from dataengine.inspect.hosts import to_lines
from dataengine.pipeline import cluster as clusters
from dataengine.pipeline import dispatch
from dataengine.pipeline.attempts import ATTEMPTS, Heartbeat, Place, Trouble, in_flight
from dataengine.pipeline.cluster import Cluster
from dataengine.pipeline.engine import Dispatcher, Engine
from dataengine.pipeline.health import ENOUGH, Health, Stopped
from dataengine.pipeline.journal import Journal
from dataengine.pipeline.task import Receipt, Task

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def runner(folder: Path, task: Task) -> Receipt:
    """Does what the clips of the task say, and notes each begun task in `folder`/begun."""
    with (folder / "begun").open("a") as file:
        file.write(f"{task.key} {os.getpid()}\n")
    lost = folder / "lost context"
    for clip in task.clips:
        if clip in dict(task.quarantine):
            continue
        if clip == "poison" and not lost.exists():
            lost.write_text(str(os.getpid()))
        if lost.exists() and lost.read_text() == str(os.getpid()):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if clip == "kill" and not (folder / "killed").exists():
            (folder / "killed").write_text(str(os.getpid()))
            time.sleep(1)  # until others wait at this worker
            os.kill(os.getpid(), signal.SIGKILL)
        if clip == "media" and (os.environ.get("WITHOUT_MOUNT") or (folder / "no mount").exists()):
            raise EnvironmentFailure("media_unreachable", "the folder of the source is empty")
        if clip == "slow":
            time.sleep(0.1)
        if clip == "ill":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
    (folder / f"{task.key}.done").write_text(repr(task.quarantine))
    return Receipt(task.key, len(task.clips), len(task.clips), 0.0)


def tasks(*clips: str) -> list[Task]:
    return [Task(f"u{n}", tuple(text.split())) for n, text in enumerate(clips)]


def done(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.done"))}


def begun(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "begun").read_text().splitlines()]


@contextmanager
def hosts(*environments: dict[str, str]) -> Iterator[Any]:
    """A scheduler, and a worker with its nanny on a loopback address of its own for each environment."""
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    workers = {
        n: {"cls": Nanny, "options": {"host": f"127.0.0.{n + 2}", "nthreads": 1, "env": environment}}
        for n, environment in enumerate(environments)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    with dask.config.set(clusters.SETTINGS), SpecCluster(workers, scheduler, silence_logs=50) as cluster:
        yield cluster


@contextmanager
def dispatcher_of(cluster: Any, **options: Any) -> Iterator[Dispatcher]:
    """A dispatcher for a cluster of somebody else."""
    from distributed import Client

    with Client(cluster.scheduler_address, set_as_default=False) as client:
        yield Dispatcher(Engine(**options), Cluster(client, "the test's scheduler"))


def test_a_lost_gpu_context_is_healed_by_a_new_process(tmp_path: Path) -> None:
    with Engine(workers=1).open() as dispatcher:
        assert dispatcher.run(runner, (tmp_path,), tasks("a", "poison", "b", "c"), work=tmp_path) == []
    assert done(tmp_path) == {f"u{n}": "()" for n in range(4)}
    (trouble,) = (line for line in Journal(tmp_path).read() if line["event"] == "trouble")
    assert (trouble["kind"], trouble["unit"], trouble["host"]) == ("gpu_failed", "u1", socket.gethostname())
    assert list((tmp_path / ATTEMPTS).iterdir()) == []


def test_waiting_for_workers_is_not_failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler without workers for many times the deadline, and a worker that comes then."""
    monkeypatch.setattr(dispatch, "GRACE", 0.5)
    monkeypatch.setattr(dispatch, "QUIET", 1.0)
    said: list[str] = []
    with hosts() as cluster, dispatcher_of(cluster, clip_deadline=0.2) as dispatcher:
        timer = threading.Timer(3.0, lambda: add_worker(cluster))
        timer.start()
        aside = dispatcher.run(runner, (tmp_path,), tasks("a b", "c", "d"), work=tmp_path, steps=True, say=said.append)
        timer.join()
    assert aside == [] and done(tmp_path) == {f"u{n}": "()" for n in range(3)}
    assert "waiting for workers: 3 units queued, 0 workers" in said
    assert all(line["event"] == "worked" for line in Journal(tmp_path).read())


def add_worker(cluster: Any) -> None:
    from distributed import Nanny

    cluster.worker_spec = {0: {"cls": Nanny, "options": {"host": "127.0.0.2", "nthreads": 1}}}
    cluster.sync(cluster._correct_state)


def test_a_worker_that_dies_costs_the_begun_attempt_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units wait at the worker that is killed; none of them is suspected."""
    monkeypatch.setattr(Cluster, "window", lambda self, gpu, aside: 4)
    with Engine(workers=1).open() as dispatcher:
        dispatcher.run(runner, (tmp_path,), tasks("kill", "a", "b", "c"), work=tmp_path)
    assert done(tmp_path) == {f"u{n}": "()" for n in range(4)}
    assert sorted(begun(tmp_path)) == ["u0", "u0", "u1", "u2", "u3"]
    (row,) = hosts_of(tmp_path)["workers_lost"]
    assert (row["reason"], row["host"], row["count"]) == ("worker_killed", socket.gethostname(), 1)
    (lost,) = (line for line in Journal(tmp_path).read() if line["event"] == "lost")
    assert (lost["unit"], lost["attempt"], str(lost["pid"])) == ("u0", 1, (tmp_path / "killed").read_text())
    assert f"1 worker died on {socket.gethostname()} (worker_killed)" in to_lines(hosts_of(tmp_path))


@pytest.mark.slow
def test_a_host_that_fails_in_a_row_is_set_aside_and_the_others_do_its_work(tmp_path: Path) -> None:
    said: list[str] = []
    units = tasks(*["media slow"] * 12)
    with hosts({"WITHOUT_MOUNT": "1"}, {}) as cluster, dispatcher_of(cluster) as dispatcher:
        dispatcher.cluster.client.wait_for_workers(2)
        assert dispatcher.run(runner, (tmp_path,), units, work=tmp_path, say=said.append) == []
        assert list(dispatcher.health.aside) == ["127.0.0.2"]
    assert done(tmp_path) == {task.key: "()" for task in units}
    events = [line["event"] for line in Journal(tmp_path).read()]
    assert 3 <= events.count("trouble") < 9 and events.count("host") == 1
    assert any(line.startswith("set aside: ") and "folder of the source" in line for line in said)


@pytest.mark.parametrize("serial", [True, False])
def test_the_only_host_that_fails_stops_the_build_in_one_line(tmp_path: Path, serial: bool) -> None:
    with (
        pytest.raises(Stopped, match=r"3 times in a row \(media_unreachable: .*no other host is left") as caught,
        Engine(workers=1, serial=serial).open() as dispatcher,
    ):
        (tmp_path / "no mount").touch()
        dispatcher.run(runner, (tmp_path,), tasks(*["media"] * 50), work=tmp_path)
    assert isinstance(caught.value, DataEngineError) and "\n" not in str(caught.value)
    assert len(begun(tmp_path)) < 10, "the queue is not drained"


def test_a_unit_that_carries_its_trouble_with_it_is_set_aside_and_no_host_is(tmp_path: Path) -> None:
    with Engine(serial=True).open() as dispatcher:
        aside = dispatcher.run(runner, (tmp_path,), tasks("a", "ill", "b"), work=tmp_path)
        assert not dispatcher.health.aside
    assert [(found.task.key, found.kind) for found in aside] == [("u1", "storage_failed")]
    assert done(tmp_path) == {"u0": "()", "u2": "()"}


def test_a_failure_of_every_other_attempt_stops_the_build() -> None:
    health = Health()
    trouble = Trouble("gpu_failed", "lost")
    with pytest.raises(Stopped, match=rf"stopped: {ENOUGH} of \d+ attempts failed \(gpu_failed: lost, last on one"):
        for n in range(100):
            health.failed(Place("one", n, "tcp://10.0.0.1:5"), trouble, f"u{n}")
            if n % 3:
                health.succeeded(Place("one", n, "tcp://10.0.0.1:6"))
    few = Health()
    for n in range(100):
        few.succeeded(Place("one", n, "tcp://10.0.0.1:5"))
        if n % 2:
            few.failed(Place("one", n, "tcp://10.0.0.1:5"), trouble, f"u{n}")
    assert not few.aside


def test_a_clip_that_hangs_among_others_stops_the_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file shows the clip that is furthest behind, whatever the others do."""
    monkeypatch.setattr("dataengine.pipeline.attempts.THROTTLE", 1e-6)
    path = tmp_path / "attempt.json"
    path.touch()
    beat = Heartbeat(str(path))

    def moved() -> bool:
        os.utime(path, ns=(0, 0))
        time.sleep(0.01)
        beat.step("works")
        return path.stat().st_mtime_ns != 0

    beat.step("hangs")
    beat.step("works")
    moved()
    assert not moved() and not moved()
    beat.end("hangs")
    assert moved()
    Heartbeat().step("a clip without a file")
    path.unlink()
    moved_without_file = Heartbeat(str(path))
    moved_without_file.step("x")


def test_attempts_under_way_are_listed_with_host_and_age(tmp_path: Path) -> None:
    seen: list[Any] = []

    def look(folder: Path, task: Task) -> Receipt:
        seen.extend(in_flight(folder))
        return Receipt(task.key, 1, 1, 0.0)

    with Engine(serial=True).open() as dispatcher:
        dispatcher.run(look, (tmp_path,), tasks("a b"), work=tmp_path, name="pose")
    (row,) = seen
    assert (row.pass_name, row.unit, row.attempt, row.clips) == ("pose", "u0", 1, 2)
    assert (row.host, row.pid) == (socket.gethostname(), os.getpid()) and 0 <= row.quiet <= row.seconds < 60
    assert in_flight(tmp_path) == []


def on_gpus(folder: Path, task: Task) -> Receipt:
    """Claims one of two GPUs that are made up, of which the first is bad."""
    import tempfile

    from dataengine.core import devices, gpu_claim

    tempfile.tempdir = str(folder)
    devices.count = lambda: 2  # type: ignore[assignment]
    device = gpu_claim.device_of_process("cuda")
    with (folder / "tried").open("a") as file:
        file.write(f"{task.key} {device}\n")
    end, other = time.monotonic() + 60, ("cuda:1", 1) if device == "cuda:0" else ("cuda:0", 3)
    while (folder / "tried").read_text().count(other[0]) < other[1] and time.monotonic() < end:
        time.sleep(0.05)  # else one process does all the work while the other starts
    if device == "cuda:0":
        time.sleep(0.5)  # until others wait at this worker
        raise EnvironmentFailure("gpu_failed", "CUDA error: uncorrectable ECC error encountered", task.clips[0])
    (folder / f"{task.key}.done").write_text(repr(task.quarantine))
    return Receipt(task.key, 1, 1, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("waiting", [0, 1])
def test_a_bad_gpu_beside_a_good_one_is_set_aside_and_no_clip_is_blamed(
    waiting: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where units wait at the process that is restarted, as they do by default: they run elsewhere, or later."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(clusters, "PER_SLOT", 1 + waiting)
    said: list[str] = []
    units = tasks(*"abcdefghijkl")
    with Engine(workers=2, gpus=2).open() as dispatcher:
        dispatcher.ready()
        assert dispatcher.run(on_gpus, (tmp_path,), units, work=tmp_path, gpu=True, say=said.append) == []
        assert not dispatcher.health.aside
        assert list(dispatcher.health.gpus_aside) == [(socket.gethostname(), "0")]
    assert done(tmp_path) == {f"u{n}": "()" for n in range(12)}
    tried = (tmp_path / "tried").read_text()
    assert tried.count("cuda:0") == 3 and tried.count("cuda:1") == 12
    assert [line["gpu"] for line in Journal(tmp_path).read() if line["event"] == "gpu"] == ["0"]
    told = f"set aside: GPU 0 of {socket.gethostname()} failed 3 times"
    assert any(line.startswith(told) for line in said)
    assert any(line.startswith(told) for line in to_lines(hosts_of(tmp_path))), "status tells it, too"


def late_once(folder: Path, task: Task) -> Receipt:
    """The first attempt of all meets an environment failure; each is noted in `folder`/tried."""
    with (folder / "tried").open("a") as file:
        file.write(f"{task.key}\n")
    if not (folder / "failed").exists():
        (folder / "failed").touch()
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    time.sleep(0.2)
    (folder / f"{task.key}.done").write_text(repr(task.quarantine))
    return Receipt(task.key, 1, 1, 0.0)


@pytest.mark.slow
def test_a_result_that_was_fetched_is_not_made_anew_where_the_scheduler_hears_late_of_it(tmp_path: Path) -> None:
    """It hears of workers that end on other connections than of results that are not wanted any more."""
    with Engine(workers=2).open() as dispatcher:
        dispatcher.ready()
        client = dispatcher.cluster.client
        send = client._send_to_scheduler

        def late(message: Any) -> None:
            if message["op"] == "cancel-keys":
                client.loop.call_later(3.0, send, message)
            else:
                send(message)

        client._send_to_scheduler = late
        assert dispatcher.run(late_once, (tmp_path,), tasks(*"abcdefghijkl"), work=tmp_path) == []
    assert done(tmp_path) == {f"u{n}": "()" for n in range(12)}
    assert len((tmp_path / "tried").read_text().split()) == 13, "twelve units, one of them twice"


def beside_a_long_unit(folder: Path, task: Task) -> Receipt:
    """One unit runs until a third process has work; the other process meets trouble, or is killed, meanwhile."""
    own = folder / f"{os.getpid()}.process"
    own.touch()
    clip, end = task.clips[0], time.monotonic() + 60
    if clip == "long":
        while len(list(folder.glob("*.process"))) < 3:
            assert time.monotonic() < end, "the process that was started again has no work"
            time.sleep(0.02)
    elif not (folder / "ended").exists():
        while len(list(folder.glob("*.process"))) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.5)  # until others wait at this worker
        (folder / "ended").touch()
        if clip == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    (folder / f"{task.key}.done").write_text(repr(task.quarantine))
    return Receipt(task.key, 1, 1, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("clip", ["kill", "lost context"])
def test_a_worker_that_is_started_again_gets_work_at_once(clip: str, gpus: int, tmp_path: Path) -> None:
    """Another worker is in the midst of a long unit, to which all others were sent else."""
    units = [Task("u0", ("long",)), *(Task(f"u{n}", (clip,)) for n in range(1, 8))]
    with Engine(workers=2, gpus=gpus).open() as dispatcher:
        dispatcher.ready()
        assert dispatcher.run(beside_a_long_unit, (tmp_path,), units, work=tmp_path, gpu=bool(gpus)) == []
    assert done(tmp_path) == {f"u{n}": "()" for n in range(8)}
    told = [line["event"] for line in Journal(tmp_path).read() if line["event"] in ("lost", "trouble")]
    assert told == ["lost" if clip == "kill" else "trouble"], "the long unit had its third process"


def test_a_host_is_set_aside_with_its_last_gpu() -> None:
    health, trouble = Health(), Trouble("gpu_failed", "lost")
    places = [Place("one", n, f"tcp://10.0.0.1:{n}", f"GPU-{n}", 2) for n in range(2)]
    found = [health.failed(place, trouble, f"u{n}{place.pid}") for place in places for n in range(3)]
    assert found == [False] * 5 + [True] and len(health.gpus_aside) == 2 and list(health.aside) == ["10.0.0.1"]
