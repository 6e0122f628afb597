"""JSON files of any length, read a member at a time in memory that does not grow with the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20
"""Characters that are read at a time."""

_OF_NUMBERS = "0123456789.eE+-"
_DECODE = json.JSONDecoder().raw_decode


class _Text:
    """The text of a file from the place that was read up to."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._text, self._at, self._whole, self._step = file, "", 0, False, CHUNK

    def peek(self) -> str:
        """The next character that is no space; '' at the end."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if self._whole:
                return ""
            self._more()

    def take(self, allowed: str) -> str:
        """The next character, which must be one of these.

        Raises:
            ValueError: it is another one, or the file ends.
        """
        found = self.peek()
        if not found or found not in allowed:
            raise ValueError(f"{found!r} where one of {allowed!r} is needed" if found else "it breaks off")
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value.

        Raises:
            ValueError: there is none.
        """
        self.peek()
        self._step = CHUNK
        while True:
            try:
                found, end = _DECODE(self._text, self._at)
                more = end < len(self._text) and self._text[end] not in _OF_NUMBERS
                if more or self._whole:  # a number may go on in the next piece
                    self._at = end
                    return found
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            except ValueError:
                if self._whole:
                    raise
            self._more()

    def _more(self) -> None:
        piece = self._file.read(self._step)
        self._whole, self._step = not piece, 2 * self._step
        self._text, self._at = self._text[self._at :] + piece, 0


def members(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, value) of the object in a JSON file, lists in it value by value; of a list each value with the key ''.

    Raises:
        ValueError: the file is torn or no JSON; what came before was yielded.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = _Text(file)
        if text.peek() == "[":
            yield from (("", value) for value in _list(text))
        else:
            text.take("{")
            while text.peek() != "}":
                key = text.value()
                text.take(":")
                if not isinstance(key, str):
                    raise ValueError(f"{key!r} is no key")
                if text.peek() == "[":
                    yield from ((key, value) for value in _list(text))
                else:
                    yield key, text.value()
                if text.peek() != "}":
                    text.take(",")
            text.take("}")
        if text.peek():
            raise ValueError("more follows behind its end")


def _list(text: _Text) -> Iterator[Any]:
    text.take("[")
    while text.peek() != "]":
        yield text.value()
        if text.peek() != "]":
            text.take(",")
    text.take("]")
