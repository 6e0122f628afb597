"""Numbers with their nouns, as people read them."""

from __future__ import annotations


def counted(count: int, noun: str, shown: str | None = None) -> str:
    """'1 clip', '2 clips'.

    Args:
        shown: the number as it is to be written; default its plain digits.
    """
    return f"{count if shown is None else shown} {noun}" + ("" if count == 1 else "s")


def are(count: int) -> str:
    """The verb for so many of something."""
    return "is" if count == 1 else "are"
