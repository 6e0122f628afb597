"""agree: how well kept clips' labels fit their features; no model runs here, so a changed threshold costs this and packing.

Its table is curation's with the clips that have no features taken out, and with what is added in JUDGED. A clip below a
threshold of the recipe is left out; that another label lies nearer is written down for a person, and changes no label.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core.types import Float
from dataengine.features.agreement import Agreement, agreement, review
from dataengine.labels.prompts import Prompts, prompts
from dataengine.passes import curate, embed
from dataengine.passes.base import Job
from dataengine.pipeline.recipe import Recipe, fingerprint

VERSION = 1

JUDGED = pa.schema(
    [*curate.DECISIONS, ("label_cosine", pa.float64()), ("label_margin", pa.float64()), ("label_rank", pa.int32())]
    + [
        ("proposed", pa.string()),
        ("proposed_cosine", pa.float64()),
        ("proposed_margin", pa.float64()),
        ("features", pa.string()),
    ]
)
"""DECISIONS and, of clips that curation kept: agreement with the label; a nearer label, its cosine and its lead; digest of the features."""


def pass_fingerprint(recipe: Recipe, curate: str, embed: str) -> str:
    """Fingerprint of the pass: what it compares, its thresholds, the texts of labels, and the passes before it."""
    templates = prompts(recipe.curate.prompts).templates
    return fingerprint(["agree", VERSION, recipe.embed.model_dump(), recipe.embed.judge, templates, curate, embed])


def run(job: Job, decisions: Path) -> Path:
    """Judge and commit; the path of the table. Reuses the table of the same inputs."""
    ledger, features = job.ledger("agree"), job.ledger("embed")
    rows = pq.read_table(decisions).to_pylist()
    units = sorted({row["unit"] for row in rows if row["kept"]})
    used = [job.ledger("curate").read("all"), *(features.read(unit) for unit in (*units, embed.TEXTS))]
    known_texts = prompts(job.recipe.curate.prompts)
    labels = sorted({row["label"] for row in rows if row["label"] is not None})
    inputs = fingerprint(
        [[c.digest for c in used if c is not None], {label: known_texts.texts(label) for label in labels}]
    )
    known = ledger.read("all")
    if known is None or known.inputs != inputs:
        staged = ledger.stage("all", "parquet")
        pq.write_table(pa.Table.from_pylist(list(_judged(job, rows, known_texts)), JUDGED), staged, compression="zstd")
        ledger.commit("all", inputs, staged, (), 0.0)
    return ledger.artifact("all")


def class_features(job: Job, labels: Sequence[str], known: Prompts) -> Float:
    """(K, D) float64 of unit length: the mean of the features of each label's texts."""
    read, name = embed.text_features(job), job.recipe.embed.judge
    means = np.stack(
        [np.mean([read[text][name].astype(np.float64) for text in known.texts(label)], axis=0) for label in labels]
    )
    found: Float = means / np.linalg.norm(means, axis=1, keepdims=True)
    return found


def _judged(job: Job, rows: Sequence[dict[str, Any]], known: Prompts) -> Iterator[dict[str, Any]]:
    """The rows of JUDGED, in the order of the decisions."""
    classes = sorted({row["label"] for row in rows if row["kept"] and row["label"] is not None})
    text = class_features(job, classes, known) if classes else None
    units: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        units.setdefault(row["unit"], []).append(row)
    for unit, members in units.items():
        texts = {
            row["clip_id"]: row["label"] and known.text_of(row["clip_id"], row["label"])
            for row in members
            if row["kept"]
        }
        entries = embed.clip_entries(job, unit, texts) if texts else {}
        judged = [row for row in members if row["clip_id"] in entries]
        if judged and text is not None:
            _compare(job.recipe, judged, entries, text, classes)
        for row in members:
            if row["clip_id"] in entries:
                row["features"] = _digest(entries[row["clip_id"]])
                yield row
            elif row["clip_id"] not in texts:  # curation left it out; a kept clip that is missing failed in pass embed
                yield row


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
            row |= {"kept": False, "reason": "label_disagrees", "detail": detail, "value": value, "threshold": least}
            return


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _digest(entries: Mapping[str, Any]) -> str:
    hasher = blake3()
    for name, value in sorted(entries.items()):
        hasher.update(name.encode() + b"\0" + np.ascontiguousarray(value).tobytes())
    return hasher.hexdigest()


def decisions_out(judged: Path) -> list[dict[str, Any]]:
    """Rows of index/rejects for the clips that curation or a threshold of this pass left out, without source and video id."""
    rows = curate.decisions_out(judged)
    return [{**row, "pass": "embed"} if row["reason"] == "label_disagrees" else row for row in rows]


def review_rows(judged: Path) -> list[dict[str, Any]]:
    """Rows of index/review: every clip with features that is nearer to another label, kept or not."""
    columns = ["clip_id", "label", "proposed", "proposed_cosine", "proposed_margin"]
    rows = pq.read_table(judged, columns=columns).to_pylist()
    return [
        {**{k: row[k] for k in columns[:3]}, "cosine": row["proposed_cosine"], "margin": row["proposed_margin"]}
        for row in rows
        if row["proposed"] is not None
    ]
