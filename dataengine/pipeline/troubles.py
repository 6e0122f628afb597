"""What becomes of tasks that met trouble: again, without a clip, or set aside.

- A failure of the environment, or an error that nobody foresaw, commits nothing. The task runs again, on another host
  where there is one. After `TRIES` it is set aside for this build.
- A clip that brings about a failure of the environment twice, while its host does other work well, is to blame itself.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.core.errors import DamagedArtifact
from dataengine.core.failures import free_text, is_full
from dataengine.pipeline.attempts import ATTEMPTS, WORKER_LOST, Ended, Place, Runner, Trouble
from dataengine.pipeline.health import AGAIN, Health, Stopped
from dataengine.pipeline.journal import Journal
from dataengine.pipeline.quarantine import BLAMED, CrashBisector
from dataengine.pipeline.task import Receipt, Task

TRIES = 3
"""Attempts of a task before it is set aside."""

NOTE = 300.0
"""Seconds between two notes of what hosts have done."""


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
    """One failed attempt.

    Attributes:
        where: what it counts against, of `Health.to_blame`.
        moment: of `Health.moment`.
    """

    trouble: Trouble
    place: Place
    where: str
    moment: int

    @property
    def host(self) -> str:
        return self.place.host


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
        work = self.options.work
        if trouble.kind == "disk_full" and work is not None and is_full(work):  # no host has room there
            raise Stopped(f"stopped: disk_full: no room in {work.parent}{free_text(work)}: {trouble.detail}; {AGAIN}")
        where = f" on {place.name}" if place.name else ""
        self.options.say(f"{self.options.name} {task.key}{where}: {trouble.kind}: {trouble.detail}")
        before = self.failures.setdefault(task.key, [])
        culprit = None if task.probe else self._culprit(trouble, self.health.to_blame(place, trouble), before)
        gpus = len(self.health.gpus_aside)
        if self.health.failed(place, trouble, task.key, of_the_host=culprit is None):
            self.journal.note("host", host=place.name, detail=self.health.aside[place.host])
            self.options.say(f"set aside: {self.health.aside[place.host]}{self.health.advice(place)}")
        if len(self.health.gpus_aside) > gpus:
            why = self.health.gpus_aside[place.name, place.gpu]
            self.journal.note("gpu", host=place.name, gpu=place.gpu, detail=why)
            self.options.say(f"set aside: {why}")
        before.append(_Failure(trouble, place, self.health.to_blame(place, trouble), self.health.moment()))
        if culprit is not None:
            before.clear()
            return [self.bisector.blame(task, culprit, BLAMED[trouble.kind])]
        if len(self._counted(before)) >= TRIES or trouble.damaged is not None:
            return self.set_aside(task, trouble, place.name)
        return [task]

    def lost(self, task: Task, reason: str, place: Place) -> list[Task]:
        """Tasks to run after the worker of an attempt died, or was ended since the attempt gave no sign of life.

        Args:
            reason: worker_killed or unit_timeout.
            place: of the worker, as far as it is known.
        """
        number = self.numbers.get(task.key, 1)
        self.journal.note(
            "lost",
            **{"pass": self.options.name, "unit": task.key, "attempt": number, "host": place.name, "pid": place.pid},
            reason=reason,
        )
        again = self.bisector.lost(task, reason)
        if again is None:
            detail = f"it keeps losing its worker ({reason}), and no single clip of it does; see the worker's log"
            return self.set_aside(task, Trouble(WORKER_LOST, detail), place.name)
        return again

    def _counted(self, failures: Sequence[_Failure]) -> list[_Failure]:
        """Failures that count against a task: not those on a GPU that was set aside while its host goes on."""
        bad, aside = self.health.gpus_aside, self.health.aside
        return [one for one in failures if one.host in aside or (one.place.name, one.place.gpu) not in bad]

    def _culprit(self, trouble: Trouble, where: str, before: Sequence[_Failure]) -> str | None:
        """The clip that is to blame: it failed alike before, elsewhere or while this place did other work well.

        Args:
            where: the host, or the GPU there.
        """
        if trouble.clip_id is None or trouble.kind not in BLAMED:
            return None
        for failure in before:
            alike = (failure.trouble.kind, failure.trouble.clip_id) == (trouble.kind, trouble.clip_id)
            if alike and (failure.where != where or self.health.succeeded_since(where, failure.moment)):
                return trouble.clip_id
        return None

    def set_aside(self, task: Task, trouble: Trouble, host: str) -> list[Task]:
        """Give a task up for this build.

        Args:
            host: of the last attempt.
        """
        self.aside[task.key] = SetAside(task, trouble.kind, trouble.detail, trouble.damaged)
        facts = {"pass": self.options.name, "unit": task.key, "host": host}
        self.journal.note("set_aside", **facts, kind=trouble.kind, detail=trouble.detail)
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
