"""One run of tasks: an in-flight window, deadlines from the beginning of an attempt, and what to do about trouble.

- A task that was sent and not begun has no deadline: waiting for workers is not failing.
- An attempt that was begun and gives no sign of life for its deadline is ended, and its task is bisected.
- A worker that dies costs its task a strike if the task had begun there.
- A failure of the environment, or an error that nobody foresaw, commits nothing. The task runs again, on another host
  where there is one. After `TRIES` it is set aside for this build.
- A clip that brings about a failure of the environment twice, while its host does other work well, is to blame itself.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.core.errors import DamagedArtifact, DataEngineError
from dataengine.pipeline import cluster as clusters
from dataengine.pipeline.attempts import (
    ATTEMPTS,
    NOT_OF_THE_PROCESS,
    UNEXPECTED,
    WORKER_LOST,
    Ended,
    Place,
    Runner,
    Trouble,
    attempt,
    described,
    with_attempt,
)
from dataengine.pipeline.cluster_kinds import GPU
from dataengine.pipeline.health import Health
from dataengine.pipeline.journal import Journal
from dataengine.pipeline.quarantine import BLAMED, CrashBisector
from dataengine.pipeline.task import Receipt, Task

if TYPE_CHECKING:
    from dataengine.pipeline.engine import Engine

GRACE = 60.0
"""Seconds that an attempt gets beside its clips' deadlines, to load models."""

TRIES = 3
"""Attempts of a task before it is set aside."""

QUIET = 30.0
"""Seconds without any attempt begun before the driver says that it waits, and between two such lines."""

LOOK = 1.0
"""Seconds between two looks at the file of an attempt."""

UNBEGUN = 20
"""How often a task may be lost before it began, until that counts as a strike: its beginning may stay unseen where a
file system is slow to show new files."""

NOTE = 300.0
"""Seconds between two notes of what hosts have done."""

RESULT = 10.0
"""Seconds that a result may take to arrive after it was announced."""

RESTART_LIMIT = 120.0
"""Seconds after which a worker that was to be restarted, and still runs, ends the build."""


@dataclass(frozen=True)
class SetAside:
    """A task that committed nothing wherever it was tried; the next build tries it again.

    Attributes:
        kind, detail: of the last trouble.
        damaged: the file of an earlier unit that is not what was written, where that is why.
    """

    task: Task
    kind: str
    detail: str
    damaged: DamagedArtifact | None = None


@dataclass(frozen=True)
class RunOptions:
    """What a run is given beside its tasks.

    Attributes:
        name: of the pass.
        work: where attempts are noted; None to note nothing.
        steps: whether tasks give a sign of life for each clip and batch. Else the deadline is that of all clips.
        gpu: run the tasks on workers with the resource GPU alone.
        receive: takes receipts. say: takes lines for people.
    """

    name: str = ""
    work: Path | None = None
    steps: bool = False
    gpu: bool = False
    receive: Callable[[Receipt], None] = lambda receipt: None
    say: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Stage:
    """The tasks of one pass, one of several that run at the same time.

    Attributes:
        arguments: of the runner, before the task.
        waiting: tasks to run, in order; what takes receipts may add to this or a later stage.
    """

    runner: Runner
    arguments: tuple[Any, ...]
    waiting: deque[Task]
    options: RunOptions


@dataclass
class _Failure:
    """One failed attempt: `moment` is of `Health.moment`."""

    trouble: Trouble
    host: str
    moment: int


@dataclass
class _Flight:
    """An attempt that was sent. Times are of the driver's monotonic clock.

    Attributes:
        begun: when the driver saw that the worker had begun. changed: when it last saw a sign of life.
        stamp: modification time that the file of the attempt had then, ns by whatever clock.
        hosts: where it may run; empty for everywhere.
    """

    task: Task
    path: Path | None
    sent: float
    hosts: tuple[str, ...] = ()
    begun: float | None = None
    changed: float = 0.0
    stamp: int = -1
    looked: float = 0.0

    def look(self, now: float) -> None:
        """Note what the attempt's file tells. It is opened, since that makes a network file system ask its server."""
        self.looked = now
        if self.path is None:
            self.begun = self.sent if self.begun is None else self.begun
            self.changed = self.changed or now
            return
        try:
            with self.path.open("rb") as file:
                stamp = os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return
        if self.begun is None:
            self.begun = now
        if stamp != self.stamp:
            self.stamp, self.changed = stamp, now


class Troubles:
    """What became of the tasks of one run that met trouble: again, without a clip, or aside."""

    def __init__(self, options: RunOptions, health: Health, journal: Journal) -> None:
        self.options, self.health, self.journal = options, health, journal
        self.bisector = CrashBisector()
        self.failures: dict[str, list[_Failure]] = {}
        self.aside: dict[str, SetAside] = {}
        self.numbers: dict[str, int] = {}
        self.worked: dict[str, list[float]] = {}
        self.noted = time.monotonic()

    def file_of(self, task: Task) -> Path | None:
        """A fresh path for the file of the next attempt at a task."""
        self.numbers[task.key] = self.numbers.get(task.key, 0) + 1
        if self.options.work is None:
            return None
        name = f"{self.options.name}-{task.key}-{self.numbers[task.key]}-{uuid.uuid4().hex[:8]}.json"
        return self.options.work / ATTEMPTS / name

    def facts(self, task: Task) -> dict[str, Any]:
        """What the file of an attempt tells."""
        return {
            "pass": self.options.name,
            "unit": task.key,
            "attempt": self.numbers[task.key],
            "clips": len(task.clips),
            "probe": task.probe,
        }

    def ended(self, task: Task, ended: Ended) -> list[Task]:
        """Tasks to run after an attempt ended, well or not.

        Raises:
            Stopped: too much fails.
        """
        if ended.trouble is not None:
            return self.troubled(task, ended.place, ended.trouble)
        assert ended.receipt is not None
        self.health.succeeded(ended.place)
        if not task.probe:
            worked = self.worked.setdefault(ended.place.name, [0, 0, 0.0])
            for n, amount in enumerate((1, ended.receipt.clips, ended.receipt.seconds)):
                worked[n] += amount
            if time.monotonic() - self.noted > NOTE:
                self._note_work()
            self.options.receive(ended.receipt)
        return self.bisector.finished(task)

    def troubled(self, task: Task, place: Place, trouble: Trouble) -> list[Task]:
        """Tasks to run after an attempt committed nothing."""
        number = self.numbers.get(task.key, 1)
        self.journal.note(
            "trouble",
            **{"pass": self.options.name, "unit": task.key, "attempt": number, "host": place.name, "pid": place.pid},
            **{"kind": trouble.kind, "detail": trouble.detail, "clip_id": trouble.clip_id, "trace": trouble.trace},
        )
        where = f" on {place.name}" if place.name else ""
        self.options.say(f"{self.options.name} {task.key}{where}: {trouble.kind}: {trouble.detail}")
        before = self.failures.setdefault(task.key, [])
        culprit = None if task.probe else self._culprit(trouble, place.host, before)
        if self.health.failed(place, trouble, task.key, of_the_host=culprit is None):
            self.journal.note("host", host=place.name, detail=self.health.aside[place.host])
            self.options.say(f"set aside: {self.health.aside[place.host]}")
        before.append(_Failure(trouble, place.host, self.health.moment()))
        if culprit is not None:
            before.clear()
            return [self.bisector.blame(task, culprit, BLAMED[trouble.kind])]
        if len(before) >= TRIES or trouble.damaged is not None:
            return self.set_aside(task, trouble)
        return [task]

    def _culprit(self, trouble: Trouble, host: str, before: Sequence[_Failure]) -> str | None:
        """The clip that is to blame: it failed alike before, on another host or while this one did other work well."""
        if trouble.clip_id is None or trouble.kind not in BLAMED:
            return None
        for failure in before:
            alike = (failure.trouble.kind, failure.trouble.clip_id) == (trouble.kind, trouble.clip_id)
            if alike and (failure.host != host or self.health.succeeded_since(host, failure.moment)):
                return trouble.clip_id
        return None

    def set_aside(self, task: Task, trouble: Trouble) -> list[Task]:
        """Give a task up for this build."""
        self.aside[task.key] = SetAside(task, trouble.kind, trouble.detail, trouble.damaged)
        self.journal.note(
            "set_aside", **{"pass": self.options.name, "unit": task.key}, kind=trouble.kind, detail=trouble.detail
        )
        self.options.say(f"{self.options.name} {task.key}: set aside ({trouble.kind}); the next build tries it again")
        return []

    def close(self) -> list[SetAside]:
        """The tasks that were set aside; called at the end of a run, however it ends."""
        self._note_work()
        return list(self.aside.values())

    def _note_work(self) -> None:
        for host, (units, clips, seconds) in sorted(self.worked.items()):
            facts = {"host": host, "units": int(units), "clips": int(clips), "seconds": round(seconds, 3)}
            self.journal.note("worked", **{"pass": self.options.name}, **facts)
        self.worked, self.noted = {}, time.monotonic()


def run_serial(runner: Runner, arguments: Sequence[Any], waiting: deque[Task], troubles: Troubles) -> list[SetAside]:
    """Run tasks one after another in this process: no deadline, and a process that is not restarted."""
    place = Place.own()
    try:
        while waiting:
            task = waiting.popleft()
            path = troubles.file_of(task)
            sent = task if path is None else with_attempt(task, path)
            waiting.extend(troubles.ended(task, attempt(runner, arguments, sent, troubles.facts(task))))
            if place.host in troubles.health.aside:
                raise troubles.health.no_host_left()
    finally:
        aside = troubles.close()
    return aside


class DaskRun:
    """One run of tasks on a cluster. Tasks may be added to `waiting` while it runs."""

    def __init__(
        self,
        engine: Engine,
        cluster: clusters.Cluster,
        runner: Runner,
        arguments: Sequence[Any],
        waiting: deque[Task],
        troubles: Troubles,
    ) -> None:
        self.engine, self.cluster, self.troubles = engine, cluster, troubles
        self.runner, self.arguments = runner, arguments
        self.health, self.options = troubles.health, troubles.options
        self.waiting = waiting
        self.in_flight: dict[Any, _Flight] = {}
        self.unbegun: dict[str, int] = {}
        self.restarting: dict[tuple[str, int], float] = {}
        self.heard = time.monotonic()

    def close(self) -> list[SetAside]:
        """Take back what is in flight; the tasks that were set aside."""
        self.cluster.cancel(list(self.in_flight))
        for flight in self.in_flight.values():
            self._remove(flight)
        return self.troubles.close()

    def collect(self) -> None:
        """Take up what has ended."""
        for future, flight in list(self.in_flight.items()):
            again = self._collect(future, flight)
            if again is not None:
                del self.in_flight[future]
                self._remove(flight)
                self._take(again, first=future.status != "finished" or flight.task.probe)

    def _take(self, tasks: Sequence[Task], first: bool) -> None:
        """Queue tasks: halves of a bisection first; what met trouble last, so that others show how the host does."""
        tasks = [task for task in tasks if task.key not in self.troubles.aside]
        if first:
            self.waiting.extendleft(reversed(tasks))
        else:
            self.waiting.extend(tasks)

    @staticmethod
    def _remove(flight: _Flight) -> None:
        if flight.path is not None:
            with suppress(OSError):
                flight.path.unlink(missing_ok=True)

    def submit(self, others: int = 0) -> None:
        """Send what there is room for, beside so many tasks of other runs in flight."""
        while self.waiting and others + len(self.in_flight) < self.cluster.window(self.options.gpu):
            task = self.waiting.popleft()
            if task.key in self.troubles.aside:
                continue
            hosts, path = self._hosts(task), self.troubles.file_of(task)
            future = self.cluster.client.submit(
                attempt,
                self.runner,
                self.arguments,
                task if path is None else with_attempt(task, path),
                self.troubles.facts(task),
                pure=False,
                retries=0,
                resources=GPU if self.options.gpu else None,
                workers=list(hosts) or None,
            )
            self.in_flight[future] = _Flight(task, path, time.monotonic(), hosts)

    def _hosts(self, task: Task) -> tuple[str, ...]:
        """Hosts that a task may run on: not one set aside, and one where it has not failed if there is one. Empty for
        all.

        Raises:
            Stopped: every host is set aside.
        """
        failed = {failure.host for failure in self.troubles.failures.get(task.key, ())}
        if not failed and not self.health.aside:
            return ()
        there = self.cluster.hosts()
        good = there - self.health.aside.keys()
        if there and not good:
            raise self.health.no_host_left()
        best = good - failed or good
        return () if best == there else tuple(sorted(best))

    def _collect(self, future: Any, flight: _Flight) -> list[Task] | None:
        """What to run next if the future has ended or is overdue; None while it is still running."""
        import distributed

        task = flight.task
        if future.status == "finished":
            try:
                ended: Ended = future.result(timeout=RESULT)
            except (TimeoutError, distributed.TimeoutError):
                return None  # its worker died with the result; Dask runs the task again
            self.heard = time.monotonic()
            if ended.receipt is None and ended.trouble is None:
                return self._refused(task, ended.place)
            if ended.trouble is not None and ended.trouble.kind not in NOT_OF_THE_PROCESS:
                self.cluster.cancel([future])  # else its result, lost with the worker, is made anew
                self._restart(ended.place)
            return self.troubles.ended(task, ended)
        if future.status == "error":
            error = future.exception()
            if isinstance(error, distributed.scheduler.KilledWorker):
                return self._killed(flight)
            if isinstance(error, DataEngineError):
                raise error
            return self.troubles.troubled(task, Place("", 0), Trouble(UNEXPECTED, described(error)))
        if future.status in ("cancelled", "lost"):
            return self._killed(flight)
        return self._overdue(future, flight)

    def _refused(self, task: Task, place: Place) -> list[Task]:
        """A process that is to be restarted took the task; it goes back into the queue."""
        if (place.address, place.pid) not in self.restarting:
            self._restart(place)
        elif time.monotonic() - self.restarting[place.address, place.pid] > RESTART_LIMIT:
            raise DataEngineError(
                f"the worker {place.address} on {place.name} is to be restarted after a failure, and still runs; "
                "start workers with a nanny (the default of `dask worker`)"
            )
        time.sleep(0.1)
        return [task]

    def _restart(self, place: Place) -> None:
        self.restarting[place.address, place.pid] = time.monotonic()
        self.cluster.restart([place.address])

    def _killed(self, flight: _Flight) -> list[Task]:
        """The worker died. Only an attempt that had begun counts against the task."""
        flight.look(time.monotonic())
        key = flight.task.key
        if flight.begun is None:
            self.unbegun[key] = self.unbegun.get(key, 0) + 1
            if self.unbegun[key] <= UNBEGUN:
                return [flight.task]
        return self._lost(flight.task, "worker_killed")

    def _lost(self, task: Task, reason: str) -> list[Task]:
        again = self.troubles.bisector.lost(task, reason)
        if again is None:
            detail = f"it keeps losing its worker ({reason}), and no single clip of it does; see the worker's log"
            return self.troubles.set_aside(task, Trouble(WORKER_LOST, detail))
        return again

    def _overdue(self, future: Any, flight: _Flight) -> list[Task] | None:
        now = time.monotonic()
        if now - flight.looked < LOOK:
            return None
        flight.look(now)
        if flight.begun is None:
            if flight.hosts and not set(flight.hosts) & self.cluster.hosts():  # those that it was to run on have left
                self.cluster.cancel([future])
                return [flight.task]
            return None
        self.heard = now
        allowed = GRACE + self.engine.clip_deadline * (1 if self.options.steps else len(flight.task.clips))
        if now - flight.changed < allowed:
            return None
        where = self.cluster.running_on(future)
        self.cluster.cancel([future])
        self.cluster.restart(where)
        return self._lost(flight.task, "unit_timeout")


def run_together(runs: Sequence[DaskRun]) -> list[list[SetAside]]:
    """Run all tasks of several runs on one cluster, also those that are added meanwhile; what each set aside.

    Later runs come first where there is room for one task more, so that what was begun is finished.
    """
    aside: list[list[SetAside]] = []
    try:
        while any(run.waiting or run.in_flight for run in runs):
            with runs[0].cluster.connected():
                for run in reversed(runs):
                    run.submit(sum(len(r.in_flight) for r in runs if r is not run and r.options.gpu == run.options.gpu))
                runs[0].cluster.wait([future for run in runs for future in run.in_flight])
                for run in runs:
                    run.collect()
                _tell_waiting(runs)
    finally:
        aside += [run.close() for run in runs]
    return aside


def _tell_waiting(runs: Sequence[DaskRun]) -> None:
    now = time.monotonic()
    if now - max(run.heard for run in runs) < QUIET:
        return
    runs[0].heard = now
    count = sum(len(run.waiting) + len(run.in_flight) for run in runs)
    runs[0].options.say(f"waiting for workers: {count} units queued, {len(runs[0].cluster.workers())} workers")
