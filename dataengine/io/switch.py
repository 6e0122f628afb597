"""One folder takes the place of another in one step, so that there is always a whole one under the name.

Linux exchanges two names in one atomic step (`renameat2` with RENAME_EXCHANGE), on every file system of a local disk.
Elsewhere two renames do it. A process killed between them leaves nothing under the name for a moment; `recover` then
finishes the step. Beside `NAME` lie, while it happens: `NAME.new`, always whole, and `NAME.old`, on its way out.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from dataengine.io.storage import fsync_file, fsync_folder, staged

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM)
"""What a system or a file system answers that cannot exchange names."""


def put(folder: Path, target: Path, mark: str) -> None:
    """Put a finished folder in the place of `target`, which may exist, and remove that; nobody else is at work.

    Args:
        folder: is moved, or copied and removed where it lies on another disk.
        mark: name of a file that every whole folder holds. It is written last and removed first, so that a folder that
            is half there is never taken for a whole one.
    """
    recover(target, mark)
    new, old = _beside(target)
    _sync(folder)
    try:
        folder.rename(new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(folder, new, mark)
    fsync_folder(target.parent)
    if not target.exists():
        new.rename(target)
    elif exchange(new, target):
        fsync_folder(target.parent)
        new.rename(old)
    else:
        target.rename(old)
        new.rename(target)
    fsync_folder(target.parent)
    _discard(old, mark)


def recover(target: Path, mark: str) -> bool:
    """Finish what a killed `put` began: whole folders beside an absent `target` take its place, the rest is removed.

    Returns:
        Whether anything was left to do.
    """
    new, old = _beside(target)
    if not (new.exists() or old.exists()):
        return False
    for whole in (new, old):
        if not target.exists() and (whole / mark).exists():
            whole.rename(target)
            fsync_folder(target.parent)
    for leftover in (new, old):
        _discard(leftover, mark)
    return True


def interrupted(target: Path) -> bool:
    """Whether a killed `put` left something beside `target`."""
    return any(path.exists() for path in _beside(target))


def _beside(target: Path) -> tuple[Path, Path]:
    whole = target.absolute()  # '.' has no name of its own
    return whole.parent / f"{whole.name}.new", whole.parent / f"{whole.name}.old"


def _sync(folder: Path) -> None:
    for inner, _, _ in os.walk(folder):
        fsync_folder(Path(inner))


def _copy(folder: Path, new: Path, mark: str) -> None:
    """Move a folder to another disk, durably, its mark last."""

    def copy(source: str, target: str) -> None:
        shutil.copyfile(source, target)
        fsync_file(Path(target))

    shutil.copytree(folder, new, copy_function=copy, ignore=lambda inner, _: [mark] if Path(inner) == folder else [])
    _sync(new)
    with staged(new / mark) as partial:
        shutil.copyfile(folder / mark, partial)
    shutil.rmtree(folder, ignore_errors=True)


def _discard(folder: Path, mark: str) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        (folder / mark).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change names in one atomic step; False where the system or the file system cannot.

    Raises:
        OSError: a path is absent, or may not be renamed.
    """
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    sys.audit("os.rename", str(one), str(other), -1, -1)
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNABLE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The function of the C library, or None where it has none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]  # type: ignore[attr-defined]
    return function
