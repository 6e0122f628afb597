"""label_check: how well kept clips' labels fit their features.

No model runs here, so a changed threshold costs this pass and packing. A clip below a threshold of the recipe is left
out. That another label lies nearer is written down for a person, and changes no label.

Output: the decisions of the clips that have features, plus `columns` and `adds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core.types import Float
from dataengine.dataset import index
from dataengine.features.agreement import Agreement, agreement, review
from dataengine.labels.prompts import Prompts, prompts
from dataengine.passes import embed
from dataengine.passes.base import ALL, Column, Row
from dataengine.passes.job import Job
from dataengine.passes.progress import BuildState
from dataengine.passes.table_pass import Table, TablePass, in_tables, leave_out
from dataengine.pipeline.recipe import Recipe


@dataclass(frozen=True)
class LabelCheck(TablePass):
    """Compares the features of every kept clip with those of its label's texts."""

    version = 1
    after = ("decisions", "embed")
    columns = (
        Column("label_cosine", pa.float64(), True, "cosine of the clip's features and its label's texts"),
        Column("label_margin", pa.float64(), True, "that cosine less the best of all other labels"),
        Column("label_rank", pa.int32(), True, "place of the label among all labels by cosine, from 1"),
    )
    adds = (
        pa.field("proposed", pa.string()),
        pa.field("proposed_cosine", pa.float64()),
        pa.field("proposed_margin", pa.float64()),
        pa.field("features", pa.string()),
    )
    tables: ClassVar[Mapping[str, pa.Schema]] = {"review": index.REVIEW}

    def enabled(self, recipe: Recipe) -> bool:
        return bool(recipe.embed.features)

    def config(self, recipe: Recipe) -> list[Any]:
        return [recipe.embed.model_dump(), recipe.embed.judge, prompts(recipe.curate.prompts).templates]

    def inputs(self, build: BuildState) -> dict[str, list[str]]:
        """The texts of every label."""
        known = prompts(build.job.recipe.curate.prompts)
        labels = build.labels(build.job.ledger("decisions", before=self.name).pass_name)
        return {label: list(known.texts(label)) for label in sorted(labels)}

    def decide(self, table: Table) -> Iterator[Row]:
        job, known = table.job, prompts(table.job.recipe.curate.prompts)
        classes = sorted(label for label in table.given["label"].unique().to_pylist() if label is not None)
        text = class_features(job, classes, known) if classes else None
        for unit, rows in table.by_unit():
            texts = {row["clip_id"]: row["label"] and known.text_of(row["clip_id"], row["label"]) for row in rows}
            entries = embed.clip_entries(job, unit, texts)
            if text is not None:
                _compare(job.recipe, rows, entries, text, classes)
            for row in rows:
                row["features"] = _digest(entries[row["clip_id"]])
            yield from rows

    def decisions(self, table: Table, schema: pa.Schema) -> Iterator[pa.Table]:
        """Unit by unit, as no clip is compared with another."""
        return in_tables(self.decide(table), schema)

    def table_rows(self, build: BuildState, kept: Mapping[str, Row]) -> Mapping[str, index.Rows]:
        """Every clip with features that is nearer to another label, kept or not."""
        del kept
        columns = ["clip_id", "label", "proposed", "proposed_cosine", "proposed_margin"]
        table = pq.read_table(build.job.ledger(self.name).artifact(ALL), columns=columns)
        table = table.filter(pc.is_valid(table["proposed"]))
        return {"review": table.rename_columns(["clip_id", "label", "proposed", "cosine", "margin"])}


def class_features(job: Job, labels: Sequence[str], known: Prompts) -> Float:
    """(K, D) float64 of unit length: the mean of the features of each label's texts."""
    read, name = embed.text_features(job), job.recipe.embed.judge
    means = np.stack(
        [np.mean([read[text][name].astype(np.float64) for text in known.texts(label)], axis=0) for label in labels]
    )
    found: Float = means / np.linalg.norm(means, axis=1, keepdims=True)
    return found


def _compare(
    recipe: Recipe,
    rows: Sequence[dict[str, Any]],
    entries: Mapping[str, Mapping[str, Any]],
    text: Float,
    classes: Sequence[str],
) -> None:
    """Write into rows of kept clips how they agree with their labels, and leave out those below a threshold."""
    numbers = {label: number for number, label in enumerate(classes)}
    video = np.stack([entries[row["clip_id"]][f"{recipe.embed.judge}_video.npy"] for row in rows])
    found = agreement(video, text, [-1 if row["label"] is None else numbers[row["label"]] for row in rows])
    proposals = {
        p["clip_id"]: p
        for p in review(found, [row["clip_id"] for row in rows], [row["label"] for row in rows], classes)
    }
    for n, row in enumerate(rows):
        row |= {
            "label_cosine": _known(found.cosine[n]),
            "label_margin": _known(found.margin[n]),
            "label_rank": int(found.rank[n]) or None,
        }
        proposal = proposals.get(row["clip_id"])
        if proposal is not None:
            row |= {
                "proposed": proposal["proposed"],
                "proposed_cosine": proposal["cosine"],
                "proposed_margin": proposal["margin"],
            }
        _threshold(recipe, row, found, n, classes)


def _threshold(recipe: Recipe, row: dict[str, Any], found: Agreement, n: int, classes: Sequence[str]) -> None:
    for name, value, least in (
        ("cosine", row["label_cosine"], recipe.embed.min_cosine),
        ("margin", row["label_margin"], recipe.embed.min_margin),
    ):
        if value is not None and least is not None and value < least:
            nearest = f"; nearest is {classes[int(found.nearest[n])]!r}" if row["label_rank"] != 1 else ""
            detail = f"{name} of the video and {row['label']!r} {value:.3f}, wanted at least {least:g}{nearest}"
            leave_out(row, "label_disagrees", detail, value, least)
            return


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _digest(entries: Mapping[str, Any]) -> str:
    hasher = blake3()
    for name, value in sorted(entries.items()):
        hasher.update(name.encode() + b"\0" + np.ascontiguousarray(value).tobytes())
    return hasher.hexdigest()
