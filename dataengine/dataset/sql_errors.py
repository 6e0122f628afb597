"""What is wrong with SQL about a dataset, in one line that names the nearest column or table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import polars as pl

from dataengine.core.errors import suggestion

_COLUMN = re.compile(r"(?:unable to find column|no column named) [\"'](.*?)[\"']")
_TABLE = re.compile(r"relation '(.*?)' was not found")


def sql_mistake(error: pl.exceptions.PolarsError, statement: str, columns: Mapping[str, Sequence[str]]) -> str:
    """What is wrong with a statement, in one line; unknown columns and tables are answered with the nearest name.

    Args:
        error: what Polars says.
        statement: the SQL.
        columns: names of the columns of each table that the statement can name.
    """
    if found := _COLUMN.search(str(error)):
        asked = [name for name in columns if re.search(rf"\b{re.escape(name)}\b", statement)]
        allowed = {column for name in asked for column in columns[name]}
        return f"no column {found[1]!r} in {', '.join(asked)}{suggestion(found[1], allowed)}"
    if found := _TABLE.search(str(error)):
        return f"no table {found[1]!r}{suggestion(found[1], columns)}"
    return f"{str(error).splitlines()[0]}; tables: {', '.join(columns)}"
