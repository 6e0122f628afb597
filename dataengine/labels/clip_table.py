"""Tables about single clips: the labels that people gave, what an annotator proposes, and which clips stay.

A plan of `dataengine-train rank` that people filled in is such a table, and so are the proposals of `annotate` and the
findings of `check`. CSV or Parquet, a row a clip. Columns, all but `clip_id` optional; others are not looked at:

| column | what it holds |
|---|---|
| `clip_id` | the clip |
| `label`, or `given` | the label that people gave it; empty for none |
| `proposed`, with `probability` | the label that an annotator proposes |
| `keep` | yes or no; empty for no opinion |
| `why` | why it does not stay |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from blake3 import blake3

from dataengine.core.errors import ComponentError
from dataengine.io.sheets import read_sheet

PEOPLE, ANNOTATOR = "people", "annotator"
"""Who gives labels."""

VERDICTS = pl.Schema(
    {
        "clip_id": pl.String(),
        "label": pl.String(),
        "label_from": pl.String(),
        "label_probability": pl.Float64(),
        "leave_out": pl.String(),
    }
)
"""What tables say together, a row for each clip that they say something about: the label, who gives it, how probable
an annotator's is, and why the clip does not stay (null where it does)."""

_OPINIONS = pl.Schema(
    {
        "clip_id": pl.String(),
        "label": pl.String(),
        "label_from": pl.String(),
        "label_probability": pl.Float64(),
        "keep": pl.Boolean(),
        "why": pl.String(),
        "unsure": pl.Boolean(),
    }
)
"""What one table says of a clip. Unsure: it has a proposal that is not taken."""

_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")


def read_table(path: Path) -> pl.DataFrame:
    """As `read_rows`, of a table that has one row for each clip.

    Raises:
        ComponentError: as `read_rows`, or it names a clip twice.
    """
    rows = read_rows(path)
    twice = rows.filter(pl.col("clip_id").is_duplicated())
    if len(twice):
        raise ComponentError(f"{path}: {twice['clip_id'][0]!r} has more than one row")
    return rows


def read_rows(path: Path) -> pl.DataFrame:
    """The rows of a table as texts, with null for empty cells; empty rows are left out.

    Raises:
        ComponentError: there is no such file, it cannot be read, it has no column clip_id, or a row that says something
            has no clip_id.
    """
    try:
        if path.suffix == ".parquet":
            rows = pl.read_parquet(path, glob=False).cast(pl.String)
        elif path.suffix == ".csv":
            rows = read_sheet(path)
        else:
            raise ComponentError(f"{path}: a table of clips ends in .csv or .parquet")
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise ComponentError(f"{path}: cannot be read as a table of clips: {_first_line(error)}") from error
    if "clip_id" not in rows.columns:
        raise ComponentError(f"{path}: the columns are {', '.join(rows.columns) or '(none)'}; want clip_id among them")
    rows = rows.with_columns(pl.all().str.strip_chars().replace("", None))
    rows = rows.filter(~pl.all_horizontal(pl.all().is_null()))
    if len(lost := rows.filter(pl.col("clip_id").is_null())):
        cells = ", ".join(f"{name} {value!r}" for name, value in lost.row(0, named=True).items() if value is not None)
        raise ComponentError(f"{path}: {len(lost)} of {len(rows)} rows have no clip_id, such as the one with {cells}")
    return rows


def read_verdicts(paths: Sequence[str], min_probability: float | None = None) -> pl.DataFrame:
    """What tables say about clips, as `VERDICTS`.

    Where several speak of one clip, its label is the last one by people, or else the last proposal; and the last `keep`
    counts.

    Args:
        min_probability: least probability of a proposal that is taken as a label. None takes no proposals.

    Raises:
        ComponentError: as `read_table`; a clip with several labels, a `keep` that is neither yes nor no, or a
            probability that is no number.
    """
    found = _all_opinions(paths, min_probability)
    labels = found.filter(pl.col("label").is_not_null()).sort(pl.col("label_from") == PEOPLE, maintain_order=True)
    stays = found.filter(pl.col("keep").is_not_null()).unique("clip_id", keep="last", maintain_order=True)
    out = stays.filter(~pl.col("keep")).select("clip_id", leave_out="why")
    named = found.select("clip_id").unique(maintain_order=True)
    named = named.join(labels.unique("clip_id", keep="last"), on="clip_id", how="left", maintain_order="left")
    named = named.join(out, on="clip_id", how="left", maintain_order="left").select(list(VERDICTS))
    return named.filter(pl.col("label").is_not_null() | pl.col("leave_out").is_not_null())


def left_out(paths: Sequence[str], min_probability: float | None = None) -> tuple[str, ...]:
    """Labels of tables that do not count, in a line each; see `read_verdicts`."""
    found, notes = _all_opinions(paths, min_probability), []
    people = found.filter(pl.col("label_from") == PEOPLE).unique(["clip_id", "label"], maintain_order=True)
    if len(other := people.filter(pl.col("clip_id").is_duplicated())["clip_id"].unique(maintain_order=True)):
        notes.append(
            f"{len(other)} clips have another label by people in an earlier table, such as {other[0]!r}: the last "
            "table counts"
        )
    if low := int(found["unsure"].sum()):
        total = low + int((found["label_from"] == ANNOTATOR).sum())
        notes.append(proposals_left_out(low, total, "labels", min_probability))
    return tuple(notes)


def proposals_left_out(low: int, total: int, what: str, min_probability: float | None) -> str:
    """A line that says how many of all proposals are not taken, and why."""
    why = "a build takes those from curate.min_probability on"
    if min_probability is not None:
        why = f"they are less probable than {min_probability:g}, curate.min_probability"
    return f"{low} of {total} proposed {what} are left out: {why}"


def read_list(path: str) -> pl.Series:
    """Ids of the clips that a table names.

    Raises:
        ComponentError: as `read_table`, or it names none.
    """
    ids = read_table(Path(path))["clip_id"]
    if not len(ids):
        raise ComponentError(f"{path}: names no clip")
    return ids


def digest(path: str) -> str:
    """The blake3 hex digest of a table's file.

    Raises:
        ComponentError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return blake3(file.read()).hexdigest()
    except OSError as error:
        raise ComponentError(f"{path}: cannot be read as a table of clips: {_first_line(error)}") from error


def _all_opinions(paths: Sequence[str], min_probability: float | None) -> pl.DataFrame:
    """The rows of several tables as `_OPINIONS`, one table after the other."""
    return pl.concat([_OPINIONS.to_frame(), *(_opinions(Path(path), min_probability) for path in paths)])


def _opinions(path: Path, min_probability: float | None) -> pl.DataFrame:
    """The rows of one table as `_OPINIONS`."""
    rows = read_table(path)

    def column(name: str) -> pl.Series:
        return rows[name] if name in rows.columns else pl.Series(name, [None] * len(rows), dtype=pl.String)

    given, keep = column("label" if "label" in rows.columns else "given"), column("keep").str.to_lowercase()
    proposed, probability = column("proposed"), numbers(column("probability"))
    refuse(path, rows, keep.is_not_null() & ~keep.is_in([*_YES, *_NO]), keep, "keep is yes or no, not")
    offered = proposed.is_not_null() & given.is_null()
    if min_probability is None:
        proposed = proposed.clear(len(rows))
    else:
        refuse_probability(path, rows, column("probability"), probability)
        proposed = proposed.set(~(probability >= min_probability).fill_null(False) | given.is_not_null(), None)
    for labels in (given, proposed):
        refuse(path, rows, labels.str.contains(";", literal=True), labels, "a clip of a dataset has one label, not")
    by = pl.when(given.is_not_null()).then(pl.lit(PEOPLE)).when(proposed.is_not_null()).then(pl.lit(ANNOTATOR))
    table = rows.select(
        "clip_id",
        label=given.fill_null(proposed),
        label_from=by,
        label_probability=probability.set(proposed.is_null(), None),
        keep=keep.is_in(_YES),
        why=column("why").fill_null("no reason given"),
        unsure=offered & proposed.is_null(),
    )
    return table.cast(_OPINIONS)


def refuse(path: Path, rows: pl.DataFrame, wrong: pl.Series, values: pl.Series, what: str) -> None:
    """Say the first row that is wrong.

    Args:
        path: of the table. rows: of it, with clip_id. wrong: (N,) bool or null of each. values: what the message shows.
        what: is allowed.

    Raises:
        ComponentError: a row is wrong.
    """
    if (found := wrong.fill_null(False).arg_true()).len():
        row = found[0]
        raise ComponentError(f"{path}: {rows['clip_id'][row]!r}: {what} {values[row]!r}")


def numbers(texts: pl.Series) -> pl.Series:
    """Numbers of texts, null where one is none; a comma stands for a decimal point, as spreadsheets write it."""
    return texts.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)


def refuse_probability(path: Path, rows: pl.DataFrame, given: pl.Series, probability: pl.Series) -> None:
    """Say the first probability that is none.

    Args:
        path: of the table. rows: of it, with clip_id. given: texts. probability: the numbers of these.

    Raises:
        ComponentError: one is no number from 0 to 1.
    """
    wrong = given.is_not_null() & ~probability.is_between(0, 1).fill_null(False)
    refuse(path, rows, wrong, given, "probability is a number from 0 to 1, not")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
