"""Downloads under way.

While a file `NAME` arrives, `.NAME.part` and `.NAME.part.json` (what the server said about the file that the
part belongs to) lie in its folder. Both outlive a killed process, so that the next one resumes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

ByteProgress: TypeAlias = Callable[[int, int | None], None]
"""Gets the bytes that are here and the bytes of the whole file, None while that is unknown."""


@dataclass(frozen=True)
class Note:
    """What is known about the file that a part belongs to."""

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None

    @property
    def validator(self) -> str | None:
        """What If-Range may carry: a strong ETag or a date (RFC 9110, 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


@dataclass
class PartialDownload:
    """One file under way."""

    url: str
    path: Path
    md5: str | None
    max_bytes: int | None
    progress: ByteProgress
    resumed: bool = False

    @property
    def part(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part")

    @property
    def note(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part.json")

    def read_note(self) -> Note | None:
        try:
            return Note(**json.loads(self.note.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
