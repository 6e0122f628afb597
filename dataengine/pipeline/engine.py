"""Tasks -> Dask (or the caller): an in-flight window, deadlines, and quarantine for what kills workers.

Processes, restarts of dead workers and placement are Dask's (`dataengine.pipeline.cluster`). The ledger is the truth
of what is done. What travels is small tasks and small receipts (`dataengine.pipeline.task`);
`dataengine.pipeline.quarantine` decides what to run after a worker died.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.pipeline import cluster as clusters
from dataengine.pipeline.quarantine import CrashBisector
from dataengine.pipeline.task import Receipt, Task

GRACE = 60.0
"""Seconds that a task gets beside its clips' deadlines: to load models, or to wait for a restarted worker."""

Runner = Callable[..., Receipt]
"""A module-level function `runner(*arguments, task) -> Receipt`."""


@dataclass(frozen=True)
class Engine:
    """How tasks are run.

    Attributes:
        workers: number of local processes (None: one a core).
        scheduler: address of a Dask scheduler to use instead of a local cluster.
        serial: run in the caller, one after another, for debugging; no deadline, no quarantine.
        dashboard: serve Dask's dashboard on loopback.
        clip_deadline: seconds that a task gets for a clip, beside GRACE.
        gpus: how many of the local workers have a GPU each, the resource "GPU" of Dask; at least so many are started.
    """

    workers: int | None = None
    scheduler: str | None = None
    serial: bool = False
    dashboard: bool = False
    clip_deadline: float = 180.0
    gpus: int = 0

    @contextmanager
    def open(self) -> Iterator[Dispatcher]:
        """The means to run tasks, for as long as the context lasts."""
        if self.serial:
            yield Dispatcher(self, None)
            return
        with clusters.opened(self.scheduler, self.workers, self.gpus, self.dashboard) as cluster:
            yield Dispatcher(self, cluster)


class Dispatcher:
    """Runs the tasks of passes while an engine is open."""

    def __init__(self, engine: Engine, cluster: clusters.Cluster | None) -> None:
        self.engine = engine
        self.cluster = cluster

    def run(
        self,
        runner: Runner,
        arguments: Sequence[Any],
        tasks: Iterable[Task],
        receive: Callable[[Receipt], None],
        heartbeat: Callable[[str], Path] | None = None,
        gpu: bool = False,
    ) -> None:
        """Run `runner(*arguments, task)` for every task and hand its receipt to `receive`.

        Args:
            runner: a module-level function; what it raises ends the run.
            tasks: in the order to run them; each key once.
            heartbeat: the file that the runner touches before each clip of a key. The deadline then runs from the last
                touch, else from the start for all clips together.
            gpu: run the tasks on workers with the resource GPU alone, where any has it.
        """
        if self.cluster is None:
            for task in tasks:
                receive(runner(*arguments, task))
            return
        client = self.cluster.client
        waiting, bisector = deque(tasks), CrashBisector()
        in_flight: dict[Any, tuple[Task, float]] = {}
        gpu_slots = self.cluster.slots(gpu=True) if gpu else 0
        try:
            while waiting or in_flight:
                while waiting and len(in_flight) < (gpu_slots or self.cluster.slots(gpu=False)):
                    task = waiting.popleft()
                    resources = clusters.GPU if gpu_slots else None
                    future = client.submit(runner, *arguments, task, pure=False, retries=0, resources=resources)
                    in_flight[future] = (task, time.time())
                self.cluster.wait(list(in_flight))
                for future, (task, sent) in list(in_flight.items()):
                    again = self._collect(future, task, self._due(task, sent, heartbeat), bisector, receive)
                    if again is not None:
                        del in_flight[future]
                        waiting.extendleft(reversed(again))
        finally:
            client.cancel(list(in_flight), force=True)

    def _due(self, task: Task, sent: float, heartbeat: Callable[[str], Path] | None) -> float:
        """When a task is overdue, as wall time: that is what files of other machines carry."""
        if heartbeat is None:
            return sent + GRACE + self.engine.clip_deadline * len(task.clips)
        with suppress(OSError):
            sent = max(sent, heartbeat(task.key).stat().st_mtime)
        return sent + GRACE + self.engine.clip_deadline

    def _collect(
        self, future: Any, task: Task, due: float, bisector: CrashBisector, receive: Callable[[Receipt], None]
    ) -> list[Task] | None:
        """What to run next if the future has ended or is overdue; None while it is still running."""
        import distributed

        if future.status == "finished":
            if not task.probe:
                receive(future.result())
            return bisector.finished(task)
        if future.status == "error":
            error = future.exception()
            if isinstance(error, distributed.scheduler.KilledWorker):
                return bisector.lost(task, "worker_killed")
            raise error
        if future.status in ("cancelled", "lost"):
            return bisector.lost(task, "worker_killed")
        if time.time() < due:
            return None
        assert self.cluster is not None
        where = self.cluster.running_on(future)
        self.cluster.client.cancel([future], force=True)
        self.cluster.restart(where)
        return bisector.lost(task, "unit_timeout")
