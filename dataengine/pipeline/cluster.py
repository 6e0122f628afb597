"""Clusters: what makes or joins one, and what a dispatcher asks of it.

Processes, restarts of dead workers and placement are Dask's. What this module adds holds on every cluster, also where
somebody else started the scheduler: a worker that dies costs the unit it ran and no other, every worker is asked before
its first task (`dataengine.pipeline.admission`), and a scheduler that is gone is one line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from dataengine.core import devices
from dataengine.core.errors import DataEngineError
from dataengine.pipeline import cluster_kinds, watches
from dataengine.pipeline.admission import TOPIC, admission
from dataengine.pipeline.cluster_kinds import ClusterSettings

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

NO_PAGES: dict[str, list[str]] = {f"distributed.{server}.http.routes": [] for server in ("scheduler", "worker")}
"""Settings of a cluster of ours without a dashboard: its servers tell other users of the network nothing."""

PER_SLOT = 2
"""Units sent for each slot: one runs and one waits, so that no worker idles while its next unit travels. What waits is
also what an adaptive cluster grows by."""

LINES = 3
"""Refusals of one host that are told. A batch system may start workers on a bad node again and again, each refused in
other words, such as how many bytes are free there."""

SILENT = 60.0
"""Seconds without an answer of a scheduler, such as one that is stopped, before the driver says so, and between two
such lines."""

FRESH = 1.0
"""Seconds for which what the scheduler says of its workers holds."""

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
        say: shows one line to whoever runs the build.
        local: whether its workers are processes of this host alone.
        refused: host and problem -> names of workers that were refused for it.
    """

    client: Any
    name: str
    say: Callable[[str], None] = field(default=lambda line: None)
    local: bool = False
    refused: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    _told: set[tuple[str, str]] = field(default_factory=set)
    _workers: tuple[float, dict[str, dict[str, Any]]] = (-FRESH, {})
    _last_seen: float = field(default_factory=time.monotonic)

    def workers(self) -> Mapping[str, Mapping[str, Any]]:
        """Address -> what the scheduler knows of each worker that may run tasks, at most FRESH seconds ago.

        Raises:
            DataEngineError: the scheduler is gone, or every worker was refused.
        """
        asked, found = self._workers
        if time.monotonic() - asked >= FRESH:
            with self.connected(), self._telling_silence():
                known = self.client.scheduler_info(n_workers=-1)["workers"]
            found = {address: one for address, one in known.items() if one["status"] == "running"}
            self._workers = (time.monotonic(), found)
            self._review(bool(found))
        return found

    @contextmanager
    def _telling_silence(self) -> Iterator[None]:
        """Say every SILENT seconds that the scheduler, which is connected, does not answer the block."""
        answered, begun = threading.Event(), time.monotonic()

        def tell() -> None:
            while not answered.wait(SILENT):
                self.say(f"the scheduler of {self.name} has not answered for {time.monotonic() - begun:.0f} s")

        watching = threading.Thread(target=tell, daemon=True)
        watching.start()
        try:
            yield
        finally:
            answered.set()
            watching.join()

    def slots(self, gpu: bool) -> int:
        """How many tasks run at once, now; with `gpu` on workers that offer one."""
        if gpu:
            return int(sum(one["resources"].get("GPU", 0) for one in self.workers().values()))
        return sum(one["nthreads"] for one in self.workers().values())

    def window(self, gpu: bool) -> int:
        """How many tasks to have in flight, now."""
        return max(1, self.slots(gpu)) * PER_SLOT

    def _review(self, any_left: bool) -> None:
        """Say who was refused, once for each host and problem, and a few lines of a host; stop where nobody is left."""
        for (host, problem), names in list(self.refused.items()):
            if (host, problem) not in self._told:
                self._told.add((host, problem))
                if (of_host := sum(one == host for one, _ in self._told)) > LINES:
                    if of_host == LINES + 1:
                        self.say(
                            f"workers on {host} go on being refused, and no more is said of them: leave that host out "
                            "of the cluster, or mend it"
                        )
                    continue
                self.say(f"worker {', '.join(sorted(names))} on {host} is refused: {problem}")
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
        if not self.workers():
            self.say(f"waiting for workers of {self.name}")
        while not self.workers():
            time.sleep(0.2)
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
        self._workers = (-FRESH, {})

    def _admit(self, name: str, plugin: Any) -> None:
        with self.connected():
            try:
                self.client.register_plugin(plugin, name=name)
            except OSError:
                raise
            except Exception as error:  # raised where a worker cannot even read the questions
                said = " ".join(f"{type(error).__name__}: {error}".split())
                others = _other_pythons(self.client)
                who = f"{others} of {self.name}; it" if others else f"a worker of {self.name}"
                raise DataEngineError(
                    f"{who} cannot read what it is asked ({said}); "
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
        """Take futures back; where the scheduler is gone, they are gone, too."""
        with suppress(OSError, RuntimeError):
            self.client.cancel(list(futures), force=True)

    def running_on(self, future: Any) -> list[str]:
        """Addresses of the workers that run a future."""
        with self.connected():
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
        return DataEngineError(
            f"the scheduler of {self.name} is gone; what was finished is kept: "
            "start it again and run the same command to continue"
        )

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
            with self.connected(), suppress(ValueError, KeyError):  # a worker that ended meanwhile
                self.client.restart_workers(others, timeout=60, raise_for_error=False)


@contextmanager
def opened(
    told: ClusterSettings,
    gpus: int = 0,
    dashboard: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Cluster]:
    """A cluster, joined or started, for as long as the context lasts.

    Args:
        told: which.
        gpus: how many of the workers of a local cluster have a GPU each; at least so many are started.
        dashboard: serve Dask's dashboard on loopback.
        say: shows one line to whoever runs the build.

    Raises:
        DataEngineError: no scheduler answers, or the cluster cannot be started.
    """
    import dask
    import distributed  # brings the defaults of its settings

    del distributed
    local = told.kind == "local"
    quiet = NO_PAGES if told.kind != "scheduler" and not dashboard else {}
    with dask.config.set({**SETTINGS, **quiet, **cluster_kinds.tls(told)}), ExitStack() as closing:
        for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        started = None
        try:
            if told.kind != "scheduler":
                started = cluster_kinds.start(told, gpus, dashboard)
                closing.callback(_close, started, 2.0 if local else 30.0)  # elsewhere jobs are taken back
            client = _client(started or told.address, told.address)
            closing.callback(_close, client)
            name = {"local": "this machine", "scheduler": str(told.address)}.get(told.kind, f"the {told.kind} cluster")
            cluster = Cluster(client, name, say, local)
            if not local:
                before = _settle(client, OURS)
                closing.callback(_settle, client, before)
                if told.kind == "ssh":
                    client.run_on_scheduler(watches.ending_with_its_driver(), ALONE)
                _dismiss(client)  # what a driver that was killed asked
                client.subscribe_topic(TOPIC, cluster.note_refusal)
                cluster._admit("dataengine-admission", admission())
                closing.callback(_dismiss, client)
                client.run_on_scheduler(watches.without_its_driver(), client.id, QUESTIONS, dict(before))
            yield cluster
        except BaseException:
            if local:
                cluster_kinds.kill(
                    started
                )  # units in flight are of no more use, and waiting for them to end well takes long
            raise


def _other_pythons(client: Any) -> str:
    """Which workers run another Python than the driver, in its first two numbers, for people; '' for none.

    Dask asks for versions without code that travels, so that every worker can answer.
    """
    with suppress(Exception):
        own = ".".join(platform.python_version_tuple()[:2])
        found = client.get_versions()["workers"]
        pythons = {address: ".".join(str(one["host"]["python"]).split(".")[:2]) for address, one in found.items()}
        others = [f"worker {address} runs Python {one}" for address, one in sorted(pythons.items()) if one != own]
        if others:
            more = f" (and {len(others) - 1} more workers another one)" if len(others) > 1 else ""
            return f"{others[0]}{more}, the driver {own}"
    return ""


def _client(target: Any, address: str | None) -> Any:
    import distributed

    try:
        return distributed.Client(target, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DataEngineError(f"no Dask scheduler answers at {address}: {error}") from error
    except TypeError as error:
        raise DataEngineError(
            f"the scheduler at {address} wants certificates: give tls_ca, tls_cert and tls_key in --cluster FILE.toml"
        ) from error


QUESTIONS = ("dataengine-handshake", "dataengine-admission")
"""Names of the plugins of Dask's workers that ask what a build must know of them."""


def _close(closing: Any, timeout: float = 2.0) -> None:
    with suppress(Exception):
        closing.close(timeout=timeout)


def _dismiss(client: Any) -> None:
    """Take questions of a build back from a scheduler that goes on without it."""
    for name in QUESTIONS if client.status == "running" else ():
        with suppress(Exception):
            client.unregister_worker_plugin(name)


OURS = {"failures": 0, "saturation": 1.0, "stealing": False}
"""How a scheduler treats our units: one that loses its worker comes back to the driver at once, which knows better, and
none moves between workers."""


ALONE = 60.0
"""Seconds without a client after which a scheduler that we started over SSH ends, and its workers with it."""


def _settle(client: Any, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """Have a scheduler, which may be somebody else's, treat tasks as `wanted`; how it did before.

    Dask reads these settings in the scheduler's process, where our configuration does not reach.
    """

    # It travels by value: a scheduler needs no dataengine.
    async def settle(wanted: Mapping[str, Any], dask_scheduler: Any) -> dict[str, Any]:
        stealing = dask_scheduler.extensions.get("stealing")
        before = {
            "failures": dask_scheduler.allowed_failures,
            "saturation": dask_scheduler.WORKER_SATURATION,
            "stealing": "stealing" in dask_scheduler.periodic_callbacks,
        }
        dask_scheduler.allowed_failures = wanted["failures"]
        dask_scheduler.WORKER_SATURATION = wanted["saturation"]
        if stealing is not None and wanted["stealing"] != before["stealing"]:
            await (stealing.start() if wanted["stealing"] else stealing.stop())
        return before

    if client.status != "running":
        return {}
    try:
        return dict(client.run_on_scheduler(settle, dict(wanted)))
    except Exception:
        if client.status == "running":
            raise
        return {}
