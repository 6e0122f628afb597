"""status: how far a build is, and gc: what of it is no longer needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataengine.core.counting import are, counted
from dataengine.core.errors import DatasetError
from dataengine.core.resources import cpu_count
from dataengine.core.types import Fail
from dataengine.dataset.index import read_manifest
from dataengine.dataset.placing import changing
from dataengine.dataset.takedown_records import TakenDown
from dataengine.inspect.build import job_of
from dataengine.inspect.hosts import hosts, to_lines
from dataengine.io.lease import lease
from dataengine.passes.again import NEVER_AGAIN
from dataengine.passes.progress import BuildState, PassState
from dataengine.pipeline import units
from dataengine.pipeline.garbage import STAGING_AGE, collect_garbage, last_used
from dataengine.pipeline.plan import load

KEEP = 2
"""Of how many recipes `gc` keeps what each pass made: the present one, and the one before."""


def status(out: Path) -> dict[str, Any]:
    """Keys and clips done and left in each pass, clips per second of work, time left, what failed by kind, and what the
    hosts do (`dataengine.inspect.hosts`).

    Time left assumes the cores of this machine and the mean time that finished clips took.
    """
    job = job_of(out)
    build, reasons, retryable = BuildState(load(job.work), job, NEVER_AGAIN), dict[str, int](), 0
    planned_out = [reason for reason in build.plan.table.column("reason").to_pylist() if reason is not None]
    for reason in planned_out:
        reasons[reason] = reasons.get(reason, 0) + 1
    for _, outcome in build.rejects():
        reason = outcome.kind if isinstance(outcome, Fail) else outcome.reason
        reasons[reason] = reasons.get(reason, 0) + 1
        retryable += isinstance(outcome, Fail) and outcome.retryable
    return {
        "planned": build.plan.num_clips,
        "passes": [_pass_row(state) for state in build.states()],
        "remarks": [remark for p in build.passes if (remark := p.remark(job)) is not None],
        "reasons": reasons,
        "retryable": retryable,
        "dataset": (out / "dataset" / "MANIFEST.json").exists(),
        **hosts(job.work),
    }


def _pass_row(state: PassState) -> dict[str, Any]:
    clips = sum(len(commit.outcomes) for commit in state.commits.values())
    seconds = sum(commit.seconds for commit in state.commits.values())
    rate = clips / seconds if clips and seconds else None
    left = len(state.left)
    facts = {"pass": state.name, "units": state.units, "done": state.done, "clips_left": left}
    return {
        **facts,
        "clips_per_second_a_core": rate,
        "seconds_left": left / rate / cpu_count() if rate else None,
    }


def duration(seconds: float | None) -> str:
    """'3 min 20 s' and the like; '?' when unknown."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (whole % 60, "s")]
    shown = [f"{n} {u}" for n, u in parts if n][:2]
    return " ".join(shown) or "0 s"


def to_text(state: dict[str, Any]) -> str:
    """The state of `status` for people."""
    lines = [
        f"{counted(state['planned'], 'clip')} planned; dataset {'is there' if state['dataset'] else 'is not there yet'}"
    ]
    lines.append(f"{'pass':<14}{'units':>10}{'clips left':>12}{'clips/s/core':>14}  time left")
    for p in state["passes"]:
        rate = "-" if p["clips_per_second_a_core"] is None else f"{p['clips_per_second_a_core']:.2f}"
        left = "0 s" if not p["clips_left"] else duration(p["seconds_left"])
        units = f"{p['done']}/{'?' if p['units'] is None else p['units']}"
        lines.append(f"{p['pass']:<14}{units:>10}{p['clips_left']:>12}{rate:>14}  {left}")
    lines += state["remarks"]
    lines += [f"  {reason:<18}{count:>8}" for reason, count in sorted(state["reasons"].items(), key=lambda kv: -kv[1])]
    if n := state["retryable"]:
        lines.append(f"{counted(n, 'failed clip')} {are(n)} worth another try: run the build again")
    lines += to_lines(state)
    return "\n".join(lines)


def clean(
    out: Path, keep: int = KEEP, gone: TakenDown | None = None, staging_age: float = STAGING_AGE
) -> tuple[int, int]:
    """Remove intermediates that nobody is likely to come back to.

    What the present recipe and the dataset in place are made of stays, of all units that were ever planned, and of each
    pass what the last `keep` different recipes made.

    Args:
        keep: the present recipe counts; 1 keeps no other.
        gone: what was taken down; nothing that holds it stays.
        staging_age: seconds; what was written to staging later stays, since a worker may still be at it.

    Returns:
        Files removed, and their bytes.

    Raises:
        LeaseError: a build is at work there.
    """
    job = job_of(out)
    with lease(out, "build", "gc", wait=1.0):
        with changing(out, "gc") as dataset:
            placed = _folders_of(dataset)
        known = units.read(job.work)
        every = {*known.names(), *load(job.work).table.column("unit").to_pylist()}
        live = {job.ledger(p.name).folder.name: p.live_keys(out, every) for p in job.passes.values()}
        taken = frozenset() if gone is None else known.gone(gone)
        whole = (placed - live.keys()) | last_used(job.work, live.keys(), keep - 1)
        before = _size(job.work)
        removed = collect_garbage(
            job.work, live, whole=whole, former=keep - 1, gone=taken, staging_age=0.0 if taken else staging_age
        )
        return len(removed), before - _size(job.work)


def _folders_of(dataset: Path) -> set[str]:
    """Folders of the passes that made a dataset; none where there is no dataset."""
    try:
        passes = read_manifest(dataset).get("passes", [])
    except DatasetError:
        return set()
    return {f"{p['name']}-{p['fingerprint'][:12]}" for p in passes}


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
