"""Several hosts build one dataset: their own project paths, homes and folders, one without the media, one cut off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import pytest
from distributed import Client

import dataengine
from dataengine.io.storage import file_hash
from dataengine.pipeline.engine import Engine
from dataengine.pipeline.task import Receipt, Task
from tests.support import namespaces
from tests.support.dask_processes import Started, dask_scheduler

cloudpickle.register_pickle_by_value(sys.modules[__name__])

WHY_NOT = namespaces.why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

PROJECT = Path(__file__).resolve().parents[1]


def project(folder: Path) -> dict[str, str]:
    """A copy of this package in a folder of its own, with a home; the environment of a worker that uses it."""
    for name in ("dataengine", "recipes", "manifests"):
        shutil.copytree(PROJECT / name, folder / "project" / name)
    (folder / "home").mkdir()
    return {"PYTHONPATH": str(folder / "project"), "HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dataengine.cli", *arguments]


def digests(dataset: Path) -> dict[str, str]:
    return {str(path.relative_to(dataset)): file_hash(path) for path in sorted(dataset.rglob("*")) if path.is_file()}


def until(true: Callable[[], object], what: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def began(work: Path, host: str) -> bool:
    """Whether a host has begun a unit and says so now."""
    for path in (work / "attempts").glob("*.json"):
        try:
            if json.loads(path.read_text())["host"] == host:
                return True
        except (OSError, ValueError):
            continue
    return False


def worked(work: Path) -> set[str]:
    """Hosts that have finished units."""
    lines = (json.loads(line) for line in (work / "journal.jsonl").read_text().splitlines())
    return {line["host"] for line in lines if line["event"] == "worked"}


def test_hosts_with_paths_of_their_own_build_the_bytes_of_a_serial_build(corpus: Path, tmp_path: Path) -> None:
    """Two good hosts; one that loses its mount, one with other code (refused), one that never had the mount (refused).

    The clips that the host without its mount tried are in the dataset like all others.
    """
    media, serial, out = tmp_path / "media", tmp_path / "serial", tmp_path / "out"
    shutil.copytree(corpus, media)
    settings = ["plan.clips_per_unit=2", "pose.max_fps=8.0", "filters.length.min=8"]
    sources = {"kinetics700": str(media / "kinetics"), "cap": str(media / "cap")}
    dataengine.build("posecap", sources, serial, overlay="core", overrides=settings, engine=Engine(serial=True))
    build = ["build", "posecap", "--overlay", "core", *(part for text in settings for part in ("--set", text))]
    build += ["--sources", ",".join(f"{name}={folder}" for name, folder in sources.items())]
    names = ["good", "other", "losing", "newer", "bare"]
    folders = {name: tmp_path / name for name in names}
    environments = {name: project(folder) for name, folder in folders.items()}
    fused = folders["newer"] / "project" / "dataengine" / "fusion" / "mean.py"
    fused.write_text(fused.read_text() + "\nCHANGED = True\n")
    with namespaces.hosts(names) as (here, made), dask_scheduler(tmp_path / "dask", here) as started:
        hosts = dict(zip(names, made))
        workers = {
            name: started.worker(
                *("--name", name),
                prefix=host.prefix(*([media] if name == "bare" else [])),
                cwd=folders[name] / "home",
                **environments[name],
            )
            for name, host in hosts.items()
        }
        with Client(started.address, set_as_default=False) as client:
            client.wait_for_workers(len(names), timeout=300)
        log = tmp_path / "driver.log"
        with log.open("wb") as output:
            arguments = command(*build, "--out", str(out), "--scheduler", started.address)
            driver = subprocess.Popen(arguments, stdout=output, stderr=output)
        until(lambda: began(out / "work", "losing") or driver.poll() is not None, "the host has work")
        assert driver.poll() is None, log.read_text() + started.logs()
        namespaces.mount_over(workers["losing"].pid, media)
        driver.wait(timeout=900)
        said = log.read_text()
        assert driver.returncode == 0, said + started.logs()
    assert digests(out / "dataset") == digests(serial / "dataset")
    refused = [line for line in said.splitlines() if "is refused" in line]
    other = "other code than the driver's: dataengine/fusion/mean.py"
    assert any("newer" in line and other in line for line in refused), said
    assert any("bare" in line and "No such file" in line for line in refused), said
    assert not any("good" in line or "other on" in line for line in refused), said
    assert {"good", "other"} <= worked(out / "work") and not worked(out / "work") & {"newer", "bare"}
    assert "media_unreachable" in said


def processes(folder: Path, host: str) -> set[str]:
    """Processes of a host that have done units."""
    lines = {line for path in folder.glob("*.done") for line in path.read_text().splitlines()}
    return {line.split()[1] for line in lines if line.split()[0] == host}


def runner(folder: Path, task: Task) -> Receipt:
    """Note the host. The near one does no more than ten units before another process of the far one has done one."""
    import socket

    time.sleep(0.5)
    end = time.monotonic() + 200
    while socket.gethostname() == "near" and len(list(folder.glob("*.done"))) >= 10 and time.monotonic() < end:
        if len(processes(folder, "far")) >= 2:
            break
        time.sleep(0.2)
    with (folder / f"{task.key}.done").open("a") as file:
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
    return Receipt(task.key, 1, 1, 0.5)


def test_a_host_that_is_cut_off_costs_its_unit_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off for longer than its scheduler waits for a lost connection."""
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP", "12s")  # Dask takes no less than 11
    done = tmp_path / "done"
    done.mkdir()
    with namespaces.hosts(["near", "far"]) as (here, made), dask_scheduler(tmp_path / "dask", here) as started:
        near, far = made
        started.worker("--name", "near", prefix=near.prefix())
        _keep_starting(started, far)

        def cut() -> None:
            until(lambda: processes(done, "far"), "the far host has work")
            far.pull_cable()
            time.sleep(25)
            far.plug_cable()

        cutting = threading.Thread(target=cut, daemon=True)
        cutting.start()
        received: list[str] = []
        tasks = [Task(f"u{n:03d}", ("clip",)) for n in range(30)]
        with Engine(scheduler=started.address).open() as dispatcher:
            until(lambda: dispatcher.cluster is not None and len(dispatcher.cluster.workers()) == 2, "both are there")
            dispatcher.run(runner, (done,), tasks, lambda receipt: received.append(receipt.key), work=tmp_path)
        cutting.join()
    assert sorted(received) == [task.key for task in tasks]
    assert len(processes(done, "far")) >= 2, f"a new process on the far host worked: {started.logs()}"


def _keep_starting(started: Started, host: namespaces.Host) -> None:
    """A worker that is started again whenever it ends, as a service manager or a loop in a shell does."""
    loop = ["sh", "-c", 'while :; do "$@"; sleep 1; done', "loop"]
    started.worker("--name", host.called, "--death-timeout", "20", prefix=[*host.prefix(), *loop])
