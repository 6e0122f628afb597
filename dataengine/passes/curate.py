"""curate: which clips are kept and under which label, decided over the tables of all measured clips.

Nothing is decoded and no model runs here. A changed threshold costs this pass and what follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core import registry
from dataengine.core.component import Component
from dataengine.core.reasons import REASONS
from dataengine.core.types import Int
from dataengine.dataset import near_duplicates as duplicates
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.index import read_manifest
from dataengine.labels.label_table import LabelTable, label_table
from dataengine.passes.base import Row
from dataengine.passes.table_pass import ROWS_AT_ONCE, Table, TablePass
from dataengine.pipeline import plan as plans
from dataengine.pipeline.plan import guard_datasets
from dataengine.pipeline.recipe import Recipe, fingerprint

FACTS = ("clip_id", "source", "label", "video_id", "start", "end", "split", "licence")
"""Columns of the plan that are read."""


@dataclass(frozen=True)
class Labels:
    """source label -> label, and label -> number: the table's, then those of labels it does not give, in alphabetical
    order."""

    table: Any | None
    ids: dict[str, int]

    @staticmethod
    def of(recipe: Recipe, planned: pa.Table, given: Iterable[str] = ()) -> Labels:
        """Of what is planned, and of labels that single clips were given before."""
        table = _table(recipe)
        columns = ["source", "label", *(["video_id"] if table is not None and table.by_video else [])]
        asked = set(zip(*(planned.column(name).to_pylist() for name in columns)))
        final = {label for row in asked if (label := Labels(table, {}).apply(*row)[0]) is not None}
        final |= set(given)
        ids = dict(table.label_ids()) if table is not None else {}  # a table's numbers do not depend on what is planned
        if table is None and recipe.brings_poses:
            ids = _numbered(recipe, final)
        return Labels(table, {**ids, **{label: len(ids) + n for n, label in enumerate(sorted(final - ids.keys()))}})

    def apply(self, source: str, given: str | None, video_id: str | None = None) -> tuple[str | None, str | None]:
        """(label, why it is left out)."""
        if self.table is None:
            return given, None
        label, reason = self.table.apply(source, given, video_id)
        return label, reason


def _table(recipe: Recipe) -> LabelTable | None:
    """The table of the recipe; None where it decides the labels of no source in use, so that its numbers count for
    nothing, either."""
    name = recipe.curate.relabel
    table = None if name is None else label_table(name)
    return table if table is not None and table.sources & set(recipe.use) else None


def _numbered(recipe: Recipe, labels: set[str]) -> dict[str, int]:
    """label -> the number that a file of saved poses gives it: by the names of its classes, or as it stands."""
    ids: dict[str, int] = {}
    for source in recipe.use:
        ids |= {name: n for n, name in enumerate(recipe.component("sources", source).class_names)}
    if not ids and all(label.isdecimal() and len(label) < 10 and label == str(int(label)) for label in labels):
        ids = {label: int(label) for label in labels}
    return ids


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
        if (labels := _table(recipe)) is not None:
            texts = [path.read_text(encoding="utf-8") for path in labels.files]
            table = fingerprint(texts or [registry.config(labels), sorted(labels.rules.items()), labels.label_ids()])
        guards = [read_manifest(path)["fingerprint"] for _, path in guard_datasets(recipe)]
        copied = recipe.pack.keep_video and not recipe.pack.allow_unknown_licence
        rules = recipe.curate.model_dump(
            include={"dedup", "near_duplicate_threshold", "max_per_label", "min_per_label"}
        )
        classes = [list(names) for source in recipe.use if (names := recipe.component("sources", source).class_names)]
        return [filters, table, rules, copied, recipe.plan.seed, guards, *classes]

    def uses(self, recipe: Recipe) -> list[Component]:
        filters = [recipe.component("filters", name) for name in recipe.curate.filters]
        return [*filters, *([] if recipe.curate.relabel is None else [label_table(recipe.curate.relabel)])]

    def own_reasons(self, recipe: Recipe) -> Mapping[str, str]:
        filters = [recipe.component("filters", name) for name in recipe.curate.filters]
        return {f.reason: f.meaning for f in filters if f.reason not in REASONS}

    def decisions(self, table: Table, schema: pa.Schema) -> Iterator[pa.Table]:
        recipe = table.job.recipe
        planned = plans.load(table.job.work, FACTS).table
        given = (label for label in table.given["label"].unique().to_pylist() if label is not None)
        labels = Labels.of(recipe, planned, given)
        planned = planned.filter(pc.is_in(planned["clip_id"], value_set=table.given["clip_id"].combine_chunks()))
        found = _Decisions(table.given, planned.combine_chunks(), labels)
        _judge(recipe, table, found)
        _drop_near(table, found)
        _size_classes(recipe, found)
        return found.tables(schema)


class _Decisions:
    """Decisions on many clips, by the number of the row: columns, as there may be a million clips.

    Attributes:
        given: the rows that the pass was given. planned: `FACTS` of each row.
        kept: (N,) whether the clip is kept. marked: (N,) whether it is a duplicate.
        label: (N,) place of the label in `names`, -1 for none.
        out: row -> reason, detail, value and threshold of the clips that are left out.
        original: row -> the clip that it is a duplicate of.
    """

    def __init__(self, given: pa.Table, planned: pa.Table, labels: Labels) -> None:
        self.given, self.planned, self.labels = given, planned, labels
        self.kept = np.array(given["kept"])
        self.marked = np.array(pc.is_valid(given["duplicate_of"]))
        self.label = np.full(len(given), -1, np.int32)
        self.names: dict[str, int] = {}
        self.out: dict[int, tuple[str, str, float | None, float | None]] = {}
        self.original: dict[int, str] = {}

    def clip_id(self, row: int) -> str:
        """The clip of a row."""
        clip_id: str = self.given["clip_id"][row].as_py()
        return clip_id

    def leave_out(
        self, row: int, reason: str, detail: str, value: float | None = None, threshold: float | None = None
    ) -> None:
        """Leave the clip of a row out for `reason`."""
        self.kept[row], self.out[row] = False, (reason, detail, value, threshold)

    def duplicate(self, row: int, original: str) -> None:
        """Mark the clip of a row as a duplicate."""
        self.marked[row], self.original[row] = True, original

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows with the decisions, some thousand at a time."""
        names, why = [*self.names, None], ("reason", "detail", "value", "threshold")
        for start in range(0, len(self.given), ROWS_AT_ONCE):
            part = self.given.slice(start, ROWS_AT_ONCE)
            columns = {name: part[name] for name in schema.names}
            rows = range(start, start + len(part))
            label = [names[number] for number in self.label[start : start + len(part)].tolist()]
            new: dict[str, list[Any]] = {name: part[name].to_pylist() for name in (*why, "duplicate_of")}
            new |= {"label": label, "label_id": [None if name is None else self.labels.ids.get(name) for name in label]}
            for n, row in enumerate(rows):
                if row in self.out:
                    for name, value in zip(why, self.out[row]):
                        new[name][n] = value
                if row in self.original:
                    new["duplicate_of"][n] = self.original[row]
            columns |= {name: pa.array(values, schema.field(name).type) for name, values in new.items()}
            yield pa.table(columns | {"kept": pa.array(self.kept[start : start + len(part)])}, schema)


def _judge(recipe: Recipe, table: Table, found: _Decisions) -> None:
    """Label every row, and leave out those that a filter, a licence or an exact duplicate speaks against."""
    filters = {name: recipe.component("filters", name) for name in recipe.curate.filters}
    first: dict[str, str] = {}
    for start, measures in table.measured([*(f"filter_{name}" for name in filters), "frames_blake3"]):
        facts = found.planned.slice(start, len(measures)).to_pylist()
        for row, (measured, fact) in enumerate(zip(measures, facts), start):
            label, left_out = found.given["label"][row].as_py(), None
            if label is None:
                label, left_out = found.labels.apply(fact["source"], fact["label"], fact["video_id"])
            if label is not None:
                found.label[row] = found.names.setdefault(label, len(found.names))
            if left_out is not None:
                found.leave_out(row, "label_left_out", f"{fact['label']}: {left_out}")
            for name, component in filters.items() if found.kept[row] else ():
                value = measured[f"filter_{name}"]
                missed = component.missed(float("nan") if value is None else value)
                if missed is not None:
                    wanted = "at least" if value < missed else "at most"
                    detail = f"{value:.4g} {component.measured_in}, wanted {wanted} {missed:.4g}"
                    found.leave_out(row, component.reason, detail, value, missed)
                    break
            if (
                found.kept[row]
                and recipe.pack.keep_video
                and not (fact["licence"] or recipe.pack.allow_unknown_licence)
            ):
                detail = "allow it with pack.allow_unknown_licence = true, or leave the videos where they are"
                found.leave_out(row, "licence_unknown", detail)
            if found.kept[row] and recipe.curate.dedup != "off":
                original = first.setdefault(measured["frames_blake3"], fact["clip_id"])
                if original != fact["clip_id"]:
                    found.duplicate(row, original)
                    if recipe.curate.dedup != "mark":
                        found.leave_out(row, "duplicate", f"same pictures as {original}")


def _drop_near(table: Table, found: _Decisions) -> None:
    """Mark or refuse near-duplicates of clips before them in the plan, and of clips of datasets that must not leak
    in."""
    recipe = table.job.recipe
    guards = guard_datasets(recipe)
    if recipe.curate.dedup not in ("near", "mark") and not guards:
        return
    # clips of guarded datasets come first, so that ours are the duplicates
    known: list[str] = []
    guarded = []
    for name, path in guards:
        signs = Dataset(path).table("signatures").collect().to_arrow()
        known += [f"{clip_id} of {name}" for clip_id in signs.column("clip_id").to_pylist()]
        guarded.append(signs.select(["hashes", "words"]))
    ours, total, least = np.flatnonzero(found.kept & ~found.marked), len(known), recipe.curate.near_duplicate_threshold

    def words(numbers: Int) -> Iterator[pa.Table]:
        if guarded:
            yield pa.concat_tables(guarded).take(numbers[numbers < total])
        yield from _signs(table, found, ours[numbers[numbers >= total] - total], "words")

    hashes = itertools.chain(guarded, _signs(table, found, ours, "hashes"))
    near, roots = recipe.curate.dedup in ("near", "mark"), dict[int, int]()
    for a, b, _, share in duplicates.near_pairs_of(hashes, words, least).tolist():
        if b < total or b in roots:  # two guarded clips, or decided already
            continue
        row, root = int(ours[b - total]), roots.get(a, a)
        if root < total:
            found.leave_out(row, "leak_guard", f"looks like {known[root]}", share, least)
        elif near and not _apart(*(found.planned.slice(n, 1).to_pylist()[0] for n in (int(ours[a - total]), row))):
            original = found.clip_id(int(ours[root - total]))
            found.duplicate(row, original)
            if recipe.curate.dedup == "near":
                found.leave_out(row, "duplicate", f"nearly the same pictures as {original}", share, least)
        else:
            continue
        roots[b] = root


def _signs(table: Table, found: _Decisions, rows: Int, column: str) -> Iterator[pa.Table]:
    """A column of the signatures of some rows, ascending, unit by unit: the artifacts have the order of the rows."""
    for unit, (start, count) in table.places.items():
        low, high = np.searchsorted(rows, (start, start + count))
        if low < high:
            clips = found.given["clip_id"].take(rows[low:high]).combine_chunks()
            signs = pq.read_table(table.artifact("measures", unit), columns=["clip_id", column])
            yield signs.filter(pc.is_in(signs.column("clip_id"), value_set=clips))


def _apart(one: Row, other: Row) -> bool:
    """Whether two clips are parts of one video that do not overlap: alike, but no duplicates."""
    if one["video_id"] != other["video_id"] or any(row[side] is None for row in (one, other) for side in FACTS[4:6]):
        return False
    return bool(one["end"] <= other["start"] or other["end"] <= one["start"])


def _size_classes(recipe: Recipe, found: _Decisions) -> None:
    """Refuse classes with too few training clips, and training clips beyond the cap of their class, by a hash of their
    ids."""
    train = np.array(pc.fill_null(pc.equal(found.planned["split"], "train"), False))
    rows = np.flatnonzero(found.kept & (found.label >= 0))
    rows = rows[np.argsort(found.label[rows], kind="stable")]
    bounds = np.searchsorted(found.label[rows], np.arange(len(found.names) + 1))
    least, most = recipe.curate.min_per_label, recipe.curate.max_per_label
    for label, low, high in zip(found.names, bounds, bounds[1:]):
        clips = rows[low:high]
        own = clips[train[clips]].tolist()
        detail = f"{label!r} has {len(own)} training clips"
        if len(own) < least:
            for row in clips.tolist():
                found.leave_out(row, "class_small", detail, len(own), least)
        elif most is not None and len(own) > most:
            places = {row: blake3(f"{recipe.plan.seed} {found.clip_id(row)}".encode()).digest() for row in own}
            for row in sorted(own, key=places.__getitem__)[most:]:
                found.leave_out(row, "class_cap", detail, len(own), most)
