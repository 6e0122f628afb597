"""Safe unpacking of tar archives: only selected members, only below a folder, only of an archive that is sound."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from dataengine.core.errors import MediaError
from dataengine.io.disk_budget import DiskBudget
from dataengine.io.storage import Stopped, fsync_file, fsync_folder

_CHUNK = 1 << 20
_HEADER = 1 << 20
"""Bytes that a long name or extended header may have; tarfile reads them into memory at once."""
_LONG_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_RATIO = 200
"""Times its size that an archive may unpack to; video shrinks by a few percent, a bomb by a thousand."""
_SLACK = 1 << 28
"""Bytes that any archive may unpack to."""


@dataclass
class Extracted:
    """What an archive holds and gave.

    Attributes:
        sizes: bytes of every regular member with a safe name, by its relative path with forward slashes.
        written: selected members by name, with the file of each.
        refused: selected members that were not written, with the reason.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    written: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, MediaError] = field(default_factory=dict)


def extract(
    archive: Path,
    folder: Path,
    staging: Path,
    select: Callable[[str], bool],
    *,
    disk: DiskBudget,
    max_bytes: int,
    stop: threading.Event | None = None,
) -> Extracted:
    """Unpack the members that `select` accepts below `folder`, with their paths.

    An archive is a tar, gzipped or not, whatever its name says. It is read to its end; members stay in
    `staging` (on the same disk as `folder`) until then, so that a torn or damaged archive leaves
    nothing behind. Links, devices, sparse files, and names that are absolute, lead upwards or cannot be
    file names are passed over. A file that is there already is left as it is.

    Args:
        max_bytes: largest member that is written.

    Raises:
        MediaError: corrupt, or disk_limit.
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    found, staged = Extracted(), dict[str, Path]()
    try:
        with archive.open("rb") as file:
            _read(file, archive, found, staged, _Rules(folder, staging, select, disk, max_bytes, stop))
        _place(found, staged, folder)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeError, ValueError, OverflowError) as error:
        raise MediaError(
            "corrupt", f"{archive.name} is no sound archive: {error or type(error).__name__}", True
        ) from error
    except OSError as error:
        if error.errno != 28:
            raise
        raise MediaError("disk_limit", f"the disk is full while {archive.name} is unpacked", True) from error
    finally:
        left = sum(path.stat().st_size for path in staging.iterdir())
        shutil.rmtree(staging, ignore_errors=True)
        disk.removed(left)
    return found


@dataclass(frozen=True)
class _Rules:
    folder: Path
    staging: Path
    select: Callable[[str], bool]
    disk: DiskBudget
    max_bytes: int
    stop: threading.Event | None


class _Counted:
    """A stream that refuses to give more than `most` bytes."""

    def __init__(self, stream: IO[bytes], most: int, stop: threading.Event | None) -> None:
        self.stream, self.left, self.stop = stream, most, stop

    def read(self, size: int) -> bytes:
        if self.stop is not None and self.stop.is_set():
            raise Stopped
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.ReadError(f"it unpacks to more than {_RATIO} times its size")
        return data


def _read(file: IO[bytes], archive: Path, found: Extracted, staged: dict[str, Path], rules: _Rules) -> None:
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    inner = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if zipped else file
    stream = _Counted(inner, max(_SLACK, _RATIO * archive.stat().st_size), rules.stop)
    header, ended = _header_class()
    # tarfile's own gzip reader checks no checksum, and a tar that breaks off between members looks whole to it.
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", tarinfo=header) as tar:
        for member in tar:
            cast(Any, tar).members.clear()  # else tarfile keeps every one in memory
            name = safe_name(member.name) if member.isreg() and not member.issparse() else None
            if name is None:
                continue
            found.sizes[name] = member.size
            if not rules.select(name) or name in staged:
                continue
            if member.size > rules.max_bytes:
                found.refused[name] = too_large(name, member.size, rules.max_bytes)
            else:
                staged[name] = _write(tar, member, rules, len(staged))
    if not ended:
        raise tarfile.ReadError("it breaks off, or a header is damaged")
    while stream.read(_CHUNK):  # to the gzip checksum
        pass


def _header_class() -> tuple[type[tarfile.TarInfo], list[bool]]:
    """A TarInfo that limits what a header may make tarfile read, and a list that is not empty after the end mark."""
    ended: list[bool] = []

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                ended.append(True)
            header = super().frombuf(buf, encoding, errors)
            if header.type in _LONG_HEADERS and header.size > _HEADER:
                raise ValueError(f"a header of {header.size} bytes")
            return header

    return Header, ended


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, rules: _Rules, number: int) -> Path:
    path = rules.staging / str(number)
    source = tar.extractfile(member)
    assert source is not None
    with rules.disk.reserved(member.size, member.name) as wrote, path.open("xb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
            wrote(len(chunk))
        if file.tell() != member.size:
            raise tarfile.ReadError("it breaks off within a member")
    fsync_file(path)
    return path


def _place(found: Extracted, staged: dict[str, Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    touched = set[Path]()
    for name, path in staged.items():
        target = folder / name
        if any(parent.is_symlink() for parent in target.parents if parent.is_relative_to(folder) and parent != folder):
            found.refused[name] = MediaError("not_a_file", f"a link lies where a folder of {name!r} should be")
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            found.refused[name] = MediaError("not_a_file", f"a file lies where a folder of {name!r} should be")
            continue
        if not os.path.lexists(target):
            path.replace(target)
            touched.add(target.parent)
        found.written[name] = target
    for parent in touched:
        fsync_folder(parent)


def too_large(name: str, size: int, most: int) -> MediaError:
    """The failure of a member that is larger than it may be."""
    detail = f"{name.rsplit('/', 1)[-1]} has {size} bytes, at most {most} are allowed"
    return MediaError("too_large", detail, False, float(size), float(most))


def safe_name(name: str) -> str | None:
    """A member's name as a relative path, or None where it could lead or be anywhere else than below the folder."""
    if not name or name.startswith("/") or "\\" in name or "\0" in name:
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    try:
        fine = parts and all(part != ".." and not part.startswith(".") and len(part.encode()) <= 255 for part in parts)
    except UnicodeEncodeError:
        return None
    return "/".join(parts) if fine and len(name) < 2048 else None
