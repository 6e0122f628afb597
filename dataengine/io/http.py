"""Files over HTTP: resumed where they were cut, checked, limited, retried; put in place whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from dataengine.core.errors import MediaError
from dataengine.io.addresses import watch
from dataengine.io.disk_budget import DiskBudget
from dataengine.io.http_policy import FinalError, HttpPolicy, LaterError, refusal, retry_after
from dataengine.io.partial_download import ByteProgress, Note, PartialDownload
from dataengine.io.rate_limit import RateLimiter
from dataengine.io.storage import Stopped, check_stop, publish

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

Accept: TypeAlias = Callable[[Path], Path]
"""Checks a whole file that arrived and returns the file to put in place: the same one, or one made of it.

Raises `MediaError` of kind `corrupt` for a file that is not the promised one.
"""

_CHUNK = 1 << 18
_SLOWEST = 1024
"""Bytes per second; a transfer that stays below for as long as the timeout counts as stalled."""
_PROGRESS = 1 << 20
"""Bytes that a try must bring for the tries to be counted anew."""
_PATIENCE = 600.0
"""Seconds; a server that asks for a longer wait is asked again by a later process."""
_LONGEST_PAUSE = 60.0
_DISK_IS_FULL = errno.ENOSPC
_GIVEN = "dataengine_given"
"""Extension of a request: the url of the first hop. httpx hands it on to the requests of redirects."""


class _Answer(NamedTuple):
    response: httpx.Response
    start: int
    total: int | None


class HttpClient:
    """One way to use HTTP for everything: files to a folder, short texts, ranges of a file.

    Only http and https urls of the hosts that the policy allows are asked for, also after a redirect; at most ten
    redirects are followed.

    Args:
        policy: timeouts, retries, limits.
        state: folder with the files of the limits, which processes share; needed for a policy with limits.
        disk: how much may be written; None is no limit.
    """

    def __init__(self, policy: HttpPolicy, state: Path | None = None, disk: DiskBudget | None = None) -> None:
        import httpx

        if state is None and (policy.rate is not None or policy.bandwidth is not None):
            raise ValueError("limits of requests or bytes per second need a folder for their state")
        folder = state or Path()
        self.policy = policy
        self.disk = disk
        self.stop = threading.Event()
        self.requests = RateLimiter(folder / "requests", policy.rate, self.stop)
        self.bytes = RateLimiter(folder / "bytes", policy.bandwidth, self.stop)
        self.client = httpx.Client(
            follow_redirects=True,
            max_redirects=10,
            timeout=httpx.Timeout(policy.timeout, connect=min(20.0, policy.timeout)),
            proxy=policy.proxy,
            cookies=policy.jar(),
            headers={"User-Agent": "dataengine", "Accept-Encoding": "identity"},
            event_hooks={"request": [self._admit]},  # called for every hop of a redirect, too
        )

    def close(self) -> None:
        """Call off what is under way and close all connections."""
        self.stop.set()
        self.client.close()

    def download(
        self,
        url: str,
        path: Path,
        *,
        md5: str | None = None,
        max_bytes: int | None = None,
        accept: Accept | None = None,
        tries: int = 2,
        progress: ByteProgress = lambda done, total: None,
    ) -> Path:
        """Bring the file of `url` to `path`, unless it is there.

        What an interrupted download left is resumed if the server still has the same file (If-Range with its
        ETag or date). Only one process may download to `path` at a time: hold `storage.locked`.

        Args:
            md5: hash of the whole file.
            max_bytes: largest length.
            accept: further check of the whole file.
            tries: whole downloads with a wrong content before it is given up; a file that was put together from
                several answers does not count.
            progress: is called after each chunk.

        Raises:
            MediaError: gone, private, geo_blocked, timeout, unavailable, corrupt, too_large or disk_limit.
        """
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        file, wrong = PartialDownload(url, path, md5, max_bytes, progress), 0

        def once() -> Path:
            nonlocal wrong
            self._transfer(file)
            try:
                return self._accepted(file, accept)
            except MediaError as error:
                if error.kind == "corrupt":
                    self._drop(file)
                    wrong += not file.resumed
                    if wrong >= tries:
                        raise FinalError(error) from error
                    raise MediaError(error.kind, error.detail, True) from error
                raise

        whole = self.persist(once, lambda: _length(file.part))
        publish(whole, path)
        if whole != file.part:
            self.remove(file.part)
        file.note.unlink(missing_ok=True)
        return path

    def text(self, url: str, max_bytes: int = 16 << 20) -> str:
        """Read a short text.

        Raises:
            MediaError: as `download`.
        """

        def once() -> str:
            with self._get(url, {}) as answer:
                if answer.response.status_code != 200:
                    raise _refusal(answer.response)
                content = b""
                for chunk in answer.response.iter_raw():
                    content += chunk
                    if len(content) > max_bytes:
                        raise MediaError("too_large", f"{_name(url)} is longer than {max_bytes} bytes")
                return content.decode("utf-8", "replace")

        return self.persist(once, lambda: 0)

    def read(self, url: str, offset: int = 0, size: int | None = None) -> bytes:
        """Read the bytes [offset, offset + size) of a file, to its end without `size`; fewer where the file ends.

        Raises:
            MediaError: as `download`; unavailable, too, where the server ignores ranges.
        """
        if size == 0:
            return b""
        whole = offset == 0 and size is None
        headers = {} if whole else {"Range": f"bytes={offset}-{'' if size is None else offset + size - 1}"}

        def once() -> bytes:
            with self._get(url, headers) as answer:
                if answer.response.status_code == 200 and not whole:
                    raise MediaError(
                        "unavailable",
                        "the server ignores range requests; serve the file with one that answers them, or copy it here",
                    )
                if answer.response.status_code != (200 if whole else 206):
                    raise _refusal(answer.response)
                return b"".join(answer.response.iter_raw())

        return self.persist(once, lambda: 0)

    def state(self, url: str) -> tuple[int, str]:
        """Ask for the bytes of a file and for its ETag or date, which changes when the file does ('' where unknown).

        Raises:
            MediaError: as `download`; unavailable, too, where the server tells no length.
        """

        def once() -> tuple[int, str]:
            with self._get(url, {}, "HEAD") as answer:
                if answer.response.status_code != 200:
                    raise _refusal(answer.response)
                if answer.total is None:
                    raise MediaError("unavailable", f"the server tells no length of {_name(url)}")
                headers = answer.response.headers
                return answer.total, str(headers.get("ETag") or headers.get("Last-Modified", ""))

        return self.persist(once, lambda: 0)

    def remove(self, path: Path) -> None:
        """Remove a file and count its bytes as free."""
        size = _length(path)
        path.unlink(missing_ok=True)
        if self.disk is not None:
            self.disk.removed(size)

    def persist(self, once: Callable[[], T], done: Callable[[], int]) -> T:
        """Run `once` until it succeeds; retry failures that may pass, up to `retries` times without progress.

        Args:
            once: one try.
            done: bytes that are here; a try that brings more starts the count of tries anew.

        Raises:
            MediaError: of the last try.
            Stopped: the work was called off.
        """
        tries = 0
        while True:
            before = done()
            try:
                return once()
            except FinalError as final:
                raise final.error from None
            except MediaError as error:
                if not error.retryable or error.kind == "disk_limit":
                    raise
                tries = 1 if done() - before >= _PROGRESS else tries + 1
                wait = error.value if isinstance(error, LaterError) and error.value is not None else 0.0
                if tries > self.policy.retries or wait > _PATIENCE:
                    raise MediaError(error.kind, f"{error.detail}; {tries} tries", True) from error
                if wait:
                    self.requests.hold(wait)
                pause = min(_LONGEST_PAUSE, self.policy.pause * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)
                if self.stop.wait(max(wait, pause)):
                    raise Stopped from None

    def _admit(self, request: httpx.Request) -> None:
        hosts, url, given = self.policy.hosts, request.url, str(request.extensions.get(_GIVEN, request.url))
        hosts.check_url(str(url), given)
        request.extensions["trace"] = watch(hosts, url.host, given)
        self.requests.take()

    def _accepted(self, file: PartialDownload, accept: Accept | None) -> Path:
        if file.md5 is not None and (found := _md5(file.part, self.stop)) != file.md5:
            detail = f"{_name(file.url)} has MD5 {found}, {file.md5} was promised"
            raise MediaError("corrupt", detail, True)
        return file.part if accept is None else accept(file.part)

    def _transfer(self, file: PartialDownload) -> None:
        """One request: bring the part nearer to the whole file; returning means that it is whole."""
        known, have = file.read_note(), _length(file.part)
        if known is None or known.url != file.url or not (known.validator or file.md5):
            self._drop(file)
            known, have = Note(file.url), 0
        file.resumed = have > 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and known.validator:
            headers["If-Range"] = known.validator
        with self._get(file.url, headers) as answer:
            if answer.response.status_code == 416 and have:
                if answer.total == have:
                    return
                self._drop(file)
                raise MediaError("unavailable", f"{_name(file.url)} is not as long as before", True)
            have = self._resume_at(file, answer, known, have)
            got = have + self._write(answer, file, have)
        if answer.total is not None and got != answer.total:
            raise MediaError("unavailable", f"{_name(file.url)} breaks off after {got} of {answer.total} bytes", True)

    def _resume_at(self, file: PartialDownload, answer: _Answer, known: Note, have: int) -> int:
        """Check the head of an answer, remember what it says, and return the bytes of the part to keep."""
        name, headers = _name(file.url), answer.response.headers
        partial = answer.response.status_code == 206
        if answer.response.status_code not in (200, 206) or (partial and not have):
            raise _refusal(answer.response)
        now = Note(file.url, headers.get("ETag"), headers.get("Last-Modified"), answer.total)
        if partial and (answer.start != have or (known.etag and now.etag and known.etag != now.etag)):
            self._drop(file)
            raise MediaError("unavailable", f"{name} has changed, or the server answers with another range", True)
        if have and not partial:
            self._drop(file)
            have, file.resumed = 0, False
        if file.max_bytes is not None and (answer.total or 0) > file.max_bytes:
            detail = f"{name} has {answer.total} bytes, at most {file.max_bytes} are allowed"
            raise MediaError("too_large", detail, False, float(answer.total or 0), float(file.max_bytes))
        file.note.write_text(json.dumps(asdict(now)))
        return have

    def _write(self, answer: _Answer, file: PartialDownload, have: int) -> int:
        name, count, since, seen = _name(file.url), 0, time.monotonic(), 0
        file.progress(have, answer.total)
        expected = _CHUNK if answer.total is None else max(answer.total - have, 0)
        with self._reserved(expected, name) as wrote, file.part.open("ab") as target:
            for chunk in answer.response.iter_raw():  # chunks as they come: nothing that has come is lost in a cut
                check_stop(self.stop)
                if file.max_bytes is not None and have + count + len(chunk) > file.max_bytes:
                    raise MediaError("too_large", f"{name} is longer than {file.max_bytes} bytes")
                try:
                    target.write(chunk)
                    target.flush()
                except OSError as error:
                    if error.errno != _DISK_IS_FULL:
                        raise
                    raise MediaError("disk_limit", f"the disk is full while {name} is written", True) from error
                wrote(len(chunk))
                count += len(chunk)
                seen += len(chunk)
                file.progress(have + count, answer.total)
                since += self.bytes.take(len(chunk))
                passed = time.monotonic() - since
                if passed >= self.policy.timeout:
                    if seen < _SLOWEST * passed:
                        raise MediaError("timeout", f"{name} brought {seen} bytes in {passed:.0f} s", True)
                    since, seen = time.monotonic(), 0
        return count

    @contextmanager
    def _reserved(self, size: int, what: str) -> Iterator[Callable[[int], None]]:
        if self.disk is None:
            yield lambda number: None
        else:
            with self.disk.reserved(size, what) as wrote:
                yield wrote

    @contextmanager
    def _get(self, url: str, headers: dict[str, str], method: str = "GET") -> Iterator[_Answer]:
        """Ask for `url` and give the answer with the range that it holds."""
        import httpx

        try:
            with self.client.stream(method, url, headers=headers, extensions={_GIVEN: url}) as response:
                start, total = _range(response)
                yield _Answer(response, start, total)
        except httpx.TimeoutException as error:
            raise MediaError("timeout", f"{_name(url)}: no answer within {self.policy.timeout:g} s", True) from error
        except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError) as error:
            raise MediaError("unavailable", f"{_name(url)}: {_text(error)}") from error
        except httpx.HTTPError as error:
            raise MediaError("unavailable", f"{_name(url)}: {_text(error)}", True) from error

    def _drop(self, file: PartialDownload) -> None:
        file.note.unlink(missing_ok=True)
        self.remove(file.part)


def _range(response: httpx.Response) -> tuple[int, int | None]:
    """(offset of the first byte, length of the whole file) as the answer states them."""
    stated = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code in (206, 416):
        return (int(stated[1] or -1), None if stated[2] == "*" else int(stated[2])) if stated else (-1, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _refusal(response: httpx.Response) -> MediaError:
    return refusal(response.status_code, _name(str(response.url)), retry_after(response.headers.get("Retry-After")))


def _md5(path: Path, stop: threading.Event) -> str:
    hasher: Any = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            check_stop(stop)
            hasher.update(chunk)
    return str(hasher.hexdigest())


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _name(url: str) -> str:
    """The file that a url names: what a message tells, since a query may hold a secret."""
    return unquote(urlsplit(url).path.rstrip("/").rsplit("/", 1)[-1]) or urlsplit(url).netloc


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
