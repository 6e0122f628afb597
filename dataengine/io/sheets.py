"""Tables that people filled in with a spreadsheet: CSV files in what such programs write."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import polars as pl

MARKS = ",;\t"
"""What may stand between columns."""
_ZEROS = {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}
"""Encodings without a byte order mark, by where the zeros of the first letters stand."""


def read_sheet(path: Path) -> pl.DataFrame:
    """The rows of a CSV file as texts, null where a cell is empty. Names of columns are stripped.

    UTF-8, UTF-16 or UTF-32, with or without a byte order mark; columns apart by commas, semicolons or tabs; a line
    `sep=;`, as Excel writes it, may come first. The path is no pattern.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such table; the message says why, in one line.
    """
    text = _decoded(path.read_bytes())
    mark = ""
    if told := re.match(r'"?sep=(.)"?\n', text):
        mark, text = told[1], text[told.end() :]
    header = re.sub(r'"[^"]*"', "", text.lstrip().partition("\n")[0])
    mark = mark or max(MARKS, key=lambda one: (header.count(one), -MARKS.index(one)))
    names = [name.strip() for name in next(csv.reader(io.StringIO(text.lstrip()), delimiter=mark), [])]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ValueError(f"the column {twice[0]!r} stands there {names.count(twice[0])} times: keep one of them")
    try:
        rows = pl.read_csv(io.BytesIO(text.encode()), separator=mark, infer_schema=False)
        return rows.rename({name: name.strip() for name in rows.columns})
    except pl.exceptions.PolarsError as error:
        raise ValueError(str(error).strip().partition("\n")[0] or type(error).__name__) from None


def _decoded(data: bytes) -> str:
    encoding = _ZEROS.get("".join("0" if byte == 0 else "x" for byte in data[:4]), "utf-8-sig")
    if data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        encoding = "utf-32"
    elif data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no {encoding.upper()}: save it as CSV UTF-8") from None
    return text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
