"""Checks and digests of media files, made before any video library sees them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from blake3 import blake3

from dataengine.core.errors import MediaError
from dataengine.core.failures import environment_kind

MAX_BYTES = 8 << 30
"""Largest media file that is read unless a caller says otherwise: 8 GiB."""

_CHUNK = 1 << 20


def check_file(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> int:
    """Check that `path` is a regular, readable, non-empty file and return its size in bytes.

    Nothing is opened before `stat` has said that it is a regular file: opening a pipe or a
    device may block for ever. Messages name the file without its folder, since they become
    part of a dataset.

    Raises:
        MediaError: media_missing, not_a_file, media_empty, too_large or media_unreadable.
    """
    name = Path(path).name
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise MediaError("media_missing", f"there is no file {name!r}") from error
    except OSError as error:
        raise _unreadable(name, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("not_a_file", f"{name!r} is {_file_type(status.st_mode)}; give a regular file")
    if status.st_size == 0:
        raise MediaError("media_empty", f"{name!r} has no bytes")
    if status.st_size > max_bytes:
        detail = f"{name!r} has {status.st_size} bytes, at most {max_bytes} are allowed"
        raise MediaError("too_large", detail, value=float(status.st_size), threshold=float(max_bytes))
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise _unreadable(name, error) from error
    return status.st_size


def digest(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> tuple[int, str]:
    """Read a file once and return its number of bytes and its blake3 as 64 hex digits.

    Raises:
        MediaError: as `check_file`.
    """
    check_file(path, max_bytes)
    hasher, size = blake3(), 0
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise _unreadable(Path(path).name, error) from error
    return size, hasher.hexdigest()


def check_storage(path: Path, error: Exception) -> None:
    """Tell damage from a file system that fails: libav calls both an input/output error, so the file is read plainly.

    Raises:
        MediaError: media_unreadable, where the file system fails; the operating system's error is the cause.
    """
    if environment_kind(error) is not None:
        digest(path)


def _unreadable(name: str, error: OSError) -> MediaError:
    # A refused permission stays refused; other failures (a network drive, a worn disk) may pass.
    retryable = not isinstance(error, PermissionError)
    return MediaError("media_unreadable", f"{name!r} cannot be read: {error.strerror}", retryable=retryable)


def _file_type(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((text for check, text in kinds if check(mode)), "a device")
