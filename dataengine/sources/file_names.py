"""Which file of a folder a name of a table means, where the two are not written alike."""

from __future__ import annotations

import difflib
import posixpath
import re
import unicodedata
from collections.abc import Iterable

from dataengine.sources.listing import VIDEO_EXTENSIONS


def plain(path: str) -> str:
    """A path in one Unicode form and case, with '/' between folders."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _slashes(path)).casefold())


def _slashes(path: str) -> str:
    return posixpath.normpath(path.replace("\\", "/"))


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


class FileNames:
    """The files of a listing by what a table may call them.

    Args:
        files: paths relative to the root.
        folders: paths of the folders in it, each ending with '/'.
        roots: absolute paths of the folder itself.
    """

    def __init__(self, files: Iterable[str], folders: Iterable[str] = (), roots: Iterable[str] = ()) -> None:
        self.files = sorted(files)
        self._roots = tuple({f"{_slashes(root)}/" for root in roots})
        self._tops = {plain(folder).split("/")[0] for folder in folders}
        self._paths: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        for file in self.files:
            path = plain(file)
            name = posixpath.basename(path)
            for key in {path, _stem(path)}:
                self._paths.setdefault(key, []).append(file)
            for key in {name, _stem(name)}:
                self._names.setdefault(key, []).append(file)

    def find(self, given: str) -> list[str]:
        """The files that a name may mean; more than one where it is ambiguous.

        The path as it is comes first. Then: in another case or Unicode form, without the ending, with the ending of
        another video, and with folders in front that lie above the root. A bare name may lie in any folder; a path
        means that file, not a namesake elsewhere.
        """
        path = _slashes(given)
        root = next((root for root in self._roots if path.startswith(root)), "")
        path = path[len(root) :]
        return self._find(path, plain(path), bool(root)) or (
            self._find(_stem(path), _stem(plain(path)), bool(root)) if path.lower().endswith(VIDEO_EXTENSIONS) else []
        )

    def _find(self, path: str, alike: str, from_root: bool) -> list[str]:
        if "/" not in path and not from_root:
            found = self._names.get(alike, [])
            exact = [file for file in found if posixpath.basename(file) == path]
            return [path] if path in exact else exact or found
        parts = alike.split("/")
        for start, part in enumerate(parts):
            found = self._paths.get("/".join(parts[start:]), [])
            if found:
                return [path] if path in found else found
            if from_root or part in self._tops:  # the path is known from the root on
                break
        return []

    def namesakes(self, given: str) -> list[str]:
        """The files anywhere that are called as the last part of a path, whatever their ending."""
        name = posixpath.basename(plain(given))
        return self._names.get(name) or self._names.get(_stem(name), [])

    def nearest(self, given: str) -> str | None:
        """The file that is called most like a name; None where none is."""
        wanted = posixpath.basename(plain(given))
        found = difflib.get_close_matches(wanted, self._names, n=1, cutoff=0.5)
        return self._names[found[0]][0] if found else None

    def may_mean(self, damaged: str) -> list[str]:
        """The files that a name of a bad row may mean: as `find`, elsewhere, and with U+FFFD for any letters."""
        if "\ufffd" not in damaged:
            return self.find(damaged) or self.namesakes(damaged)
        name = posixpath.basename(plain(damaged))
        pattern = re.compile("".join(".{1,4}" if c == "\ufffd" else re.escape(c) for c in name))
        return sorted({file for key, files in self._names.items() if pattern.fullmatch(key) for file in files})
