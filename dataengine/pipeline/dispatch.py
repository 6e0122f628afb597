"""One run of tasks: an in-flight window, deadlines from the beginning of an attempt, and what to do about trouble.

- A task that was sent and not begun has no deadline: waiting for workers is not failing.
- An attempt that was begun and gives no sign of life for its deadline is ended, and its task is bisected.
- A worker that dies costs its task a strike if the task had begun there.
- What becomes of a task that met trouble is decided in `dataengine.pipeline.troubles`.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.core.errors import DataEngineError
from dataengine.pipeline import cluster as clusters
from dataengine.pipeline.attempts import (
    NOT_OF_THE_PROCESS,
    UNEXPECTED,
    Ended,
    Place,
    Runner,
    Trouble,
    attempt,
    described,
    with_attempt,
)
from dataengine.pipeline.cluster_kinds import GPU
from dataengine.pipeline.task import Task
from dataengine.pipeline.troubles import SetAside, Troubles

if TYPE_CHECKING:
    from dataengine.pipeline.engine import Engine

GRACE = 60.0
"""Seconds that an attempt gets beside its clips' deadlines, to load models."""

QUIET = 30.0
"""Seconds without any attempt begun before the driver says that it waits, and between two such lines."""

LOOK = 1.0
"""Seconds between two looks at the file of an attempt."""

UNBEGUN = 20
"""How often a task may be lost before it began, until that counts as a strike: its beginning may stay unseen where a
file system is slow to show new files."""

RESULT = 10.0
"""Seconds that a result may take to arrive after it was announced."""

RESTART_LIMIT = 120.0
"""Seconds after which a worker that was to be restarted, and still runs, ends the build."""


NOWHERE = Place("", 0)
"""Where an attempt runs that has not told it."""


@dataclass
class _Flight:
    """An attempt that was sent. Times are of the driver's monotonic clock.

    Attributes:
        begun: when the driver saw that the worker had begun. changed: when it last saw a sign of life.
        stamp: modification time that the file of the attempt had then, ns by whatever clock.
        place: where it runs, as its file tells once it has begun.
        hosts: where it may run; empty for everywhere.
        ended: what came back, once it was fetched from its worker.
    """

    task: Task
    path: Path | None
    sent: float
    hosts: tuple[str, ...] = ()
    begun: float | None = None
    changed: float = 0.0
    stamp: int = -1
    looked: float = 0.0
    place: Place = NOWHERE
    ended: Ended | None = None

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
                if self.place is NOWHERE:
                    with suppress(ValueError, KeyError, TypeError):  # not written to the end yet
                        told = json.loads(file.read())
                        self.place = Place(str(told["host"]), int(told["pid"]))
        except OSError:
            return
        if self.begun is None:
            self.begun = now
        if stamp != self.stamp:
            self.stamp, self.changed = stamp, now


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

    def fetch(self) -> None:
        """Fetch the results of what has finished, before a worker that holds one is restarted for another task."""
        import distributed

        for future, flight in self.in_flight.items():
            if future.status == "finished" and flight.ended is None:
                with suppress(TimeoutError, distributed.TimeoutError):  # its worker died: Dask runs the task again
                    flight.ended = future.result(timeout=RESULT)

    def collect(self) -> None:
        """Take up what has ended."""
        for future, flight in list(self.in_flight.items()):
            again = self._collect(future, flight)
            if again is not None:
                del self.in_flight[future]
                self._remove(flight)
                self._take(again, first=flight.ended is None or flight.task.probe)

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
        gpu, aside = self.options.gpu, self.health.aside.keys()
        while self.waiting and others + len(self.in_flight) < self.cluster.window(gpu, aside):
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
                sorted(self.health.gpus_aside),
                pure=False,
                retries=0,
                resources=GPU if gpu else None,
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
        if flight.ended is not None:
            ended, self.heard = flight.ended, time.monotonic()
            if ended.receipt is None and ended.trouble is None:
                return self._refused(task, ended.place)
            if ended.trouble is not None and ended.trouble.kind not in NOT_OF_THE_PROCESS:
                self._restart(ended.place)
            return self.troubles.ended(task, ended)
        if future.status == "finished":
            return None  # the next round fetches the result
        if future.status == "error":
            error = future.exception()
            if isinstance(error, distributed.scheduler.KilledWorker):
                return self._killed(flight)
            if isinstance(error, DataEngineError):
                raise error
            return self.troubles.troubled(task, NOWHERE, Trouble(UNEXPECTED, described(error)))
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
        self.fetch()  # what waited there has been refused meanwhile; its results end with the process
        # what was fetched is not wanted of Dask any more, which would make lost results anew beside the queue
        self.cluster.take_back([future for future, flight in self.in_flight.items() if flight.ended is not None])
        self.restarting[place.address, place.pid] = time.monotonic()
        self.cluster.restart([place.address])

    def _killed(self, flight: _Flight) -> list[Task]:
        """The worker died. Only an attempt that had begun counts against the task."""
        self.cluster.changed()
        flight.look(time.monotonic())
        key = flight.task.key
        if flight.begun is None:
            self.unbegun[key] = self.unbegun.get(key, 0) + 1
            if self.unbegun[key] <= UNBEGUN:
                return [flight.task]
        return self.troubles.lost(flight.task, "worker_killed", flight.place)

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
        self.cluster.take_back([future])
        self.cluster.restart(where)
        return self.troubles.lost(flight.task, "unit_timeout", flight.place)


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
                    run.fetch()
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
