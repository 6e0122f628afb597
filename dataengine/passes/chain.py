"""Running passes: unit by unit through those that work on units, without waiting for all units of a pass.

A unit goes on to the next pass as soon as the one before has finished it. So poses begin while other units are still
probed, and a unit is measured while others are posed. Passes that need all clips, such as curation, are waited for.

Downloads are no part of a chain. The plan is made again after them, because it says of each clip which file it is in,
how large that is and whether it is missing, and workers read the plan as one file that never changes while a build
runs. A chain that began with downloads would need a plan that grows beside its readers, to win time only while a build
downloads for the first time, when the network is the limit.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from dataengine.core.errors import DataEngineError, LedgerError
from dataengine.core.progress import Progress, shown_by
from dataengine.passes.base import Pass
from dataengine.passes.job import run_task
from dataengine.passes.progress import BuildState, PassState
from dataengine.passes.unit_pass import UnitPass
from dataengine.pipeline.engine import Dispatcher
from dataengine.pipeline.journal import JOURNAL
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.task import Receipt, Task
from dataengine.pipeline.troubles import RunOptions, SetAside, Stage


def run_passes(
    build: BuildState,
    passes: Sequence[Pass],
    dispatcher: Dispatcher,
    progress: Progress,
    before: dict[str, PassState],
) -> None:
    """Run what is left of passes, in order.

    Args:
        before: takes the state of each pass before it ran, where there is none yet.

    Raises:
        DataEngineError: nothing of a pass could be run, or what is no unit was set aside.
        LedgerError: a task left no record.
        DamagedArtifact: a task met a file of an earlier unit that is not what was written; all others have run.
    """
    for group in chains(passes):
        for p in group:
            state = build.state(p.name)
            before.setdefault(p.name, replace(state, commits=dict(state.commits), tasks=list(state.tasks)))
            build.job.ledger(p.name).use()
        if group[0].scope in ("table", "dataset"):
            _run_here(build, group[0], dispatcher, progress)
        else:
            _Chain(build, group, dispatcher, progress).run()


def chains(passes: Sequence[Pass]) -> Iterator[list[Pass]]:
    """Passes that run at the same time: neighbours that go unit by unit; each other pass by itself."""
    for streams, group in itertools.groupby(passes, lambda p: isinstance(p, UnitPass) and p.streams):
        together = list(group)
        yield from [together] if streams else [[p] for p in together]


def _run_here(build: BuildState, p: Pass, dispatcher: Dispatcher, progress: Progress) -> None:
    """Run a pass that sees all clips at once in this process, where nobody limits its memory."""
    tasks = {task.key: task for task in build.state(p.name).tasks}
    total = 0 if p.shows_steps else sum(len(task.clips) for task in tasks.values())
    with progress.step(p.name, total) as advance, shown_by(progress):

        def receive(receipt: Receipt) -> None:
            build.note(p.name, tasks[receipt.key], receipt)
            advance(len(tasks[receipt.key].clips))

        dispatcher.run_here(run_task, (build.job.save(), p.name), list(tasks.values()), receive)
    build.record(p.name)


class _Chain:
    """Passes in whose order every unit goes, some units in one and some in another.

    Attributes:
        waiting: of each pass, the tasks that may be sent.
        tasks: of each pass, key -> every task that was ever in `waiting`.
        clips: of each pass, key -> by how many clips its end moves the progress on.
    """

    def __init__(self, build: BuildState, passes: Sequence[Pass], dispatcher: Dispatcher, progress: Progress) -> None:
        self.build, self.passes, self.dispatcher, self.progress = build, passes, dispatcher, progress
        self.states = [build.state(p.name) for p in passes]
        self.waiting = [deque(state.tasks) for state in self.states]
        self.tasks = [{task.key: task for task in state.tasks} for state in self.states]
        self.clips = [{task.key: len(task.clips) for task in state.tasks} for state in self.states]

    def run(self) -> None:
        """Run all; raises as `run_passes`."""
        if any(self.waiting):
            self.dispatcher.ready()
        totals = [(p.name, len(state.left)) for p, state in zip(self.passes, self.states)]
        with self.progress.steps(totals) as self.advance:
            aside = self.dispatcher.run_chain([self._stage(number) for number in range(len(self.passes))])
        for number, p in enumerate(self.passes):
            if number:
                self._take_up_left(number)
            _check_set_aside(self.build, p, self.states[number], aside[number])
            self.build.record(p.name, aside[number])

    def _stage(self, number: int) -> Stage:
        p, job = self.passes[number], self.build.job
        options = RunOptions(
            name=p.name,
            work=job.work,
            steps=p.scope == "unit",
            gpu=p.on_device and job.device != "cpu",
            receive=functools.partial(self._received, number),
            say=self.progress.say,
        )
        return Stage(run_task, (job.save(), p.name), self.waiting[number], options)

    def _received(self, number: int, receipt: Receipt) -> None:
        """A pass has finished a key: the passes behind it may go on with it."""
        key = receipt.key
        self.advance[number](self.clips[number][key])
        try:
            self.build.note(self.passes[number].name, self.tasks[number][key], receipt)
        except LedgerError:
            return  # told at the end, when all others have run
        for later in range(number + 1, len(self.passes)):
            if key in self.states[later].commits:
                continue
            if key in self.tasks[later] or self._takes(later, key):
                return
            self.advance[later](len(self.build.alive(key)))

    def _takes(self, number: int, unit: str) -> bool:
        """Whether a pass to which a unit has come has anything to do for it; its task waits then."""
        p, state = self.passes[number], self.states[number]
        assert isinstance(p, UnitPass), "only passes over units are chained"
        found = p.step(self.build, unit)
        if isinstance(found, Task):
            self.tasks[number][unit], self.clips[number][unit] = found, len(self.build.alive(unit))
            self.waiting[number].append(found)
            state.tasks.append(found)
            return True
        if found is not None:
            state.commits[unit] = found
        return False

    def _take_up_left(self, number: int) -> None:
        """Take up the units that never came to a pass, since a pass before set them aside."""
        p, state = self.passes[number], self.states[number]
        assert isinstance(p, UnitPass), "only passes over units are chained"
        for unit in self.build.units:
            if unit not in self.tasks[number] and unit not in state.commits:
                found = p.step(self.build, unit)
                if isinstance(found, Commit):
                    state.commits[unit] = found


def _check_set_aside(build: BuildState, p: Pass, state: PassState, aside: Sequence[SetAside]) -> None:
    """Refuse to go on where what was set aside is no unit of the plan, or where it is all that there is."""
    journal = build.job.work / JOURNAL
    for found in aside:
        if p.scope != "unit" or found.task.key not in build.units:
            raise DataEngineError(
                f"pass {p.name}: {found.task.key} failed wherever it was tried ({found.kind}: {found.detail}); "
                f"{journal} tells more; run the same command again once that is mended"
            )
    if aside and len(aside) == len(state.tasks) and all(commit.is_aside for commit in state.commits.values()):
        raise DataEngineError(
            f"pass {p.name}: every unit failed, the last for {aside[-1].kind}: {aside[-1].detail}; "
            f"{journal} tells more; run the same command again once that is mended"
        )
