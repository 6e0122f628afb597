"""The engine: how the tasks of passes are run, on a cluster or in the caller.

Processes, restarts of dead workers and placement are Dask's (`dataengine.pipeline.cluster`). The ledger is the truth
of what is done. What travels is small tasks and small receipts (`dataengine.pipeline.task`).
`dataengine.pipeline.dispatch` runs the tasks of one pass; `dataengine.pipeline.health` knows how the hosts do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.core import devices
from dataengine.core.progress import Progress
from dataengine.pipeline import cluster as clusters
from dataengine.pipeline import handshake
from dataengine.pipeline.attempts import ATTEMPTS, Runner
from dataengine.pipeline.cluster_kinds import ClusterSettings
from dataengine.pipeline.dispatch import DaskRun, run_serial, run_together
from dataengine.pipeline.health import Health
from dataengine.pipeline.journal import Journal
from dataengine.pipeline.task import Receipt, Task
from dataengine.pipeline.troubles import RunOptions, SetAside, Stage, Troubles


@dataclass(frozen=True)
class Engine:
    """How tasks are run.

    Attributes:
        workers: number of local processes (None: one a core).
        scheduler: address of a Dask scheduler to use instead of a local cluster.
        serial: run in the caller, one after another, for debugging; no deadline, no quarantine for what kills it.
        dashboard: serve Dask's dashboard on loopback.
        clip_deadline: seconds without a sign of life after which a clip is taken to hang.
        host_failures: failures of the environment in a row after which a host is set aside.
        failure_share: share of attempts that may fail for one reason before the build stops.
        gpus: how many of the local workers have a GPU each, the resource "GPU" of Dask; at least so many are started.
        cluster: which cluster to use, in place of `workers` and `scheduler`.
    """

    workers: int | None = None
    scheduler: str | None = None
    serial: bool = False
    dashboard: bool = False
    clip_deadline: float = 180.0
    gpus: int = 0
    host_failures: int = 3
    failure_share: float = 0.5
    cluster: ClusterSettings | None = None

    @property
    def told(self) -> ClusterSettings:
        """Which cluster to use."""
        if self.cluster is not None:
            return self.cluster
        kind = "local" if self.scheduler is None else "scheduler"
        return ClusterSettings(kind=kind, address=self.scheduler, workers=self.workers if kind == "local" else None)

    @property
    def remote(self) -> bool:
        """Whether workers may run on other hosts than this process."""
        return not self.serial and self.told.kind != "local"

    def device(self, wanted: str) -> str:
        """The device where it is known before the engine is open; else `wanted`, since the workers decide.

        Raises:
            RecipeError: an unknown name, or 'cuda' where nothing can use a GPU.
        """
        return devices.named(wanted) if self.remote else devices.pick(wanted)

    @contextmanager
    def open(self, progress: Progress | None = None, gpus: int = 0) -> Iterator[Dispatcher]:
        """The means to run tasks, for as long as the context lasts.

        Workers of this host are started when the first task is to run, so that a build that has nothing to do starts
        none. A cluster elsewhere is joined at once, since what its workers see decides the device.

        Args:
            progress: shows lines, and what is waited for, to whoever runs the build.
            gpus: how many of the workers on this host have a GPU each; at least so many are started.
        """
        with ExitStack() as closing:

            def opening() -> clusters.Cluster:
                found = clusters.opened(self.told, max(gpus, self.gpus), self.dashboard, progress or Progress())
                return closing.enter_context(found)

            if self.serial:
                yield Dispatcher(self, None)
            elif self.remote:
                yield Dispatcher(self, opening())
            else:
                yield Dispatcher(self, None, opening)


class Dispatcher:
    """Runs the tasks of passes while an engine is open.

    Args:
        cluster: where tasks run; None for this process, or for what `opening` gives.
        opening: opens the cluster when it is first needed.
    """

    def __init__(
        self,
        engine: Engine,
        cluster: clusters.Cluster | None,
        opening: Callable[[], clusters.Cluster] | None = None,
    ) -> None:
        self.engine = engine
        self.health = Health(engine.host_failures, engine.failure_share, engine.told.kind)
        self._cluster, self._opening = cluster, opening

    @property
    def cluster(self) -> clusters.Cluster | None:
        """The open cluster, opened now if need be; None where everything runs in this process."""
        if self._cluster is None and self._opening is not None:
            self._cluster = self._opening()
        return self._cluster

    def ready(self) -> None:
        """Return when there is a worker; says what is waited for."""
        if self.cluster is not None:
            self.cluster.ready()

    def device(self, wanted: str) -> str:
        """The device of a build; where workers run on other hosts, what they see decides."""
        if self._cluster is None or not self.engine.remote:
            return devices.pick(wanted)
        return self._cluster.device(wanted)

    def ask(self, question: Callable[[], handshake.Question]) -> None:
        """Have workers on other hosts answer a question before they get work; who differs from here is refused."""
        if self._cluster is not None and self.engine.remote:
            asked = question()
            self._cluster.ask(asked, handshake.answer(asked))

    def run(
        self,
        runner: Runner,
        arguments: Sequence[Any],
        tasks: Iterable[Task],
        receive: Callable[[Receipt], None] = lambda receipt: None,
        *,
        name: str = "",
        work: Path | None = None,
        steps: bool = False,
        gpu: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> list[SetAside]:
        """Run `runner(*arguments, task)` for every task and hand its receipt to `receive`.

        Args:
            runner: a module-level function. One of our errors that it raises ends the run, apart from
                `EnvironmentFailure` and `LedgerError`.
            tasks: in the order to run them; each key once.
            name: of the pass.
            work: the work folder of the build, where attempts and the journal lie. Without it no worker tells that it
                has begun, and deadlines run from when tasks are sent.
            steps: whether the runner gives a sign of life for each clip and batch (`Heartbeat`). The deadline is that
                of a clip then, else that of all clips together.
            gpu: run the tasks on workers with the resource GPU alone.
            say: takes a line for people.

        Returns:
            The tasks that committed nothing wherever they were tried.

        Raises:
            Stopped: too much fails for one reason, or no host is left.
            DamagedArtifact: a task met a file of an earlier unit that is not what was written; all others have run.
        """
        options = RunOptions(name, work, steps, gpu, receive, say)
        (aside,) = self.run_chain([Stage(runner, tuple(arguments), deque(tasks), options)])
        return aside

    def run_chain(self, stages: Sequence[Stage]) -> list[list[SetAside]]:
        """Run the tasks of several stages at the same time, in the order of the stages where there is no cluster.

        A stage that takes a receipt may add a task to a later one. So nothing waits for all tasks of a stage.

        Returns:
            For each stage what `run` returns; raises as `run`.
        """
        troubles = [Troubles(stage.options, self.health, Journal(stage.options.work)) for stage in stages]
        for work in {stage.options.work for stage in stages if stage.options.work is not None}:
            (work / ATTEMPTS).mkdir(parents=True, exist_ok=True)
        given = [(stage.runner, stage.arguments, stage.waiting, own) for stage, own in zip(stages, troubles)]
        cluster = self.cluster if any(stage.waiting for stage in stages) else None  # none is opened for no task
        if cluster is None:
            found = [run_serial(*each) for each in given]
        else:
            found = run_together([DaskRun(self.engine, cluster, *each) for each in given])
        for aside in (aside for each in found for aside in each):
            if aside.damaged is not None:
                raise aside.damaged
        return found

    def run_here(
        self, runner: Runner, arguments: Sequence[Any], tasks: Iterable[Task], receive: Callable[[Receipt], None]
    ) -> None:
        """Run tasks that see all clips at once in this process, where nobody limits their memory; errors are raised."""
        for task in tasks:
            receive(runner(*arguments, task))
