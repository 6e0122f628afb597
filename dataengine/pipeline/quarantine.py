"""Quarantine: which clip of a task kills its worker, found by bisection.

A task that kills its worker, or runs past its deadline, twice is bisected. Halves of its clips run as probes until the
clip that does it is found. The task then runs without that clip, and the clip stands in quarantine by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dataengine.pipeline.task import Task

STRIKES = 2
"""Deaths or missed deadlines of a task before it is bisected, and of a single clip before quarantine."""

WEIGHT = {"worker_killed": 1, "unit_timeout": STRIKES}
"""Strikes for each reason. A worker may die of what is outside the task. A missed deadline is the task's own, and
waiting for it twice costs as much again."""

ROUNDS = 4
"""How often a task may be bisected before it is set aside."""

BLAMED = {"media_unreachable": "media_missing", "storage_failed": "media_unreadable", "gpu_failed": "expert_failed"}
"""Failures of the environment that one clip may bring about, with the reason that the clip then gets. A file may be
deleted or lie on a bad sector, and one clip's frames may send a network astray."""


@dataclass
class _Case:
    """What is known of a task that killed a worker: `open_probes` are still running, `deaths` counts by single clip."""

    whole: Task
    strikes: int = 0
    rounds: int = 0
    open_probes: int = 0
    culprits: dict[str, str] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)


class CrashBisector:
    """Decides what to run when a task is lost: the task again, its halves, or the task without the culprit."""

    def __init__(self) -> None:
        self.cases: dict[str, _Case] = {}

    def lost(self, task: Task, reason: str) -> list[Task] | None:
        """Tasks to run after `task` was lost to `reason` (worker_killed or unit_timeout).

        Returns:
            None where the task keeps losing its worker, and no single clip of it does.
        """
        case = self.cases.setdefault(task.key, _Case(task))
        if not task.probe:
            return self._whole_lost(task, reason, case)
        if len(task.clips) > 1:
            return self._split(task.clips, case) + self._probe_closed(case)
        (clip,) = task.clips
        case.deaths[clip] = case.deaths.get(clip, 0) + WEIGHT[reason]
        if case.deaths[clip] < STRIKES:
            return [task]
        case.culprits[clip] = reason
        return self._probe_closed(case)

    def finished(self, task: Task) -> list[Task]:
        """Tasks to run after `task` ended well."""
        return self._probe_closed(self.cases[task.key]) if task.probe else []

    def blame(self, task: Task, clip: str, reason: str) -> Task:
        """The task to run after a single clip turned out to bring about a failure of the environment."""
        case = self.cases.setdefault(task.key, _Case(task))
        case.culprits[clip] = reason
        return self._without_culprits(case)

    def _whole_lost(self, task: Task, reason: str, case: _Case) -> list[Task] | None:
        case.strikes += WEIGHT[reason]
        if case.strikes < STRIKES:
            return [task]
        case.rounds += 1
        if case.rounds > ROUNDS:
            return None
        suspects = tuple(clip for clip in task.clips if clip not in case.culprits)
        return self._split(suspects, case) if suspects else [task]

    def _split(self, clips: tuple[str, ...], case: _Case) -> list[Task]:
        half = (len(clips) + 1) // 2
        probes = [replace(case.whole, clips=part, probe=True) for part in (clips[:half], clips[half:]) if part]
        case.open_probes += len(probes)
        return probes

    def _probe_closed(self, case: _Case) -> list[Task]:
        case.open_probes -= 1
        if case.open_probes:
            return []
        case.strikes, case.deaths = 0, {}
        return [self._without_culprits(case)]

    @staticmethod
    def _without_culprits(case: _Case) -> Task:
        return replace(case.whole, quarantine=tuple(sorted(case.culprits.items())))
