"""annotations: what people decided about single clips, and the proposals that the recipe takes.

Input: tables of `[curate] annotations` (`dataengine.labels.clip_table`) and the list `[curate] only`. A label from
there is the clip's label, whatever its source or the label map says. Nothing is decoded and no model runs here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from dataengine.core.errors import ComponentError
from dataengine.core.progress import current
from dataengine.labels import clip_table
from dataengine.passes.base import Column, Row
from dataengine.passes.table_pass import Table, TablePass
from dataengine.pipeline.recipe import Recipe


@dataclass(frozen=True)
class Annotations(TablePass):
    """Labels by clip, and clips that people leave out; `curate` goes on from these."""

    version = 1
    after = ("measures",)
    columns = (
        Column(
            "label_from",
            pa.string(),
            True,
            "who gave the label: people, or annotator (a proposal); null for the source, with the label map",
        ),
        Column("label_probability", pa.float64(), True, "how probable the annotator's label is; null for others"),
    )

    def enabled(self, recipe: Recipe) -> bool:
        return bool(recipe.curate.annotations or recipe.curate.only)

    def config(self, recipe: Recipe) -> list[Any]:
        curate = recipe.curate
        only = None if curate.only is None else clip_table.digest(curate.only)
        return [[clip_table.digest(path) for path in curate.annotations], curate.min_probability, only]

    def ready(self, recipe: Recipe) -> None:
        clip_table.read_verdicts(recipe.curate.annotations, recipe.curate.min_probability)
        if recipe.curate.only is not None:
            clip_table.read_list(recipe.curate.only)

    def decisions(self, table: Table, schema: pa.Schema) -> Iterator[pa.Table]:
        curate = table.job.recipe.curate
        planned = pl.Series(table.plan.table["clip_id"])
        for path in (*curate.annotations, *([] if curate.only is None else [curate.only])):
            tell_of_strangers(path, clip_table.read_table(Path(path))["clip_id"], planned)
        verdicts = clip_table.read_verdicts(curate.annotations, curate.min_probability)
        for note in clip_table.left_out(curate.annotations, curate.min_probability):
            current().say(f"curate.annotations: {note}")
        rows = pl.DataFrame(table.given.drop_columns(["label", "reason", "detail", "kept"]))
        rows = rows.join(verdicts, on="clip_id", how="left", maintain_order="left")
        chosen = pl.lit(True)
        if curate.only is not None:
            chosen = pl.col("clip_id").is_in(clip_table.read_list(curate.only).implode())
        refused = pl.col("leave_out").is_not_null()
        rows = rows.with_columns(
            kept=chosen & ~refused,
            reason=pl.when(refused).then(pl.lit("people_refused")).when(~chosen).then(pl.lit("not_chosen")),
            detail=pl.col("leave_out"),
        )
        yield rows.select(schema.names).to_arrow().cast(schema)

    def _facts(self, row: Row) -> Row:
        facts = super()._facts(row)
        return {"label": row["label"], **facts} if row.get("label") is not None else facts


def tell_of_strangers(path: str, ids: pl.Series, planned: pl.Series) -> None:
    """Say how many clips of a table are not planned.

    Args:
        path: of the table. ids: of its clips, each once. planned: ids of all planned clips.

    Raises:
        ComponentError: none of them is.
    """
    strange = ids.filter(~ids.is_in(planned.implode()))
    if len(strange) and len(strange) == len(ids):
        raise ComponentError(
            f"{path}: none of its {len(ids)} clips is planned in this build, such as {strange[0]!r}: is the table of "
            "another dataset?"
        )
    if len(strange):
        current().say(f"{path}: {len(strange)} of {len(ids)} clips are not planned here, such as {strange[0]!r}")
