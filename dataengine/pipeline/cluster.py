"""Clusters: what makes or joins one, and what a dispatcher asks of it.

Processes, restarts of dead workers and placement are Dask's.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from dataengine.core.errors import DataEngineError

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

SETTINGS = {
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


@dataclass(frozen=True)
class Cluster:
    """An open cluster.

    Attributes:
        client: Dask's client of it.
        workers: how many workers were asked for; None where others decide.
        gpus: how many of the local workers have a GPU; None where the workers say so themselves.
    """

    client: Any
    workers: int | None = None
    gpus: int | None = None

    def slots(self, gpu: bool) -> int:
        """How many tasks run at once, now; with `gpu` on workers that have one, 0 where none has."""
        if not gpu:
            return max(1, sum(self.client.nthreads().values()) or self.workers or 1)
        if self.gpus is not None:
            return self.gpus
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return int(sum(worker["resources"].get("GPU", 0) for worker in workers))

    def hosts(self) -> set[str]:
        """Hosts of the workers that are there now, by their addresses."""
        return {worker["host"] for worker in self.client.scheduler_info(n_workers=-1)["workers"].values()}

    def running_on(self, future: Any) -> list[str]:
        """Addresses of the workers that run a future."""
        return [address for address, keys in self.client.processing().items() if future.key in keys]

    def wait(self, futures: Sequence[Any]) -> None:
        """Return when one of the futures has ended, or after half a second."""
        import distributed

        try:
            with self.client.as_current():
                distributed.wait(futures, timeout=0.5, return_when="FIRST_COMPLETED")
        except (TimeoutError, distributed.TimeoutError):
            pass
        except distributed.CancelledError:
            time.sleep(0.05)

    def restart(self, addresses: Sequence[str]) -> None:
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


@contextmanager
def opened(scheduler: str | None, workers: int | None, gpus: int, dashboard: bool) -> Iterator[Cluster]:
    """The cluster of a scheduler's address, or one of local processes, for as long as the context lasts.

    Args:
        scheduler: address of a Dask scheduler to use instead of a local cluster.
        workers: number of local processes (None: one a core).
        gpus: how many of the local workers have a GPU each; at least so many are started.
        dashboard: serve Dask's dashboard on loopback.

    Raises:
        DataEngineError: no scheduler answers there.
    """
    import dask
    import distributed

    with dask.config.set(SETTINGS):
        for name in ("distributed", "tornado.application", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        local = client = None
        try:
            if scheduler is None:
                with _ignoring_interrupts():
                    local = _local_cluster(max(workers or os.cpu_count() or 1, gpus), gpus, dashboard)
            try:
                client = distributed.Client(local or scheduler, timeout=10, set_as_default=False)
            except OSError as error:
                raise DataEngineError(f"no Dask scheduler answers at {scheduler}: {error}") from error
            yield Cluster(client, workers, gpus if scheduler is None else None)
        except BaseException:
            _kill(local)  # units in flight are of no more use, and waiting for them to end well takes long
            raise
        finally:
            for closing in (client, local):
                if closing is not None:
                    with suppress(Exception):
                        closing.close(timeout=2)


def _local_cluster(workers: int, gpus: int, dashboard: bool) -> Any:
    """Single-threaded processes on this machine, on loopback alone; the first `gpus` of them hold the resource GPU."""
    import distributed

    class LocalCluster(distributed.LocalCluster):  # type: ignore[misc]
        def new_worker_spec(self) -> dict[int, dict[str, Any]]:
            spec = super().new_worker_spec()
            return {
                n: {**one, "options": {**one["options"], "resources": GPU if n < gpus else {}}}
                for n, one in spec.items()
            }

    cluster = LocalCluster(
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
