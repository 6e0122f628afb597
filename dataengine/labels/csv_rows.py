"""Rows of our own CSV tables, checked against their columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from dataengine.core.errors import ComponentError


def table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row with the number of its line.

    Raises:
        ComponentError: the columns are others, or a row has more or fewer fields.
        OSError, UnicodeDecodeError, csv.Error: the file cannot be read.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise ComponentError(
                f"{path}: the columns are {', '.join(reader.fieldnames or ()) or '(none)'}; want {', '.join(columns)}"
            )
        for row in reader:
            if None in row or None in row.values():
                raise ComponentError(f"{path} line {reader.line_num}: want {len(columns)} fields")
            yield reader.line_num, row
