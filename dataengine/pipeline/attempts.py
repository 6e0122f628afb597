"""One attempt at a task: what a worker tells while it runs, and what comes back from it.

Layout under `work/`::

    attempts/<pass>-<key>-<number>-<hash>.json      what is under way: pass, key, host, pid; removed when it ends

The file is there from the moment at which the worker begins. It is touched when the clip that is furthest behind has
made a step, so that with many clips under way one that hangs is noticed. Deadlines are reckoned by the driver's own
clock, from when it saw the file change; clocks of hosts are never compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataengine.core import gpu_claim
from dataengine.core.errors import DamagedArtifact, DataEngineError, EnvironmentFailure, LedgerError
from dataengine.core.failures import ENVIRONMENT, environment_kind, kind_of
from dataengine.io.lease import process_started
from dataengine.pipeline.task import Receipt, Task

Runner = Callable[..., Receipt]
"""A module-level function `runner(*arguments, task) -> Receipt`."""

ATTEMPTS = "attempts"
"""Folder in `work/` with a file for each attempt that is under way."""

UNEXPECTED, DAMAGED, WORKER_LOST = "unexpected_error", "damaged_artifact", "worker_lost"
"""What else ends an attempt, beside `dataengine.core.failures.ENVIRONMENT` and memory: an error that nobody foresaw,
an intermediate that is not what its record says, and a worker that dies again and again for no single clip."""

NOT_OF_THE_PROCESS = frozenset({"media_unreachable", "disk_full", "handshake_failed", DAMAGED})
"""Failures that a new process on the same host would meet again. After all others the process is restarted: a lost
context of a GPU, for one, never heals."""

THROTTLE = 1.0
"""Least seconds between two touches of a heartbeat."""

_to_be_restarted = False
"""Whether this process has met a failure after which it takes no more tasks."""


@dataclass(frozen=True)
class Place:
    """Where an attempt ran.

    Attributes:
        name: of the host, for people. pid: of the process.
        address: of the Dask worker; '' in the driver's own process.
        gpu: name of the GPU that the worker has claimed; '' for none. gpus: how many it sees.
    """

    name: str
    pid: int
    address: str = ""
    gpu: str = ""
    gpus: int = 0

    @property
    def seat(self) -> str:
        """The host with the GPU there."""
        return f"{self.host} GPU {self.gpu}" if self.gpu else self.host

    @property
    def host(self) -> str:
        """The host as Dask knows it: the address without protocol and port; its name for the driver's own process."""
        return self.address.split("://")[-1].rsplit(":", 1)[0].strip("[]") or self.name

    @staticmethod
    def own() -> Place:
        """This process."""
        address = ""
        if "distributed" in sys.modules:  # else this is no worker, and importing it takes a second
            from distributed import get_worker

            with contextlib.suppress(ValueError):
                address = get_worker().address
        gpu, gpus = gpu_claim.claimed() if address else ("", 0)
        return Place(socket.gethostname(), os.getpid(), address, gpu, gpus)


@dataclass(frozen=True)
class Trouble:
    """Why an attempt committed nothing.

    Attributes:
        kind: of `ENVIRONMENT`, out_of_memory, unexpected_error, damaged_artifact or worker_lost.
        detail: one line for people.
        clip_id: the clip under way, where the failure may be its own.
        trace: the traceback, for the journal.
        damaged: the file of an earlier unit that is not what was written.
    """

    kind: str
    detail: str
    clip_id: str | None = None
    trace: str = ""
    damaged: DamagedArtifact | None = None


@dataclass(frozen=True)
class Ended:
    """What comes back from a worker: a receipt, or trouble, or neither where the process is about to be restarted."""

    place: Place
    receipt: Receipt | None = None
    trouble: Trouble | None = None


class Heartbeat:
    """Sign of life of one attempt: touches its file when the clip that is furthest behind has made a step.

    Args:
        path: of the attempt's file; '' for none.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._lock = threading.Lock()
        self._steps: dict[str, float] = {}
        self._shown = float("-inf")

    def step(self, clip_id: str) -> None:
        """The clip was begun, or a batch of its frames is done."""
        with self._lock:
            self._steps[clip_id] = time.monotonic()
            self._show()

    def end(self, clip_id: str) -> None:
        """The clip is done."""
        with self._lock:
            self._steps.pop(clip_id, None)
            self._show()

    def _show(self) -> None:
        behind = min(self._steps.values(), default=time.monotonic())
        if self.path and behind - self._shown >= THROTTLE:
            self._shown = behind
            with contextlib.suppress(OSError):
                os.utime(self.path)


def attempt(
    runner: Runner,
    arguments: Sequence[Any],
    task: Task,
    facts: dict[str, Any],
    gpus_aside: Collection[tuple[str, str]] = (),
) -> Ended:
    """Run a task; called in a worker, or in the driver of a serial build.

    Args:
        facts: what the attempt's file holds beside host and pid.
        gpus_aside: name of a host, and name of a GPU there that is to be left alone.

    Raises:
        DataEngineError: a mistake of the user, which ends the build.
    """
    global _to_be_restarted
    place = Place.own()
    left = gpu_claim.leave([gpu for host, gpu in gpus_aside if host == place.name])
    if (_to_be_restarted or not left) and place.address:
        return Ended(place)
    try:
        _begin(task.attempt, {**facts, "host": place.name, "pid": place.pid, "began": time.time()})
        receipt = runner(*arguments, task)
        return Ended(Place.own(), receipt=receipt)
    except Exception as error:
        trouble = trouble_of(error)
        if trouble is None:
            raise
        _to_be_restarted = trouble.kind not in NOT_OF_THE_PROCESS
        return Ended(Place.own(), trouble=trouble)
    finally:
        if task.attempt:
            with contextlib.suppress(OSError):
                Path(task.attempt).unlink(missing_ok=True)


def trouble_of(error: Exception) -> Trouble | None:
    """What an exception says about an attempt; None for a mistake of the user."""
    kind, trace = kind_of(error), "".join(traceback.format_exception(error))[-4000:]
    if isinstance(error, EnvironmentFailure):
        return Trouble(error.kind, error.detail, error.clip_id, trace)
    if isinstance(error, LedgerError):
        return Trouble(DAMAGED, str(error), None, trace, error if isinstance(error, DamagedArtifact) else None)
    if kind is None and isinstance(error, DataEngineError):
        return None
    return Trouble(kind or UNEXPECTED, described(error), None, trace)


def described(error: BaseException) -> str:
    """An exception in one line, with the place in the code where it was raised."""
    text = f"{type(error).__name__}: {error}".strip().replace("\n", " ")[:400]
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text


def environment_failure(error: BaseException, clip_id: str | None = None) -> EnvironmentFailure | None:
    """An exception as a failure of the environment, if it is one."""
    kind = environment_kind(error)
    if kind is None or isinstance(error, EnvironmentFailure):
        return error if isinstance(error, EnvironmentFailure) else None
    return EnvironmentFailure(kind, described(error), clip_id)


def _begin(path: str, facts: dict[str, Any]) -> None:
    if not path:
        return
    try:
        Path(path).write_text(json.dumps(facts))
    except OSError as error:
        kind = environment_kind(error) or "storage_failed"
        text = f"the folder of the build cannot be written to: {error.strerror}"
        raise EnvironmentFailure(kind, text) from error


@dataclass(frozen=True)
class InFlight:
    """An attempt that is under way, as its file tells.

    Attributes:
        unit: key of the task. seconds: since it began. quiet: seconds since its last sign of life.
    """

    pass_name: str
    unit: str
    attempt: int
    clips: int
    host: str
    pid: int
    seconds: float
    quiet: float


def in_flight(work: Path) -> list[InFlight]:
    """Attempts that are under way, the oldest first. Ages are by this host's clock."""
    found, now, own = [], time.time(), socket.gethostname()
    for path in sorted((work / ATTEMPTS).glob("*.json")):
        try:
            facts, changed = json.loads(path.read_bytes()), path.stat().st_mtime
            age = max(0.0, now - facts["began"])
            row = InFlight(
                facts["pass"],
                facts["unit"],
                facts["attempt"],
                facts["clips"],
                facts["host"],
                facts["pid"],
                age,
                min(age, max(0.0, now - changed)),  # file systems stamp by a clock that is milliseconds behind
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if row.host != own or process_started(row.pid) is not None:
            found.append(row)
    return sorted(found, key=lambda row: -row.seconds)


def forget_attempts(work: Path) -> None:
    """Remove what attempts of an earlier driver left."""
    for path in (work / ATTEMPTS).glob("*"):
        with contextlib.suppress(OSError):
            path.unlink()


def with_attempt(task: Task, path: Path) -> Task:
    """The task as it travels for one attempt."""
    return replace(task, attempt=str(path))


def all_kinds() -> dict[str, str]:
    """Every kind of trouble with its meaning."""
    return {
        **ENVIRONMENT,
        "out_of_memory": "memory ran out outside of any clip",
        UNEXPECTED: "an error that nobody foresaw, outside of any clip",
        DAMAGED: "an intermediate is not what its record says",
        WORKER_LOST: "the unit keeps losing its worker, and no single clip of it does",
    }
