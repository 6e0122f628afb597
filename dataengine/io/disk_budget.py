"""How much may be written to a disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dataengine.core.errors import MediaError


class DiskBudget:
    """The bytes that may still be written under a folder.

    Attributes:
        folder: the data root.
        max_disk: bytes that all files under the folder may take; None is what the disk holds.
    """

    def __init__(self, folder: Path, max_disk: int | None = None) -> None:
        self.folder = folder
        self.max_disk = max_disk
        self._lock = threading.Lock()
        self._reserved = 0
        self._used = (
            0
            if max_disk is None
            else sum(_size(Path(top) / name) for top, _, names in os.walk(folder) for name in names)
        )

    def left(self) -> int:
        """Bytes that may still be reserved; a GiB of the disk (a tenth of a small one) always stays free."""
        status = os.statvfs(self.folder)
        free = (status.f_bavail - min((1 << 30) // status.f_frsize, status.f_blocks // 10)) * status.f_frsize
        return (free if self.max_disk is None else min(free, self.max_disk - self._used)) - self._reserved

    @contextmanager
    def reserved(self, size: int, what: str) -> Iterator[Callable[[int], None]]:
        """Reserve `size` bytes for the block, which reports the bytes of each write to the function that it gets.

        Raises:
            MediaError: disk_limit, so many bytes may not be written.
        """
        unused = size

        def wrote(number: int) -> None:
            nonlocal unused
            with self._lock:
                self._used += number
                self._reserved -= min(number, unused)
                unused -= min(number, unused)

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
            self._reserved += size
        try:
            yield wrote
        finally:
            with self._lock:
                self._reserved -= unused

    def removed(self, size: int) -> None:
        """Count `size` bytes under the folder as free again."""
        with self._lock:
            self._used -= size


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
