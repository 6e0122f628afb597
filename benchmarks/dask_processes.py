"""A Dask scheduler and its workers as processes of their own, which a benchmark may kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below one; none where it is gone."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, and wait for the end."""
    process.send_signal(signal.SIGKILL)
    process.wait()


class DaskProcesses:
    """A scheduler on loopback and workers of one thread, each below a nanny.

    Attributes:
        address: of the scheduler; stays the same when it is started again.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.address, self.folder, self.wanted = f"tcp://127.0.0.1:{self.port}", folder, workers
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.nannies: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in [*self.nannies, self.scheduler]:
            if process is not None:
                below = descendants(process.pid)
                kill(process)
                for one in below:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver"}
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def restart(self) -> None:
        """Start what is not running."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.scheduler = self._start(
                "scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard", "--no-show"
            )
            self._wait()
        self.nannies = [nanny for nanny in self.nannies if nanny.poll() is None]
        while len(self.nannies) < self.wanted:
            self.nannies.append(
                self._start("worker", self.address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard")
            )

    def _wait(self, seconds: float = 120.0) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.1)
        raise RuntimeError("the scheduler does not answer")

    def workers(self) -> list[psutil.Process]:
        """The processes that run units, below their nannies."""
        return [leaf for nanny in self.nannies for leaf in working(nanny.pid)]


def working(pid: int) -> list[psutil.Process]:
    """The worker processes below `pid`: started by multiprocessing, its helpers apart, and old enough to have imported
    something."""
    found = []
    for process in descendants(pid):
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            forked = parent is not None and "multiprocessing.forkserver" in " ".join(parent.cmdline())
            spawned = "multiprocessing.spawn" in " ".join(process.cmdline())
            if (forked or spawned) and not process.children() and process.memory_info().rss > 60e6:
                found.append(process)
    return found
