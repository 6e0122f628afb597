"""The section of the report page about refinement: what a student learned, and what the gate said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataengine.core.counting import counted
from dataengine.dataset.dataset import Dataset
from dataengine.report import charts
from dataengine.report.charts import Bar, Part, count, number, percent
from dataengine.report.html import Html, el, joined

NAMES = {"joint": "joint", "score": "score of the fused joint", "height": "height of the person"}


AGAINST = {"before": "the last generation", "fused": "the fused poses", "limit": "the limit",
           "middle expert": "the middle expert"}  # fmt: skip


def refinement(dataset: Dataset) -> Html | None:
    """Every round: its learning curve, the gate, and agreement before and after; None where nothing was refined."""
    record = dataset.manifest.get("refine")
    if not record:
        return None
    generation, student = record["generation"], record["student"]
    made = (
        f"The poses are those of generation {generation} of the student “{student}”, which learned from the experts."
        if generation
        else f"The gate refused what the student “{student}” learned: the poses are those of the experts."
    )
    if record.get("nothing"):
        made = f"Nothing was learned: {record['nothing']}. The poses are those of the experts."
    return joined([el("h2", "Refinement"), el("p", made, class_="lead"), [_round(row) for row in record["rounds"]]])


def _round(row: Mapping[str, Any]) -> Html:
    verdict = row["verdict"]
    said = "published" if verdict["published"] else "refused"
    learned = (
        f"Learned from {counted(row['train_frames'], 'frame', count(row['train_frames']))} with "
        f"{count(row['train_people'])} people, validated with {count(row['validation_frames'])} frames of other "
        f"videos. {str(row['stopped']).capitalize()}."
    )
    refused = [el("li", reason) for reason in verdict["reasons"]]
    return joined(
        [
            el("h3", f"Round {row['round']}: {said}"),
            el("p", learned, class_="lead"),
            el("ul", refused, class_="small") if refused else None,
            _curve(row["history"], row["best_epoch"]),
            el("h3", f"Gate, on {counted(verdict['clips'], 'held-out clip')}"),
            _comparisons(verdict["comparisons"]),
            *(_groups(kind, rows) for kind, rows in verdict["breakdown"].items() if rows),
        ]
    )


def _curve(history: Sequence[Mapping[str, Any]], best: int) -> Html:
    """The validation loss of every epoch; 0 is before learning."""
    rows = [
        Bar(
            f"epoch {row['epoch']}",
            [Part(row["validation"], "c3" if row["epoch"] == best else "c6")],
            number(row["validation"], 4),
            "" if row["train"] is None else f"while learning {number(row['train'], 4)}",
        )
        for row in history
    ]
    return joined([el("p", "Validation loss; green is the epoch that was taken.", class_="small"), charts.bars(rows)])


def _comparisons(found: Sequence[Mapping[str, Any]]) -> Html:
    rows = [
        [
            one["name"], AGAINST[one["against"]],
            *(number(one[key], 4) for key in ("before", "after", "loss", "worst", "margin")), count(one["count"]),
            "not measured" if one["before"] is None else "no worse" if one["passes"] else "not shown to be no worse",
        ]
        for one in found
    ]  # fmt: skip
    heads = ("measure", "against", "before", "after", "loss", "at most (95 %)", "margin", "compared", "")
    return charts.table(heads, rows, (2, 3, 4, 5, 6, 7), "wide")


def _groups(kind: str, rows: Sequence[Mapping[str, Any]]) -> Html:
    """Agreement with the fused joints before and after, of groups of joints."""
    cells = [[row["name"], count(row["joints"]), percent(row["before"], 1), percent(row["after"], 1)] for row in rows]
    title = f"Agreement with the fused joints, by {NAMES.get(kind, kind)}"
    heads = (NAMES.get(kind, kind), "joints", "before", "after")
    return joined([el("p", title, class_="small"), charts.table(heads, cells, (1, 2, 3))])
