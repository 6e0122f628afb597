"""curate: which clips are kept and under which label, decided over the tables of all measured clips.

Nothing is decoded and no model runs here; a changed threshold costs this pass and what follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core import registry
from dataengine.core.types import Fail, Keep, Outcome, Reject
from dataengine.dataset import near_duplicates as duplicates
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.index import read_manifest
from dataengine.passes.base import Job
from dataengine.pipeline.ledger import Commit, Ledger
from dataengine.pipeline.plan import Plan, guard_datasets
from dataengine.pipeline.recipe import Recipe, fingerprint

VERSION = 2

DECISIONS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("unit", pa.string()),
        ("kept", pa.bool_()),
        ("label", pa.string()),
        ("label_id", pa.int32()),
    ]
    + [
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),
    ]
)
"""One row a measured clip: the decision, the label it gets, and for a reject the value that missed its threshold."""


@dataclass(frozen=True)
class Labels:
    """source label -> label, and label -> number: the table's, then those of labels it does not give, in alphabetical order."""

    table: Any | None
    ids: dict[str, int]

    @staticmethod
    def of(recipe: Recipe, plan: Plan) -> Labels:
        name = recipe.curate.relabel
        table = None if name is None else registry.create("relabel", "table", {"table": name})
        columns = ["source", "label", *(["video_id"] if table is not None and table.by_video else [])]
        asked = set(zip(*(plan.table.column(name).to_pylist() for name in columns)))
        final = {label for row in asked if (label := Labels(table, {}).apply(*row)[0]) is not None}
        ids = dict(table.label_ids()) if table is not None else {}  # a table's numbers do not depend on what is planned
        return Labels(table, {**ids, **{label: len(ids) + n for n, label in enumerate(sorted(final - ids.keys()))}})

    def apply(self, source: str, given: str | None, video_id: str | None = None) -> tuple[str | None, str | None]:
        """(label, why it is left out)."""
        if self.table is None:
            return given, None
        label, reason = self.table.apply(source, given, video_id)
        return label, reason


def pass_fingerprint(recipe: Recipe, measure: str) -> str:
    """Fingerprint of the curate pass: thresholds, order, relabel table, and what measured the clips."""
    filters = [[name, registry.config(recipe.component("filters", name))] for name in recipe.curate.filters]
    table = None
    if recipe.curate.relabel is not None:
        files = registry.create("relabel", "table", {"table": recipe.curate.relabel}).files
        table = fingerprint([path.read_text(encoding="utf-8") for path in files])
    guards = [read_manifest(path)["fingerprint"] for _, path in guard_datasets(recipe)]
    copied = recipe.pack.keep_video and not recipe.pack.allow_unknown_licence
    rules = recipe.curate.model_dump(include={"dedup", "near_duplicate_threshold", "max_per_label", "min_per_label"})
    return fingerprint(["curate", VERSION, filters, table, rules, copied, recipe.plan.seed, guards, measure])


def _out(
    row: dict[str, Any], reason: str, detail: str, value: float | None = None, threshold: float | None = None
) -> None:
    row.update(kept=False, reason=reason, detail=detail, value=value, threshold=threshold)


def decide(recipe: Recipe, plan: Plan, ledger: Ledger, commits: dict[str, Commit]) -> list[dict[str, Any]]:
    """A row of DECISIONS for every measured clip, in the plan's order.

    Labels, filters, exact duplicates, near-duplicates, sizes of classes: in this order, the first that refuses a clip names it.
    """
    filters = {name: recipe.component("filters", name) for name in recipe.curate.filters}
    columns = ["clip_id", *(f"filter_{name}" for name in filters), "frames_blake3"]
    labels = Labels.of(recipe, plan)
    first: dict[str, str] = {}
    rows, facts = [], []
    measures, unit = dict[str, dict[str, Any]](), None
    for planned in plan.iterate():
        if planned["unit"] != unit:  # rows of a unit lie together
            unit = planned["unit"]
            table = pq.read_table(ledger.artifact(unit), columns=columns).to_pylist() if unit in commits else []
            measures = {row["clip_id"]: row for row in table}
        measured = measures.get(planned["clip_id"])
        if measured is None:
            continue
        row = {"clip_id": planned["clip_id"], "unit": planned["unit"], "kept": True, "duplicate_of": None}
        row |= {"reason": None, "detail": None, "value": None, "threshold": None}
        row["label"], left_out = labels.apply(planned["source"], planned["label"], planned["video_id"])
        row["label_id"] = labels.ids.get(row["label"]) if row["label"] is not None else None
        if left_out is not None:
            _out(row, "label_left_out", f"{planned['label']}: {left_out}")
        for name, component in filters.items() if row["kept"] else ():
            value = measured[f"filter_{name}"]
            missed = component.missed(float("nan") if value is None else value)
            if missed is not None:
                wanted = "at least" if value < missed else "at most"
                _out(
                    row,
                    component.reason,
                    f"{value:.4g} {component.measured_in}, wanted {wanted} {missed:.4g}",
                    value,
                    missed,
                )
                break
        if row["kept"] and recipe.pack.keep_video and not (planned["licence"] or recipe.pack.allow_unknown_licence):
            _out(
                row,
                "licence_unknown",
                "allow it with pack.allow_unknown_licence = true, or leave the videos where they are",
            )
        if row["kept"] and recipe.curate.dedup != "off":
            original = first.setdefault(measured["frames_blake3"], planned["clip_id"])
            if original != planned["clip_id"]:
                row["duplicate_of"] = original
                if recipe.curate.dedup != "mark":
                    _out(row, "duplicate", f"same pictures as {original}")
        rows.append(row)
        facts.append((planned["video_id"], planned["start"], planned["end"], planned["split"]))
    _drop_near(recipe, rows, facts, ledger, commits)
    _size_classes(recipe, rows, facts)
    return rows


_Fact: TypeAlias = tuple[str, float | None, float | None, str]
"""Of a planned clip: video_id, start, end, split."""


def _drop_near(
    recipe: Recipe, rows: list[dict[str, Any]], facts: list[_Fact], ledger: Ledger, commits: dict[str, Commit]
) -> None:
    """Mark or refuse near-duplicates of clips before them in the plan, and of clips of datasets that must not leak in."""
    guards = guard_datasets(recipe)
    if recipe.curate.dedup not in ("near", "mark") and not guards:
        return
    # clips of guarded datasets come first, so that ours are the duplicates
    known: list[str] = []
    tables = []
    for name, path in guards:
        table = Dataset(path).table("signatures").collect().to_arrow()
        known += [f"{clip_id} of {name}" for clip_id in table.column("clip_id").to_pylist()]
        tables.append(table)
    ours = [n for n, row in enumerate(rows) if row["kept"] and row["duplicate_of"] is None]
    by_unit: dict[str, list[str]] = {}
    for n in ours:
        by_unit.setdefault(rows[n]["unit"], []).append(rows[n]["clip_id"])

    def own() -> Iterator[pa.Table]:  # in the order of the rows, which is that of the artifacts
        for unit, wanted in by_unit.items():
            table = pq.read_table(ledger.artifact(unit), columns=["clip_id", "hashes", "words"])
            yield table.filter(pc.is_in(table.column("clip_id"), value_set=pa.array(wanted, pa.string())))

    everything = duplicates.Signatures.of_tables(itertools.chain(tables, own()))
    near, total, roots = recipe.curate.dedup in ("near", "mark"), len(known), dict[int, int]()
    for a, b, _, share in duplicates.near_pairs(everything, recipe.curate.near_duplicate_threshold).tolist():
        if b < total or b in roots:  # two guarded clips, or decided already
            continue
        row, root = rows[ours[b - total]], roots.get(a, a)
        if root < total:
            _out(row, "leak_guard", f"looks like {known[root]}", share, recipe.curate.near_duplicate_threshold)
        elif near and not _apart(facts[ours[a - total]], facts[ours[b - total]]):
            row["duplicate_of"] = original = rows[ours[root - total]]["clip_id"]
            if recipe.curate.dedup == "near":
                _out(
                    row,
                    "duplicate",
                    f"nearly the same pictures as {original}",
                    share,
                    recipe.curate.near_duplicate_threshold,
                )
        else:
            continue
        roots[b] = root


def _apart(one: _Fact, other: _Fact) -> bool:
    """Whether two clips are parts of one video that do not overlap: alike, but no duplicates."""
    (video, start, end, _), (other_video, other_start, other_end, _) = one, other
    if video != other_video or start is None or end is None or other_start is None or other_end is None:
        return False
    return end <= other_start or other_end <= start


def _size_classes(recipe: Recipe, rows: list[dict[str, Any]], facts: list[_Fact]) -> None:
    """Refuse classes with too few training clips, and training clips beyond the cap of their class, by a hash of their ids."""
    members: dict[str, list[dict[str, Any]]] = {}
    train: dict[str, list[dict[str, Any]]] = {}
    for row, (_, _, _, split) in zip(rows, facts):
        if row["kept"] and row["label"] is not None:
            members.setdefault(row["label"], []).append(row)
            if split == "train":
                train.setdefault(row["label"], []).append(row)
    for label, clips in members.items():
        own = train.get(label, [])
        if len(own) < recipe.curate.min_per_label:
            for row in clips:
                _out(
                    row,
                    "class_small",
                    f"{label!r} has {len(own)} training clips",
                    len(own),
                    recipe.curate.min_per_label,
                )
        elif recipe.curate.max_per_label is not None:
            order = sorted(own, key=lambda row: blake3(f"{recipe.plan.seed} {row['clip_id']}".encode()).digest())
            for row in order[recipe.curate.max_per_label :]:
                _out(
                    row, "class_cap", f"{label!r} has {len(own)} training clips", len(own), recipe.curate.max_per_label
                )


def run(job: Job, plan: Plan, commits: dict[str, Commit]) -> Path:
    """Decide and commit; the path of the decisions table. Reuses the table of the same inputs."""
    ledger = job.ledger("curate")
    inputs = fingerprint(
        [[unit, c.digest] for unit, c in commits.items()]
        + [plan.table.select(["clip_id", "source", "label", "split", "licence"]).to_pydict()]
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
    row = {
        "clip_id": outcome.clip_id,
        "pass": pass_name,
        "value": outcome.value,
        "threshold": outcome.threshold,
        "detail": outcome.detail,
    }
    if isinstance(outcome, Reject):
        return {**row, "reason": outcome.reason, "retryable": False}
    assert isinstance(outcome, Fail)
    return {**row, "reason": outcome.kind, "retryable": outcome.retryable}


def decisions_out(decisions: Path) -> list[dict[str, Any]]:
    """Rows of index/rejects for the clips that curation left out, without source and video id."""
    columns = ("clip_id", "reason", "detail", "value", "threshold")
    rows = pq.read_table(decisions, columns=[*columns, "kept"]).to_pylist()
    return [{**{k: row[k] for k in columns}, "pass": "curate", "retryable": False} for row in rows if not row["kept"]]
