"""Weight files: which there are, where they lie here, and how they come here.

`manifests/weights.toml` names every file that a component can ask for, with its url, its licence and
the hash its publisher gives. Files lie in one folder, `$DATAENGINE_WEIGHTS` or
`~/.cache/dataengine/weights`; a component takes a name of the manifest or the path of a local file.

A component that needs files offers, beside `weights()` -> {file name: sha256}, `needs()` -> the names
that must lie here before `weights()` can answer. In a component with a field `path` both are one line::

    def needs(self) -> list[str]:
        return weights.names_of(self.path)

    def weights(self) -> dict[str, str]:
        return weights.hashes(self.path)

Three things guard against a wrong file. The published hash, whole or its first digits, is checked
after the download and again by `locate`. A file without one is pinned: its hash is written beside it
(`NAME.sha256`) when it first comes, and `locate` refuses another one. A build's lock keeps the hashes
it ran with, and `check_pins` refuses to go on with others.
"""

from __future__ import annotations

import difflib
import errno
import functools
import hashlib
import os
import shutil
import tomllib
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from dataengine.core.errors import MediaError, WeightsError
from dataengine.core.settings import find_folder
from dataengine.io.http import HttpClient
from dataengine.io.http_policy import HttpPolicy
from dataengine.io.partial_download import ByteProgress
from dataengine.io.storage import locked, write_durably

MANIFEST = "weights.toml"

POLICY = HttpPolicy(rate=None, timeout=30.0, pause=0.5)
"""How weights are downloaded."""

LARGEST_MEMBER = 8 << 30
"""Bytes that a member of an archive may unpack to."""


@dataclass(frozen=True)
class Entry:
    """One file of the manifest.

    Attributes:
        name: what components and people call it; the path of the file in the folder of weights.
        url: where it is published.
        licence: of the weights, as their publisher states it.
        sha256: of the file, 64 hex digits or the first 8 or more; '' where none is known.
        bytes: its length, None where unknown.
        member: what the file is called in the zip archive at `url`; '' when `url` is the file itself.
        used_by: components that can use it.
        page: where its publisher describes it.
        note: what else there is to know.
    """

    name: str
    url: str
    licence: str
    sha256: str = ""
    bytes: int | None = None
    member: str = ""
    used_by: tuple[str, ...] = ()
    page: str = ""
    note: str = ""


@functools.lru_cache(maxsize=8)
def _parsed(path: Path, changed: int) -> dict[str, Entry]:
    del changed
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("file", [])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    known = {f.name for f in fields(Entry)}
    found: dict[str, Entry] = {}
    for table in tables:
        name = str(table.get("name", ""))
        wrong = sorted(set(table) - known) or [k for k in ("name", "url", "licence") if not table.get(k)]
        if wrong:
            raise WeightsError(
                f"{path}: [[file]] {name or len(found) + 1}: {wrong[0]} is missing or unknown; "
                f"keys: {', '.join(sorted(known))}"
            )
        parts = Path(name).parts
        if name in found or Path(name).is_absolute() or ".." in parts or any(part.startswith(".") for part in parts):
            raise WeightsError(f"{path}: [[file]] {name}: a name is given once and is a plain relative path")
        found[name] = Entry(**{**table, "used_by": tuple(table.get("used_by", ()))})
    return found


def manifest() -> dict[str, Entry]:
    """Every known file by name: of ./manifests, the checkout's and the packaged manifest; the nearest wins.

    Raises:
        WeightsError: a manifest is damaged.
    """
    found: dict[str, Entry] = {}
    for place in find_folder("manifests"):
        path = place / MANIFEST
        if path.is_file():
            found = {**_parsed(path, path.stat().st_mtime_ns), **found}
    return found


def folder() -> Path:
    """Where weight files lie: $DATAENGINE_WEIGHTS, else ~/.cache/dataengine/weights."""
    given = os.environ.get("DATAENGINE_WEIGHTS")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "dataengine" / "weights"


def offline() -> bool:
    """Whether nothing may be downloaded: DATAENGINE_OFFLINE is set and not 0."""
    return os.environ.get("DATAENGINE_OFFLINE", "0") not in ("", "0")


def names_of(*given: str) -> list[str]:
    """Those of `given` that are names of the manifest, and so may have to be downloaded; the others are paths."""
    known = manifest()
    return [one for one in given if one in known]


def file_of(name: str) -> Path:
    """Where the file `name` of the manifest lies or will lie."""
    return folder() / name


def pin_of(path: Path) -> Path:
    """The file that holds the sha256 a downloaded file had when it came."""
    return path.with_name(path.name + ".sha256")


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The local file of a name of the manifest, or of a path.

    A name of the manifest is looked for in `folder()` only and must have its published or pinned hash;
    anything else is a path and is taken as it is. For a file of the working folder that is called as
    one of the manifest write ./NAME.

    Raises:
        WeightsError: it is not here, with what gets it; it is another file; or no such name or path.
    """
    given = os.fspath(name_or_path)
    entry = manifest().get(given)
    if entry is None:
        path = Path(given).expanduser()
        if path.is_file():
            return path
        raise WeightsError(
            f"weights {given!r}: neither a file here nor a name of manifests/{MANIFEST}{_nearest(given)}"
        )
    path = file_of(given)
    if not path.is_file():
        size = "" if entry.bytes is None else f", {entry.bytes / 1e6:.0f} MB"
        raise WeightsError(
            f"weights {given} are not in {folder()}; get them with  dataengine weights {given}  "
            f"from {entry.url} (licence {entry.licence}{size})"
        )
    for promised in _promised(entry, path):
        if not digest(path).startswith(promised):
            raise WeightsError(
                f"weights {path} have sha256 {digest(path)[:16]}..., promised {promised[:16]}: "
                f"remove that file and its .sha256, then  dataengine weights {given}  gets the right one"
            )
    return path


def _nearest(given: str) -> str:
    near = difflib.get_close_matches(given, manifest(), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else "; see  dataengine weights"


def present(name: str) -> bool:
    """Whether the right file of this name lies here."""
    try:
        locate(name)
    except WeightsError:
        return False
    return True


def _promised(entry: Entry, path: Path) -> list[str]:
    """The hashes, or their first digits, that a file of the manifest must have."""
    pin = pin_of(path)
    pinned = pin.read_text(encoding="ascii", errors="replace").split() if pin.is_file() else []
    return [p for p in (entry.sha256.lower(), *pinned[:1]) if p]


@functools.lru_cache(maxsize=256)
def _digest(path: str, size: int, changed: int) -> str:
    del size, changed
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: str | os.PathLike[str]) -> str:
    """sha256 of a local file in hex, remembered in this process for its path, length and time of change."""
    state = Path(path).stat()
    return _digest(str(Path(path).absolute()), state.st_size, state.st_mtime_ns)


def hashes(*given: str | os.PathLike[str]) -> dict[str, str]:
    """{file name: sha256} of names and paths, as a component's `weights()` answers.

    Raises:
        WeightsError: see `locate`.
    """
    known = manifest()
    return {os.fspath(one) if os.fspath(one) in known else Path(one).name: digest(locate(one)) for one in given}


def check_pins(lock: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse downloaded weights that are not those a build began with.

    Files of the manifest only: built-in networks change with the version of the program and local files
    are their owner's, so for those a change means another fingerprint and the work is done anew.

    Args:
        lock: {component: {file name: sha256}}, table [lock.weights] of the build's recipe.lock.toml.
        now: the same of this build.

    Raises:
        WeightsError: a file has another hash now.
    """
    known = manifest()
    for component, files in now.items():
        before = lock.get(component, {})
        for name, sha256 in files.items():
            if name in known and name in before and before[name] != sha256:
                raise WeightsError(
                    f"weights {name} of {component} have sha256 {sha256[:16]}..., "
                    f"but this build began with {before[name][:16]}...: "
                    "bring that file back, or build with the new one into another --out"
                )


def line(entry: Entry) -> str:
    """One line for people about a file of the manifest."""
    here = "here   " if file_of(entry.name).is_file() else "missing"
    size = "" if entry.bytes is None else f", {entry.bytes / 1e6:.0f} MB"
    return f"{here} {entry.name}  for {', '.join(entry.used_by)}; {entry.licence}{size}"


def names_known(names: Iterable[str]) -> None:
    """Check that these are names of the manifest.

    Raises:
        WeightsError: one is not.
    """
    known = manifest()
    for name in names:
        if name not in known:
            raise WeightsError(f"no weights are called {name!r} in manifests/{MANIFEST}{_nearest(name)}")


def missing(components: Iterable[Any]) -> list[str]:
    """Names that these components need and that are not here, each once."""
    names = [name for c in components for name in c.needs()]
    return [name for name in dict.fromkeys(names) if not file_of(name).is_file()]


def download(name: str, progress: ByteProgress | None = None) -> Path:
    """Bring a file of the manifest here, unless it is; any number of processes may ask for it at once.

    A transfer that was cut goes on where it stopped, also in another process. What arrived is used
    only when its length and hash are right.

    Raises:
        WeightsError: no such name, offline, not reachable, or not the promised file.
    """
    names_known([name])
    entry, path = manifest()[name], file_of(name)
    if not path.is_file() and offline():
        raise WeightsError(
            f"weights {name} are not in {folder()} and DATAENGINE_OFFLINE is set; put the file of {entry.url} there"
        )
    try:
        with locked(path.with_name(f".{path.name}.lock")):
            if not path.is_file():
                _download(entry, path, progress or (lambda done, total: None))
            return locate(name)
    except OSError as error:
        hint = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise WeightsError(
            f"{name} cannot be written to {path.parent}: {hint}; set DATAENGINE_WEIGHTS to another folder"
        ) from error


def _download(entry: Entry, path: Path, progress: ByteProgress) -> None:
    """Bring the file of an entry to `path`, with its hash beside it. The caller holds the lock of `path`."""
    member = path.with_name(f".{path.name}.member")

    def accept(part: Path) -> Path:
        whole = _extracted(entry, part, member) if entry.member else part
        write_durably(pin_of(path), (_checked(entry, whole) + "\n").encode("ascii"))
        return whole

    client = HttpClient(POLICY)
    try:
        client.download(entry.url, path, accept=accept, tries=1, progress=progress)
    except MediaError as error:
        if error.kind == "corrupt":
            raise WeightsError(f"{entry.name} from {entry.url} {error.detail}: not used and removed") from error
        raise WeightsError(
            f"{entry.name} cannot be fetched from {entry.url}: {error.detail}; "
            f"try again, or put the file into {path.parent} yourself"
        ) from error
    finally:
        client.close()
        member.unlink(missing_ok=True)


def _checked(entry: Entry, whole: Path) -> str:
    """sha256 of a file that arrived.

    Raises:
        MediaError: corrupt, where length or hash are not the promised ones.
    """
    size = whole.stat().st_size
    if entry.bytes is not None and size != entry.bytes:
        raise MediaError("corrupt", f"has {size} bytes, promised {entry.bytes}")
    with whole.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(entry.sha256.lower()):
        digits = max(16, len(entry.sha256))
        raise MediaError("corrupt", f"has sha256 {found[:digits]}, promised {entry.sha256}")
    return found


def _extracted(entry: Entry, archive: Path, target: Path) -> Path:
    """Unpack the one member of a zip archive to `target`, whatever folder of the archive holds it.

    Raises:
        MediaError: corrupt, where the archive is damaged or does not hold one such member.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [
                m for m in opened.infolist() if not m.is_dir() and PurePosixPath(m.filename).name == entry.member
            ]
            if len(members) != 1:
                raise MediaError("corrupt", f"holds {len(members)} files called {entry.member!r}, not one")
            if members[0].file_size > LARGEST_MEMBER:
                raise MediaError("corrupt", f"holds {entry.member} of {members[0].file_size} bytes")
            with opened.open(members[0]) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise MediaError("corrupt", f"is no readable zip archive: {error}") from error
    return target
