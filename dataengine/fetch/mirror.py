"""Archives of a mirror, fetched and unpacked as far as a plan needs them."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from blake3 import blake3

from dataengine.core.errors import MediaError, SourceError
from dataengine.core.types import SPLITS, Clip
from dataengine.fetch import Fetcher, Report, Site
from dataengine.fetch.archives import Extracted, extract, too_large
from dataengine.fetch.mirrors import File
from dataengine.io.storage import locked, write_durably

_TABLES = (".csv", ".csv.gz", ".json")
_ARCHIVES = (".tar.gz", ".tgz", ".tar")


class Archive(NamedTuple):
    """An archive that may hold clips of a split (None: of any)."""

    key: str
    url: str
    md5: str | None
    into: str
    split: str | None

    @property
    def label(self) -> str:
        """What its name says of its content."""
        name = unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])
        return next((name[: -len(end)] for end in _ARCHIVES if name.endswith(end)), name)


@dataclass(frozen=True)
class Archives(Fetcher):
    """Downloads the archives of the source's mirror that hold planned clips, and unpacks those clips.

    Attributes:
        keep: leave archives in DATA_ROOT/<source>/.fetch/archives, so that a later plan with other clips needs no
            download.
    """

    keep: bool = False
    name: str = "mirror"

    def fetch(self, clips: Sequence[Clip], site: Site, report: Report) -> None:
        """See `Fetcher.fetch`: archives known to hold a clip first, then others, until no clip is missing."""
        if site.mirror is None:
            for clip in clips:
                report(clip.clip_id, MediaError("media_missing", f"no mirror is known for {site.source}"))
            return
        search = _Search(site, self.keep, report)
        search.add(clips)
        for archives in (
            _single,
            search.listed,
        ):  # single archives first: they replace damaged files of the listed ones
            site.transfers.each(search.search, search.candidates(archives(site)))
        search.report_missing()


def annotate(site: Site) -> None:
    """Have the source's annotations under its root; what is there is left as it is.

    Raises:
        SourceError: they cannot be had; the message says why.
    """
    assert site.mirror is not None

    def have(task: Callable[[], object]) -> None:
        try:
            task()
        except MediaError as error:
            again = "; build again to go on" if error.retryable else ""
            raise SourceError(
                f"source {site.source!r}: its annotations cannot be had: {error.detail} ({error.kind}){again}"
            ) from error

    tasks: list[Callable[[], object]] = [lambda file=file: _annotation(site, file) for file in site.mirror.annotations]  # type: ignore[misc]
    if not site.mirror.annotations:
        tasks = [lambda archive=archive: _tables_of(site, archive) for archive in _single(site)]  # type: ignore[misc]
    site.transfers.each(have, tasks)


def _annotation(site: Site, file: File) -> None:
    assert site.mirror is not None
    name = file.path.rsplit("/", 1)[-1]
    folder, url = site.root / "annotations", site.mirror.url(file)
    with locked(site.state / "locks" / f"{_slug(file.path)}.lock", site.transfers.stop):
        if not name.endswith(_ARCHIVES):
            site.transfers.download(url, folder / name, md5=file.md5)
            return
        archive = Archive(_slug(file.path), url, file.md5, "annotations", None)
        if _read_record(site, archive) is None:
            _unpack(site, archive, lambda member: member.endswith(_TABLES))
            site.transfers.remove(_archive_path(site, archive))


def _tables_of(site: Site, archive: Archive) -> None:
    with locked(site.state / "locks" / f"{archive.key}.lock", site.transfers.stop):
        if _read_record(site, archive) is None:
            _unpack(site, archive, lambda member: member.endswith(_TABLES))


class _Search:
    """The clips of one source that are still missing, and what the archives say."""

    def __init__(self, site: Site, keep: bool, report: Report) -> None:
        self.site, self.keep, self.report = site, keep, report
        self.missing: dict[str, list[Clip]] = {}
        self.failures: dict[str, tuple[Archive, MediaError]] = {}
        self.lock = threading.Lock()

    def add(self, clips: Iterable[Clip]) -> None:
        for clip in clips:
            if clip.file is None:
                self.report(clip.clip_id, MediaError("media_missing", "the annotation names no file"))
            else:
                self.missing.setdefault(_stem(clip.file), []).append(clip)

    def candidates(self, archives: Iterable[Archive]) -> list[Archive]:
        """The archives to search, those that are known to hold a missing clip first."""
        known, unknown = [], []
        for archive in archives:
            names = _read_record(self.site, archive)
            if names is None:
                unknown.append(archive)
            elif any(_stem(name) in self.missing for name in names):
                known.append(archive)
            else:
                self._discard(archive)
        return known + unknown

    def listed(self, site: Site) -> list[Archive]:
        """The archives of the lists of those splits that lack clips."""
        mirror, found = site.mirror, []
        assert mirror is not None
        kinds = {(clip.split, clip.label) for clips in self.missing.values() for clip in clips}
        for split in SPLITS:
            if split in mirror.lists and any(split == lacking for lacking, _ in kinds):
                try:
                    found += [a for a in _listed(site, split) if any(self._may_hold(a, *kind) for kind in kinds)]
                except MediaError as error:
                    unread = Archive(mirror.lists[split], mirror.at(mirror.lists[split]), None, split, split)
                    self.failures[unread.key] = (unread, error)
        return found

    def _may_hold(self, archive: Archive, split: str, label: str | None) -> bool:
        mirror = self.site.mirror
        assert mirror is not None
        return archive.split in (None, split) and (
            archive.split not in mirror.by_class or label in (None, archive.label)
        )

    def search(self, archive: Archive) -> None:
        """Unpack the missing clips that one archive holds."""
        with self.lock:
            if not any(
                self._may_hold(archive, clip.split, clip.label) for clips in self.missing.values() for clip in clips
            ):
                return
        try:
            with locked(self.site.state / "locks" / f"{archive.key}.lock", self.site.transfers.stop):
                self._extract(archive)
        except MediaError as error:
            with self.lock:
                self.failures[archive.key] = (archive, error)

    def _extract(self, archive: Archive) -> None:
        names = _read_record(self.site, archive)
        if names is not None:
            # Another process may have unpacked them since the plan was made.
            self._found(name for name in names if (self.site.root / archive.into / name).is_file())
            for name, size in names.items():
                if size > self.site.max_bytes:
                    self._resolve(_stem(name), too_large(name, size, self.site.max_bytes))
            if not any(_stem(name) in self.missing for name in names):
                self._discard(archive)
                return
        got = _unpack(self.site, archive, lambda name: _stem(name) in self.missing)
        self._discard(archive)
        self._found(got.written)
        for name, error in got.refused.items():
            self._resolve(_stem(name), error)

    def _found(self, names: Iterable[str]) -> None:
        for name in names:
            self._resolve(_stem(name), None)

    def _resolve(self, stem: str, error: MediaError | None) -> None:
        with self.lock:
            clips = self.missing.pop(stem, [])
        for clip in clips:
            self.report(clip.clip_id, error)

    def _discard(self, archive: Archive) -> None:
        if not self.keep:
            self.site.transfers.remove(_archive_path(self.site, archive))

    def report_missing(self) -> None:
        """Report the clips that no archive gave, with the failure of an archive that may hold them, retryable first."""
        failures = sorted(self.failures.values(), key=lambda failure: (not failure[1].retryable, failure[0].key))

        @cache
        def why(split: str, label: str | None) -> MediaError | None:
            return next((error for archive, error in failures if self._may_hold(archive, split, label)), None)

        for clip in [clip for clips in self.missing.values() for clip in clips]:
            error = why(clip.split, clip.label) or MediaError(
                "media_missing", f"no archive of the mirror holds {clip.file}"
            )
            self.report(clip.clip_id, error)
        self.missing.clear()


def _single(site: Site) -> list[Archive]:
    assert site.mirror is not None
    mirror = site.mirror
    return [
        Archive(_slug(f.path), mirror.url(f), f.md5, f.into, f.into if f.into in SPLITS else None)
        for f in mirror.archives
    ]


def _listed(site: Site, split: str) -> list[Archive]:
    """The archives of a list of the mirror; the list is asked for once."""
    mirror = site.mirror
    assert mirror is not None
    path = site.state / "lists" / f"{_slug(mirror.lists[split])}.txt"
    with locked(site.state / "locks" / "lists.lock", site.transfers.stop):
        if not path.exists():
            write_durably(path, _good_list(site, mirror.at(mirror.lists[split])).encode())
        lines = path.read_text().split()
    folder = mirror.lists[split].rpartition("/")[0]
    found = []
    for line in lines:
        relative = mirror.below(line)
        if not re.match(r"https?://", relative) and "/" not in relative:
            relative = f"{folder}/{relative}" if folder else relative
        found.append(Archive(_slug(relative), mirror.at(relative), None, split, split))
    return found


def _good_list(site: Site, url: str) -> str:
    """A list of archives; one with anything else in it is asked for once more."""
    for _ in range(2):
        text = site.transfers.text(url)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines and all(re.fullmatch(r"[!-;=?-~]+(\.tar\.gz|\.tgz|\.tar)", line) for line in lines):
            return text
    raise MediaError("corrupt", f"{url.rsplit('/', 1)[-1]} is no list of archives", True)


def _unpack(site: Site, archive: Archive, select: Callable[[str], bool]) -> Extracted:
    """Download an archive unless it is here, unpack selected members, and record what it holds. Its lock is held.

    An archive that turns out damaged is downloaded once more.
    """
    path = _archive_path(site, archive)
    staging = site.state / "staging" / archive.key
    for last in (False, True):
        site.transfers.download(archive.url, path, md5=archive.md5)
        try:
            got = extract(
                path,
                site.root / archive.into,
                staging,
                select,
                disk=site.transfers.disk,
                max_bytes=site.max_bytes,
                stop=site.transfers.stop,
            )
            break
        except MediaError as error:
            if error.kind != "corrupt":
                raise
            site.transfers.remove(path)
            if last:
                raise
    _write_record(site, archive, got.sizes)
    return got


def _archive_path(site: Site, archive: Archive) -> Path:
    return site.state / "archives" / archive.key


def _record(site: Site, archive: Archive) -> Path:
    return site.state / "records" / f"{archive.key}.json.gz"


def _read_record(site: Site, archive: Archive) -> dict[str, int] | None:
    """Bytes of the members of an archive that was seen whole, by name."""
    try:
        names: dict[str, int] = json.loads(gzip.decompress(_record(site, archive).read_bytes()))["sizes"]
        return names
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _write_record(site: Site, archive: Archive, sizes: dict[str, int]) -> None:
    record = json.dumps({"url": archive.url, "md5": archive.md5, "sizes": sizes}).encode()
    write_durably(_record(site, archive), gzip.compress(record, mtime=0))


def _stem(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).stem


def _slug(path: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", path).strip("-.")[-80:]
    return f"{clean}-{blake3(path.encode()).hexdigest()[:8]}"
