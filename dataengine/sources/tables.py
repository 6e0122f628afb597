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


def _open(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def head(path: Path, size: int = _PIECE) -> str:
    """The first characters of a text file; '' when it cannot be read."""
    try:
        with _open(path) as stream:
            return stream.read(size)
    except (OSError, EOFError, zlib.error):
        return ""


def columns(path: Path) -> list[str]:
    """The header of a CSV file (or .csv.gz), stripped; [] when there is none."""
    line = head(path).split("\n", 1)[0].rstrip("\r")
    try:
        return [name.strip() for name in next(csv.reader([line], strict=True), [])]
    except csv.Error:
        return []


def rows(path: Path) -> Iterator[tuple[int, dict[str, str] | str]]:
    """The rows of a CSV file below its header: (line number, fields by column or what is wrong with the line).

    Every line is read by itself: an unclosed quote costs its own line, not the rest of the file.
    """
    names = columns(path)
    line = 1
    try:
        with _open(path) as stream:
            stream.readline(_PIECE)
            while text := stream.readline(_PIECE):
                line += 1
                if text.strip():
                    yield line, _fields(names, text)
    except (OSError, EOFError, zlib.error) as error:
        yield line + 1, f"the file cannot be read from here on ({type(error).__name__})"


def _fields(names: list[str], text: str) -> dict[str, str] | str:
    try:
        fields = next(csv.reader([text], strict=True))
    except csv.Error as error:
        return f"not a CSV line ({error})"
    if len(fields) != len(names):
        return f"{len(fields)} fields where the header has {len(names)}"
    if "\ufffd" in text:
        return "the line is not valid UTF-8"
    return dict(zip(names, (value.strip() for value in fields)))


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
