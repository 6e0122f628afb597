"""Tasks -> Dask (or the caller): an in-flight window, deadlines, and quarantine for what kills workers.

Processes, restarts of dead workers and placement are Dask's. The ledger is the truth of what is done. What travels is
small tasks and small receipts (`dataengine.pipeline.task`); `dataengine.pipeline.quarantine` decides what to run after
a worker died.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.core.errors import DataEngineError
from dataengine.pipeline.quarantine import CrashBisector
from dataengine.pipeline.task import Receipt, Task

THREADS = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "NUMBA_NUM_THREADS",
    )
}
"""Each worker is one thread of work; libraries that start their own lose 3-80x on shared cores."""

GPU = {"GPU": 1}
"""The resource that tasks for an accelerator take. Workers of a cluster of your own offer it with `--resources
GPU=1`."""

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
        import dask
        import distributed

        settings = {
            "distributed.scheduler.allowed-failures": 0,
            "distributed.scheduler.worker-saturation": 1.0,
            "distributed.scheduler.work-stealing": False,
            "distributed.worker.memory.target": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.pause": False,
            "distributed.admin.log-length": 100,
            # a restarted worker need not import everything anew
            "distributed.worker.multiprocessing-method": "forkserver",
        }
        with dask.config.set(settings):
            for name in ("distributed", "tornado.application", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            cluster = client = None
            try:
                if self.scheduler is None:
                    with _ignoring_interrupts():
                        cluster = _local_cluster(
                            max(self.workers or os.cpu_count() or 1, self.gpus), self.gpus, self.dashboard
                        )
                try:
                    client = distributed.Client(cluster or self.scheduler, timeout=10, set_as_default=False)
                except OSError as error:
                    raise DataEngineError(f"no Dask scheduler answers at {self.scheduler}: {error}") from error
                yield Dispatcher(self, client)
            except BaseException:
                _kill(cluster)  # units in flight are of no more use, and waiting for them to end well takes long
                raise
            finally:
                for closing in (client, cluster):
                    if closing is not None:
                        with suppress(Exception):
                            closing.close(timeout=2)


def _local_cluster(workers: int, gpus: int, dashboard: bool) -> Any:
    """Single-threaded processes on this machine, on loopback alone; the first `gpus` of them hold the resource GPU."""
    import distributed

    class Cluster(distributed.LocalCluster):  # type: ignore[misc]
        def new_worker_spec(self) -> dict[int, dict[str, Any]]:
            spec = super().new_worker_spec()
            return {
                n: {**one, "options": {**one["options"], "resources": GPU if n < gpus else {}}}
                for n, one in spec.items()
            }

    cluster = Cluster(
        n_workers=0,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=f"127.0.0.1:{8787 if dashboard else 0}",
        worker_dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": dashboard},
        silence_logs=logging.CRITICAL,
        env=THREADS,
    )
    cluster.scale(workers)
    return cluster


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, which a terminal sends to all of them: the driver decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _kill(cluster: Any) -> None:
    """End a local cluster's workers at once, for good."""
    for nanny in getattr(cluster, "workers", {}).values():
        nanny.auto_restart = False
        with suppress(ProcessLookupError, TypeError):
            os.kill(nanny.pid, signal.SIGKILL)


class Dispatcher:
    """Runs the tasks of passes while an engine is open."""

    def __init__(self, engine: Engine, client: Any) -> None:
        self.engine = engine
        self.client = client

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
        if self.client is None:
            for task in tasks:
                receive(runner(*arguments, task))
            return
        waiting, bisector = deque(tasks), CrashBisector()
        in_flight: dict[Any, tuple[Task, float]] = {}
        gpu_slots = self._gpu_slots() if gpu else 0
        try:
            while waiting or in_flight:
                while waiting and len(in_flight) < (gpu_slots or self._slots()):
                    task = waiting.popleft()
                    resources = GPU if gpu_slots else None
                    future = self.client.submit(runner, *arguments, task, pure=False, retries=0, resources=resources)
                    in_flight[future] = (task, time.time())
                self._wait(in_flight)
                for future, (task, sent) in list(in_flight.items()):
                    again = self._collect(future, task, self._due(task, sent, heartbeat), bisector, receive)
                    if again is not None:
                        del in_flight[future]
                        waiting.extendleft(reversed(again))
        finally:
            self.client.cancel(list(in_flight), force=True)

    def _restart(self, addresses: Sequence[str]) -> None:
        """End hung workers and have new ones started: at once where they are our own, through the scheduler
        elsewhere."""
        own = getattr(self.client.cluster, "workers", {}).values()
        pids = {nanny.worker_address: nanny.pid for nanny in own if getattr(nanny, "pid", None)}
        for address in addresses:
            if address in pids:
                with suppress(ProcessLookupError):
                    os.kill(pids[address], signal.SIGKILL)
        others = [address for address in addresses if address not in pids]
        if others:
            self.client.restart_workers(others, timeout=60, raise_for_error=False)

    def _due(self, task: Task, sent: float, heartbeat: Callable[[str], Path] | None) -> float:
        """When a task is overdue, as wall time: that is what files of other machines carry."""
        if heartbeat is None:
            return sent + GRACE + self.engine.clip_deadline * len(task.clips)
        with suppress(OSError):
            sent = max(sent, heartbeat(task.key).stat().st_mtime)
        return sent + GRACE + self.engine.clip_deadline

    def _slots(self) -> int:
        return max(1, sum(self.client.nthreads().values()) or self.engine.workers or 1)

    def _gpu_slots(self) -> int:
        """How many tasks with a GPU run at once; 0 where no worker says that it has one."""
        if self.engine.scheduler is None:
            return self.engine.gpus
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return int(sum(worker["resources"].get("GPU", 0) for worker in workers))

    def _wait(self, in_flight: Mapping[Any, tuple[Task, float]]) -> None:
        import distributed

        try:
            with self.client.as_current():
                distributed.wait(list(in_flight), timeout=0.5, return_when="FIRST_COMPLETED")
        except (TimeoutError, distributed.TimeoutError):
            pass
        except distributed.CancelledError:
            time.sleep(0.05)

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
        where = [address for address, keys in self.client.processing().items() if future.key in keys]
        self.client.cancel([future], force=True)
        self._restart(where)
        return bisector.lost(task, "unit_timeout")
