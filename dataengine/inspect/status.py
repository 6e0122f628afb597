"""status: how far a build is, and gc: what of it is no longer needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dataengine.core.types import Fail, Reject
from dataengine.inspect.explain import build_state
from dataengine.passes import embed
from dataengine.passes.base import Job, unit_passes
from dataengine.passes.progress import inspect
from dataengine.pipeline.ledger import Ledger, collect_garbage
from dataengine.pipeline.plan import load


def status(out: Path) -> dict[str, Any]:
    """Units and clips done and left in each pass, clips a second of work, time left, and what failed by kind.

    Time left assumes the cores of this machine and the mean time that finished clips took.
    """
    recipe, fingerprints = build_state(out)
    work = out / "work"
    plan, job = load(work), Job(work, recipe, "cpu", fingerprints)
    passes, reasons, retryable = [], dict[str, int](), 0
    states = inspect(plan, job, retry=False) + ([embed.inspect(plan, job)] if "embed" in fingerprints else [])
    for state in states:
        clips = sum(len(commit.outcomes) for commit in state.commits.values())
        seconds = sum(commit.seconds for commit in state.commits.values())
        rate = clips / seconds if seconds else None
        eta = state.clips_left / rate / (os.cpu_count() or 1) if rate else None
        facts = {"pass": state.name, "units": state.units, "done": state.done, "clips_left": state.clips_left}
        passes.append({**facts, "clips_per_second_a_core": rate, "seconds_left": eta})
        for outcome in (o for commit in state.commits.values() for o in commit.outcomes):
            if isinstance(outcome, Fail | Reject):
                reason = outcome.kind if isinstance(outcome, Fail) else outcome.reason
                reasons[reason] = reasons.get(reason, 0) + 1
                retryable += isinstance(outcome, Fail) and outcome.retryable
    for reason in plan.table.column("reason").to_pylist():
        if reason is not None:
            reasons[reason] = reasons.get(reason, 0) + 1
    complete = (out / "dataset" / "MANIFEST.json").exists()
    return {
        "planned": plan.num_clips,
        "passes": passes,
        "reasons": reasons,
        "retryable": retryable,
        "dataset": complete,
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
    lines = [f"{state['planned']} clips planned; dataset {'is there' if state['dataset'] else 'is not there yet'}"]
    lines.append(f"{'pass':<9}{'units':>12}{'clips left':>12}{'clips/s/core':>14}  time left")
    for p in state["passes"]:
        rate = "-" if p["clips_per_second_a_core"] is None else f"{p['clips_per_second_a_core']:.2f}"
        left = "0 s" if not p["clips_left"] else duration(p["seconds_left"])
        lines.append(
            f"{p['pass']:<9}{str(p['done']) + '/' + str(p['units']):>12}{p['clips_left']:>12}{rate:>14}  {left}"
        )
    lines += [f"  {reason:<18}{count:>8}" for reason, count in sorted(state["reasons"].items(), key=lambda kv: -kv[1])]
    if state["retryable"]:
        lines.append(f"{state['retryable']} failed clips are worth another try: run the build again")
    return "\n".join(lines)


def clean(out: Path) -> tuple[int, int]:
    """Remove intermediates that the present recipe and plan do not name: (files, bytes)."""
    recipe, fingerprints = build_state(out)
    del recipe
    work = out / "work"
    units = set(load(work).table.column("unit").to_pylist())
    live = {f"{name}-{value[:12]}": set(units) for name, value in fingerprints.items() if name in unit_passes()}
    live |= {f"{name}-{fingerprints[name][:12]}": {"all"} for name in ("curate", "agree") if name in fingerprints}
    if "embed" in fingerprints:
        live[f"embed-{fingerprints['embed'][:12]}"] = {*units, embed.TEXTS}
    present = {path.stem for path in (out / "dataset" / "shards" / "pose").glob("*.tar")}
    for name in ("pack", "video"):
        if name in fingerprints:
            packed = Ledger(work, name, fingerprints[name])
            live[packed.folder.name] = {unit for unit in packed.units() if unit in present}
    before = _size(work)
    removed = collect_garbage(work, live)
    return len(removed), before - _size(work)


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
