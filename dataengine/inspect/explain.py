"""explain: every decision taken for one clip, kept or not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dataengine.core import registry
from dataengine.core.errors import DatasetError, suggestion
from dataengine.core.reasons import REASONS
from dataengine.core.types import Fail, Keep
from dataengine.passes.base import unit_passes
from dataengine.pipeline.ledger import Ledger
from dataengine.pipeline.plan import Plan, load
from dataengine.pipeline.recipe import Recipe
from dataengine.pipeline.recipe import load as load_recipe


def find_clip(plan: Plan, clip_id: str) -> dict[str, Any]:
    """The plan's row of a clip.

    Raises:
        DatasetError: the plan has no such clip.
    """
    rows = [row for row in plan.rows() if row["clip_id"] == clip_id]
    if not rows:
        near = [row["clip_id"] for row in plan.rows()[:20_000]]
        hint = suggestion(clip_id, near).split(";")[0]
        raise DatasetError(f"no clip {clip_id!r} among the {plan.num_clips} planned{hint}")
    return rows[0]


def build_state(out: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe a build ran with and the fingerprints of its passes, from recipe.lock.toml."""
    import tomllib

    path = out / "recipe.lock.toml"
    if not path.exists():
        raise DatasetError(f"{out} is not a build: it has no recipe.lock.toml; give the --out of a dataengine build")
    return load_recipe(str(path)), tomllib.loads(path.read_text())["lock"]["fingerprints"]


def explain(out: Path, clip_id: str) -> dict[str, Any]:
    """What was planned, what each pass decided, and every measure beside its thresholds.

    Returns:
        {"clip": plan row, "passes": [{pass, outcome, reason, meaning, value, threshold, detail}], "measures":
        [{filter, value, min, max, keeps}], "decision": {...}, "sample": place in the dataset or None}

    Raises:
        DatasetError: no build there, or no such clip.
    """
    recipe, fingerprints = build_state(out)
    work = out / "work"
    row = find_clip(load(work), clip_id)
    story: dict[str, Any] = {
        "clip": {k: v for k, v in row.items() if v is not None},
        "passes": [],
        "measures": [],
        "decision": None,
    }
    if row["reason"] is not None:
        story["passes"].append(_decision("plan", "reject", row["reason"], None, None, row["detail"]))
        return story
    for name in unit_passes():
        commit = Ledger(work, name, fingerprints[name]).read(row["unit"])
        outcome = next((o for o in commit.outcomes if o.clip_id == clip_id), None) if commit else None
        if outcome is None:
            break
        if isinstance(outcome, Keep):
            story["passes"].append(_decision(name, "keep", None, None, None, None))
        else:
            reason = outcome.reason if hasattr(outcome, "reason") else outcome.kind
            story["passes"].append(
                _decision(
                    name, type(outcome).__name__.lower(), reason, outcome.value, outcome.threshold, outcome.detail
                )
            )
    else:
        story["measures"] = _measures(
            recipe, Ledger(work, "measure", fingerprints["measure"]).artifact(row["unit"]), clip_id
        )
        judged = _decided(Ledger(work, "agree", fingerprints["agree"]), clip_id) if "agree" in fingerprints else None
        story["decision"] = judged or _decided(Ledger(work, "curate", fingerprints["curate"]), clip_id)
        failure = (
            _not_embedded(work, fingerprints, row["unit"], clip_id) if (story["decision"] or {}).get("kept") else None
        )
        if failure is not None:
            story["passes"].append(failure)
            story["decision"] = {"kept": False, **{k: failure.get(k, "") for k in ("reason", "detail")}}
    return story


def _not_embedded(work: Path, fingerprints: Mapping[str, str], unit: str, clip_id: str) -> dict[str, Any] | None:
    """Why a clip that curation keeps has no features, if it was to have some."""
    commit = Ledger(work, "embed", fingerprints["embed"]).read(unit) if "embed" in fingerprints else None
    failed = (
        next((o for o in commit.outcomes if o.clip_id == clip_id and isinstance(o, Fail)), None) if commit else None
    )
    return (
        None
        if failed is None
        else _decision("embed", "fail", failed.kind, failed.value, failed.threshold, failed.detail)
    )


def _decision(
    name: str, outcome: str, reason: str | None, value: float | None, threshold: float | None, detail: str | None
) -> dict[str, Any]:
    found = {"pass": name, "outcome": outcome, "reason": reason, "meaning": REASONS.get(reason or ""), "value": value}
    return {k: v for k, v in {**found, "threshold": threshold, "detail": detail or None}.items() if v is not None}


def _measures(recipe: Recipe, table: Path, clip_id: str) -> list[dict[str, Any]]:
    row = next(r for r in pq.read_table(table).to_pylist() if r["clip_id"] == clip_id)
    found = []
    for name in registry.names("filters"):
        component, value = recipe.component("filters", name), row[f"filter_{name}"]
        number = float("nan") if value is None else value
        used = name in recipe.curate.filters
        entry = {
            "filter": name,
            "value": None if math.isnan(number) else round(number, 5),
            "measured_in": component.measured_in,
            "used": used,
        }
        found.append(
            {**entry, "min": component.min, "max": component.max, "keeps": component.keep(number) if used else None}
        )
    return found


def _decided(ledger: Ledger, clip_id: str) -> dict[str, Any] | None:
    commit = ledger.read("all")
    if commit is None:
        return None
    rows = pq.read_table(ledger.artifact("all"), filters=[("clip_id", "==", clip_id)]).to_pylist()
    return {k: v for k, v in rows[0].items() if v is not None} if rows else None


def to_text(story: dict[str, Any]) -> str:
    """The story of `explain` for people."""
    clip = story["clip"]
    lines = [f"{clip['clip_id']}", f"  media    {clip.get('media') or '(none found)'}"]
    lines += [f"  {k:<8} {clip[k]}" for k in ("label", "split", "licence", "consent") if k in clip]
    for step in story["passes"]:
        lines.append(
            f"{step['pass']:<8} {step['outcome']}"
            + (f"  {step['reason']}: {step['meaning']}" if "reason" in step else "")
        )
        if "detail" in step:
            lines.append(f"         {step['detail']}")
    for m in story["measures"]:
        bounds = " ".join(f"{k} {m[k]:g}" for k in ("min", "max") if m[k] is not None) or "no threshold"
        verdict = "not used" if not m["used"] else "ok" if m["keeps"] else "MISSED"
        value = "undefined" if m["value"] is None else f"{m['value']:g}"
        lines.append(f"  {m['filter']:<15} {value:>10} {m['measured_in']:<26} {bounds:<22} {verdict}")
    decision = story["decision"]
    if decision is not None:
        lines.append(
            f"curate   {'keep as ' + str(decision.get('label')) if decision['kept'] else 'reject  ' + decision['reason'] + ': ' + decision.get('detail', '')}"
        )
    return "\n".join(lines)
