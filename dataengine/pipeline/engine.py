"""Units -> Dask (or the caller): an in-flight window, deadlines, and quarantine for what kills workers.

Processes, restarts of dead workers and placement are Dask's; the ledger is the truth of what is
done. What travels is names of units and small receipts. A unit that kills its worker or runs past
its deadline twice is bisected: halves of its clips run as probes until the clip that does it is
found; the unit then runs without it, and the clip stands in quarantine by name.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
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
"""The resource that units for an accelerator take; workers of a cluster of your own offer it with `--resources GPU=1`."""

STRIKES = 2
"""Deaths or missed deadlines of a unit before it is bisected, and of a single clip before quarantine."""

_WEIGHT = {"worker_killed": 1, "unit_timeout": STRIKES}
"""A worker may die of what is outside the unit; a missed deadline is the unit's own, and waiting it out twice costs as much again."""

ROUNDS = 4
"""How often a unit may be bisected before the build stops and says so."""

GRACE = 60.0
"""Seconds a unit gets beside its clips' deadlines: to load models, or to wait for a restarted worker."""

Receipt = dict[str, Any]
Runner = Callable[..., Receipt]


@dataclass(frozen=True)
class Ticket:
    """One piece of work in flight: a whole unit, or a probe of some of its clips."""

    unit: str
    clips: tuple[str, ...]
    quarantine: tuple[tuple[str, str], ...] = ()
    probe: bool = False


@dataclass
class _Case:
    """What is known of a unit that killed a worker."""

    strikes: int = 0
    rounds: int = 0
    open: int = 0
    culprits: dict[str, str] = field(default_factory=dict)
    single: dict[str, int] = field(default_factory=dict)


class Casebook:
    """Decides what to run next when a ticket dies: again, its halves, or without the culprit."""

    def __init__(self) -> None:
        self.cases: dict[str, _Case] = {}

    def died(self, ticket: Ticket, reason: str) -> list[Ticket]:
        """Tickets to run after `ticket` was lost to `reason` (worker_killed or unit_timeout)."""
        case = self.cases.setdefault(ticket.unit, _Case())
        if not ticket.probe:
            case.strikes += _WEIGHT[reason]
            if case.strikes < STRIKES:
                return [ticket]
            case.rounds += 1
            if case.rounds > ROUNDS:
                raise DataEngineError(
                    f"unit {ticket.unit} keeps losing its worker ({reason}), and no single clip of it does; see the worker's log"
                )
            suspects = tuple(c for c in ticket.clips if c not in case.culprits)
            if not suspects:
                return [ticket]
            return (
                self._split(ticket.unit, suspects, case)
                if len(suspects) > 1
                else self._single(ticket.unit, suspects, case)
            )
        if len(ticket.clips) > 1:
            return self._split(ticket.unit, ticket.clips, case) + self._closed(ticket, case)
        (clip,) = ticket.clips
        case.single[clip] = case.single.get(clip, 0) + _WEIGHT[reason]
        if case.single[clip] < STRIKES:
            return [ticket]
        case.culprits[clip] = reason
        return self._closed(ticket, case)

    def done(self, ticket: Ticket) -> list[Ticket]:
        """Tickets to run after `ticket` ended well."""
        return self._closed(ticket, self.cases[ticket.unit]) if ticket.probe else []

    def _split(self, unit: str, clips: tuple[str, ...], case: _Case) -> list[Ticket]:
        half = (len(clips) + 1) // 2
        probes = [Ticket(unit, part, probe=True) for part in (clips[:half], clips[half:]) if part]
        case.open += len(probes)
        return probes

    def _single(self, unit: str, clips: tuple[str, ...], case: _Case) -> list[Ticket]:
        case.open += len(clips)
        return [Ticket(unit, clips, probe=True)]

    def _closed(self, ticket: Ticket, case: _Case) -> list[Ticket]:
        case.open -= 1
        if case.open:
            return []
        case.strikes, case.single = 0, {}
        return [Ticket(ticket.unit, (), tuple(sorted(case.culprits.items())))]


@dataclass(frozen=True)
class Engine:
    """How units are run.

    Attributes:
        workers: number of local processes (None: one a core).
        scheduler: address of a Dask scheduler to use instead of a local cluster.
        serial: run in the caller, one after another, for debugging; no deadline, no quarantine.
        dashboard: serve Dask's dashboard on loopback.
        clip_deadline: seconds that a unit gets for a clip, beside GRACE.
        gpus: how many of the local workers have a GPU each, the resource "GPU" of Dask; at least so many are started.
    """

    workers: int | None = None
    scheduler: str | None = None
    serial: bool = False
    dashboard: bool = False
    clip_deadline: float = 180.0
    gpus: int = 0

    @contextmanager
    def open(self) -> Iterator[Session]:
        """The means to run units, for as long as the context lasts."""
        if self.serial:
            yield Session(self, None)
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
            "distributed.worker.multiprocessing-method": "forkserver",  # a restarted worker need not import everything anew
        }
        with dask.config.set(settings):
            for name in ("distributed", "tornado.application", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            cluster = client = None
            try:
                if self.scheduler is None:
                    with _deaf_to_interrupts():
                        cluster = _local_cluster(
                            max(self.workers or os.cpu_count() or 1, self.gpus), self.gpus, self.dashboard
                        )
                try:
                    client = distributed.Client(cluster or self.scheduler, timeout=10, set_as_default=False)
                except OSError as error:
                    raise DataEngineError(f"no Dask scheduler answers at {self.scheduler}: {error}") from error
                yield Session(self, client)
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
        n_workers=0, threads_per_worker=1, processes=True, host="127.0.0.1",
        dashboard_address=f"127.0.0.1:{8787 if dashboard else 0}", worker_dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": dashboard}, silence_logs=logging.CRITICAL, env=THREADS,
    )  # fmt: skip
    cluster.scale(workers)
    return cluster


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
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


class Session:
    """Runs the units of passes while an engine is open."""

    def __init__(self, engine: Engine, client: Any) -> None:
        self.engine = engine
        self.client = client

    def run(
        self,
        runner: Runner,
        arguments: Sequence[Any],
        units: Mapping[str, Sequence[str]],
        receive: Callable[[Receipt], None],
        pulse: Callable[[str], Path] | None = None,
        gpu: bool = False,
    ) -> None:
        """Run `runner(*arguments, unit, quarantine, only)` for every unit and hand its receipt to `receive`.

        Args:
            runner: a module-level function; what it raises ends the run.
            units: unit -> ids of its clips, in the order to run them.
            pulse: the file that the runner touches before each clip of a unit; then the deadline runs
                from the last touch, else from the start for all clips together.
            gpu: run them on workers with the resource GPU alone, where any has it.
        """
        if self.client is None:
            for unit in units:
                receive(runner(*arguments, unit, {}, None))
            return
        waiting = deque(Ticket(unit, tuple(clips)) for unit, clips in units.items())
        casebook = Casebook()
        flying: dict[Any, tuple[Ticket, float]] = {}
        slots = self._gpu_slots() if gpu else 0
        try:
            while waiting or flying:
                while waiting and len(flying) < (slots or self._slots()):
                    ticket = waiting.popleft()
                    clips = ticket.clips or tuple(units[ticket.unit])
                    ticket = Ticket(ticket.unit, clips, ticket.quarantine, ticket.probe)
                    future = self.client.submit(
                        runner,
                        *arguments,
                        ticket.unit,
                        dict(ticket.quarantine),
                        list(clips) if ticket.probe else None,
                        pure=False,
                        retries=0,
                        resources=GPU if slots else None,
                    )
                    flying[future] = (ticket, time.time())
                self._wait(flying)
                for future, (ticket, sent) in list(flying.items()):
                    again = self._settle(future, ticket, self._due(ticket, sent, pulse), casebook, receive)
                    if again is not None:
                        del flying[future]
                        waiting.extendleft(reversed(again))
        finally:
            self.client.cancel(list(flying), force=True)

    def _restart(self, addresses: Sequence[str]) -> None:
        """End hung workers and have new ones started: at once where they are our own, through the scheduler elsewhere."""
        own = getattr(self.client.cluster, "workers", {}).values()
        pids = {nanny.worker_address: nanny.pid for nanny in own if getattr(nanny, "pid", None)}
        for address in addresses:
            if address in pids:
                with suppress(ProcessLookupError):
                    os.kill(pids[address], signal.SIGKILL)
        others = [address for address in addresses if address not in pids]
        if others:
            self.client.restart_workers(others, timeout=60, raise_for_error=False)

    def _due(self, ticket: Ticket, sent: float, pulse: Callable[[str], Path] | None) -> float:
        """When a ticket is overdue, as wall time: that is what files of other machines carry."""
        if pulse is None:
            return sent + GRACE + self.engine.clip_deadline * len(ticket.clips)
        with suppress(OSError):
            sent = max(sent, pulse(ticket.unit).stat().st_mtime)
        return sent + GRACE + self.engine.clip_deadline

    def _slots(self) -> int:
        return max(1, sum(self.client.nthreads().values()) or self.engine.workers or 1)

    def _gpu_slots(self) -> int:
        """How many units with a GPU run at once; 0 where no worker says that it has one."""
        if self.engine.scheduler is None:
            return self.engine.gpus
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return int(sum(worker["resources"].get("GPU", 0) for worker in workers))

    def _wait(self, flying: Mapping[Any, tuple[Ticket, float]]) -> None:
        import distributed

        try:
            with self.client.as_current():
                distributed.wait(list(flying), timeout=0.5, return_when="FIRST_COMPLETED")
        except (TimeoutError, distributed.TimeoutError):
            pass
        except distributed.CancelledError:
            time.sleep(0.05)

    def _settle(
        self, future: Any, ticket: Ticket, due: float, casebook: Casebook, receive: Callable[[Receipt], None]
    ) -> list[Ticket] | None:
        """What to run next if the future has ended or is overdue; None while it is still running."""
        import distributed

        if future.status == "finished":
            if not ticket.probe:
                receive(future.result())
            return casebook.done(ticket)
        if future.status == "error":
            error = future.exception()
            if isinstance(error, distributed.scheduler.KilledWorker):
                return casebook.died(ticket, "worker_killed")
            raise error
        if future.status in ("cancelled", "lost"):
            return casebook.died(ticket, "worker_killed")
        if time.time() < due:
            return None
        where = [address for address, keys in self.client.processing().items() if future.key in keys]
        self.client.cancel([future], force=True)
        self._restart(where)
        return casebook.died(ticket, "unit_timeout")
