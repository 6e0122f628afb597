"""Files by path or url, read by ranges.

A path or url is a local path, an http(s) url, or any other url fsspec knows (s3://, gs://, file://).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from urllib.parse import urlsplit

from dataengine.core.errors import DatasetError, MediaError
from dataengine.io.http import HttpClient
from dataengine.io.http_policy import HttpPolicy


class MissingFileError(DatasetError):
    """The file or url does not exist."""


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


POLICY = HttpPolicy(rate=None, retries=3, pause=0.5)
"""How ranges are asked for: three more times, after half a second, one and two at most."""


@functools.cache
def _http_client() -> HttpClient:
    return HttpClient(POLICY)


# A connection must not be used by two processes: a forked process opens its own.
os.register_at_fork(after_in_child=_http_client.cache_clear)


def _http_range(url: str, offset: int, size: int | None) -> bytes:
    try:
        return _http_client().read(url, offset, size)
    except MediaError as error:
        if error.kind == "gone":
            raise FileNotFoundError from error
        cause = error if error.retryable else None  # a reader tries again where there is a cause
        raise DatasetError(f"{url}: cannot be read: {error.detail}") from cause


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
