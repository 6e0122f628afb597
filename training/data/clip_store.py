"""Clips on disk by their position, written by any number of processes at once and read back bit for bit.

A store is a folder of pairs of files that only grow: X.data holds the clips of one process, one after the other,
X.index a row for each: position, offset, size and checksum. A row is written after its clip. What a kill, a full disk
or a power cut tears is a row that is incomplete, or a clip whose checksum is wrong, and counts as absent. So nothing
is locked, nothing waits for the disk, and a store may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.io.storage import PARTIAL, write_durably
from training.data.types import SkeletonSequence

ROW = np.dtype([("position", "<i8"), ("offset", "<i8"), ("size", "<i8"), ("sum", "<i8")])
"""A row of X.index."""
_HEAD = struct.Struct("<Q")
_ALIGNED = 64
"""Arrays begin at multiples of so many bytes."""
SPARED = 1e9
"""Bytes of a disk that stay free."""
LOOKED_AT = 64e6
"""Bytes that a process writes between two looks at the limit and the disk."""
RECENT = 24 * 3600.0
"""Seconds in which a store that was used is not removed to make room for others."""
ABOUT = "about.json"


class ClipStore:
    """The clips of one key in a folder of stores.

    Args:
        root: the folder of all stores.
        key: of this one; a name of letters and digits.
        count: positions go from 0 to count - 1.
        limit: bytes that all stores in `root` may have before nothing more is written.
        about: what the store is of, for whoever looks into the folder.
    """

    def __init__(self, root: Path, key: str, count: int, limit: float, about: Mapping[str, Any]) -> None:
        self.root, self.folder, self._limit, self._about = root, root / key, limit, dict(about)
        self._rows = np.zeros(count, ROW)
        self._segment = np.full(count, -1, np.int32)
        self._checked = np.zeros(count, bool)
        self._forget()

    def _forget(self) -> None:
        """Begin without files: neither does a process share those of another."""
        self._names: list[str] = []
        self._read: dict[str, int] = {}
        self._open: dict[int, int] = {}
        self._process = os.getpid()
        self._writer: tuple[int, int] | None = None
        self._since_look = float("inf")
        self.writes = True

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "key": self.folder.name, "limit": self._limit, "about": self._about} | {
            "count": len(self._rows)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        for handle in (*self._open.values(), *(self._writer or ())):
            try:
                os.close(handle)
            except (OSError, AttributeError):  # the interpreter ends, and modules are gone
                continue

    def read(self, positions: Iterable[int]) -> dict[int, SkeletonSequence]:
        """Clips by position, of those that are there; what is damaged is not."""
        self._part_from_parent()
        wanted = list(positions)
        if any(self._segment[position] < 0 for position in wanted):
            self._refresh()
        found = ((position, self._clip(position)) for position in wanted)
        return {position: clip for position, clip in found if clip is not None}

    def _part_from_parent(self) -> None:
        """After a fork: descriptors that are read from may be shared, the files that are written may not."""
        if self._process == os.getpid():
            return
        self._stop_writing()
        self._process = os.getpid()

    def _stop_writing(self) -> None:
        for handle in self._writer or ():
            os.close(handle)
        self._writer, self._since_look = None, float("inf")

    @property
    def complete(self) -> bool:
        """Whether every clip is there."""
        self._refresh()
        return bool((self._segment >= 0).all())

    def _refresh(self) -> None:
        """Take up the rows that were written since the last look."""
        try:
            files = [(entry.name, entry.stat().st_size) for entry in os.scandir(self.folder)]
        except OSError:
            self._stop_writing()  # the folder was deleted: what is written on goes into a new one
            return
        for name, size in files:
            done = self._read.get(name, 0)
            whole = size // ROW.itemsize * ROW.itemsize
            if not name.endswith(".index") or whole <= done:
                continue
            try:
                rows = np.fromfile(self.folder / name, ROW, (whole - done) // ROW.itemsize, offset=done)
            except OSError:
                continue
            if name not in self._read:
                self._names.append(name.removesuffix(".index"))
            self._read[name] = done + len(rows) * ROW.itemsize
            rows = rows[(rows["position"] >= 0) & (rows["position"] < len(self._rows)) & (rows["size"] > 0)]
            rows = rows[rows["offset"] >= 0]
            self._rows[rows["position"]] = rows
            self._segment[rows["position"]] = self._names.index(name.removesuffix(".index"))
            self._checked[rows["position"]] = False

    def _clip(self, position: int) -> SkeletonSequence | None:
        segment = int(self._segment[position])
        if segment < 0:
            return None
        row = self._rows[position]
        size = int(row["size"])
        try:
            if segment not in self._open:
                self._open[segment] = os.open(self.folder / f"{self._names[segment]}.data", os.O_RDONLY)
            data = os.pread(self._open[segment], size, int(row["offset"]))
            if not self._checked[position]:
                if len(data) < size or _sum(position, data) != int(row["sum"]):
                    raise ValueError("torn")
                self._checked[position] = True
            return _decoded(data)
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, struct.error):
            self._segment[position] = -1
            return None

    def write(self, position: int, clip: SkeletonSequence) -> bool:
        """Add a clip; whether it is there now. A disk that is full, or may not be written to, is given up."""
        self._part_from_parent()
        content = _encoded(clip) if self.writes else None
        if content is None:
            return False
        try:
            data, index = self._writer or self._begin()
            self._look(len(content))
            offset = os.lseek(data, 0, os.SEEK_END)
            try:
                _write(data, content)
                _write(index, np.array([(position, offset, len(content), _sum(position, content))], ROW).tobytes())
            except OSError:
                with contextlib.suppress(OSError):  # what a full disk took of it is given back
                    os.ftruncate(data, offset)
                raise
        except OSError:
            self.writes = False
            return False
        return True

    def _begin(self) -> tuple[int, int]:
        """A pair of files of this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            if not (self.folder / ABOUT).exists():
                write_durably(self.folder / ABOUT, (json.dumps(self._about, indent=1, default=str) + "\n").encode())
        own = self.folder / secrets.token_hex(8)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
        data = os.open(own.with_suffix(".data"), flags, 0o644)
        try:
            self._writer = data, os.open(own.with_suffix(".index"), flags, 0o644)
        except OSError:
            os.close(data)
            raise
        return self._writer

    def _look(self, size: int) -> None:
        """Raises OSError where the disk is nearly full, or the stores have reached their limit."""
        self._since_look += size
        if self._since_look < LOOKED_AT:
            return
        self._since_look = 0.0
        make_room(self.root, self._limit, self.folder.name)
        if shutil.disk_usage(self.folder).free < SPARED or sum(sizes(self.root).values()) >= self._limit:
            raise OSError("no room")


def _write(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while len(view):
        view = view[os.write(handle, view) :]


def _sum(position: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(_HEAD.pack(position)))


def sizes(root: Path) -> dict[str, int]:
    """Bytes of each store in a folder."""
    found = {}
    with contextlib.suppress(OSError):
        for folder in os.scandir(root):
            with contextlib.suppress(OSError):
                if folder.is_dir(follow_symlinks=False):
                    found[folder.name] = sum(
                        entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith((".data", ".index"))
                    )
    return found


def make_room(root: Path, limit: float, kept: str) -> None:
    """Remove stores that nobody used for a day, those first that nobody used for longest, until all fit the limit.

    Args:
        root: the folder of all stores. Only files that a store has are removed.
        limit: bytes.
        kept: the store that stays.
    """
    own = sizes(root)
    total = sum(own.values())
    for _, name in sorted((used(root / name), name) for name in own if name != kept):
        if total < limit or time.time() - used(root / name) < RECENT:
            return
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(root / name)):
                if entry.name.endswith((".data", ".index", PARTIAL)) or entry.name == ABOUT:
                    Path(entry.path).unlink()
            (root / name).rmdir()
        total -= own[name]


def used(folder: Path) -> float:
    """When a store was last begun or read, in seconds since 1970."""
    try:
        return max(folder.stat().st_mtime, (folder / ABOUT).stat().st_mtime)
    except OSError:
        return 0.0


def unusable(root: Path, limit: float) -> str | None:
    """Why nothing can be written to a folder of stores; None where it can."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".{secrets.token_hex(4)}"
        try:
            probe.write_bytes(b"0")
        finally:
            probe.unlink(missing_ok=True)
        free = shutil.disk_usage(root).free
    except OSError as error:
        return (error.strerror or type(error).__name__).lower()
    return f"{free / 1e9:.1f} GB of its disk are free" if free < SPARED else None


def _encoded(clip: SkeletonSequence) -> bytes | None:
    """All fields of a clip as a header and arrays; None where one is neither an array, a number nor a text."""
    arrays: list[bytes] = []
    end = 0

    def code(value: Any) -> Any:
        nonlocal end
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject and value.dtype.names is None:
            array = np.asarray(value, order="C")
            content = array.tobytes()
            place = end
            end = -(-(end + len(content)) // _ALIGNED) * _ALIGNED
            arrays.append(content + bytes(end - place - len(content)))
            kind = "a" if isinstance(value, np.ndarray) else "g"
            return {kind: [array.dtype.str, list(array.shape), place]}
        if isinstance(value, tuple | list):
            return {"t" if isinstance(value, tuple) else "l": [code(one) for one in value]}
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return {"d": {name: code(one) for name, one in value.items()}}
        raise TypeError(type(value).__name__)

    try:
        fields = {
            field.name: code(getattr(clip, field.name))
            for field in dataclasses.fields(clip)
            if field.name != "prepared_by"
        }
        head = json.dumps(fields, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        return None
    start = -(-(_HEAD.size + len(head)) // _ALIGNED) * _ALIGNED
    return b"".join([_HEAD.pack(len(head)), head, bytes(start - _HEAD.size - len(head)), *arrays])


def _decoded(data: bytes) -> SkeletonSequence:
    """What `_encoded` made; arrays are read-only views.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    (length,) = _HEAD.unpack_from(data)
    start = -(-(_HEAD.size + length) // _ALIGNED) * _ALIGNED

    def value(coded: Any) -> Any:
        if not isinstance(coded, dict):
            return coded
        ((kind, content),) = coded.items()
        if kind in ("a", "g"):
            dtype, shape, place = np.dtype(content[0]), tuple(content[1]), content[2]
            if dtype.hasobject:
                raise ValueError("objects are never read")
            array: Any = np.ndarray(shape, dtype, data, start + place) if math.prod(shape) else np.empty(shape, dtype)
            return array if kind == "a" else array[()]
        if kind == "d":
            return {name: value(one) for name, one in content.items()}
        return (tuple if kind == "t" else list)(map(value, content))

    fields = json.loads(data[_HEAD.size : _HEAD.size + length])
    return SkeletonSequence(**{name: value(coded) for name, coded in fields.items()})
