"""Files and urls: written whole or not at all, read by ranges.

A path or url is a local path, an http(s) url (read with httpx), or any other url fsspec knows (s3://, gs://, file://).
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blake3 import blake3 as Hasher

from dataengine.core.errors import DatasetError

PARTIAL = ".partial"
"""Ending of files that are still being written."""


class MissingFileError(DatasetError):
    """The file or url does not exist."""


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
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        if replace:
            partial.replace(target)
        else:
            target.hardlink_to(partial)
        fsync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    with staged(path) as partial:
        partial.write_bytes(content)


def file_hash(path: str | os.PathLike[str]) -> str:
    """BLAKE3 of a local file, in hex."""
    return Hasher().update_mmap(path).hexdigest() if Path(path).stat().st_size else Hasher().hexdigest()


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
def _http_client() -> Any:
    import httpx

    return httpx.Client(follow_redirects=True, timeout=60.0)


# a connection must not be used by two processes: what a fork took along is forgotten there
os.register_at_fork(after_in_child=_http_client.cache_clear)


def _http_range(url: str, offset: int, size: int | None) -> bytes:
    import httpx

    whole = offset == 0 and size is None
    if size == 0:
        return b""
    headers = {} if whole else {"Range": f"bytes={offset}-{'' if size is None else offset + size - 1}"}
    try:
        answer = _http_client().get(url, headers=headers | {"Accept-Encoding": "identity"})
    except httpx.HTTPError as error:
        raise DatasetError(f"{url}: cannot be read: {error}") from error
    if answer.status_code != (200 if whole else 206):
        if answer.status_code == 200:
            raise DatasetError(
                f"{url}: the server ignores range requests; serve the dataset with one that answers them, or copy it here"
            )
        if answer.status_code in (404, 410):
            raise FileNotFoundError
        raise OSError(f"the server answers {answer.status_code} {answer.reason_phrase}")
    return bytes(answer.content)


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
