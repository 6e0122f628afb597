"""Samples in tar shards: deterministic to write, strict to read, and addressable by (offset, size).

A shard is a plain USTAR archive in WebDataset's convention: the members of one sample follow each
other and are named KEY.ENTRY. Owner, mode and times are constants, so a shard is a function of
its samples alone; where all names fit 100 characters its members equal those of `tarfile` in
`USTAR_FORMAT` byte for byte. The bytes of one sample, headers included, are a valid piece of tar.

    with ShardWriter("train-000000.tar") as writer:
        written = writer.write("clip-1", {"json": {"label": "jump"}, "keypoints.npy": array})
    entries = read_sample("train-000000.tar", written.offset, written.size, written.blake3)
    decode(entries)["keypoints"]
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from blake3 import blake3 as Hasher
from numpy.typing import NDArray

from dataengine.core.errors import DatasetError
from dataengine.io import npy
from dataengine.io.remote import read_range
from dataengine.io.storage import mapped, staged

Array: TypeAlias = NDArray[Any]
Content: TypeAlias = "bytes | str | dict[str, Any] | Array"
Buffer: TypeAlias = "bytes | memoryview"

BLOCK = 512
END = bytes(2 * BLOCK)
"""Two zero blocks end an archive (POSIX.1-2017, pax, ustar interchange format)."""
MAX_ENTRY = 8**11 - 1
"""Largest member in bytes: the size field holds eleven octal digits."""
PAX_NAME = b"././@PaxHeader"
"""Name of the extra header in front of a member whose own name exceeds 100 characters; the one `tarfile` writes."""

_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ENTRY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ZEROS = bytes(BLOCK)
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_OWNER = b"\0".join((b"0000644", b"0000000", b"0000000", b""))
_FILE = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_PAX = b"x" + _FILE[1:]


class Entry(NamedTuple):
    """One member of a sample: its name and where its data lies in the shard, in bytes."""

    name: str
    offset: int
    size: int


class Written(NamedTuple):
    """Where a sample lies in its shard: bytes [offset, offset + size), headers included, and their BLAKE3."""

    offset: int
    size: int
    blake3: str
    entries: tuple[Entry, ...]


class Shard(NamedTuple):
    """A finished shard: its length in bytes and the BLAKE3 of the whole file."""

    bytes: int
    blake3: str


class ShardWriter:
    """Writes one shard; samples lie in the order they are written, and a shard of no samples is valid.

    As a context manager it closes itself, or discards everything when the block raises. Until
    `close` the bytes lie in a staging file beside `path`.

    Attributes:
        shard: what `close` returned; None before.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.shard: Shard | None = None
        self._keys: set[str] = set()
        self._offset = 0
        self._hash = Hasher()
        self._stack = contextlib.ExitStack()
        self._fd = os.open(self._stack.enter_context(staged(self.path)), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._open = True

    def write(self, key: str, entries: Mapping[str, Content]) -> Written:
        """Append one sample.

        Args:
            key: of letters, digits, '_' and '-'; once in a shard.
            entries: by name ('json', 'keypoints.npy'): an array becomes an npy file (format 1.0, C order), a dict
                canonical JSON, a str UTF-8; bytes are taken as they are.

        Raises:
            DatasetError: the key or an entry cannot be stored. Nothing of the sample is then in the shard.
            OSError: the disk refused; the shard is then discarded.
        """
        if not self._open:
            raise DatasetError(f"{self.path}: the shard is closed; open a new ShardWriter to write {key!r}")
        if key in self._keys:
            raise DatasetError(f"{self.path}: key {key!r} is already in the shard; every sample needs its own")
        if not _KEY.fullmatch(key) or not entries:
            raise DatasetError(f"{self.path}: sample {key!r} needs a key of [A-Za-z0-9_-] and at least one entry")
        parts: list[Buffer] = []
        members = []
        start = position = self._offset
        for name, content in entries.items():
            body = _encode(key, name, content)
            size = sum(map(len, body))
            header = _header(key, name, size)
            parts.append(header)
            parts += body
            if padding := -size % BLOCK:
                parts.append(_ZEROS[:padding])
            position += len(header)
            members.append(Entry(name, position, size))
            position += size + padding
        piece = b"".join(parts)
        try:
            self._append(piece)
        except OSError:
            self.discard()
            raise
        self._keys.add(key)
        return Written(start, position - start, Hasher(piece).hexdigest(), tuple(members))

    def close(self) -> Shard:
        """End the archive, make it durable and give it its name. Closing again returns the same."""
        if self.shard is None:
            if not self._open:
                raise DatasetError(f"{self.path}: the shard was discarded; nothing was written")
            try:
                self._append(END)
            except OSError:
                self.discard()
                raise
            self._release()
            self._stack.close()
            self.shard = Shard(self._offset, self._hash.hexdigest())
        return self.shard

    def discard(self) -> None:
        """Remove what was written. Does nothing after `close`."""
        if self._open:
            self._release()
            with contextlib.suppress(_Discarded), self._stack:
                raise _Discarded

    def _append(self, piece: bytes) -> None:
        self._hash.update(piece)
        left = memoryview(piece)
        while left:
            left = left[os.write(self._fd, left) :]
        self._offset += len(piece)

    def _release(self) -> None:
        self._open = False
        os.close(self._fd)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class _Discarded(Exception):
    """Makes `staged` remove its file."""


def sample_bytes(key: str, entries: Mapping[str, Content | int]) -> int:
    """The bytes that `ShardWriter.write(key, entries)` takes; an int stands for an entry of that many bytes.

    A whole shard is the sum over its samples plus `len(END)`.
    """
    total = 0
    for name, content in entries.items():
        size = content if isinstance(content, int) else sum(map(len, _encode(key, name, content)))
        total += len(_header(key, name, size)) + size + -size % BLOCK
    return total


def _encode(key: str, name: str, content: Content) -> Sequence[Buffer]:
    """An entry's data as buffers to be written one after the other."""
    if isinstance(content, np.ndarray):
        if not name.endswith(".npy"):
            raise DatasetError(f"entry {name!r} of sample {key!r} is an array; its name must end in '.npy'")
        if content.dtype.hasobject:
            raise DatasetError(
                f"entry {name!r} of sample {key!r} has dtype {content.dtype}; arrays of Python objects cannot be stored"
            )
        return npy.encode(content)
    if isinstance(content, str | dict):
        try:
            return ((content if isinstance(content, str) else _JSON.encode(content)).encode(),)
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"entry {name!r} of sample {key!r} is no text or JSON: {error}; use finite numbers, str, list, dict"
            ) from None
    if isinstance(content, bytes | bytearray | memoryview):
        return (bytes(content),)
    raise DatasetError(
        f"entry {name!r} of sample {key!r} is a {type(content).__name__}; allowed: bytes, str, dict, numpy array"
    )


@functools.lru_cache(maxsize=4096)
def _header_tail(name: str, size: int) -> tuple[bytes, int, bytes, int]:
    """What does not depend on the key: '.NAME', its sum, the fields before the checksum, the sum of the rest."""
    if not _ENTRY.fullmatch(name):
        raise DatasetError(
            f"entry name {name!r} is not allowed; use [A-Za-z0-9_-] and single dots, such as 'keypoints.npy'"
        )
    if size > MAX_ENTRY:
        raise DatasetError(f"entry {name!r} has {size} bytes; a member of a shard holds at most {MAX_ENTRY}")
    suffix = f".{name}".encode()
    fields = _OWNER + b"%011o\0" % size + b"00000000000\0"
    return suffix, sum(suffix), fields, sum(fields) + 8 * ord(" ") + sum(_FILE)


def _header(key: str, name: str, size: int) -> bytes:
    """The USTAR header of a member, behind a pax header with its path where the name is too long."""
    suffix, name_sum, fields, rest_sum = _header_tail(name, size)
    start = key.encode()
    if len(start) + len(suffix) > 100:
        return _long_header(start + suffix, fields)
    return b"".join(
        (
            start,
            suffix,
            bytes(100 - len(start) - len(suffix)),
            fields,
            b"%06o\0 " % (sum(start) + name_sum + rest_sum),
            _FILE,
        )
    )


def _long_header(path: bytes, fields: bytes) -> bytes:
    # a pax record states its own length in decimal, which counts the digits themselves
    length = len(path) + len(b" path=\n")
    length += next(digits for digits in range(1, 9) if len(str(length + digits)) == digits)
    record = b"%d path=%s\n" % (length, path)
    outer = _OWNER + b"%011o\0" % len(record) + b"00000000000\0"
    return _block(PAX_NAME, outer, _PAX) + record + bytes(-len(record) % BLOCK) + _block(path[:100], fields, _FILE)


def _block(name: bytes, fields: bytes, rest: bytes) -> bytes:
    return name.ljust(100, b"\0") + fields + b"%06o\0 " % (sum(name) + sum(fields) + 8 * ord(" ") + sum(rest)) + rest


def read_sample(source: str | os.PathLike[str], offset: int, size: int, blake3: str | None = None) -> dict[str, bytes]:
    """The entries of one sample by name, read from bytes [offset, offset + size) of a shard (path or url).

    Raises:
        DatasetError: the bytes are not there, do not have the given BLAKE3, or are not one sample.
    """
    data = read_range(source, offset, size)
    if blake3 is not None and (found := Hasher(data).hexdigest()) != blake3:
        raise DatasetError(f"{source}: damaged: {size} bytes at {offset} have blake3 {found}, expected {blake3}")
    samples = list(scan(data, f"{source} at {offset}", whole=False))
    if len(samples) != 1:
        raise DatasetError(f"{source}: {size} bytes at {offset} hold {len(samples)} samples instead of one")
    return {entry.name: data[entry.offset : entry.offset + entry.size] for entry in samples[0][1]}


def iterate(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Every sample of a local shard in order, as (key, data by entry name).

    Raises:
        DatasetError: the shard is torn, damaged or not an archive; also when only its end is missing.
    """
    data = mapped(path)
    for key, members in scan(data, os.fspath(path)):
        yield key, {entry.name: bytes(data[entry.offset : entry.offset + entry.size]) for entry in members}


def scan(data: Buffer, name: str, whole: bool = True) -> Iterator[tuple[str, tuple[Entry, ...]]]:
    """Every (key, entries) of the shard `data`, or of a piece of one when not `whole`; `name` is for messages.

    Raises:
        DatasetError: `data` is not an archive of samples, or a `whole` one without its end.
    """
    key, seen = "", set[str]()
    members: list[Entry] = []
    for path, offset, size in _members(data, name, whole):
        owner, _, entry = path.partition(".")
        if not owner or not entry:
            raise DatasetError(f"{name}: member {path!r} is not named KEY.ENTRY")
        if owner != key:
            if key:
                yield key, tuple(members)
            if owner in seen:
                raise DatasetError(f"{name}: members of sample {owner!r} do not follow each other")
            key, members = owner, []
            seen.add(key)
        if any(one.name == entry for one in members):
            raise DatasetError(f"{name}: member {path!r} stands twice")
        members.append(Entry(entry, offset, size))
    if key:
        yield key, tuple(members)


def _members(data: Buffer, name: str, whole: bool) -> Iterator[tuple[str, int, int]]:
    """Path, data offset and size of every member; pax records of path and size are honoured, others passed over."""
    position, records = 0, dict[str, str]()
    while position < len(data):
        header = bytes(data[position : position + BLOCK])
        if header == _ZEROS:
            break
        path, kind, size = _parse_header(header, f"{name} at {position}")
        size = int(records.get("size", size))
        start, position = position + BLOCK, position + BLOCK + size + -size % BLOCK
        if position > len(data):
            raise DatasetError(f"{name}: torn: member {path!r} ends at byte {position}, the data at {len(data)}")
        if any(data[start + size : position]):
            raise DatasetError(f"{name}: damaged: bytes behind member {path!r} are not zero")
        if kind == b"x":
            records = _parse_pax(bytes(data[start : start + size]), f"{name} at {start}")
        else:
            yield records.get("path", path), start, size
            records = {}
    rest = data[position:]
    if records or (whole and len(rest) < len(END)) or any(rest):
        raise DatasetError(
            f"{name}: torn or damaged at byte {position}: the archive does not end as one does; write or copy it again"
        )


def _parse_header(header: bytes, name: str) -> tuple[str, bytes, int]:
    try:
        if len(header) != BLOCK or header[257:262] != b"ustar":
            raise ValueError("no header of a tar member")
        if int(header[148:156].rstrip(b"\0 "), 8) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise ValueError("the header's checksum does not hold")
        if (kind := header[156:157]) not in (b"0", b"\0", b"x"):
            raise ValueError(f"a member of type {kind!r}, not a plain file")
        front = header[345:500].rstrip(b"\0").decode()
        path = header[:100].rstrip(b"\0").decode()
        return (f"{front}/{path}" if front else path), kind, int(header[124:136].rstrip(b"\0 "), 8)
    except ValueError as error:
        raise DatasetError(f"{name}: torn or damaged: {error}") from None


def _parse_pax(data: bytes, name: str) -> dict[str, str]:
    records = {}
    try:
        while data:
            length = int(data[: data.index(b" ")])
            word, _, value = data[data.index(b" ") + 1 : length - 1].partition(b"=")
            if not 0 < length <= len(data) or data[length - 1 : length] != b"\n":
                raise ValueError("a record of another length than it states")
            records[word.decode()] = value.decode()
            data = data[length:]
    except ValueError as error:
        raise DatasetError(f"{name}: torn or damaged pax header: {error}") from None
    return records


def decode(entries: Mapping[str, Buffer]) -> dict[str, Any]:
    """Decode data by entry name: 'NAME.npy' to an array under 'NAME', json to a dict, txt to a str, others unchanged.

    Arrays are read-only views of the given data; copy one to change it.

    Raises:
        DatasetError: an entry is not what its name says.
    """
    return {name.removesuffix(".npy"): decode_entry(name, data) for name, data in entries.items()}


def decode_entry(name: str, data: Buffer) -> Any:
    """One entry's value (see `decode`)."""
    try:
        if name.endswith(".npy"):
            return npy.parse(data)
        if name == "json" or name.endswith(".json"):
            return json.loads(bytes(data))
        if name == "txt" or name.endswith(".txt"):
            return bytes(data).decode()
    except (ValueError, TypeError, KeyError, SyntaxError) as error:
        raise DatasetError(f"entry {name!r} cannot be decoded: {error}") from None
    return data
