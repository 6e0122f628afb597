"""spans: what happens when inside the clips, from tables that the recipe names.

Input: tables of `[curate] spans` (`dataengine.labels.span_table`), and lengths and frame rates of `measure`. Nothing is
decoded and no model runs here. A clip that no table speaks of has null; one in which people saw nothing happen has an
empty list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from dataengine.core.progress import current
from dataengine.dataset import index
from dataengine.labels import clip_table, span_table
from dataengine.passes.annotations import tell_of_strangers
from dataengine.passes.base import Column, Row
from dataengine.passes.table_pass import Table, TablePass, tables_of
from dataengine.pipeline.recipe import Recipe

FIELDS = [field.name for field in index.SPANS.value_type]
"""Names of what a span holds."""
SHOWN = 12
"""Spans of a clip that `explain` shows."""
SLACK = 1e-6
"""Seconds by which a span may miss the clip by rounding."""


@dataclass(frozen=True)
class Spans(TablePass):
    """What happens when inside clips; they go into the index and into the samples."""

    version = 1
    after = ("measures",)
    columns = (
        Column(
            "spans",
            index.SPANS,
            True,
            "what happens when, by start: label; start and end in seconds from the first frame; label_from (people or "
            "annotator) and the annotator's probability. Empty where people saw nothing happen, null where nobody said",
        ),
    )

    def enabled(self, recipe: Recipe) -> bool:
        return bool(recipe.curate.spans)

    def config(self, recipe: Recipe) -> list[Any]:
        return [[clip_table.digest(path) for path in recipe.curate.spans], recipe.curate.min_probability]

    def ready(self, recipe: Recipe) -> None:
        span_table.read_spans(recipe.curate.spans, recipe.curate.min_probability)

    def decisions(self, table: Table, schema: pa.Schema) -> Iterator[pa.Table]:
        curate = table.job.recipe.curate
        planned = pl.Series(table.plan.table["clip_id"])
        for path in curate.spans:
            tell_of_strangers(path, span_table.read_span_rows(path)["clip_id"].unique(maintain_order=True), planned)
        found = span_table.read_spans(curate.spans, curate.min_probability)
        for note in found.notes:
            current().say(f"curate.spans: {note}")
        given = pl.DataFrame({"clip_id": pl.Series(table.given["clip_id"])})
        listed = _within(found.rows, _lengths(table, found.rows["clip_id"]))
        spans = given.join(listed, on="clip_id", how="left", maintain_order="left")["spans"].to_arrow()
        column = pa.chunked_array([spans.cast(index.SPANS)])
        yield table.given.append_column(schema.field("spans"), column).select(schema.names)

    def _facts(self, row: Row) -> Row:
        return {} if row.get("spans") is None else {"spans": in_words(row["spans"])}


def in_words(spans: Sequence[Row]) -> str:
    """Spans in one line, each with its seconds and who gave it.

    >>> in_words([{"label": "wave", "start": 0.0, "end": 1.5, "label_from": "annotator", "probability": 0.75}])
    'wave 0-1.5 s (annotator, 0.75)'
    """
    if not spans:
        return "nothing happens (people)"
    parts = []
    for span in spans[:SHOWN]:
        sure = "" if span["probability"] is None else f", {span['probability']:.2f}"
        parts.append(f"{span['label']} {span['start']:.4g}-{span['end']:.4g} s ({span['label_from']}{sure})")
    return "; ".join(parts) + (f"; and {len(spans) - SHOWN} more" if len(spans) > SHOWN else "")


def _lengths(table: Table, clips: pl.Series) -> pl.DataFrame:
    """clip_id, fps and seconds of some clips, of those that are on their way."""
    mine = table.given.filter(pc.is_in(table.given["clip_id"], value_set=pa.array(clips.unique(), pa.string())))
    units = mine["unit"].unique().to_pylist()
    parts = list(tables_of(table.job.ledger("measures"), units, ["clip_id", "fps", "num_frames"]))
    empty = pa.schema([("clip_id", pa.string()), ("fps", pa.string()), ("num_frames", pa.int32())]).empty_table()
    facts = pl.DataFrame(pa.concat_tables([empty, *parts]))
    fps = pl.Series([float(Fraction(text)) for text in facts["fps"].to_list()], dtype=pl.Float64)
    return facts.select("clip_id", fps=fps, seconds=facts["num_frames"] / fps)


def _within(rows: pl.DataFrame, lengths: pl.DataFrame) -> pl.DataFrame:
    """clip_id and spans of the clips that tables speak of: in seconds, cut at the end of the clip, in order."""
    rows = rows.join(lengths, on="clip_id", how="inner")
    scale = pl.when("frames").then(pl.col("fps")).otherwise(1.0)
    rows = rows.with_columns(pl.col("start", "end") / scale)
    labelled = rows.filter(pl.col("label").is_not_null())
    inside = labelled.filter(pl.col("start") < pl.col("seconds") - SLACK)
    _tell(labelled, inside)
    cut = inside.with_columns(end=pl.min_horizontal("end", "seconds"))
    cut = cut.unique(["clip_id", "label", "start", "end"], keep="first", maintain_order=True)
    cut = cut.sort("start", "end", "label", maintain_order=True)
    listed = cut.group_by("clip_id", maintain_order=True).agg(pl.struct(FIELDS).alias("spans"))
    silent = rows.join(labelled, on="clip_id", how="anti").select("clip_id").unique()
    nothing = silent.with_columns(spans=pl.lit([], dtype=listed.schema["spans"]))
    return pl.concat([listed, nothing])


def _tell(labelled: pl.DataFrame, inside: pl.DataFrame) -> None:
    """Say how many spans lie outside of their clips, and how many end behind them."""
    outside = labelled.filter(pl.col("start") >= pl.col("seconds") - SLACK)
    if len(outside):
        row = outside.row(0, named=True)
        hint = "; are they frames? then give a column unit" if 2 * len(outside) > len(labelled) else ""
        current().say(
            f"curate.spans: {len(outside)} of {len(labelled)} spans lie outside of their clips and are left out, such "
            f"as {row['label']!r} from {row['start']:g} to {row['end']:g} s of {row['clip_id']!r}, which lasts "
            f"{row['seconds']:g} s{hint}"
        )
    longer = inside.filter(pl.col("end") > pl.col("seconds") + 1 / pl.col("fps") + SLACK)
    if len(longer):
        row = longer.row(0, named=True)
        current().say(
            f"curate.spans: {len(longer)} of {len(labelled)} spans end after their clips and are cut there, such as "
            f"{row['label']!r}, which ends at {row['end']:g} s of {row['clip_id']!r}, which lasts {row['seconds']:g} s"
        )
