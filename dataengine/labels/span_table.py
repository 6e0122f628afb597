"""Tables of what happens when inside clips: spans that people gave, and those that a network or an annotator proposes.

CSV or Parquet, a row a span. Proposals of `dataengine-train annotate --frames` are such a table, and so are the events
that `dataengine-train segment --to` writes. Other columns are not looked at:

| column | what it holds |
|---|---|
| `clip_id` | the clip |
| `label` | what happens; empty in the row of a clip in which people saw nothing happen |
| `start`, `end` | in seconds from the clip's first frame |
| `unit` | `seconds` (also where it is empty) or `frames`; the end frame is excluded |
| `start_s`, `end_s` | the seconds, where a table has frames in `start` and `end` and no unit, as `segment` writes it |
| `probability`, or `score` | of a proposal |
| `from` | `people` or `annotator`; empty: `annotator` with a probability, `people` without |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from dataengine.core.errors import ComponentError
from dataengine.labels.clip_table import (
    ANNOTATOR,
    PEOPLE,
    numbers,
    proposals_left_out,
    read_rows,
    refuse,
    refuse_probability,
)

ROWS = pl.Schema(
    {
        "clip_id": pl.String(),
        "label": pl.String(),
        "start": pl.Float64(),
        "end": pl.Float64(),
        "frames": pl.Boolean(),
        "label_from": pl.String(),
        "probability": pl.Float64(),
    }
)
"""A span: seconds, or with `frames` frames; null label, start and end where nothing happens. The probability is null
for people."""

UNITS = ("seconds", "frames")


@dataclass(frozen=True)
class SpanTables:
    """What several tables say together.

    Attributes:
        rows: `ROWS`, each once: of every clip what one table says of it.
        notes: what was left out, in a line each.
    """

    rows: pl.DataFrame
    notes: tuple[str, ...]


def read_span_rows(path: str | Path) -> pl.DataFrame:
    """The rows of one table as `ROWS`, in its order.

    Raises:
        ComponentError: no such file, not a table of spans, a span that is no span (a start or end that is no number or
            below 0, an end that is not after the start), or a probability or a name in `from` or `unit` that is none.
    """
    where = Path(path)
    rows = read_rows(where)
    named = set(rows.columns)
    if "label" not in named or not ({"start", "end"} <= named or {"start_s", "end_s"} <= named):
        raise ComponentError(f"{path}: its columns are {', '.join(rows.columns)}; want clip_id, label, start and end")

    def column(name: str) -> pl.Series:
        return rows[name] if name in named else pl.Series(name, [None] * len(rows), dtype=pl.String)

    label, unit = column("label"), column("unit").str.to_lowercase()
    refuse(where, rows, unit.is_not_null() & ~unit.is_in(UNITS), unit, "unit is seconds or frames, not")
    of_segment = "unit" not in named and {"start_s", "end_s"} <= named
    in_seconds = column("start_s").is_not_null() & column("end_s").is_not_null() if of_segment else unit != "frames"
    frames = ~in_seconds.fill_null(True)
    start, end = column("start"), column("end")
    if of_segment:
        start, end = column("start_s").fill_null(start), column("end_s").fill_null(end)
    first, last = numbers(start), numbers(end)
    right = (first.is_finite() & last.is_finite() & (first >= 0) & (last > first)).fill_null(False)
    shown = start.fill_null("nothing") + " to " + end.fill_null("nothing")
    refuse(where, rows, label.is_not_null() & ~right, shown, "a span has numbers 0 <= start < end, not")
    by = column("from").str.to_lowercase()
    refuse(where, rows, by.is_not_null() & ~by.is_in([PEOPLE, ANNOTATOR]), by, f"from is {PEOPLE} or {ANNOTATOR}, not")
    probability = _probability(where, rows, column("probability"), column("score"))
    by = by.fill_null(pl.Series([ANNOTATOR if sure else PEOPLE for sure in probability.is_not_null()], dtype=pl.String))
    proposed = label.is_not_null() & (by == ANNOTATOR)
    refuse(where, rows, proposed & probability.is_null(), label, "a proposal has a probability, and there is none of")
    nothing = label.is_null()
    return rows.select(
        "clip_id",
        label=label,
        start=first.set(nothing, None),
        end=last.set(nothing, None),
        frames=frames,
        label_from=by,
        probability=probability.set(by == PEOPLE, None),
    ).cast(ROWS)


def read_spans(paths: Sequence[str], min_probability: float | None = None) -> SpanTables:
    """What tables say about the insides of clips.

    Of a clip that people looked at, the last table counts in which they did; proposals are for the other clips, and of
    several tables again the last one that proposes something probable enough counts.

    Args:
        min_probability: least probability of a proposal that is taken. None takes no proposals.

    Raises:
        ComponentError: as `read_span_rows`.
    """
    tables = [read_span_rows(path).with_columns(table=pl.lit(number)) for number, path in enumerate(paths)]
    rows = pl.concat([pl.DataFrame(schema={**ROWS, "table": pl.Int32()}), *tables])
    by_people = pl.col("label_from") == PEOPLE
    people, proposals = rows.filter(by_people), rows.filter(~by_people & pl.col("label").is_not_null())
    sure = proposals.clear()
    if min_probability is not None:
        sure = proposals.filter(pl.col("probability") >= min_probability)
    free = sure.join(people, on="clip_id", how="anti")
    last = pl.col("table") == pl.col("table").max().over("clip_id")
    latest, chosen = people.filter(last), _apart(proposed := free.filter(last))
    what = ["clip_id", "label", "start", "end", "frames"]
    kept = pl.concat([latest, chosen]).unique(what, keep="first", maintain_order=True)
    notes = []
    other = people.filter(~last).join(latest, on=what, how="anti", nulls_equal=True)["clip_id"].unique()
    if len(other):
        notes.append(
            f"{len(other)} clips have other spans by people in an earlier table, such as {other.sort()[0]!r}: the last "
            "table counts"
        )
    if twice := len(latest) + len(chosen) - len(kept):
        notes.append(f"{twice} spans stand there twice and are taken once")
    if over := len(proposed.unique(what)) - len(chosen.unique(what)):
        notes.append(f"{over} proposed spans overlap a more probable one of the same label and are left out")
    if low := len(proposals) - len(sure):
        notes.append(proposals_left_out(low, len(proposals), "spans", min_probability))
    return SpanTables(kept.select(list(ROWS)), tuple(notes))


def _apart(proposals: pl.DataFrame) -> pl.DataFrame:
    """Proposals without those that overlap a more probable one of the same clip and label, as several thresholds give
    them; in their order."""
    ordered = proposals.with_row_index("row").sort("probability", descending=True, maintain_order=True)
    taken: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    kept = []
    for row, *what, start, end in ordered.select("row", "clip_id", "label", "frames", "start", "end").iter_rows():
        before = taken.setdefault(tuple(what), [])
        if all(end <= other[0] or other[1] <= start or (start, end) == other for other in before):
            before.append((start, end))
            kept.append(row)
    return proposals[sorted(kept)]


def _probability(path: Path, rows: pl.DataFrame, given: pl.Series, score: pl.Series) -> pl.Series:
    """Probabilities in [0, 1], or the scores of events, which are none below 0."""
    probability = numbers(given)
    refuse_probability(path, rows, given, probability)
    if not given.is_null().all():
        return probability
    scores = numbers(score)
    refuse(path, rows, score.is_not_null() & ~scores.is_finite().fill_null(False), score, "score is a number, not")
    return scores.clip(0, 1)
