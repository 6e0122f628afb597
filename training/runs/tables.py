"""Tables that verbs write for people and programs: CSV or Parquet, by the ending of the file."""

from __future__ import annotations

import io
import os
from pathlib import Path

import polars as pl

from dataengine.core.errors import TrainingError
from dataengine.io.storage import check_place, write_durably

ENDINGS = (".csv", ".parquet")


def table_file(path: str | os.PathLike[str], what: str) -> Path:
    """The file of a table, if it can be written.

    Args:
        what: is in it, such as "predictions"; for the message.

    Raises:
        TrainingError: another ending than those of `ENDINGS`.
        OSError: the file cannot be written there.
    """
    target = Path(path)
    if target.suffix not in ENDINGS:
        raise TrainingError(f"{target}: {what} are a table; allowed endings: {', '.join(ENDINGS)}")
    return check_place(target)


def write_table(table: pl.DataFrame, target: Path) -> None:
    """Write a table by the ending of its file, whole or not at all."""
    content = io.BytesIO()  # errors of the disk, such as a full one, are Python's then, with number and name
    if target.suffix == ".csv":
        table.write_csv(content)
    else:
        table.write_parquet(content)
    write_durably(target, content.getvalue())
