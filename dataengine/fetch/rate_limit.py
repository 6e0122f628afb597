"""Budgets that every process under a data root shares: requests and bytes a second, and who does what.

State is one small file a budget, changed under a lock, so that several processes (and machines
that see the same file system) keep to one limit together.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataengine.core.errors import MediaError

_POLL = 0.1
_LONGEST = 86_400.0
"""Seconds ahead that a budget can be booked; more means that a clock was set back."""

_THREADS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""Locks of threads of this process: some network file systems lock by process."""


class Stopped(Exception):
    """The work was called off while it waited."""


@contextmanager
def locked(path: Path, stop: threading.Event | None = None) -> Iterator[None]:
    """Only one thread of one process at a time is inside; others wait, or raise Stopped once `stop` is set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = _THREADS[str(path)]
    while not mine.acquire(timeout=_POLL):
        _check(stop)
    try:
        with path.open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    _check(stop)
                    time.sleep(_POLL / 10)
            yield
    finally:
        mine.release()


def _check(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Stopped


@dataclass(frozen=True)
class Pace:
    """At most `rate` units a second, evenly spaced, for everybody who uses the same file.

    Attributes:
        path: holds when the next unit may go (seconds since 1970).
        rate: units a second; None is no limit.
    """

    path: Path
    rate: float | None
    stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def take(self, amount: float = 1.0) -> float:
        """Wait for the turn of `amount` units and return the seconds waited.

        Raises:
            Stopped: `stop` was set meanwhile.
        """
        if self.rate is None:
            return 0.0
        with self._next() as book:
            now = time.time()
            turn = max(now, book[0])
            book[0] = turn + amount / self.rate
        if self.stop.wait(max(0.0, turn - time.time())):
            raise Stopped
        return max(0.0, turn - now)

    def check(self) -> None:
        """Raise Stopped once `stop` is set."""
        _check(self.stop)

    def hold(self, seconds: float) -> None:
        """Let nobody go for so many seconds: a server asked for it."""
        if self.rate is not None:
            with self._next() as book:
                book[0] = max(book[0], time.time() + seconds)

    @contextmanager
    def _next(self) -> Iterator[list[float]]:
        with locked(self.path, self.stop), self.path.open("r+b") as file:
            try:
                booked = float(file.read(40) or b"0")
            except ValueError:
                booked = 0.0
            book = [booked if booked < time.time() + _LONGEST else 0.0]
            yield book
            file.seek(0)
            file.write(f"{book[0]:.6f}".encode())
            file.truncate()


class Room:
    """How many more bytes may be written under a folder.

    Attributes:
        folder: the data root.
        max_disk: bytes that everything under it may take; None is what the disk holds.
    """

    def __init__(self, folder: Path, max_disk: int | None = None) -> None:
        self.folder = folder
        self.max_disk = max_disk
        self._lock = threading.Lock()
        self._booked = 0
        self._used = (
            0
            if max_disk is None
            else sum(_size(Path(top) / name) for top, _, names in os.walk(folder) for name in names)
        )

    def left(self) -> int:
        """Bytes that may still be booked; a GiB of the disk (a tenth of a small one) always stays free."""
        status = os.statvfs(self.folder)
        free = (status.f_bavail - min((1 << 30) // status.f_frsize, status.f_blocks // 10)) * status.f_frsize
        return (free if self.max_disk is None else min(free, self.max_disk - self._used)) - self._booked

    @contextmanager
    def booked(self, size: int, what: str) -> Iterator[Callable[[int], None]]:
        """Keep `size` bytes for the block, which calls what it is given with every number of bytes it has written.

        Raises:
            MediaError: disk_limit, there is no room for them.
        """
        open_ = [size]

        def wrote(number: int) -> None:
            with self._lock:
                self._used += number
                self._booked -= min(number, open_[0])
                open_[0] -= min(number, open_[0])

        with self._lock:
            left = self.left()
            if size > left:
                raise MediaError(
                    "disk_limit",
                    f"{what} needs {size} bytes, {max(left, 0)} may be written",
                    True,
                    float(size),
                    float(left),
                )
            self._booked += size
        try:
            yield wrote
        finally:
            with self._lock:
                self._booked -= open_[0]

    def removed(self, size: int) -> None:
        """So many bytes under the folder are gone."""
        with self._lock:
            self._used -= size


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
