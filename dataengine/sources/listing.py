"""One walk over a source's folder: which media and annotation files lie in it.

This listing finds media by name. Names read from annotations are never
turned into paths, so that nothing outside the folder can be reached through them.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dataengine.core.errors import SourceError

VIDEO_EXTENSIONS = (
    *(".264", ".265", ".3g2", ".3gp", ".amv", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264"),
    *(".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4"),
    *(".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm"),
    *(".wmv", ".wtv", ".y4m"),
)
TABLE_EXTENSIONS = (".csv", ".csv.gz", ".json")

_LINKED_FOLDER = "a link to a folder is not followed"
_NOWHERE = "a link that leads nowhere: to itself, or in a circle"


class Location(NamedTuple):
    """Where a file of a known stem lies."""

    folder: str
    """Relative to the root, '' or ending with '/'."""
    extension: str


@dataclass
class Listing:
    """The files under a root.

    Attributes:
        media: locations of each video file stem; equal locations are one object, which saves memory on large trees.
        tables: annotation candidates relative to the root, in order.
        refused: what cannot be used although it looks like media, with the reason to tell.
    """

    root: Path
    media: dict[str, tuple[Location, ...]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    _alone: dict[Location, tuple[Location, ...]] = field(default_factory=dict, repr=False)

    def paths(self) -> Iterator[str]:
        """Every media file, relative to the root, unordered."""
        for stem, locations in self.media.items():
            for location in locations:
                yield f"{location.folder}{stem}{location.extension}"

    def find(self, name: str) -> list[str]:
        """The media files that `name` (a relative path or a bare name, any separator) may mean, best first.

        The file of exactly that path comes alone. Otherwise those sharing the longest tail of folders
        with it, in order; the extension may differ where none has the same.
        """
        path = posixpath.normpath(name.replace("\\", "/")).lstrip("/")
        stem, extension = posixpath.splitext(posixpath.basename(path))
        locations = self.media.get(stem, ())
        locations = tuple(p for p in locations if p.extension == extension) or locations
        found = [f"{p.folder}{stem}{p.extension}" for p in locations]
        if path in found:
            return [path]
        if len(found) < 2:
            return found
        shared = [_shared_tail(path, candidate) for candidate in found]
        return sorted(f for f, tail in zip(found, shared) if tail == max(shared))

    def _add(self, folder: str, name: str) -> None:
        stem, extension = posixpath.splitext(name)
        location = Location(folder, extension)
        alone = self._alone.setdefault(location, (location,))
        self.media[stem] = self.media[stem] + alone if stem in self.media else alone


def _shared_tail(first: str, second: str) -> int:
    one, two = first.split("/")[-2::-1], second.split("/")[-2::-1]
    return next((i for i, (a, b) in enumerate(zip(one, two)) if a != b), min(len(one), len(two)))


def list_files(root: Path) -> Listing:
    """Walk over `root`, folders and files in order of name.

    Hidden names are passed over. A link counts where it leads to a file under `root`; links to
    folders are not followed.

    Raises:
        SourceError: `root` is not a folder that can be listed, or holds links to folders and no media.
    """
    if not root.is_dir():
        raise SourceError(f"{root} is not a folder; give the folder that holds the media and annotations")
    listing = Listing(root)
    inside = os.path.realpath(root) + os.sep
    todo = [""]
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise SourceError(f"{root} cannot be listed: {error.strerror}") from error
            listing.refused[folder] = f"the folder cannot be listed: {error.strerror}"
            continue
        below = [_enter(listing, folder, entry, inside) for entry in entries]
        todo.extend(reversed([name for name in below if name]))
    linked = sorted(path for path, why in listing.refused.items() if why == _LINKED_FOLDER)
    if linked and not listing.media:
        raise SourceError(
            f"{root} holds no video file, but links to folders ({', '.join(linked[:3])}), which are not followed; "
            "give the folder itself"
        )
    return listing


def _enter(listing: Listing, folder: str, entry: os.DirEntry[str], inside: str) -> str | None:
    """Take one directory entry into the listing; the relative folder to walk next where it is one."""
    name = entry.name
    if name.startswith("."):
        return None
    lower = name.lower()
    media, table = lower.endswith(VIDEO_EXTENSIONS), lower.endswith(TABLE_EXTENSIONS)
    link = entry.is_symlink()
    if not link and entry.is_dir():
        return f"{folder}{name}/" if _readable(name) else None
    if not (media or table):
        if link and _leads(entry) == "folder":
            listing.refused[f"{folder}{_printable(name)}"] = _LINKED_FOLDER
        return None
    if not _readable(name):
        listing.refused[f"{folder}{_printable(name)}"] = "the file name is not valid UTF-8"
    elif link and _leads(entry) == "folder":
        listing.refused[f"{folder}{name}"] = _LINKED_FOLDER
    elif link and media and _leads(entry) == "nowhere":
        listing.refused[f"{folder}{name}"] = _NOWHERE
    elif link and media and not os.path.realpath(entry.path).startswith(inside):
        listing.refused[f"{folder}{name}"] = "a link that leads out of the source's folder"
    elif media:
        listing._add(folder, name)
    else:
        listing.tables.append(f"{folder}{name}")
    return None


def _leads(link: os.DirEntry[str]) -> str:
    """What a link leads to: a folder, a file (there or not), or nowhere, as a link to itself."""
    try:
        return "folder" if link.is_dir() else "file"
    except OSError:
        return "nowhere"


def _readable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
