"""Tables that verbs write for people and programs: CSV or Parquet, by the ending of the file."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from dataengine.core.errors import TrainingError
from dataengine.io.storage import staged

ENDINGS = (".csv", ".parquet")


def table_file(path: str | os.PathLike[str], what: str) -> Path:
    """The file of a table.

    Args:
        what: is in it, such as "predictions"; for the message.

    Raises:
        TrainingError: another ending than those of `ENDINGS`.
    """
    target = Path(path)
    if target.suffix not in ENDINGS:
        raise TrainingError(f"{target}: {what} are a table; allowed endings: {', '.join(ENDINGS)}")
    return target


def write_table(table: pl.DataFrame, target: Path) -> None:
    """Write a table by the ending of its file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with staged(target) as partial:
        if target.suffix == ".csv":
            table.write_csv(partial)
        else:
            table.write_parquet(partial)
