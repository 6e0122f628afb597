"""Names: clip ids made of what a source writes, and the split words sources use."""

from __future__ import annotations

import math
import re

import blake3

from dataengine.core.types import Clip

SPLIT_WORDS: dict[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "holdout": "test",
}
"""What sources call their splits, and what we call them."""

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST = 80


def digest(text: str) -> str:
    """First 8 hex digits of the blake3 of `text`."""
    return blake3.blake3(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def slug(text: str, always_hash: bool = False, hashed: str | None = None) -> str:
    """`text` in [A-Za-z0-9_-], at most 80 long; whatever was lost is replaced by 8 hex digits of its hash.

    Args:
        always_hash: append the hash even when nothing was lost.
        hashed: the text to hash in place of `text`.
    """
    clean = _NOT_ALLOWED.sub("_", text)
    if clean == text and len(clean) <= _LONGEST and not always_hash:
        return clean
    return f"{clean[: _LONGEST - 9]}-{digest(text if hashed is None else hashed)}"


def clip_id(source: str, video: str, start: float, end: float, milliseconds: bool) -> str:
    """`<source>-<video>-<start>-<end>`, times (seconds) written whole or in milliseconds."""
    scale = 1000 if milliseconds else 1
    return f"{source}-{video}-{round(start * scale)}-{round(end * scale)}"


def seconds(text: object) -> float:
    """A time as sources write it.

    Raises:
        ValueError: not a number of seconds from 0 to a year; the message is for a user.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"time {text!r} is not a number")
    try:
        # a comma before the decimals, as spreadsheets of many countries write it
        value = float(text.replace(",", ".") if isinstance(text, str) and text.count(",") == 1 else text)
    except (ValueError, OverflowError):
        raise ValueError(f"time {text!r} is not a number") from None
    if not math.isfinite(value) or not 0 <= value < 3.2e7:
        raise ValueError(f"time {text!r} is not a number of seconds from the start of a video")
    return value


def split_named(word: str) -> str:
    """Our name of a split.

    Raises:
        ValueError: `word` is not one of SPLIT_WORDS.
    """
    found = SPLIT_WORDS.get(word.strip().lower())
    if found is None:
        raise ValueError(f"split {word[:60]!r} is none of {', '.join(SPLIT_WORDS)}")
    return found


def split_in_path(path: str) -> str | None:
    """The split that a path names in one of its parts, the last part first; None where no part names exactly one."""
    for part in reversed(path.lower().split("/")):
        hits = {SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", part) if word in SPLIT_WORDS}
        if len(hits) == 1:
            return hits.pop()
    return None


def refused_row(
    source: str, file: str, line: int | str, detail: str, reason: str = "bad_row", video_id: str | None = None
) -> Clip:
    """The clip that stands for an annotation row that is out before any work; its id comes from file and line."""
    row = slug(f"row{line}", always_hash=True, hashed=f"{file}\n{line}")
    where = f"{file} line {line}" if isinstance(line, int) else f"{file} {line}"
    return Clip(
        clip_id=f"{source}-{row}-0-0",
        source=source,
        video_id=video_id or row,
        media="",
        reason=reason,
        detail=f"{where}: {detail}",
    )
