"""Clusters: what makes or joins one, and what a dispatcher asks of it.

Processes, restarts of dead workers and placement are Dask's. What this module adds holds on every cluster, also where
somebody else started the scheduler: a worker that dies costs the unit it ran and no other, every worker is asked before
its first task (`dataengine.pipeline.admission`), and a scheduler that is gone is one line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from dataengine.core import devices
from dataengine.core.errors import DataEngineError
from dataengine.core.progress import Progress
from dataengine.pipeline import cluster_kinds, silence, watches
from dataengine.pipeline.admission import TOPIC, admission
from dataengine.pipeline.cluster_kinds import ClusterSettings
from dataengine.pipeline.scheduler_settings import OURS, QUESTIONS, dismiss, python_of_scheduler, settle

SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.admin.log-length": 100,
    # a worker that dies is dropped for good where it is not back within 15 s by default; busy machines take longer
    "distributed.deploy.lost-worker-timeout": "300s",
    # a restarted worker need not import everything anew
    "distributed.worker.multiprocessing-method": "forkserver",
}

NO_PAGES: dict[str, list[str]] = {f"distributed.{server}.http.routes": [] for server in ("scheduler", "worker")}
"""Settings of a cluster of ours without a dashboard: its servers tell other users of the network nothing."""

PER_SLOT = 2
"""Units sent for each slot: one runs and one waits, so that no worker idles while its next unit travels. What waits is
also what an adaptive cluster grows by."""

LINES = 3
"""Refusals of one host that are told. A batch system may start workers on a bad node again and again, each refused in
other words, such as how many bytes are free there."""

FRESH = 1.0
"""Seconds for which what the scheduler says of its workers holds."""

HEARD = 10.0
"""Seconds that a scheduler gets to hear what was cancelled. One that is slower may run some units twice."""

PATIENCE = 30.0
"""Seconds without a worker after which a build of whose workers some were refused stops."""

PATIENCE_HERE = 300.0
"""Seconds without a worker after which a build on this machine stops: its workers are its own, and start in seconds."""


@dataclass
class Cluster:
    """An open cluster.

    Attributes:
        client: Dask's client of it.
        name: how errors call it.
        progress: shows lines, and what is waited for, to whoever runs the build.
        kind: of `ClusterSettings`.
        refused: host and problem -> names of workers that were refused for it.
        begun: when connecting to it began, by `time.monotonic`; None once its first workers were there.
        silent: seconds without an answer after which the scheduler was given up; None while it answers.
    """

    client: Any
    name: str
    progress: Progress = field(default_factory=Progress)
    kind: str = "scheduler"
    begun: float | None = None
    refused: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    silent: float | None = None
    _told: set[tuple[str, str]] = field(default_factory=set)
    _workers: tuple[float, dict[str, dict[str, Any]]] = (-FRESH, {})
    _ended: set[str] = field(default_factory=set)  # folders, one for each process, of workers that were ended here
    _last_seen: float = field(default_factory=time.monotonic)

    @property
    def local(self) -> bool:
        """Whether its workers are processes of this host alone."""
        return self.kind == "local"

    def workers(self) -> Mapping[str, Mapping[str, Any]]:
        """Address -> what the scheduler knows of each worker that may run tasks, at most FRESH seconds ago.

        Raises:
            DataEngineError: the scheduler is gone, or every worker was refused.
        """
        asked, found = self._workers
        if time.monotonic() - asked >= FRESH:
            with self.asking():
                known = self.client.scheduler_info(n_workers=-1)["workers"]
            running = {address: one for address, one in known.items() if one["status"] == "running"}
            found = {key: one for key, one in running.items() if one.get("local_directory") not in self._ended}
            self._workers = (time.monotonic(), found)
            self._review(bool(found))
        return found

    def changed(self) -> None:
        """A worker has left or come: what was said of the workers holds no longer."""
        self._workers = (-FRESH, self._workers[1])

    @contextmanager
    def asking(self, limit: float | None = None) -> Iterator[None]:
        """Have the scheduler answer in the block; say that it does not, and end where it stays silent.

        Args:
            limit: seconds; default `silence.LIMIT`.

        Raises:
            DataEngineError: the scheduler is gone, or silent.
        """

        def told(seconds: float, over: bool) -> None:
            if over:
                self.silent = seconds
            else:
                self.progress.say(f"the scheduler of {self.name} has not answered for {seconds:.0f} s")

        with self.connected(), silence.answering(self.client, silence.LIMIT if limit is None else limit, told):
            yield

    def ready(self) -> None:
        """Return when there is a worker.

        Raises:
            DataEngineError: as `workers`.
        """
        with self.progress.waiting(self._awaited, self.begun):
            while not self.workers():
                time.sleep(0.2)
        self.begun = None

    def _awaited(self) -> str:
        """What is waited for, while no worker is there."""
        if self.local:
            return f"worker processes start: 0 of {max(len(self.client.cluster.plan), 1)}"
        refused = len({name for names in self.refused.values() for name in names})
        return f"waiting for workers of {self.name}: 0 are there" + (f", {refused} were refused" if refused else "")

    def slots(self, gpu: bool, aside: Collection[str] = ()) -> int:
        """How many tasks run at once, now; with `gpu` on workers that offer one, and not on the hosts `aside`."""
        workers = [one for one in self.workers().values() if one["host"] not in aside]
        return int(sum(one["resources"].get("GPU", 0) if gpu else one["nthreads"] for one in workers))

    def window(self, gpu: bool, aside: Collection[str] = ()) -> int:
        """How many tasks to have in flight, now, beside the hosts `aside`.

        Those of a worker that has ended are missing until it is back. Else they would all be sent to others, where Dask
        leaves them, and it would have no work.
        """
        return max(1, self.slots(gpu, aside)) * PER_SLOT

    def _review(self, any_left: bool) -> None:
        """Say who was refused, once for each host and problem, and a few lines of a host; stop where nobody is left."""
        for (host, problem), names in list(self.refused.items()):
            if (host, problem) not in self._told:
                self._told.add((host, problem))
                if (of_host := sum(one == host for one, _ in self._told)) > LINES:
                    if of_host == LINES + 1:
                        self.progress.say(
                            f"workers on {host} go on being refused, and no more is said of them: mend that host, or "
                            + cluster_kinds.leave_out(self.kind, host)
                        )
                    continue
                self.progress.say(f"worker {', '.join(sorted(names))} on {host} is refused: {problem}")
        now = time.monotonic()
        if any_left:
            self._last_seen = now
        elif self.refused and now - self._last_seen > PATIENCE:
            why = "; ".join(f"{host}: {problem}" for host, problem in sorted(self.refused))
            raise DataEngineError(
                f"{self.name} has no worker left, all were refused ({why}); mend them and build again"
            )
        elif self.local and now - self._last_seen > PATIENCE_HERE:
            raise DataEngineError(
                f"no worker process has run on this machine for {PATIENCE_HERE:.0f} s, though they were started "
                "(memory may be short); what was finished is kept: run the same command to continue"
            )

    def device(self, wanted: str) -> str:
        """The device of a build: what the workers see decides, not what this process sees.

        Args:
            wanted: auto, cpu or cuda.

        Raises:
            DataEngineError: cuda where no worker sees a GPU, or every worker was refused.
        """
        if self.local or wanted not in ("auto", "cuda"):
            return devices.pick(wanted)
        self.ready()
        if self.slots(gpu=True):
            return "cuda"
        if wanted == "auto":
            return "cpu"
        raise DataEngineError(
            f"--device cuda: none of the {len(self.workers())} workers of {self.name} sees a GPU; "
            "start some on hosts that have one, or use --device cpu"
        )

    def ask(self, asked: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """Have every worker, also later ones, answer a question of `dataengine.pipeline.handshake` before its work.

        Args:
            own: what this process answers. A worker that differs is refused.
        """
        self._admit("dataengine-handshake", admission(asked, own))
        self.changed()

    def _admit(self, name: str, plugin: Any) -> None:
        with self.progress.waiting(f"asking the workers of {self.name} what they are"), self.asking():
            try:
                self.client.register_plugin(plugin, name=name)
            except OSError:
                raise
            except Exception as error:  # raised where a worker cannot even read the questions
                said = " ".join(f"{type(error).__name__}: {error}".split())
                raise DataEngineError(
                    f"a worker of {self.name} cannot read what it is asked ({said}); "
                    "give all workers the driver's version of Python and of Dask"
                ) from error

    def note_refusal(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Take up one event of admission; called by Dask's client in its own thread."""
        _, told = event
        for problem in told["problems"]:
            self.refused.setdefault((told["host"], problem), set()).add(told["name"])

    def hosts(self) -> set[str]:
        """Hosts of the workers that are there now, by their addresses."""
        return {str(one["host"]) for one in self.workers().values()}

    def cancel(self, futures: Sequence[Any]) -> None:
        """Take futures back; where the scheduler is gone or silent, they are gone, too."""
        if futures:
            with suppress(OSError, RuntimeError), silence.answering(self.client, silence.CLOSING):
                self.client.cancel(list(futures), force=True)

    def take_back(self, futures: Sequence[Any]) -> None:
        """Cancel, and return when the scheduler has heard it.

        It hears of cancelled futures on one connection and of workers that end on others. Where it hears of a worker
        first, it has the futures that were there made anew.
        """
        self.cancel(futures)
        keys, end = [future.key for future in futures], time.monotonic() + HEARD
        while keys and time.monotonic() < end:
            with self.asking():
                held = self.client.sync(self.client.scheduler.who_has, keys=keys)
                running = {key for of_worker in self.client.processing().values() for key in of_worker}
            keys = [key for key in keys if held[key] or key in running]
            if keys:
                time.sleep(0.01)

    def running_on(self, future: Any) -> list[str]:
        """Addresses of the workers that run a future."""
        with self.asking():
            return [address for address, keys in self.client.processing().items() if future.key in keys]

    def wait(self, futures: Sequence[Any]) -> None:
        """Return when one of the futures has ended, or after half a second.

        Raises:
            DataEngineError: the scheduler is gone.
        """
        import distributed

        with self.connected():
            try:
                with self.client.as_current():
                    distributed.wait(futures, timeout=0.5, return_when="FIRST_COMPLETED")
            except (TimeoutError, distributed.TimeoutError):
                pass
            except distributed.CancelledError:
                time.sleep(0.05)
        self.workers()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Turn whatever fails because the scheduler is gone into one line."""
        try:
            yield
        except DataEngineError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            from distributed.comm import CommClosedError

            time.sleep(0.1)  # the client's own thread notes the loss
            if self.client.status != "running" or isinstance(error, CommClosedError):
                raise self._gone() from error
            raise
        if self.client.status != "running":
            raise self._gone()

    def _gone(self) -> DataEngineError:
        if self.silent is not None:
            return DataEngineError(
                f"the scheduler of {self.name} has not answered for {self.silent:.0f} s and is given up; what was "
                "finished is kept: see what holds it up, or start another, and run the same command to continue"
            )
        return DataEngineError(
            f"the scheduler of {self.name} is gone; what was finished is kept: "
            "start it again and run the same command to continue"
        )

    def restart(self, addresses: Sequence[str]) -> None:
        """End hung workers and have new ones started: at once where they are our own, through the scheduler
        elsewhere."""
        own = getattr(self.client.cluster, "workers", {}).values()
        pids = {nanny.worker_address: nanny.pid for nanny in own if getattr(nanny, "pid", None)}
        known = self._workers[1]
        for address in addresses:
            if address in pids:
                self._ended |= {known[address]["local_directory"]} if address in known else set()
                with suppress(ProcessLookupError):
                    os.kill(pids[address], signal.SIGKILL)
        others = [address for address in addresses if address not in pids]
        if others:
            with self.asking(), suppress(ValueError, KeyError):  # a worker that ended meanwhile
                self.client.restart_workers(others, timeout=60, raise_for_error=False)
        self.changed()


@contextmanager
def opened(
    told: ClusterSettings, gpus: int = 0, dashboard: bool = False, progress: Progress | None = None
) -> Iterator[Cluster]:
    """A cluster, joined or started, for as long as the context lasts.

    Args:
        told: which.
        gpus: how many of the workers of a local cluster have a GPU each; at least so many are started.
        dashboard: serve Dask's dashboard on loopback.
        progress: shows lines, and what is waited for, to whoever runs the build.

    Raises:
        DataEngineError: no scheduler answers, or the cluster cannot be started.
    """
    progress = progress or Progress()
    begun, local = time.monotonic(), told.kind == "local"
    awaited = "worker processes start" if local else f"connecting to {told.title}"
    with progress.waiting(awaited, begun):
        import dask
        import distributed  # brings the defaults of its settings

        del distributed
    quiet = NO_PAGES if told.kind != "scheduler" and not dashboard else {}
    with dask.config.set({**SETTINGS, **quiet, **cluster_kinds.tls(told)}), ExitStack() as closing:
        for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        started = None
        try:
            with progress.waiting(awaited, begun):
                if told.kind != "scheduler":
                    started = cluster_kinds.start(told, gpus, dashboard)
                    closing.callback(_close, started, 2.0 if local else 30.0)  # elsewhere jobs are taken back
                client = cluster_kinds.connect(started or told.address, told.address)
                closing.callback(_close, client)
            cluster = Cluster(client, told.title, progress, told.kind, begun)
            if not local:
                _join(cluster, told, closing)
            yield cluster
        except BaseException:
            if local:  # units in flight are of no more use, and waiting for them to end well takes long
                cluster_kinds.kill(started)
            raise


def _join(cluster: Cluster, told: ClusterSettings, closing: ExitStack) -> None:
    """Have a scheduler elsewhere treat units as ours and its workers ask for admission, until `closing` closes."""
    client = cluster.client
    with cluster.asking():
        try:
            before = settle(client, OURS)
        except Exception as error:  # code that travels, which a scheduler of another Python cannot read
            python, own = python_of_scheduler(client), ".".join(map(str, sys.version_info[:2]))
            if python in ("", own):
                raise
            raise DataEngineError(
                f"the scheduler of {cluster.name} runs Python {python}, the driver {own}; start it with the driver's "
                "version, and the workers, too"
            ) from error
    closing.callback(_ended_well, client, settle, before)
    if told.kind == "ssh":
        with cluster.asking():
            client.run_on_scheduler(watches.ending_with_its_driver(), watches.ALONE)
    with cluster.asking():
        dismiss(client)  # what a driver that was killed asked
        client.subscribe_topic(TOPIC, cluster.note_refusal)
    cluster._admit("dataengine-admission", admission())
    closing.callback(_ended_well, client, dismiss)
    with cluster.asking():
        client.run_on_scheduler(watches.without_its_driver(), client.id, QUESTIONS, dict(before))


def _ended_well(client: Any, ask: Callable[..., Any], *given: Any) -> None:
    """Ask something of a scheduler at the end, unless it is gone; one that is silent does not hold the end up."""
    if client.status == "running":
        with suppress(Exception), silence.answering(client, silence.CLOSING):
            ask(client, *given)


def _close(closing: Any, timeout: float = 2.0) -> None:
    with suppress(Exception):
        closing.close(timeout=timeout)
