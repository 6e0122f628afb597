"""Weight files: which there are, where they lie here, and how they come here.

`manifests/weights.toml` names every file that a component can ask for, with its places, its licence and
the hash its publisher gives (`weight_manifest`). Files lie in one folder, `$DATAENGINE_WEIGHTS` or
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

import contextlib
import difflib
import errno
import functools
import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from dataengine.core.errors import MediaError, WeightsError
from dataengine.io.http import HttpClient
from dataengine.io.http_policy import HttpPolicy
from dataengine.io.partial_download import ByteProgress
from dataengine.io.storage import locked, write_durably
from dataengine.io.tfjs.convert import convert
from dataengine.io.tfjs.graph_model import read_graph_model
from dataengine.io.weight_manifest import MANIFEST, Entry, manifest
from dataengine.io.weight_places import PartFetcher, no_room

__all__ = [
    "MANIFEST", "PARTS", "POLICY", "Entry", "check_pins", "digest", "download", "file_of", "folder", "hashes", "line",
    "locate", "manifest", "missing", "names_known", "names_of", "offline", "pin_of", "present", "promised",
]  # fmt: skip

PARTS = ".parts"
"""The folder of published files that are still to be converted, in the folder of weights."""

POLICY = HttpPolicy(rate=None, timeout=30.0, pause=0.5)
"""How weights are downloaded."""

LARGEST_MEMBER = 8 << 30
"""Bytes that a member of an archive may unpack to."""

_PROMISED = ContextVar("_PROMISED", default=False)


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
    if not path.is_file() and _PROMISED.get():
        return path
    if not path.is_file():
        size = "" if entry.bytes is None else f", {entry.bytes / 1e6:.0f} MB"
        raise WeightsError(
            f"weights {given} are not in {folder()}; get them with  dataengine weights {given}  "
            f"from {entry.source} (licence {entry.licence}{size})"
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

    def found(name: str) -> str:
        promised = name in known and _PROMISED.get() and not file_of(name).is_file()
        return known[name].sha256 if promised else digest(locate(name))

    return {os.fspath(one) if os.fspath(one) in known else Path(one).name: found(os.fspath(one)) for one in given}


@contextlib.contextmanager
def promised() -> Iterator[None]:
    """In here `locate` and `hashes` answer for files of the manifest that are not here, too: with where they will lie,
    and with what the manifest promises."""
    token = _PROMISED.set(True)
    try:
        yield
    finally:
        _PROMISED.reset(token)


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
    hosts = [urlsplit(one.where).netloc if one.kind == "url" else str(one) for one in entry.places]
    places = ", ".join(hosts or [urlsplit(entry.url).netloc]).replace("/{file}", "")
    return f"{here} {entry.name}  for {', '.join(entry.used_by)}; {entry.licence}{size}; from {places}"


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


def download(name: str, progress: ByteProgress | None = None, say: Callable[[str], None] | None = None) -> Path:
    """Bring a file of the manifest here, unless it is; any number of processes may ask for it at once.

    A transfer that was cut goes on where it stopped, also in another process. What arrived is used
    only when its length and hash are right. Without a network, what lies at local places is used.

    Args:
        name: of the file.
        progress: gets the bytes that are here and those of the whole file.
        say: gets a line for each place that does not serve.

    Raises:
        WeightsError: no such name, offline, not reachable, or not the promised file.
    """
    names_known([name])
    entry, path = manifest()[name], file_of(name)
    if not path.is_file() and offline() and not entry.places:
        raise WeightsError(
            f"weights {name} are not in {folder()} and DATAENGINE_OFFLINE is set; put the file of {entry.url} there"
        )
    try:
        with locked(path.with_name(f".{path.name}.lock")):
            if not path.is_file():
                bring = _assemble if entry.places else _download
                bring(entry, path, progress or (lambda done, total: None), say or (lambda line: None))
            return locate(name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(name, "the disk is full", path.parent) from error
        raise WeightsError(
            f"{name} cannot be written to {path.parent}: {error.strerror}; set DATAENGINE_WEIGHTS to another folder"
        ) from error


def _assemble(entry: Entry, path: Path, progress: ByteProgress, say: Callable[[str], None]) -> None:
    """Bring the parts of an entry from its places and make its file of them. The caller holds the lock of `path`."""
    fetcher = PartFetcher(folder() / PARTS, replace(POLICY, retries=1), offline(), progress, say)
    parts = fetcher.fetch(entry)
    if entry.convert is None:
        content = parts[0].read_bytes()
    else:
        model = read_graph_model(parts[0], parts[1:])
        content = convert(model, entry.convert.inputs, entry.convert.outputs, entry.name)
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise WeightsError(
            f"weights {entry.name}: its converted files have sha256 {found}, promised {entry.sha256[:16]}...: "
            "the manifest is of another version of dataengine; remove or update manifests/weights.toml"
        )
    write_durably(path, content)
    for part in parts:
        part.unlink(missing_ok=True)


def _download(entry: Entry, path: Path, progress: ByteProgress, say: Callable[[str], None]) -> None:
    """Bring the file of an entry to `path`, with its hash beside it. The caller holds the lock of `path`."""
    del say
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
        if error.kind == "disk_limit":
            raise no_room(entry.name, error.detail, path.parent) from error
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
