"""Files and urls: locked, written whole or not at all, read by ranges.

A path or url is a local path, an http(s) url, or any other url fsspec knows (s3://, gs://, file://).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from blake3 import blake3 as Hasher

from dataengine.core.errors import DatasetError, MediaError

if TYPE_CHECKING:
    from dataengine.io.http import HttpClient

PARTIAL = ".partial"
"""Ending of files that are still being written."""


_POLL = 0.1
"""Seconds between two looks at a lock that somebody else holds."""

_THREADS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""Locks between the threads of this process: some network file systems lock by process."""


class MissingFileError(DatasetError):
    """The file or url does not exist."""


class Stopped(Exception):
    """The work was called off while it waited."""


@contextlib.contextmanager
def locked(path: Path, stop: threading.Event | None = None) -> Iterator[None]:
    """Hold the lock file `path`: one thread of one process at a time is inside, the others wait.

    The lock ends with the process, however the process ends. The file stays.

    Raises:
        Stopped: `stop` was set while waiting.
        OSError: the lock file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = _THREADS[str(path)]
    while not mine.acquire(timeout=_POLL):
        check_stop(stop)
    try:
        with path.open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    check_stop(stop)
                    time.sleep(_POLL / 10)
            yield
    finally:
        mine.release()


def check_stop(stop: threading.Event | None) -> None:
    """Raise Stopped once `stop` is set."""
    if stop is not None and stop.is_set():
        raise Stopped


@contextlib.contextmanager
def staged(path: str | os.PathLike[str], replace: bool = True) -> Iterator[Path]:
    """Give a path to write to; then fsync it and rename it to `path`, or remove it when the block raises.

    A reader of `path` sees the old file or the whole new one, never a part, also after a power cut.

    Raises:
        FileExistsError: `path` exists and is not to be replaced.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        if replace:
            publish(partial, target)
        else:
            fsync_file(partial)
            target.hardlink_to(partial)
            fsync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def publish(partial: Path, target: Path) -> None:
    """Make the content of `partial` durable, then give the file the name `target`, durably; both on one disk."""
    fsync_file(partial)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(target)
    fsync_folder(target.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    with staged(path) as partial:
        partial.write_bytes(content)


def file_hash(path: str | os.PathLike[str]) -> str:
    """BLAKE3 of a local file, in hex."""
    return Hasher().update_mmap(path).hexdigest() if Path(path).stat().st_size else Hasher().hexdigest()


def fsync_file(path: Path) -> None:
    """Make what was written to a file durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def clear_partials(folder: str | os.PathLike[str]) -> None:
    """Remove what killed writers left unfinished under `folder`; for when no writer is at work there."""
    for path in Path(folder).rglob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def read_range(source: str | os.PathLike[str], offset: int = 0, size: int | None = None) -> bytes:
    """Bytes [offset, offset + size) of a file or url, to its end without `size`.

    Raises:
        MissingFileError: there is no such file.
        DatasetError: it cannot be read, or holds fewer bytes.
    """
    text = os.fspath(source)
    try:
        if "://" not in text:
            with Path(text).open("rb") as file:
                file.seek(offset)
                data = file.read() if size is None else file.read(size)
        elif urlsplit(text).scheme in ("http", "https"):
            data = _http_range(text, offset, size)
        else:
            import fsspec

            files, path = fsspec.core.url_to_fs(text)
            data = files.cat_file(path, start=offset, end=None if size is None else offset + size)
    except FileNotFoundError as error:
        raise MissingFileError(f"{text}: there is no such file") from error
    except (OSError, ImportError, ValueError) as error:
        raise DatasetError(f"{text}: cannot be read: {error}") from error
    if size is not None and len(data) != size:
        raise DatasetError(f"{text}: torn: {size} bytes at {offset} are wanted, {len(data)} are there")
    return data


@functools.cache
def _http_client() -> HttpClient:
    from dataengine.io.http import HttpClient
    from dataengine.io.http_policy import HttpPolicy

    return HttpClient(HttpPolicy(rate=None, retries=2))


# A connection must not be used by two processes: a forked process opens its own.
os.register_at_fork(after_in_child=_http_client.cache_clear)


def _http_range(url: str, offset: int, size: int | None) -> bytes:
    try:
        return _http_client().read(url, offset, size)
    except MediaError as error:
        if error.kind == "gone":
            raise FileNotFoundError from error
        raise DatasetError(f"{url}: cannot be read: {error.detail}") from error


def file_state(source: str | os.PathLike[str]) -> tuple[int, str]:
    """Bytes of a file or url, and a text that changes when the file does ('' where the server tells nothing).

    Raises:
        MissingFileError: there is no such file.
        DatasetError: it cannot be read.
    """
    text = os.fspath(source)
    try:
        if "://" not in text:
            status = Path(text).stat()
            return status.st_size, str(status.st_mtime_ns)
        if urlsplit(text).scheme in ("http", "https"):
            return _http_client().state(text)
        import fsspec

        files, path = fsspec.core.url_to_fs(text)
        info = files.info(path)
        return int(info["size"]), str(info.get("ETag") or info.get("mtime") or info.get("LastModified", ""))
    except FileNotFoundError as error:
        raise MissingFileError(f"{text}: there is no such file") from error
    except MediaError as error:
        if error.kind == "gone":
            raise MissingFileError(f"{text}: there is no such file") from error
        raise DatasetError(f"{text}: cannot be read: {error.detail}") from error
    except (OSError, ImportError, KeyError, ValueError) as error:
        raise DatasetError(f"{text}: cannot be read: {error}") from error


def mapped(path: str | os.PathLike[str]) -> memoryview:
    """The bytes of a local file, mapped into memory for as long as a view of them lives.

    Raises:
        DatasetError: the file is absent or empty.
    """
    try:
        with Path(path).open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
