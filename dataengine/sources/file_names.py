"""Which file of a folder a name of a table means, where the two are not written alike."""

from __future__ import annotations

import difflib
import posixpath
import re
import unicodedata
from collections.abc import Iterable


def _plain(path: str) -> str:
    """A path in one Unicode form and case, with '/' between folders."""
    return unicodedata.normalize("NFC", posixpath.normpath(path.replace("\\", "/"))).casefold()


class FileNames:
    """The files of a listing by what a table may call them.

    Args:
        files: paths relative to the root.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self.files = sorted(files)
        self._paths: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        for file in self.files:
            plain = _plain(file)
            for key in {plain, posixpath.splitext(plain)[0]}:
                self._paths.setdefault(key, []).append(file)
            for key in {posixpath.basename(plain), posixpath.splitext(posixpath.basename(plain))[0]}:
                self._names.setdefault(key, []).append(file)

    def find(self, given: str) -> list[str]:
        """The files that a name may mean; more than one where it is ambiguous.

        The path as it is comes first. Then: in another case or Unicode form, without the ending, and with folders in
        front that lie above the root. A bare name may lie in any folder; a path means that file, not a namesake
        elsewhere.
        """
        path = posixpath.normpath(given.replace("\\", "/"))
        plain = _plain(path)
        if "/" not in path:
            alike = self._names.get(plain, [])
            exact = [file for file in alike if posixpath.basename(file) == path]
            return [path] if path in exact else exact or alike
        parts = plain.split("/")
        for start in range(len(parts)):
            alike = self._paths.get("/".join(parts[start:]), [])
            if alike:
                return [path] if path in alike else alike
        return []

    def nearest(self, given: str) -> str | None:
        """The file that is called most like a name; None where none is."""
        wanted = posixpath.basename(_plain(given))
        found = difflib.get_close_matches(wanted, self._names, n=1, cutoff=0.5)
        return self._names[found[0]][0] if found else None

    def may_mean(self, damaged: str) -> list[str]:
        """The files that a name with unreadable letters (U+FFFD) may mean."""
        if "\ufffd" not in damaged:
            return self.find(damaged)
        pattern = re.compile("".join(".{1,4}" if c == "\ufffd" else re.escape(c) for c in _plain(damaged)))
        return sorted({file for key, files in self._names.items() if pattern.fullmatch(key) for file in files})
