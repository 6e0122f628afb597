"""curate: which clips are kept and under which label, decided over the tables of all measured clips.

Nothing is decoded and no model runs here; a changed threshold costs this pass and what follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine import registry
from dataengine.ledger import Commit, Ledger
from dataengine.passes import Job
from dataengine.plan import Plan
from dataengine.recipe import Recipe, fingerprint
from dataengine.types import Fail, Keep, Outcome, Reject

VERSION = 1

DECISIONS = pa.schema(
    [("clip_id", pa.string()), ("unit", pa.string()), ("kept", pa.bool_()), ("label", pa.string()), ("label_id", pa.int32())]
    + [
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),
    ]
)
"""One row a measured clip: the decision, the label it gets, and for a reject the value that missed its threshold."""


def table_path(name: str) -> Path | None:
    """The file of a relabel table, if the recipe's relabel names one that exists."""
    from dataengine.relabel.table import find_table

    return find_table(name)


@dataclass(frozen=True)
class Labels:
    """source label -> label, and label -> number (alphabetical over all labels of the plan)."""

    table: Any | None
    ids: dict[str, int]

    @staticmethod
    def of(recipe: Recipe, plan: Plan) -> Labels:
        name = recipe.curate.relabel
        table = None if name is None else registry.create("relabel", "table", {"table": name})
        pairs = set(zip(plan.table.column("source").to_pylist(), plan.table.column("label").to_pylist()))
        final = {label for source, given in pairs if (label := Labels(table, {}).apply(source, given)[0]) is not None}
        return Labels(table, {label: number for number, label in enumerate(sorted(final))})

    def apply(self, source: str, given: str | None) -> tuple[str | None, str | None]:
        """(label, why it is left out)."""
        if self.table is None or given is None:
            return given, None
        label, reason = self.table.apply(source, given)
        return label, reason


def pass_fingerprint(recipe: Recipe, measure: str) -> str:
    """Fingerprint of the curate pass: thresholds, order, relabel table, and what measured the clips."""
    filters = [[name, registry.config(recipe.component("filters", name))] for name in recipe.curate.filters]
    table = None
    if recipe.curate.relabel is not None:
        path = table_path(recipe.curate.relabel)
        table = fingerprint(path.read_text(encoding="utf-8")) if path is not None else None
    return fingerprint(["curate", VERSION, filters, table, recipe.curate.dedup, measure])


def _measures(ledger: Ledger, units: Iterable[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for unit in units:
        table = pq.read_table(ledger.artifact(unit), columns=["clip_id", *columns])
        found.update((row["clip_id"], row) for row in table.to_pylist())
    return found


def decide(recipe: Recipe, plan: Plan, ledger: Ledger, commits: dict[str, Commit]) -> list[dict[str, Any]]:
    """A row of DECISIONS for every measured clip, in the plan's order."""
    filters = {name: recipe.component("filters", name) for name in recipe.curate.filters}
    measures = _measures(ledger, commits, [f"filter_{name}" for name in filters] + ["frames_blake3"])
    labels = Labels.of(recipe, plan)
    first: dict[str, str] = {}
    rows = []
    for planned in plan.rows():
        measured = measures.get(planned["clip_id"])
        if measured is None:
            continue
        row = {"clip_id": planned["clip_id"], "unit": planned["unit"], "kept": True, "duplicate_of": None}
        row |= {"reason": None, "detail": None, "value": None, "threshold": None}
        row["label"], left_out = labels.apply(planned["source"], planned["label"])
        row["label_id"] = labels.ids.get(row["label"]) if row["label"] is not None else None
        if left_out is not None:
            row |= {"kept": False, "reason": "label_left_out", "detail": f"{planned['label']}: {left_out}"}
        for name, component in filters.items() if row["kept"] else ():
            value = measured[f"filter_{name}"]
            missed = component.missed(float("nan") if value is None else value)
            if missed is not None:
                row |= {"kept": False, "reason": component.reason, "value": value, "threshold": missed}
                row["detail"] = f"{value:.4g} {component.unit}, wanted {'at least' if value < missed else 'at most'} {missed:.4g}"
                break
        if row["kept"] and recipe.curate.dedup != "off":
            original = first.setdefault(measured["frames_blake3"], planned["clip_id"])
            if original != planned["clip_id"]:
                row["duplicate_of"] = original
                if recipe.curate.dedup == "exact":
                    row |= {"kept": False, "reason": "duplicate", "detail": f"same pictures as {original}"}
        rows.append(row)
    return rows


def run(job: Job, plan: Plan, commits: dict[str, Commit]) -> Path:
    """Decide and commit; the path of the decisions table. Reuses the table of the same inputs."""
    ledger = job.ledger("curate")
    inputs = fingerprint(
        [[unit, c.digest] for unit, c in commits.items()] + [plan.table.select(["clip_id", "source", "label"]).to_pydict()]
    )
    known = ledger.read("all")
    if known is None or known.inputs != inputs:
        rows = decide(job.recipe, plan, job.ledger("measure"), commits)
        staged = ledger.stage("all", "parquet")
        pq.write_table(pa.Table.from_pylist(rows, DECISIONS), staged, compression="zstd")
        ledger.commit("all", inputs, staged, (), 0.0)
    return ledger.artifact("all")


def rejected(outcome: Outcome, pass_name: str) -> dict[str, Any] | None:
    """A row of index/rejects for what an outcome says, without source and video id; None for a kept clip."""
    if isinstance(outcome, Keep):
        return None
    row = {"clip_id": outcome.clip_id, "pass": pass_name, "value": outcome.value, "threshold": outcome.threshold, "detail": outcome.detail}
    if isinstance(outcome, Reject):
        return {**row, "reason": outcome.reason, "retryable": False}
    assert isinstance(outcome, Fail)
    return {**row, "reason": outcome.kind, "retryable": outcome.retryable}


def decisions_out(decisions: Path) -> list[dict[str, Any]]:
    """Rows of index/rejects for the clips that curation left out, without source and video id."""
    columns = ("clip_id", "reason", "detail", "value", "threshold")
    rows = pq.read_table(decisions, columns=[*columns, "kept"]).to_pylist()
    return [{**{k: row[k] for k in columns}, "pass": "curate", "retryable": False} for row in rows if not row["kept"]]
