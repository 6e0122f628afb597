"""Reading annotation files piece by piece, so that one bad piece costs one row and large files little memory."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_PIECE = 1 << 16
_SPACE = re.compile(r"[\s,]*")


class BadLine(str):
    """What is wrong with a line.

    Attributes:
        values: what the line may mean as one field: its parts, parts joined again (a comma in a name without quotes
            splits it), and both in other encodings where the line is not valid.
        ends: nothing behind this line can be read.
    """

    values: tuple[str, ...] = ()
    ends: bool = False


_JOINED = 12
"""Parts of a bad line that are joined again, at most: it takes their square."""

_OTHER_ENCODINGS = ("cp1252", "cp850", "cp1250", "cp1251", "cp932", "gb18030", "big5", "cp949", "mac_roman")
"""What spreadsheets of various countries write that do not write Unicode."""


def _open(path: Path, keep_bytes: bool = False) -> IO[str]:
    """A text file in UTF-8, or in UTF-16 or UTF-32 as spreadsheets write it.

    Args:
        keep_bytes: whether a byte that is not valid becomes a lone surrogate, which holds it, and not U+FFFD.
    """
    zipped = path.name.lower().endswith(".gz")
    with gzip.open(path, "rb") if zipped else path.open("rb") as stream:
        encoding = _encoding(stream.read(64))
    errors = "surrogateescape" if keep_bytes and encoding == "utf-8-sig" else "replace"
    if zipped:
        return gzip.open(path, "rt", encoding=encoding, errors=errors, newline="")
    return path.open(encoding=encoding, errors=errors, newline="")


def _encoding(start: bytes) -> str:
    """The encoding by the byte order mark, else by where the zeros of the first letters stand."""
    if start[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    zeros = "".join("0" if byte == 0 else "x" for byte in start[:8])
    known = {"x000x000": "utf-32-le", "000x000x": "utf-32-be", "x0x0x0x0": "utf-16-le", "0x0x0x0x": "utf-16-be"}
    return known.get(zeros, "utf-8-sig")


def head(path: Path, size: int = _PIECE) -> str:
    """The first characters of a text file; '' when it cannot be read."""
    try:
        with _open(path) as stream:
            return stream.read(size)
    except (OSError, EOFError, zlib.error):
        return ""


@dataclass(frozen=True)
class _Header:
    """The line that names the columns.

    Attributes:
        line: its number, from 1.
        columns: the names; () where there is no header.
    """

    line: int
    columns: tuple[str, ...]
    delimiter: str


def _header(path: Path) -> _Header:
    """The first line that is not empty. A line `sep=;`, as Excel writes it, may come before."""
    delimiter = None
    for number, line in enumerate(re.split(r"\r\n|\r|\n", head(path)), 1):
        line = line.strip("\ufeff")
        told = re.fullmatch(r'"?sep=(.)"?\s*', line)
        if told and delimiter is None:
            delimiter = told[1]
        elif line.strip(" ,;\t\0"):
            delimiter = delimiter or _delimiter(line)
            try:
                names = _split(line, delimiter)
            except csv.Error:
                names = []
            return _Header(number, tuple(name.strip() for name in names), delimiter)
    return _Header(1, (), ",")


def columns(path: Path) -> list[str]:
    """The header of a CSV file (or .csv.gz), stripped; [] when there is none."""
    return list(_header(path).columns)


def _delimiter(header: str) -> str:
    """What stands between the columns of a header: the mark that is there most often outside of quotes."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(",;\t|", key=lambda mark: (bare.count(mark), -",;\t|".index(mark)))


def rows(path: Path, names: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, str] | str]]:
    """The rows of a CSV file below its header: (line number, fields by column or what is wrong with the line).

    Every line is read by itself: an unclosed quote costs its own line, not the rest of the file. Lines end as on any
    system.

    Args:
        names: of the columns, in place of the header's.
    """
    header = _header(path)
    names = header.columns if names is None else names
    line = 0
    try:
        with _open(path, keep_bytes=True) as stream:
            while text := stream.readline(_PIECE):
                line += 1
                if line > header.line and text.strip():
                    yield line, _fields(names, text, header.delimiter)
    except (OSError, EOFError, zlib.error) as error:
        torn = BadLine(f"the file cannot be read from here on ({type(error).__name__})")
        torn.ends = True
        yield line + 1, torn


def _fields(names: Sequence[str], text: str, delimiter: str) -> dict[str, str] | str:
    if any("\udc80" <= letter <= "\udcff" for letter in text):
        return _bad("the line is not valid UTF-8: save the table as UTF-8 (in Excel: CSV UTF-8)", text, delimiter)
    if "\ufffd" in text or "\0" in text:
        return _bad("the line holds unreadable letters or zero bytes", text, delimiter)
    try:
        fields = _split(text, delimiter)
    except csv.Error as error:
        return _bad(f"not a CSV line ({error})", text, delimiter)
    if len(fields) != len(names):
        return _bad(f"{len(fields)} fields where the header has {len(names)}", text, delimiter)
    return dict(zip(names, (value.strip() for value in fields)))


def _split(line: str, delimiter: str) -> list[str]:
    """The fields of one line; blanks around quotes are no part of a field.

    Raises:
        csv.Error: a quote is not closed.
    """
    bare = re.sub(rf'" +(?={re.escape(delimiter)}|\s*$)', '"', line) if '" ' in line else line
    return next(csv.reader([bare], strict=True, delimiter=delimiter, skipinitialspace=True), [])


def _bad(what: str, text: str, delimiter: str) -> BadLine:
    texts = [text.replace("\0", "")]
    if any("\udc80" <= letter <= "\udcff" for letter in text):
        raw = text.encode("utf-8", "surrogateescape")
        texts = [raw.decode(name, "replace") for name in ("utf-8", *_OTHER_ENCODINGS)]
    values: dict[str, None] = {}
    for one in texts:
        parts = one.split(delimiter)
        for length in range(1, min(len(parts), _JOINED) + 1):
            for first in range(len(parts) - length + 1):
                values[delimiter.join(parts[first : first + length]).strip().strip("\"'").strip()] = None
    line = BadLine(what)
    line.values = tuple(value for value in values if value)
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
