"""The kinds of clusters, and what is told about one: on the command line, or in a file that a site keeps.

::

    kind = "slurm"                 # a file given as --cluster FILE.toml
    workers = "4..64"

    [options]                      # handed on to dask_jobqueue.SLURMCluster as they are
    queue = "gpu"
    memory = "32GB"
    walltime = "04:00:00"
    job_extra_directives = ["--gres=gpu:1"]

What starts workers is Dask's: `LocalCluster`, `SSHCluster`, or a class of dask-jobqueue.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pydantic

from dataengine.core import extras, resources, settings
from dataengine.core.errors import DataEngineError, MissingExtraError, RecipeError, suggestion
from dataengine.core.settings import Table

JOBQUEUE = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
}
"""Batch systems, and the class of dask-jobqueue for each."""

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

CONNECTED = 10.0
"""Seconds within which a scheduler is to answer."""

GPU = {"GPU": 1}
"""The resource that tasks for an accelerator take. Workers that see a GPU offer it."""

KINDS = ("local", "scheduler", "ssh", *JOBQUEUE)


class ClusterSettings(Table):
    """What is told about a cluster. No key changes a dataset."""

    kind: str = "local"
    """How workers are started: local, ssh, or a batch system (slurm, pbs, sge, lsf, htcondor, oar, moab); or scheduler,
    to join one that runs."""
    address: str | None = None
    """Address of the scheduler to join, such as tcp://HOST:8786 or tls://HOST:8786."""
    hosts: list[str] = pydantic.Field(default_factory=list)
    """Hosts of an ssh cluster. The scheduler runs on the first."""
    workers: str | int | None = None
    """How many workers, N, or a cluster that grows and shrinks with the work, MIN..MAX."""
    tls_ca: Path | None = None
    """Certificate of the authority that signed those of the cluster. With it every connection is encrypted."""
    tls_cert: Path | None = None
    """Own certificate."""
    tls_key: Path | None = None
    """Key of the own certificate."""
    options: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Options of the Dask class that starts the cluster, handed on as they are."""

    @property
    def title(self) -> str:
        """How lines for people call the cluster."""
        return {"local": "this machine", "scheduler": str(self.address)}.get(self.kind, f"the {self.kind} cluster")

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Least and greatest number of workers; None where nothing is told."""
        if self.workers is None:
            return None
        least, dots, most = str(self.workers).partition("..")
        return int(least), int(most if dots else least)

    @pydantic.field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}{suggestion(kind, KINDS)}")
        return kind

    @pydantic.field_validator("workers")
    @classmethod
    def _count(cls, workers: str | int | None) -> str | int | None:
        parts = [] if workers is None else str(workers).split("..")
        numbers = [int(part) for part in parts if part.isdecimal()]
        if len(numbers) != len(parts) or len(parts) > 2 or sorted(numbers) != numbers or (parts and numbers[-1] < 1):
            raise ValueError(f"{workers!r} is no number of workers: give N, or MIN..MAX such as 4..64")
        return workers

    @pydantic.model_validator(mode="after")
    def _whole(self) -> ClusterSettings:
        if (self.kind == "scheduler") != (self.address is not None):
            raise ValueError("kind 'scheduler' and an address go together")
        if self.address is not None and not re.fullmatch(r"([a-z]+://)?[^/\s]+:\d+/?", self.address):
            raise ValueError(f"{self.address!r} is no address of a scheduler: give tcp://HOST:PORT or tls://HOST:PORT")
        if (self.kind == "ssh") != bool(self.hosts):
            raise ValueError("kind 'ssh' and hosts go together: ssh:HOST,HOST or hosts = [...]")
        if self.kind == "scheduler" and self.workers is not None:
            raise ValueError("workers of a running scheduler are started beside it (dask worker ADDR --nthreads 1)")
        if len({self.tls_ca is None, self.tls_cert is None, self.tls_key is None}) > 1:
            raise ValueError("TLS needs tls_ca, tls_cert and tls_key")
        return self


def leave_out(kind: str, host: str) -> str:
    """What to do so that a cluster of this kind starts no workers on a host."""
    if kind == "slurm":
        return f'leave it out by job_extra_directives = ["--exclude={host}"] below [options] of --cluster FILE.toml'
    if kind in JOBQUEUE:
        return "leave it out by job_extra_directives below [options] of --cluster FILE.toml"
    if kind == "ssh":
        return f"leave {host} out of --cluster ssh:HOST,HOST"
    return "leave it out of the cluster"


def read(cluster: str | None, scheduler: str | None, workers: str | int | None) -> ClusterSettings:
    """What the options --cluster, --scheduler and --workers tell; a file's own keys stand behind the options.

    Args:
        cluster: a kind, ssh:HOST,HOST, or the path of a .toml file.

    Raises:
        RecipeError: unknown, wrong, or contradicting.
    """
    given: dict[str, Any] = {}
    where = "--cluster"
    if cluster is not None and cluster.endswith(".toml"):
        given, where = settings.read(Path(cluster)), cluster
        for key in ("tls_ca", "tls_cert", "tls_key"):
            if isinstance(given.get(key), str):
                given[key] = (Path(cluster).parent / given[key]).absolute()
    elif cluster is not None and cluster.startswith("ssh:"):
        given = {"kind": "ssh", "hosts": [host for host in cluster[4:].split(",") if host]}
    elif cluster is not None:
        given = {"kind": cluster}
    if scheduler is not None:
        if given.get("kind", "scheduler") != "scheduler":
            raise RecipeError(f"--scheduler joins a cluster and --cluster {cluster} starts one: give one of them")
        given |= {"kind": "scheduler", "address": scheduler}
        where = "--scheduler" if cluster is None else where
    if workers is not None:
        given["workers"] = workers
        where = "--workers" if cluster is None else where
    try:
        return ClusterSettings(**given)
    except pydantic.ValidationError as error:
        raise RecipeError(f"{where}: {_explained(error)}") from error


def _explained(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{suggestion(key, ClusterSettings.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    return message if first["type"] == "value_error" else f"{key} = {first.get('input')!r}: {message}"


def tls(told: ClusterSettings) -> dict[str, Any]:
    """The settings of Dask for the certificates that were told; those of Dask's own files and variables stand else."""
    if told.tls_ca is None:
        return {}
    found: dict[str, Any] = {
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.ca-file": str(told.tls_ca),
    }
    for role in ("scheduler", "worker", "client"):
        found[f"distributed.comm.tls.{role}.cert"] = str(told.tls_cert)
        found[f"distributed.comm.tls.{role}.key"] = str(told.tls_key)
    return found


def start(told: ClusterSettings, gpus: int = 0, dashboard: bool = False) -> Any:
    """Start a cluster; the workers come on their own.

    Args:
        gpus: how many of the workers of a local cluster have a GPU each; at least so many are started.
        dashboard: serve the dashboard of a local cluster on loopback.

    Raises:
        MissingExtraError: the library that starts this kind is not installed.
        RecipeError: it refuses the options.
    """
    if told.kind == "local":
        with _ignoring_interrupts():
            return _local(told, gpus, dashboard)
    if not extras.installed("cluster"):
        raise MissingExtraError(f"--cluster {told.kind}", "cluster")
    try:
        return _ssh(told) if told.kind == "ssh" else _jobqueue(told)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"--cluster {told.kind} refuses its options: {error}") from error
    except (OSError, RuntimeError) as error:
        raise RecipeError(f"--cluster {told.kind} does not start: {' '.join(str(error).split())[:500]}") from error


def _ssh(told: ClusterSettings) -> Any:
    from distributed import SSHCluster

    options = dict(told.options)
    least, _ = told.bounds or (len(told.hosts), 0)
    each = -(-least // len(told.hosts))
    workers = {"n_workers": each, "nthreads": 1, **options.pop("worker_options", {})}
    scheduler = {"idle_timeout": "6 hours", **options.pop("scheduler_options", {})}
    protocol = {"protocol": "tls"} if told.tls_ca is not None else {}
    return SSHCluster(
        [told.hosts[0], *told.hosts],
        worker_options=protocol | workers,
        scheduler_options=protocol | scheduler,
        **options,
    )


def jobs(told: ClusterSettings) -> dict[str, Any]:
    """The options of a class of dask-jobqueue: one process a job with one thread, unless told otherwise; encrypted."""
    options = {"processes": 1, "memory": "8GB", "protocol": "tls://", **told.options}
    options.setdefault("cores", options["processes"])
    options.setdefault("worker_extra_args", ["--no-dashboard"])
    options["scheduler_options"] = {
        "dashboard": False,
        "dashboard_address": ":0",
        **options.get("scheduler_options", {}),
    }
    if told.tls_ca is None and options["protocol"] == "tls://" and options.setdefault("security", True) is True:
        # keys for this cluster alone, made by dask-jobqueue, in files that jobs on other hosts read
        options.setdefault("shared_temp_directory", str(Path.home()))
    return options


def _jobqueue(told: ClusterSettings) -> Any:
    import dask_jobqueue

    cluster = getattr(dask_jobqueue, JOBQUEUE[told.kind])(**jobs(told))
    least, most = told.bounds or (1, 1)
    if least == most:
        cluster.scale(n=least)
    else:
        grow(cluster, least, most)
    return cluster


def grow(cluster: Any, least: int, most: int) -> None:
    """Let a cluster have as many workers as there are units that run or wait, within bounds.

    Dask reckons how long what waits would take the workers there are; a target below its guess for tasks never seen
    makes each waiting unit ask for a worker. One worker at least is there, since a build asks what workers see before
    it has units for them.
    """
    cluster.adapt(minimum=max(least, 1), maximum=most, interval="1s", target_duration="200ms", wait_count=30)


def _local(told: ClusterSettings, gpus: int, dashboard: bool) -> Any:
    """Single-threaded processes on this machine, on loopback alone; the first `gpus` of them hold the resource GPU."""
    import distributed

    from dataengine.pipeline import loopback

    class LocalCluster(distributed.LocalCluster):  # type: ignore[misc]
        def new_worker_spec(self) -> dict[int, dict[str, Any]]:
            spec = super().new_worker_spec()
            return {
                n: {**one, "options": {**one["options"], "resources": GPU if n < gpus else {}}}
                for n, one in spec.items()
            }

    cluster = LocalCluster(
        **told.options,
        n_workers=0,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        protocol=loopback.PREFIX,
        dashboard_address=f"127.0.0.1:{8787 if dashboard else 0}",
        worker_dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": dashboard},
        silence_logs=logging.CRITICAL,
        env={**THREADS, **loopback.own_secret()},
        preload=[loopback.__name__],
    )
    least, most = told.bounds or (resources.cpu_count(), 0)
    if least < most:
        grow(cluster, max(least, gpus), max(most, gpus))
    else:
        cluster.scale(max(least, gpus))
    return cluster


def connect(target: Any, address: str | None) -> Any:
    """Dask's client of a cluster that was started, or of the scheduler at an address.

    Raises:
        DataEngineError: nobody answers, or certificates are wanted.
    """
    import distributed

    try:
        return distributed.Client(target, timeout=CONNECTED, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DataEngineError(f"no Dask scheduler answers at {address}: {error}") from error
    except TypeError as error:
        raise DataEngineError(
            f"the scheduler at {address} wants certificates: give tls_ca, tls_cert and tls_key in --cluster FILE.toml"
        ) from error


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


def kill(cluster: Any) -> None:
    """End a local cluster's workers at once, for good."""
    for nanny in getattr(cluster, "workers", {}).values():
        nanny.auto_restart = False
        with suppress(ProcessLookupError, TypeError):
            os.kill(nanny.pid, signal.SIGKILL)
