"""Local files: locked, written whole or not at all, durable."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3 as Hasher

from dataengine.core.errors import DatasetError

PARTIAL = ".partial"
"""Ending of files that are still being written."""

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system answers that has no hard links, or no more for a file."""

_POLL = 0.1
"""Seconds between two tries to take a lock that somebody else holds."""

_THREADS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""Locks between the threads of this process: some network file systems lock by process."""


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


_OWNED: set[int] = set()
"""Descriptors of folders that this process holds alone."""


def _forget_owned() -> None:
    """In a process that was forked: what it holds a second time would outlive its owner."""
    for handle in _OWNED:
        os.close(handle)
    _OWNED.clear()


os.register_at_fork(after_in_child=_forget_owned)


@contextlib.contextmanager
def alone(folder: Path, patience: float = 5.0) -> Iterator[None]:
    """Hold a folder against other processes, where its file system can lock. Nothing is written to it.

    The hold ends with the process, however the process ends; processes that it forks do not hold the folder.

    Args:
        folder: it must exist.
        patience: seconds to wait for a process that holds it.

    Raises:
        BlockingIOError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    _OWNED.add(handle)
    try:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
                time.sleep(_POLL)
            except OSError:  # a file system that cannot lock folders
                break
        yield
    finally:
        if handle in _OWNED:  # not in a process that was forked meanwhile
            _OWNED.discard(handle)
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # also where a copy of the descriptor is open elsewhere
            os.close(handle)


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
            _name_new(partial, target)
            fsync_folder(target.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk, met while writing, names no file
            error.filename = str(target)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _name_new(partial: Path, target: Path) -> None:
    """Give a file a name that nothing has yet; where files cannot be linked, the name is claimed by an empty file."""
    try:
        target.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        target.touch(exist_ok=False)
        partial.replace(target)


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


def check_place(path: str | os.PathLike[str]) -> Path:
    """The path of a file that is to be written, if that can be done: asked before the work, not after it.

    Raises:
        OSError: it is a folder, or no file can be made in the folder that is there, or would be made.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    folder = next(place for place in (target.absolute().parents) if place.exists())
    if not os.access(folder, os.W_OK | os.X_OK) or not folder.is_dir():
        number = errno.EACCES if folder.is_dir() else errno.ENOTDIR
        raise OSError(number, os.strerror(number), str(path))
    return target


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
