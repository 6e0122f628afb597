"""Where an export lies: written aside, put in place in one step, never over what is not an export of this package."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dataengine.core.errors import DatasetError
from dataengine.dataset.index import MANIFEST
from dataengine.exports.base import Export
from dataengine.io.storage import PARTIAL, file_hash, fsync_file, fsync_folder, staged, write_durably
from dataengine.io.switch import exchange
from dataengine.pipeline import recipe_lock

RECORD = "EXPORT.json"
"""What a folder says about itself, written last: which format, of which dataset, which files."""
EXPORTS = "exports"
"""Folder of a build in which exports lie unless another place is given."""
MANY = 20_000
"""Files above which a folder is made durable by one `sync` of the system, which also waits for what others write, in
place of one for each file."""
THREADS = 16
"""Files that are made durable at the same time: a file system joins what is asked of it together."""


def refuse_foreign(target: Path, component: Export, replace: bool) -> None:
    """Raise unless `target` may be written.

    Raises:
        DatasetError: something is there, and `replace` is not given, or it is no export of this package.
    """
    for folder in (target, target.parent):
        if any((folder / mark).exists() for mark in (recipe_lock.NAME, MANIFEST)):
            raise DatasetError(f"{folder} is a build or dataset, which holds its own files alone: give another --to")
    if not (target.exists() or target.is_symlink()):
        above = next(parent for parent in target.parents if parent.exists())
        if not above.is_dir():
            raise DatasetError(f"{above} is a file: no folder can be made in it; choose another --to")
        return
    if not replace:
        raise DatasetError(
            f"{target} is there already: give another --to, or --replace to put this export in its place"
        )
    foreign = _foreign(target, component)
    if foreign:
        raise DatasetError(f"{target} is not replaced: {foreign}; move it away, or give another --to")


def _foreign(target: Path, component: Export) -> str:
    """What makes `target` more or other than an export of this package, '' where nothing does."""
    if target.is_symlink():
        return "it is a link"
    if component.suffix:
        if not target.is_file():
            return "it is no file"
        with target.open("rb") as file:
            return "" if file.read(len(component.mark)) == component.mark else "it is no export of this package"
    if not target.is_dir():
        return "it is no folder"
    try:
        listed = {entry["path"] for entry in json.loads((target / RECORD).read_bytes())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return f"it has no {RECORD} of an export of this package"
    more = sorted({path.name for path in target.iterdir()} - listed - {RECORD})
    return f"it also holds {more[0]!r}, which is not of the export" if more else ""


@contextlib.contextmanager
def placed(target: Path, component: Export, record: dict[str, Any], replace: bool) -> Iterator[Path]:
    """Give a place to write to; then make all of it durable and give it the name `target`.

    Nobody sees a part of an export under its name: not while it is written, not after a crash, not on a full disk.

    Args:
        target: file or folder.
        component: the format.
        record: what the folder says about itself; its files are added.
        replace: whether a former export there is replaced.

    Raises:
        DatasetError: see `refuse_foreign`.
    """
    refuse_foreign(target, component, replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _aside(target) as aside:
        content = aside / (target.name if component.suffix else "content")
        if not component.suffix:
            content.mkdir()
        yield content
        refuse_foreign(target, component, replace)
        if component.suffix:
            try:
                with staged(target, replace=replace) as partial:
                    content.replace(partial)
            except FileExistsError:
                refuse_foreign(target, component, False)
            return
        _sync(content)
        seal(content, record)
        if target.exists():
            if not exchange(content, target):
                target.replace(aside / "former")
                content.replace(target)
        else:
            content.replace(target)
        fsync_folder(target.parent)


def seal(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of a finished folder: each file at its top with its digest, and each folder with its size."""
    listed: list[dict[str, Any]] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            inside = [Path(top) / name for top, _, names in os.walk(path) for name in names]
            size = sum(file.stat().st_size for file in inside)
            listed.append({"path": path.name, "files": len(inside), "bytes": size})
        else:
            listed.append({"path": path.name, "bytes": path.stat().st_size, "blake3": file_hash(path)})
    content = json.dumps({**record, "files": listed}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_durably(folder / RECORD, content.encode())


def place_of(root: Path) -> Path:
    """The folder for exports of the dataset at `root`, which lies in a build: OUT/exports."""
    return root.absolute().parent / EXPORTS


def exports_of(out: Path) -> list[str]:
    """What was exported of a build into its folder for exports."""
    build = out.absolute().parent if out.absolute().name == "dataset" else out.absolute()
    folder = build / EXPORTS
    return sorted(str(path) for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def size_of(target: Path) -> tuple[int, int]:
    """Files and bytes of an export."""
    if target.is_file():
        return 1, target.stat().st_size
    sizes = [(Path(top) / name).stat().st_size for top, _, names in os.walk(target) for name in names]
    return len(sizes), sum(sizes)


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, locked while this process lives; what killed exports left there is removed."""
    for left in target.parent.iterdir():
        ours = left.name.startswith(f".{target.name}.") and left.name.endswith(PARTIAL) and left.is_dir()
        if ours and (dead := _lock(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(dead)
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        aside.mkdir()
    except FileNotFoundError as error:  # such as below /proc
        raise DatasetError(f"{target.parent}: no folder can be made there; choose another --to") from error
    handle = _lock(aside)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _lock(folder: Path) -> int | None:
    """Take the lock of a folder; None where a living process has it, or the file system has no locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _sync(folder: Path) -> None:
    """Make every file and folder under `folder` durable."""
    inside = [Path(top) / name for top, _, names in os.walk(folder) for name in names]
    if len(inside) > MANY:
        os.sync()
        return
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fsync_file, inside))
    for top, _, _ in os.walk(folder):
        fsync_folder(Path(top))
