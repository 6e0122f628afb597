"""Where the manifests lie, and how names of classes are compared."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

_QUOTES = re.compile("['\"`\u2018\u2019\u201c\u201d]")
_NOT_WORDS = re.compile(r"[\W_]+")


def manifest_folders() -> list[Path]:
    """Folders that hold manifests, nearest first: ./manifests, the checkout's, the packaged copies."""
    package = Path(__file__).resolve().parents[1]
    return [folder for folder in (Path.cwd() / "manifests", package.parent / "manifests", package / "_manifests") if folder.is_dir()]


def find_manifest(file: str) -> Path | None:
    """The nearest manifest of that file name."""
    return next((path for folder in manifest_folders() if (path := folder / file).is_file()), None)


@lru_cache(maxsize=65536)
def key(name: str) -> str:
    """What is compared of a class name: its words, without case, underscores, quotes, brackets and other punctuation.

    Editions and mirrors of one data set spell its classes differently (`massaging_persons_head`,
    `Passing American football in game`).
    """
    return _NOT_WORDS.sub(" ", _QUOTES.sub("", name.casefold())).strip() or name
