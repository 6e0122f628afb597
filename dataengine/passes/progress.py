"""How far the passes of a build are: which units are done under the present fingerprints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dataengine.passes.base import Job, Pass, inputs_digest, unit_passes
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.plan import Plan


@dataclass(frozen=True)
class PassState:
    """One pass: units of the plan, how many are done under its fingerprint, the clips of the rest, and the records of the done ones."""

    name: str
    fingerprint: str
    units: int
    done: int
    clips_left: int
    commits: dict[str, Commit]


def rows_by_unit(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """The plan's rows, unit by unit."""
    members: dict[str, list[dict[str, Any]]] = {}
    for row in plan.rows():
        members.setdefault(row["unit"], []).append(row)
    return members


def pending(
    members: dict[str, list[dict[str, Any]]], job: Job, p: Pass, retry: bool
) -> tuple[list[str], dict[str, Commit]]:
    """Units of a pass that are not done, and the records of those that are.

    Args:
        members: what `rows_by_unit` gives.
        retry: count units with clips that failed for retryable reasons as not done.
    """
    todo, done = [], {}
    for unit, rows in members.items():
        upstream = [job.ledger(name).read(unit) for name in p.after]
        commit = job.ledger(p.name).read(unit)
        known = [c for c in upstream if c is not None]
        fresh = commit is not None and len(known) == len(upstream) and commit.inputs == inputs_digest(p, rows, known)
        if commit is None or not fresh or (retry and commit.retryable):
            todo.append(unit)
        else:
            done[unit] = commit
    return todo, done


def inspect(plan: Plan, job: Job, retry: bool) -> list[PassState]:
    """How far each unit pass is; a unit whose earlier pass is to run again counts as not done."""
    members = rows_by_unit(plan)
    states, stale = [], set[str]()
    for p in unit_passes().values():
        todo, done = pending(members, job, p, retry)
        stale |= set(todo)
        left = sum(len(members[unit]) for unit in stale)
        fresh = {unit: commit for unit, commit in done.items() if unit not in stale}
        states.append(PassState(p.name, job.fingerprints[p.name], len(members), len(members) - len(stale), left, fresh))
    return states
