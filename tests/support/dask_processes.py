"""A Dask scheduler and workers as processes of their own, as a user starts them on a command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

Process = subprocess.Popen[bytes]


class Started:
    """What was started: a scheduler and any number of workers.

    Attributes:
        address: of the scheduler.
    """

    def __init__(self, folder: Path, host: str, options: Sequence[str]) -> None:
        self.folder, self.processes = folder, list[Process]()
        self.file = folder / "scheduler.json"
        listen = ["--host", host, "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file)]
        self.scheduler = self.start((), "scheduler", *listen, *options)
        self.address = self._address()

    def _address(self) -> str:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            if self.file.exists() and (text := self.file.read_text()):
                return str(json.loads(text)["address"])
            assert self.scheduler.poll() is None, self.logs()
            time.sleep(0.1)
        raise AssertionError(self.logs())

    def start(
        self,
        prefix: Sequence[str],
        kind: str,
        *options: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start `dask KIND` in a session of its own."""
        log = (self.folder / f"{len(self.processes)}-{kind}.log").open("wb")
        command = [*prefix, sys.executable, "-m", "dask", kind, *options]
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=cwd, env={**os.environ, **(env or {})}, start_new_session=True
        )
        log.close()
        self.processes.append(process)
        return process

    def worker(self, *options: str, prefix: Sequence[str] = (), cwd: Path | None = None, **env: str) -> Process:
        """Start a worker with one thread, unless `options` say otherwise."""
        threads = () if "--nthreads" in options else ("--nthreads", "1")
        return self.start(prefix, "worker", self.address, *threads, *options, "--no-dashboard", cwd=cwd, env=env)

    def logs(self) -> str:
        """What all of them printed."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def kill(self, process: Process) -> None:
        """End a process and all that it started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def dask_scheduler(folder: Path, host: str = "127.0.0.1", options: Sequence[str] = ()) -> Iterator[Started]:
    """A scheduler; all that was started ends with the context."""
    folder.mkdir(parents=True, exist_ok=True)
    started = Started(folder, host, options)
    try:
        yield started
    finally:
        for process in reversed(started.processes):
            started.kill(process)
