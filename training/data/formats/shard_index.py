"""What lies where in WebDataset shards, and what the JSON of their samples says: read once, and kept.

Tar headers are read through byte ranges, so shards on a network are not downloaded for them.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl

from dataengine.core.class_numbers import class_number
from dataengine.core.errors import DatasetError
from dataengine.io.storage import file_hash, write_durably
from training.data.formats.base import digest
from training.data.formats.built import POSES
from training.data.formats.ranges import Ranges, is_url
from training.data.formats.stored_spans import checked_text

VERSION = 4
"""Raised when what is kept of the headers changes."""
TAR = 512
HEADER = 256
"""Bytes of an npy file that hold the shape of any array of a few axes."""
MOST = 1 << 31
"""A bound for numbers of classes while the samples are not counted yet."""
AHEAD = 1 << 20
"""Bytes of a remote shard that are read at a time while its headers are looked for."""
FACTS: dict[str, type[pl.DataType]] = {
    "label": pl.String,
    "label_id": pl.Int64,
    "split": pl.String,
    "source": pl.String,
    "source_label": pl.String,
    "text": pl.String,
    "fps": pl.String,
    "width": pl.Int64,
    "height": pl.Int64,
    "num_frames": pl.Int64,
    "skeleton": pl.String,
    "licence": pl.String,
}
"""Keys of KEY.json that a condition may use."""
MEMBER = re.compile(r"((?:.*/|)[^./][^.]*)[.]([^/]+)")
"""KEY.ENTRY: the key ends at the first dot of the file's own name (webdataset's convention)."""


class _Shard:
    """Bytes of one shard, remote ones read ahead."""

    def __init__(self, ranges: Ranges, number: int) -> None:
        self.name, self.size = ranges.files[number], ranges.sizes[number]
        self._ranges, self._number = ranges, number
        self._data, self._base = memoryview(b""), 0

    def read(self, start: int, size: int) -> bytes:
        if not self._base <= start <= start + size <= self._base + len(self._data):
            stop = max(start + size, min(start + AHEAD, self.size))
            ((self._data, self._base),) = self._ranges.pieces([self._number], [start], [stop])
        return bytes(self._data[start - self._base : start - self._base + size])


def _number(field: bytes) -> int:
    """A tar header's number: octal text, or binary where the first bit is set (GNU)."""
    return (
        int.from_bytes(field, "big") & ((1 << 95) - 1)
        if field[0] & 0x80
        else int(field.rstrip(b"\0 ").lstrip() or b"0", 8)
    )


def members(shard: _Shard) -> Iterator[tuple[str, int, int]]:
    """Path, data offset and size of every plain file of an archive (ustar, pax or GNU); links and folders are passed
    over.

    Raises:
        DatasetError: it is no archive, or ends before it should.
    """
    position, path, size_given = 0, "", -1
    while position + TAR <= shard.size:
        header = shard.read(position, TAR)
        if not any(header):
            return
        try:
            if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
                raise ValueError("a header's checksum does not hold")
            size, kind = _number(header[124:136]), header[156:157]
        except ValueError as error:
            raise DatasetError(f"{shard.name}: torn or damaged at byte {position}: {error}") from None
        size = size_given if size_given >= 0 and kind not in b"xgL" else size
        start, position = position + TAR, position + TAR + size + -size % TAR
        if position > shard.size:
            raise DatasetError(
                f"{shard.name}: torn: a member ends at byte {position}, the file at {shard.size}; copy it again"
            )
        if kind == b"x":
            records = dict(
                re.findall(r"\d+ (path|size)=([^\n]*)\n", shard.read(start, size).decode("utf-8", "surrogateescape"))
            )
            path, size_given = records.get("path", path), int(records.get("size", size_given))
        elif kind == b"L":
            path = shard.read(start, size).rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind != b"g":
            front = (
                header[345:500].rstrip(b"\0").decode("utf-8", "surrogateescape")
                if header[257:263] == b"ustar\0"
                else ""
            )
            own = header[:100].rstrip(b"\0").decode("utf-8", "surrogateescape")
            if kind in (b"0", b"\0", b"7"):
                yield path or (f"{front}/{own}" if front else own), start, size
            path, size_given = "", -1
    raise DatasetError(f"{shard.name}: torn: it ends at byte {shard.size} without the end of an archive; copy it again")


def _scan(ranges: Ranges, number: int) -> Iterator[dict[str, Any]]:
    """One row a sample of a shard: key, shard, facts of json, and offset:ENTRY, size:ENTRY of every entry."""
    shard = _Shard(ranges, number)
    named = ((match, offset, size) for path, offset, size in members(shard) if (match := MEMBER.fullmatch(path)))
    for key, group in itertools.groupby(named, key=lambda member: member[0].group(1)):
        row: dict[str, Any] = {"key": key, "shard": number}
        for match, offset, size in group:
            entry = match.group(2)
            if f"offset:{entry}" in row:
                raise DatasetError(f"{shard.name}: {key}.{entry} stands twice")
            row[f"offset:{entry}"], row[f"size:{entry}"] = offset, size
            try:
                if entry.removesuffix(".npy") in POSES:
                    row[f"shape:{entry}"] = _shape(shard.read(offset, min(size, HEADER)))
                elif entry == "json":
                    facts = json.loads(shard.read(offset, size))
                    _check(facts)
                    row |= {name: facts.get(name) for name in FACTS} | {
                        "joints": "\n".join(facts.get("joints") or ()) or None
                    }
                    row["spans"] = checked_text(facts.get("spans"))
                    row["fps"] = None if facts.get("fps") is None else str(facts["fps"])
                elif entry == "cls":
                    row.setdefault("label_id", class_number(int(shard.read(offset, size)), MOST))
            except (ValueError, TypeError, AttributeError) as error:
                raise DatasetError(f"{shard.name}: {key}.{entry} cannot be decoded: {error}") from None
        yield row


def _check(facts: dict[str, Any]) -> None:
    """Refuse facts of a sample that cannot be what their names say.

    Raises:
        ValueError: saying which.
    """
    for name, kind in FACTS.items():
        value = facts.get(name)
        if value is None or name == "label_id":
            continue
        if kind is pl.String and not isinstance(value, str | int | float):
            raise ValueError(f"its {name} is a {type(value).__name__}; allowed: text")
        if kind is pl.Int64 and (isinstance(value, bool) or not isinstance(value, int | float) or value % 1):
            raise ValueError(f"its {name} is {value!r}; allowed: a whole number")
    if facts.get("fps") is not None and not rate_of(str(facts["fps"])) > 0:
        raise ValueError(f"its fps is {facts['fps']!r}; allowed: frames per second, more than 0, or none")
    joints = facts.get("joints")
    if joints is not None and not (isinstance(joints, list) and all(isinstance(joint, str) for joint in joints)):
        raise ValueError(f"its joints are {joints!r}; allowed: a list of names")
    if facts.get("label_id") is not None:
        try:
            class_number(facts["label_id"], MOST)
        except ValueError as error:
            raise ValueError(f"its label_id is {error}") from None


def rate_of(text: str) -> float:
    """Frames per second of a number or a fraction as text; NaN where it is none."""
    try:
        rate = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        return math.nan
    return rate if math.isfinite(rate) else math.nan


def _shape(head: bytes) -> str | None:
    """The shape that the beginning of an npy file tells, as text; None where it tells none."""
    found = re.search(rb"'shape': \(([0-9, ]*)\)", head)
    return None if found is None else found.group(1).decode().replace(" ", "").strip(",")


def tag_of(files: Sequence[str], states: Sequence[tuple[int, str]]) -> str:
    """A text that changes when one of the shards does."""
    return digest(VERSION, *(f"{file} {size} {state}" for file, (size, state) in zip(files, states)))


def index(ranges: Ranges, states: Sequence[tuple[int, str]], folder: Path, content: bool = True) -> pl.DataFrame:
    """What the headers of the shards say, one row a sample, kept in `folder` until a shard changes.

    Args:
        ranges: the shards.
        states: size and state of each, see `dataengine.io.remote.file_state`.
        folder: where the table is kept.
        content: whether shards are hashed; they are read whole for it, once.

    Returns:
        Columns key, shard, those of `FACTS`, joints, spans, offset:ENTRY, size:ENTRY, shape:POSE, and `content`: the
        hash of the sample's shard; its state, as files or servers tell it, of one on a network or where it is not
        hashed.

    Raises:
        DatasetError: a shard is torn, or two samples have one key.
    """
    kind = "webdataset" if content else "places"
    path = folder / f"{kind}-{tag_of(ranges.files, states)[:32]}.parquet"
    with contextlib.suppress(OSError, pl.exceptions.PolarsError):  # none yet, or one that is damaged: read anew
        return pl.read_parquet(path, glob=False)
    rows: list[dict[str, Any]] = []
    for number, (file, (_, state)) in enumerate(zip(ranges.files, states)):
        scanned = list(_scan(ranges, number))
        said = file_hash(file) if content and not is_url(file) else state
        rows += [row | {"content": said} for row in scanned]
    places: dict[str, Any] = {name: pl.Int64 for row in rows for name in row if name.startswith(("offset:", "size:"))}
    places |= {name: pl.String for row in rows for name in row if name.startswith("shape:")}
    schema: dict[str, Any] = {
        "key": pl.String,
        "shard": pl.Int64,
        **FACTS,
        "joints": pl.String,
        "spans": pl.String,
        "content": pl.String,
        **dict(sorted(places.items())),
    }
    frame = pl.DataFrame(rows, schema=schema, strict=False)
    twice = frame.filter(pl.col("key").is_duplicated())
    if len(twice):
        raise DatasetError(f"{ranges.files[twice['shard'][1]]}: key {twice['key'][0]!r} stands in more than one place")
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    with contextlib.suppress(OSError):  # without a place for it the shards are read each time
        write_durably(path, buffer.getvalue())
    return frame
