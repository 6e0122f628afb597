"""curate: which clips are kept and under which label, decided over the tables of all measured clips.

Nothing is decoded and no model runs here. A changed threshold costs this pass and what follows.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core import registry
from dataengine.core.component import Component
from dataengine.core.reasons import REASONS
from dataengine.dataset import near_duplicates as duplicates
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.index import read_manifest
from dataengine.labels.label_table import label_table
from dataengine.passes.base import Row
from dataengine.passes.table_pass import Table, TablePass, leave_out
from dataengine.pipeline.plan import Plan, guard_datasets
from dataengine.pipeline.recipe import Recipe, fingerprint

_Fact: TypeAlias = tuple[str, float | None, float | None, str]
"""Of a planned clip: video_id, start, end, split."""


@dataclass(frozen=True)
class Labels:
    """source label -> label, and label -> number: the table's, then those of labels it does not give, in alphabetical
    order."""

    table: Any | None
    ids: dict[str, int]

    @staticmethod
    def of(recipe: Recipe, plan: Plan) -> Labels:
        name = recipe.curate.relabel
        table = None if name is None else label_table(name)
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


@dataclass(frozen=True)
class Curate(TablePass):
    """Labels, filters, exact duplicates, near-duplicates, sizes of classes: the first that refuses a clip names it."""

    version = 2
    after = ("measures",)

    def enabled(self, recipe: Recipe) -> bool:
        return True

    def config(self, recipe: Recipe) -> list[Any]:
        filters = [[name, registry.config(recipe.component("filters", name))] for name in recipe.curate.filters]
        table = None
        if recipe.curate.relabel is not None:
            labels = label_table(recipe.curate.relabel)
            texts = [path.read_text(encoding="utf-8") for path in labels.files]
            table = fingerprint(texts or [registry.config(labels), sorted(labels.rules.items()), labels.label_ids()])
        guards = [read_manifest(path)["fingerprint"] for _, path in guard_datasets(recipe)]
        copied = recipe.pack.keep_video and not recipe.pack.allow_unknown_licence
        rules = recipe.curate.model_dump(
            include={"dedup", "near_duplicate_threshold", "max_per_label", "min_per_label"}
        )
        return [filters, table, rules, copied, recipe.plan.seed, guards]

    def uses(self, recipe: Recipe) -> list[Component]:
        filters = [recipe.component("filters", name) for name in recipe.curate.filters]
        return [*filters, *([] if recipe.curate.relabel is None else [label_table(recipe.curate.relabel)])]

    def own_reasons(self, recipe: Recipe) -> Mapping[str, str]:
        filters = [recipe.component("filters", name) for name in recipe.curate.filters]
        return {f.reason: f.meaning for f in filters if f.reason not in REASONS}

    def decide(self, table: Table) -> list[Row]:
        recipe, rows = table.job.recipe, table.rows
        facts = _judge(recipe, table)
        _drop_near(table, rows, facts)
        _size_classes(recipe, rows, facts)
        return rows


def _planned(table: Table) -> Iterator[Row]:
    """What the plan says of each row."""
    columns = ["clip_id", "source", "label", "video_id", "start", "end", "split", "licence"]
    planned, chosen = table.plan.table.select(columns), pa.array([row["clip_id"] for row in table.rows], pa.string())
    planned = planned.filter(pc.is_in(planned.column("clip_id"), value_set=chosen))
    for batch in planned.to_batches(max_chunksize=8192):
        yield from batch.to_pylist()


def _judge(recipe: Recipe, table: Table) -> list[_Fact]:
    """Label every row, and leave out those that a filter, a licence or an exact duplicate speaks against."""
    kept_facts: list[_Fact] = []
    filters = {name: recipe.component("filters", name) for name in recipe.curate.filters}
    labels, first = Labels.of(recipe, table.plan), dict[str, str]()
    columns = [*(f"filter_{name}" for name in filters), "frames_blake3"]
    for (row, measured), facts in zip(table.measures(columns), _planned(table)):
        kept_facts.append((facts["video_id"], facts["start"], facts["end"], sys.intern(facts["split"])))
        row["label"], left_out = labels.apply(facts["source"], facts["label"], facts["video_id"])
        row["label_id"] = labels.ids.get(row["label"]) if row["label"] is not None else None
        if left_out is not None:
            leave_out(row, "label_left_out", f"{facts['label']}: {left_out}")
        for name, component in filters.items() if row["kept"] else ():
            value = measured[f"filter_{name}"]
            missed = component.missed(float("nan") if value is None else value)
            if missed is not None:
                wanted = "at least" if value < missed else "at most"
                detail = f"{value:.4g} {component.measured_in}, wanted {wanted} {missed:.4g}"
                leave_out(row, component.reason, detail, value, missed)
                break
        if row["kept"] and recipe.pack.keep_video and not (facts["licence"] or recipe.pack.allow_unknown_licence):
            detail = "allow it with pack.allow_unknown_licence = true, or leave the videos where they are"
            leave_out(row, "licence_unknown", detail)
        if row["kept"] and recipe.curate.dedup != "off":
            original = first.setdefault(measured["frames_blake3"], row["clip_id"])
            if original != row["clip_id"]:
                row["duplicate_of"] = original
                if recipe.curate.dedup != "mark":
                    leave_out(row, "duplicate", f"same pictures as {original}")
    return kept_facts


def _drop_near(table: Table, rows: list[Row], facts: list[_Fact]) -> None:
    """Mark or refuse near-duplicates of clips before them in the plan, and of clips of datasets that must not leak
    in."""
    recipe = table.job.recipe
    guards = guard_datasets(recipe)
    if recipe.curate.dedup not in ("near", "mark") and not guards:
        return
    # clips of guarded datasets come first, so that ours are the duplicates
    known: list[str] = []
    tables = []
    for name, path in guards:
        guarded = Dataset(path).table("signatures").collect().to_arrow()
        known += [f"{clip_id} of {name}" for clip_id in guarded.column("clip_id").to_pylist()]
        tables.append(guarded)
    ours = [n for n, row in enumerate(rows) if row["kept"] and row["duplicate_of"] is None]
    by_unit: dict[str, list[str]] = {}
    for n in ours:
        by_unit.setdefault(rows[n]["unit"], []).append(rows[n]["clip_id"])

    def own() -> Iterator[pa.Table]:  # in the order of the rows, which is that of the artifacts
        for unit, clips in by_unit.items():
            signs = pq.read_table(table.artifact("measures", unit), columns=["clip_id", "hashes", "words"])
            yield signs.filter(pc.is_in(signs.column("clip_id"), value_set=pa.array(clips, pa.string())))

    everything = duplicates.Signatures.of_tables(itertools.chain(tables, own()))
    near, total, roots = recipe.curate.dedup in ("near", "mark"), len(known), dict[int, int]()
    for a, b, _, share in duplicates.near_pairs(everything, recipe.curate.near_duplicate_threshold).tolist():
        if b < total or b in roots:  # two guarded clips, or decided already
            continue
        row, root = rows[ours[b - total]], roots.get(a, a)
        if root < total:
            leave_out(row, "leak_guard", f"looks like {known[root]}", share, recipe.curate.near_duplicate_threshold)
        elif near and not _apart(facts[ours[a - total]], facts[ours[b - total]]):
            row["duplicate_of"] = original = rows[ours[root - total]]["clip_id"]
            if recipe.curate.dedup == "near":
                leave_out(
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


def _size_classes(recipe: Recipe, rows: list[Row], facts: list[_Fact]) -> None:
    """Refuse classes with too few training clips, and training clips beyond the cap of their class, by a hash of their
    ids."""
    members: dict[str, list[Row]] = {}
    train: dict[str, list[Row]] = {}
    for row, (_, _, _, split) in zip(rows, facts):
        if row["kept"] and row["label"] is not None:
            members.setdefault(row["label"], []).append(row)
            if split == "train":
                train.setdefault(row["label"], []).append(row)
    for label, clips in members.items():
        own = train.get(label, [])
        if len(own) < recipe.curate.min_per_label:
            for row in clips:
                leave_out(
                    row,
                    "class_small",
                    f"{label!r} has {len(own)} training clips",
                    len(own),
                    recipe.curate.min_per_label,
                )
        elif recipe.curate.max_per_label is not None:
            order = sorted(own, key=lambda row: blake3(f"{recipe.plan.seed} {row['clip_id']}".encode()).digest())
            for row in order[recipe.curate.max_per_label :]:
                leave_out(
                    row, "class_cap", f"{label!r} has {len(own)} training clips", len(own), recipe.curate.max_per_label
                )
