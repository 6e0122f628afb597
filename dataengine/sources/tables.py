"""Reading annotation files piece by piece, so that one bad piece costs one row and large files little memory."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_PIECE = 1 << 16
_SPACE = re.compile(r"[\s,]*")


class BadLine(str):
    """What is wrong with a line; `values` holds what was in it, as far as that can be told."""

    values: tuple[str, ...] = ()


def _open(path: Path) -> IO[str]:
    """A text file in UTF-8, or in UTF-16 as spreadsheets write it."""
    zipped = path.name.lower().endswith(".gz")
    with gzip.open(path, "rb") if zipped else path.open("rb") as stream:
        encoding = _encoding(stream.read(64))
    if zipped:
        return gzip.open(path, "rt", encoding=encoding, errors="replace", newline="")
    return path.open(encoding=encoding, errors="replace", newline="")


def _encoding(start: bytes) -> str:
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if len(start) >= 8 and start[1::2].count(0) > len(start) // 4:
        return "utf-16-le"
    if len(start) >= 8 and start[0::2].count(0) > len(start) // 4:
        return "utf-16-be"
    return "utf-8-sig"


def head(path: Path, size: int = _PIECE) -> str:
    """The first characters of a text file; '' when it cannot be read."""
    try:
        with _open(path) as stream:
            return stream.read(size)
    except (OSError, EOFError, zlib.error):
        return ""


def columns(path: Path) -> list[str]:
    """The header of a CSV file (or .csv.gz), stripped; [] when there is none."""
    line = _first_line(path)
    try:
        return [name.strip() for name in next(csv.reader([line], strict=True, delimiter=_delimiter(line)), [])]
    except csv.Error:
        return []


def _first_line(path: Path) -> str:
    return re.split(r"\r\n|\r|\n", head(path), maxsplit=1)[0]


def _delimiter(header: str) -> str:
    """What stands between the columns of a header: a comma, else a semicolon or a tab, as spreadsheets write them."""
    return next((mark for mark in ",;\t" if mark in header), ",")


def rows(path: Path) -> Iterator[tuple[int, dict[str, str] | str]]:
    """The rows of a CSV file below its header: (line number, fields by column or what is wrong with the line).

    Every line is read by itself: an unclosed quote costs its own line, not the rest of the file.
    """
    names, delimiter = columns(path), _delimiter(_first_line(path))
    line = 1
    try:
        with _open(path) as stream:
            stream.readline(_PIECE)
            while text := stream.readline(_PIECE):
                line += 1
                if text.strip():
                    yield line, _fields(names, text, delimiter)
    except (OSError, EOFError, zlib.error) as error:
        yield line + 1, f"the file cannot be read from here on ({type(error).__name__})"


def _fields(names: list[str], text: str, delimiter: str) -> dict[str, str] | str:
    try:
        fields = next(csv.reader([text], strict=True, delimiter=delimiter))
    except csv.Error as error:
        return _bad(f"not a CSV line ({error})", [part.strip(' "') for part in text.strip().split(delimiter)])
    if len(fields) != len(names):
        return _bad(f"{len(fields)} fields where the header has {len(names)}", fields)
    if "\ufffd" in text:
        return _bad("the line is not valid UTF-8", fields)
    return dict(zip(names, (value.strip() for value in fields)))


def _bad(what: str, values: list[str]) -> BadLine:
    line = BadLine(what)
    line.values = tuple(value.strip() for value in values if value.strip())
    return line


def entries(path: Path) -> Iterator[tuple[str, Any]]:
    """The members of the object or list that a JSON file holds, as (key or number, value), decoded one at a time.

    Raises:
        ValueError: the file breaks off, is not JSON, or holds neither; members before that point were yielded.
    """
    try:
        with _open(path) as stream:
            text = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"the file cannot be read ({type(error).__name__})") from error
    decode = json.JSONDecoder().raw_decode
    at = _skip(text, 0)
    opening = text[at : at + 1]
    if opening not in ("{", "["):
        raise ValueError("neither a JSON object nor a JSON list")
    at = _skip(text, at + 1)
    number = 0
    try:
        while text[at : at + 1] not in ("}", "]"):
            key = str(number)
            if opening == "{":
                key, at = decode(text, at)
                at = _skip(text, at)
                if not isinstance(key, str) or text[at : at + 1] != ":":
                    raise ValueError(f"no key and colon at character {at}")
                at = _skip(text, at + 1)
            value, at = decode(text, at)
            yield key, value
            number += 1
            at = _skip(text, at)
    except RecursionError:
        raise ValueError(f"nested too deeply after member {number}") from None


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
