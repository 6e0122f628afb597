"""Files over HTTP: resumed, checked, paced, retried; a file is at its place whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import httpx

from dataengine.core.errors import MediaError
from dataengine.fetch.policy import FinalError, LaterError, Network, refusal, retry_after
from dataengine.fetch.rate_limit import Pace, Room, Stopped

T = TypeVar("T")

PART = ".part"
"""Ending of files that are under way."""

_CHUNK = 1 << 18
_SLOWEST = 1024
"""Bytes a second; a transfer that stays below for as long as the timeout counts as stalled."""
_PROGRESS = 1 << 20
"""Bytes that a try must bring for the tries to be counted anew."""
_SPOILED = 2
"""Whole downloads with a wrong content before it is given up: each costs the whole file."""
_PATIENCE = 600.0
"""Seconds; a server that asks for a longer wait is asked again in a later build."""
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class _Note:
    """What is known of the file of which a part lies here."""

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None

    @property
    def validator(self) -> str | None:
        """What If-Range may carry: a strong ETag or a date (RFC 9110, 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class _Answer(NamedTuple):
    response: httpx.Response
    start: int
    total: int | None


class Transfers:
    """Everything that goes over the network while a build fetches.

    Args:
        network: limits.
        root: the data root; its folder `.fetch` holds what processes share.
        room: how much may be written.
    """

    def __init__(self, network: Network, root: Path, room: Room | None = None) -> None:
        self.network = network
        self.room = room or Room(root)
        self.stop = threading.Event()
        self.requests = Pace(root / ".fetch" / "requests", network.rate, self.stop)
        self.bytes = Pace(root / ".fetch" / "bytes", network.bandwidth, self.stop)
        self.client = httpx.Client(
            follow_redirects=True,
            max_redirects=10,
            timeout=httpx.Timeout(network.timeout, connect=min(20.0, network.timeout)),
            proxy=network.proxy,
            cookies=network.jar(),
            headers={"User-Agent": "dataengine", "Accept-Encoding": "identity"},
            event_hooks={
                "request": [lambda request: _ignore(self.requests.take())]
            },  # called for every hop of a redirect, too
        )

    def each(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Call `work` on every item, `connections` at a time; what it raises ends the rest and is raised here.

        Threads are daemons, so that a stalled connection never keeps an interrupted program alive.
        """
        waiting, errors, lock = deque(items), list[BaseException](), threading.Lock()

        def crew() -> None:
            while not self.stop.is_set():
                with lock:
                    if not waiting or errors:
                        return
                    item = waiting.popleft()
                try:
                    work(item)
                except Stopped:
                    return
                except BaseException as error:
                    errors.append(error)

        threads = [
            threading.Thread(target=crew, daemon=True) for _ in range(min(self.network.connections, len(waiting)))
        ]
        try:
            for thread in threads:
                thread.start()
            while not errors and any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(0.1)
        except BaseException:
            self.stop.set()
            raise
        if errors:
            self.stop.set()
            raise errors[0]

    def text(self, url: str, max_bytes: int = 16 << 20) -> str:
        """A small text file.

        Raises:
            MediaError: as `download`.
        """

        def once() -> str:
            with self._get(url, {}) as answer:
                if answer.response.status_code != 200:
                    raise self._refusal(answer.response)
                content = b""
                for chunk in answer.response.iter_raw():
                    content += chunk
                    if len(content) > max_bytes:
                        raise MediaError("too_large", f"{_name(url)} is longer than {max_bytes} bytes")
                return content.decode("utf-8", "replace")

        return self.persist(once, lambda: 0)

    def download(self, url: str, path: Path, *, md5: str | None = None, max_bytes: int | None = None) -> Path:
        """Have the file of `url` at `path`; nothing is done when it is there.

        What an interrupted download left is gone on with if the server still has the same file
        (If-Range with its ETag or date). Only one process may download to `path` at a time.

        Args:
            md5: what the whole file must have.
            max_bytes: its largest length.

        Raises:
            MediaError: gone, private, geo_blocked, timeout, unavailable, corrupt, too_large or disk_limit.
        """
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + PART)
        note = path.with_name(path.name + PART + ".json")
        spoiled = 0

        def once() -> None:
            nonlocal spoiled
            self._transfer(url, part, note, md5 is not None, max_bytes)
            if md5 is not None and (found := _md5(part, self.stop)) != md5:
                self._drop(part, note)
                spoiled += 1
                again = spoiled < _SPOILED
                error = MediaError("corrupt", f"{_name(url)} has MD5 {found}, {md5} was promised", True)
                raise error if again else FinalError(error)

        self.persist(once, lambda: _length(part))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        fsync_folder(path.parent)
        note.unlink(missing_ok=True)
        return path

    def remove(self, path: Path) -> None:
        """Remove a file and count its bytes as free."""
        size = _length(path)
        path.unlink(missing_ok=True)
        self.room.removed(size)

    def close(self) -> None:
        self.stop.set()
        self.client.close()

    def persist(self, once: Callable[[], T], reached: Callable[[], int]) -> T:
        """Run `once` until it ends well; a failure that may pass is waited out, up to `retries` times without progress."""
        tries = 0
        while True:
            before = reached()
            try:
                return once()
            except FinalError as final:
                raise final.error from None
            except MediaError as error:
                if not error.retryable or error.kind == "disk_limit":
                    raise
                tries = 1 if reached() - before >= _PROGRESS else tries + 1
                wait = error.value if isinstance(error, LaterError) and error.value is not None else 0.0
                if tries > self.network.retries or wait > _PATIENCE:
                    raise MediaError(error.kind, f"{error.detail}; {tries} tries", True) from error
                if wait:
                    self.requests.hold(wait)
                pause = min(_LONGEST_PAUSE, self.network.pause * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)
                if self.stop.wait(max(wait, pause)):
                    raise Stopped from None

    def _transfer(self, url: str, part: Path, note: Path, hashed: bool, max_bytes: int | None) -> None:
        """One request: bring `part` nearer to the whole file; returning means that it is whole."""
        known, have = _read_note(note), _length(part)
        if known is None or known.url != url or not (known.validator or hashed):
            self._drop(part, note)
            known, have = _Note(url), 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and known.validator:
            headers["If-Range"] = known.validator
        with self._get(url, headers) as answer:
            status = answer.response.status_code
            if status == 416 and have:
                if answer.total == have:
                    return
                self._drop(part, note)
                raise MediaError("unavailable", f"{_name(url)} is not as long as before", True)
            if status not in (200, 206) or (status == 206 and not have):
                raise self._refusal(answer.response)
            now = _Note(
                url, answer.response.headers.get("ETag"), answer.response.headers.get("Last-Modified"), answer.total
            )
            if status == 206 and (answer.start != have or (known.etag and now.etag and known.etag != now.etag)):
                self._drop(part, note)
                raise MediaError(
                    "unavailable", f"{_name(url)} has changed, or the server answers with another range", True
                )
            if status == 200 and have:
                self._drop(part, note)
                have = 0
            if max_bytes is not None and (answer.total or 0) > max_bytes:
                detail = f"{_name(url)} has {answer.total} bytes, at most {max_bytes} are allowed"
                raise MediaError("too_large", detail, False, float(answer.total or 0), float(max_bytes))
            note.write_text(json.dumps(asdict(now)))
            got = have + self._write(answer, url, part, have, max_bytes)
        if answer.total is not None and got != answer.total:
            raise MediaError("unavailable", f"{_name(url)} breaks off after {got} of {answer.total} bytes", True)

    def _write(self, answer: _Answer, url: str, part: Path, have: int, max_bytes: int | None) -> int:
        count, since, seen = 0, time.monotonic(), 0
        expected = _CHUNK if answer.total is None else max(answer.total - have, 0)
        with self.room.booked(expected, _name(url)) as wrote, part.open("ab") as file:
            for chunk in answer.response.iter_raw():
                if self.stop.is_set():
                    raise Stopped
                if max_bytes is not None and have + count + len(chunk) > max_bytes:
                    raise MediaError("too_large", f"{_name(url)} is longer than {max_bytes} bytes")
                try:
                    file.write(chunk)
                    file.flush()
                except OSError as error:
                    if error.errno != 28:
                        raise
                    raise MediaError("disk_limit", f"the disk is full while {_name(url)} is written", True) from error
                wrote(len(chunk))
                count += len(chunk)
                seen += len(chunk)
                since += self.bytes.take(len(chunk))
                passed = time.monotonic() - since
                if passed >= self.network.timeout:
                    if seen < _SLOWEST * passed:
                        raise MediaError("timeout", f"{_name(url)} brought {seen} bytes in {passed:.0f} s", True)
                    since, seen = time.monotonic(), 0
        return count

    @contextmanager
    def _get(self, url: str, headers: dict[str, str]) -> Iterator[_Answer]:
        """Ask for `url` and give the answer with the range it says that it holds."""
        try:
            with self.client.stream("GET", url, headers=headers) as response:
                start, total = _range(response)
                yield _Answer(response, start, total)
        except httpx.TimeoutException as error:
            raise MediaError("timeout", f"{_name(url)}: no answer within {self.network.timeout:g} s", True) from error
        except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError) as error:
            raise MediaError("unavailable", f"{_name(url)}: {_said(error)}") from error
        except httpx.HTTPError as error:
            raise MediaError("unavailable", f"{_name(url)}: {_said(error)}", True) from error

    def _refusal(self, response: httpx.Response) -> MediaError:
        return refusal(response.status_code, _name(str(response.url)), retry_after(response.headers.get("Retry-After")))

    def _drop(self, part: Path, note: Path) -> None:
        note.unlink(missing_ok=True)
        self.remove(part)


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _range(response: httpx.Response) -> tuple[int, int | None]:
    """(offset of the first byte, length of the whole file) as the answer states them."""
    said = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code in (206, 416):
        return (int(said[1] or -1), None if said[2] == "*" else int(said[2])) if said else (-1, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _read_note(path: Path) -> _Note | None:
    try:
        return _Note(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _md5(path: Path, stop: threading.Event) -> str:
    hasher = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            if stop.is_set():
                raise Stopped
            hasher.update(chunk)
    return hasher.hexdigest()


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _name(url: str) -> str:
    """The file that a url names: what a message tells, since a query may hold a secret."""
    return unquote(urlsplit(url).path.rstrip("/").rsplit("/", 1)[-1]) or urlsplit(url).netloc


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _ignore(value: Any) -> None:
    del value
