"""One walk over a source's folder: which media and annotation files lie in it.

This listing finds media by name. Names read from annotations are never
turned into paths, so that nothing outside the folder can be reached through them.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dataengine.core.errors import SourceError
from dataengine.media.kinds import holds_video

VIDEO_EXTENSIONS = (
    *(".264", ".265", ".3g2", ".3gp", ".amv", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264"),
    *(".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4"),
    *(".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm"),
    *(".wmv", ".wtv", ".y4m"),
)
TABLE_EXTENSIONS = (".csv", ".csv.gz", ".json")
_OTHER_EXTENSIONS = (
    *(".avif", ".bmp", ".heic", ".heif", ".ico", ".jpeg", ".jpg", ".png", ".psd", ".svg", ".tif", ".tiff"),
    *(".aac", ".ac3", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".opus", ".wav", ".wma"),
    *(".ass", ".htm", ".html", ".log", ".lrc", ".md", ".rst", ".rtf", ".srt", ".sub", ".tsv", ".txt", ".vtt", ".xml"),
    *(".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"),
    *(".doc", ".docx", ".ods", ".pdf", ".xls", ".xlsx", ".ini", ".toml", ".yaml", ".yml", ".db", ".sqlite"),
    *(".h5", ".hdf5", ".mat", ".npy", ".npz", ".onnx", ".parquet", ".pkl", ".pt", ".pth", ".safetensors"),
    *(".c", ".cpp", ".h", ".ipynb", ".js", ".m", ".py", ".pyc", ".sh"),
    *(".aria2", ".crdownload", ".download", ".filepart", ".part", ".partial", ".temp", ".tmp", ".ytdl"),
)
"""Endings of files that are not opened to see whether they are videos: they are something else, or unfinished."""

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
        folders: every folder below the root, ending with '/'.
        others: files that are no media and no tables, and hidden ones, with why they could not be read if they were
            wanted; None where they could. Empty unless asked for.
    """

    root: Path
    media: dict[str, tuple[Location, ...]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    others: dict[str, str | None] = field(default_factory=dict)
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


def list_files(root: Path, others: bool = False) -> Listing:
    """Walk over `root`, folders and files in order of name.

    A file of an unknown ending, or of none, is media where its first bytes are a video's. Hidden names are passed
    over. A link counts where it leads to a file under `root`; links to folders are not followed.

    Args:
        others: whether to list files that are no media, too.

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
        below = [_enter(listing, folder, entry, inside, others) for entry in entries]
        todo.extend(reversed([name for name in below if name]))
        if others:
            listing.folders.extend(name for name in below if name)
    linked = sorted(path for path, why in listing.refused.items() if why == _LINKED_FOLDER)
    if linked and not listing.media:
        raise SourceError(
            f"{root} holds no video file, but links to folders ({', '.join(linked[:3])}), which are not followed; "
            "give the folder itself"
        )
    return listing


def _enter(listing: Listing, folder: str, entry: os.DirEntry[str], inside: str, others: bool) -> str | None:
    """Take one directory entry into the listing; the relative folder to walk next where it is one."""
    name, path = entry.name, f"{folder}{_printable(entry.name)}"
    hidden, leads = name.startswith("."), _leads(entry)
    if leads == "folder" and not entry.is_symlink():
        if not hidden and not _readable(name):
            listing.refused[path] = "the name of the folder is not valid UTF-8"
        return f"{folder}{name}/" if not hidden and _readable(name) else None
    kind = "other" if hidden else _kind(entry, leads)
    why = _why_not(entry, kind, leads, inside)
    if kind != "other" and why is not None:
        listing.refused[path] = why
    elif kind == "media":
        listing._add(folder, name)
    elif kind == "table":
        listing.tables.append(path)
    elif others:
        listing.others[path] = why
    return None


def _kind(entry: os.DirEntry[str], leads: str) -> str:
    """'media', 'table' or 'other', by the ending; where that is unknown, by the first bytes, and links to folders and
    to nothing count as media."""
    name = entry.name.lower()
    if name.endswith(VIDEO_EXTENSIONS):
        return "media"
    if leads in ("folder", "circle"):
        return "media"
    if name.endswith(TABLE_EXTENSIONS):
        return "table"
    if name.endswith(_OTHER_EXTENSIONS) or leads == "special":
        return "other"
    return "media" if leads == "nothing" or holds_video(Path(entry.path)) else "other"


def _why_not(entry: os.DirEntry[str], kind: str, leads: str, inside: str) -> str | None:
    """Why an entry that is no folder cannot be used; None where it can be tried."""
    if leads == "folder":
        return _LINKED_FOLDER
    if not _readable(entry.name):
        return "the file name is not valid UTF-8"
    if leads == "circle":
        return _NOWHERE
    if entry.is_symlink() and kind != "table" and not os.path.realpath(entry.path).startswith(inside):
        return "a link that leads out of the source's folder"
    return "not a regular file" if leads == "special" and kind == "table" else None


def _leads(entry: os.DirEntry[str]) -> str:
    """What a name is or a link leads to: a 'folder', a 'file', something 'special' as a pipe, 'nothing', or a 'circle'
    of links. Only links cost a question to the file system."""
    if not entry.is_symlink():
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "special"
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        return "circle" if error.errno == errno.ELOOP else "nothing"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "special"


def _readable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
