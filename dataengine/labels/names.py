"""Comparison of class names."""

from __future__ import annotations

import re
from functools import lru_cache

_QUOTES = re.compile("['\"`\u2018\u2019\u201c\u201d]")
_NOT_WORDS = re.compile(r"[\W_]+")


@lru_cache(maxsize=65536)
def key(name: str) -> str:
    """The words of a class name, without case, underscores, quotes, brackets and other punctuation; names are equal by
    this key.

    Editions and mirrors of one dataset spell its classes differently (`massaging_persons_head`, `Passing American
    football in game`).
    """
    return _NOT_WORDS.sub(" ", _QUOTES.sub("", name.casefold())).strip() or name
