"""explain: every decision taken for one clip, kept or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataengine.core.reasons import REASONS
from dataengine.dataset.takedown_records import TakenDown
from dataengine.inspect.build import find_clip, job_of
from dataengine.inspect.hosts import units_set_aside
from dataengine.passes.job import Job
from dataengine.pipeline.attempts import all_kinds
from dataengine.pipeline.plan import load

Story = dict[str, Any]


def explain(out: Path, clip_id: str) -> Story:
    """What was planned, what each pass decided, and every measure beside its thresholds.

    Returns:
        {"clip": plan row, "passes": [{pass, outcome, reason, meaning, value, threshold, detail, facts}], "measures":
        [{filter, value, min, max, keeps}], "decision": row of the decisions or why there is none}. A clip that was
        taken down ends with the step "takedown"; one whose unit the last build set aside, with the pass that did.

    Raises:
        DatasetError: no build there, or no such clip.
    """
    job = job_of(out)
    row = find_clip(load(job.work), clip_id)
    clip = {k: v for k, v in row.items() if v is not None}
    story: Story = {"clip": clip, "passes": [], "measures": [], "decision": None}
    if row["reason"] is not None:
        planned = {"outcome": "reject", "reason": row["reason"], "detail": row["detail"]}
        story["passes"].append(_step("plan", planned, _meanings(job)))
        return story
    for p in job.passes.values():
        step = p.explain(job, row) or _set_aside(job, p.name, row["unit"])
        if step is None:
            if p.scope in ("unit", "table"):
                break
            continue
        story["measures"] = step.pop("measures", story["measures"])
        decision = step.pop("decision", None)
        shown = _step(p.name, step, _meanings(job))
        story["passes"].append(shown)
        if decision is not None:
            story["decision"] = decision
        if step["outcome"] != "keep":
            if story["decision"] is not None and decision is None:
                story["decision"] = {"kept": False, **{k: shown.get(k, "") for k in ("reason", "detail")}}
            break
    gone = TakenDown.of(out).reason(clip_id, row["video_id"])
    if gone is not None:
        story["passes"].append(_step("takedown", {"outcome": "reject", "reason": "takedown", "detail": gone}, REASONS))
        story["decision"] = {"kept": False, "reason": "takedown", "detail": gone}
    return story


def _set_aside(job: Job, name: str, unit: str) -> Story | None:
    """The step of a clip whose unit the last build set aside in a pass, as its journal tells."""
    for found in units_set_aside(job.work):
        if (found["pass"], found["unit"]) == (name, unit):
            facts = {"unit": unit, **{fact: found[fact] for fact in ("kind", "host", "time")}}
            facts["meaning of kind"] = all_kinds().get(found["kind"], "")
            return {"outcome": "fail", "reason": "set_aside", "detail": found["detail"], "facts": facts}
    return None


def _meanings(job: Job) -> dict[str, str]:
    """Reason -> meaning of every reason that the passes of a build may give."""
    own = {reason: meaning for p in job.passes.values() for reason, meaning in p.own_reasons(job.recipe).items()}
    return own | REASONS


def _step(name: str, step: dict[str, Any], meanings: Mapping[str, str]) -> dict[str, Any]:
    meaning = meanings.get(step.get("reason") or "")
    full = {"pass": name, **step, "meaning": meaning}
    return {k: v for k, v in full.items() if v is not None and v != {}}


def to_text(story: Story) -> str:
    """The story of `explain` for people."""
    clip = story["clip"]
    lines = [f"{clip['clip_id']}", f"  media    {clip.get('media') or '(none found)'}"]
    lines += [f"  {k:<8} {clip[k]}" for k in ("label", "split", "licence", "consent") if k in clip]
    decision = story["decision"] or {}
    if decision.get("kept"):
        lines.append(f"  kept as  {decision.get('label')}")
    width = max(12, *(len(step["pass"]) for step in story["passes"]), 0)
    for step in story["passes"]:
        why = f"  {step['reason']}: {step.get('meaning', '')}" if "reason" in step else ""
        lines.append(f"{step['pass']:<{width}} {step['outcome']}{why}")
        if "detail" in step:
            lines.append(f"{'':{width}} {step['detail']}")
        lines += [f"{'':{width}} {name} {_shown(value)}" for name, value in step.get("facts", {}).items()]
        if step["pass"] == "measure":
            lines += _measure_lines(story["measures"])
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _measure_lines(measures: list[dict[str, Any]]) -> list[str]:
    lines = []
    for m in measures:
        bounds = " ".join(f"{k} {m[k]:g}" for k in ("min", "max") if m[k] is not None) or "no threshold"
        verdict = "not used" if not m["used"] else "ok" if m["keeps"] else "MISSED"
        value = "undefined" if m["value"] is None else f"{m['value']:g}"
        lines.append(f"  {m['filter']:<15} {value:>10} {m['unit']:<26} {bounds:<22} {verdict}")
    return lines
