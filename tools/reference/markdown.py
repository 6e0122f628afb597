"""Pieces of Markdown that the pages are made of."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dataengine.core.markdown import rows

Pages = dict[str, tuple[str, str]]
"""Path below docs/ -> title in the navigation, with `/` between sections, and text in Markdown."""

_WORDS = {
    str: "text", int: "integer", float: "number", bool: "true or false", type(None): "none", Any: "any", dict: "table",
    list: "list", tuple: "list",
}  # fmt: skip


def prose(text: str) -> str:
    """Text of a docstring as Markdown: pointed brackets outside code are shown and not taken for HTML."""
    parts = re.split(r"(`[^`\n]*`)", text.replace("``", "`"))
    for n in range(0, len(parts), 2):
        parts[n] = re.sub(r"(?<![\\])([<])", r"&lt;", parts[n])
        parts[n] = re.sub(r"(?m)^(\s*)\* ", r"\1- ", parts[n]).replace("*_", r"\*_").replace("$", r"\$")
    return "".join(parts)


def cell(text: str) -> str:
    """Text for a cell of a table, as a sentence."""
    return prose(sentence(" ".join(text.split()))).replace("|", r"\|")


def sentence(text: str) -> str:
    """Text that begins with a capital letter and ends with a full stop."""
    ended = text if not text or text.endswith((".", "!", "?", ":")) else f"{text}."
    return ended[:1].upper() + ended[1:]


def code(value: object) -> str:
    """A value as code in a cell; '' for nothing."""
    text = str(value).replace("|", r"\|")
    return f"`{text}`" if text else ""


def table(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table, without the columns that are empty in every row."""
    made = [list(line) for line in lines]
    used = [n for n in range(len(headers)) if n == 0 or any(line[n] for line in made)]
    return rows([headers[n] for n in used], [[line[n] for n in used] for line in made])


def join(*parts: str) -> str:
    """Blocks of a page with an empty line between them."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def toml(value: Any) -> str:
    """A default as TOML would say it; '' where there is none."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) and 1e-3 <= abs(value) < 1e6 else str(value)


def kind(annotation: Any) -> str:
    """What a setting takes, in words."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is typing.Annotated:
        return kind(inner[0])
    if origin is typing.Literal:
        return ", ".join(code(toml(choice)) for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind(part) for part in inner if part is not type(None)))
    if origin in (list, tuple, Sequence) or getattr(origin, "__name__", "") in ("Sequence", "Iterable"):
        parts = list(dict.fromkeys(kind(part) for part in inner if part is not Ellipsis))
        return f"list of {' and '.join(parts)}" if parts else "list"
    if origin is dict or getattr(origin, "__name__", "") == "Mapping":
        return f"table of {kind(inner[1])}"
    return code(getattr(annotation, "__name__", str(annotation)))


def limits(metadata: Iterable[Any]) -> str:
    """The bounds of a pydantic field."""
    signs = {
        "ge": "at least {}",
        "gt": "above {}",
        "le": "at most {}",
        "lt": "below {}",
        "min_length": "at least {} of them",
    }
    found = []
    for bound in metadata:
        for name, words in signs.items():
            if getattr(bound, name, None) is not None:
                found.append(words.format(toml(getattr(bound, name))))
    return ", ".join(found)
