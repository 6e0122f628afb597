"""One large file over HTTP: resumed where it was cut, verified, and put in place whole.

Beside the file lie, while it comes, `.NAME.part` and `.NAME.part.json` (what the server said the part
belongs to), and `.NAME.lock`. All of it outlives a killed process, so the next one goes on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from dataengine.core.errors import WeightsError

ATTEMPTS = 6
"""Tries in a row that bring no byte before a transfer is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two tries: doubled each time, up to the longest."""
CHUNK = 1 << 20
LARGEST_MEMBER = 8 << 30
"""Bytes an archive's member may unfold to."""
Progress = Callable[[int, int | None], None]
"""Told the bytes that are here and all bytes, None while unknown."""


class _AgainError(Exception):
    """This try failed in a way that another may not."""


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: see `dataengine.io.weights.Entry`; `target` is where it goes."""

    url: str
    target: Path
    sha256: str = ""
    size: int | None = None
    member: str = ""

    def beside(self, ending: str) -> Path:
        return self.target.with_name(f".{self.target.name}{ending}")


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Only one process of this machine at a time fetches `target`; others wait.

    Raises:
        WeightsError: nothing can be written where `target` goes.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.with_name(f".{target.name}.lock").open("a")
    except OSError as error:
        raise WeightsError(
            f"{target.name} cannot be written to {target.parent}: {error.strerror}; set DATAENGINE_WEIGHTS to another folder"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(wanted: Wanted, progress: Progress = lambda done, total: None) -> str:
    """Bring a file to its target, and return its sha256. The caller holds `locked(target)`.

    Raises:
        WeightsError: not reachable, or not the promised file; the target is not touched then.
    """
    try:
        resumed = _transfer(wanted, progress)
        try:
            whole, sha256 = _checked(wanted)
        except WeightsError:
            if not resumed:
                raise
            _transfer(wanted, progress)  # the pieces did not belong together: once more in one piece
            whole, sha256 = _checked(wanted)
        with whole.open("rb+") as file:
            os.fsync(file.fileno())
        wanted.target.with_name(wanted.target.name + ".sha256").write_text(sha256 + "\n", encoding="ascii")
        whole.replace(wanted.target)
        _sync_folder(wanted.target.parent)
        _forget(wanted)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise WeightsError(f"{wanted.target.name} cannot be written to {wanted.target.parent}: {what}") from error
    return sha256


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _forget(wanted: Wanted) -> None:
    for ending in (".part", ".part.json", ".member"):
        wanted.beside(ending).unlink(missing_ok=True)


def _checked(wanted: Wanted) -> tuple[Path, str]:
    """The file that arrived, out of its archive where it came in one, and its sha256; what is wrong is removed."""
    try:
        whole = _extracted(wanted) if wanted.member else wanted.beside(".part")
        size = whole.stat().st_size
        if wanted.size is not None and size != wanted.size:
            raise WeightsError(
                f"{wanted.target.name} from {wanted.url} has {size} bytes, promised {wanted.size}: not used and removed"
            )
        with whole.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(wanted.sha256.lower()):
            digits = max(16, len(wanted.sha256))
            raise WeightsError(
                f"{wanted.target.name} from {wanted.url} has sha256 {found[:digits]}, promised {wanted.sha256}: not used and removed"
            )
    except WeightsError:
        _forget(wanted)
        raise
    return whole, found


def _transfer(wanted: Wanted, progress: Progress) -> bool:
    """Fill the part; whether it is made of more than one answer."""
    import httpx

    if urlsplit(wanted.url).scheme not in ("http", "https"):
        raise WeightsError(f"{wanted.target.name}: {wanted.url!r} is no http or https url")
    part, failures, pause, resumed = wanted.beside(".part"), 0, FIRST_PAUSE, False
    with httpx.Client(follow_redirects=True, timeout=30.0) as client:
        while True:
            before = part.stat().st_size if part.is_file() else 0
            resumed |= before > 0
            try:
                _one_try(client, wanted, part, progress)
                return resumed
            except (_AgainError, httpx.TransportError) as error:
                gained = part.is_file() and part.stat().st_size > before
                failures, pause = (0, FIRST_PAUSE) if gained else (failures + 1, pause)
                if failures >= ATTEMPTS:
                    raise WeightsError(
                        f"{wanted.target.name} cannot be fetched from {wanted.url}: {error or type(error).__name__} ({failures} tries); "
                        f"try again, or put the file into {wanted.target.parent} yourself"
                    ) from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise WeightsError(f"{wanted.target.name} cannot be fetched from {wanted.url}: {error}") from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _one_try(client: Any, wanted: Wanted, part: Path, progress: Progress) -> None:
    state = _state(wanted)
    start = part.stat().st_size if part.is_file() and state.get("validator") else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": state["validator"]}
    with client.stream("GET", wanted.url, headers=headers) as answer:
        if answer.status_code == 416 and start:  # nothing is left to send, or the file is another one
            if answer.headers.get("Content-Range") == f"bytes */{start}":
                return
            _forget(wanted)
            raise _AgainError("the server has another file now")
        if answer.status_code == 429 or answer.status_code >= 500 or answer.status_code == 408:
            raise _AgainError(f"the server answers {answer.status_code} {answer.reason_phrase}")
        if answer.status_code not in (200, 206):
            raise WeightsError(
                f"{wanted.target.name} cannot be fetched: {wanted.url} answers {answer.status_code} {answer.reason_phrase}; "
                f"put the file into {wanted.target.parent} yourself"
            )
        if answer.status_code == 200:
            start = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            _forget(wanted)
            raise _AgainError(f"the server sends {answer.headers.get('Content-Range')}, asked from byte {start}")
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        if start == 0:
            _remember(wanted, answer.headers)
        _receive(answer, part, start, total, progress)


def _receive(answer: Any, part: Path, start: int, total: int | None, progress: Progress) -> None:
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        done = start
        progress(done, total)
        for piece in answer.iter_bytes():  # as they come: a chunk size would keep back what a cut then loses
            file.write(piece)
            done += len(piece)
            progress(done, total)
        file.flush()
    if total is not None and done != total:
        raise _AgainError(f"{done} of {total} bytes came")


def _state(wanted: Wanted) -> dict[str, str]:
    """What the server said of the file that the part belongs to; nothing when it was another url's."""
    try:
        state = json.loads(wanted.beside(".part.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) and state.get("url") == wanted.url else {}


def _remember(wanted: Wanted, headers: Any) -> None:
    tag = headers.get("ETag", "")
    # A weak tag says that two files mean the same, not that they have the same bytes (RFC 9110, 13.1.5).
    validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    wanted.beside(".part.json").write_text(json.dumps({"url": wanted.url, "validator": validator}), encoding="utf-8")


def _extracted(wanted: Wanted) -> Path:
    """The one member of the zip archive that arrived; where it lies in there does not matter."""
    whole = wanted.beside(".member")
    try:
        with zipfile.ZipFile(wanted.beside(".part")) as opened:
            found = [m for m in opened.infolist() if not m.is_dir() and PurePosixPath(m.filename).name == wanted.member]
            if len(found) != 1:
                raise WeightsError(
                    f"{wanted.url} holds {len(found)} files called {wanted.member!r}, wanted one: not used"
                )
            if found[0].file_size > LARGEST_MEMBER:
                raise WeightsError(f"{wanted.member} in {wanted.url} unfolds to {found[0].file_size} bytes: not used")
            with opened.open(found[0]) as source, whole.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise WeightsError(f"{wanted.url} is no readable zip archive: {error}") from error
    return whole
