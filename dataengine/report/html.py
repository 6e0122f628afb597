"""HTML elements whose text is always escaped: text from sources can never become markup."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

VOID = frozenset({"br", "img", "meta"})
SPACES = "\n\t\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"


class Html(str):
    """Text that is markup, and is not escaped again."""

    __slots__ = ()


def escape(value: object) -> Html:
    """`value` as text of a page; `Html` stays as it is."""
    if isinstance(value, Html):
        return value
    text = str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in SPACES else "\N{REPLACEMENT CHARACTER}" for c in text)
    return Html(html.escape(text, quote=True))


def el(name: str, *children: object, **attributes: object) -> Html:
    """An element. Children are escaped unless they are `Html`; lists of children are joined.

    Attributes that are None or False are left out, True stands alone; `class_` means class, and
    `aria_label` aria-label.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        written.append(f" {attribute}" if value is True else f' {attribute}="{escape(str(value))}"')
    opening = f"<{name}{''.join(written)}>"
    return Html(opening) if name in VOID else Html(f"{opening}{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Html:
    """Children one after the other, escaped; None is left out."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, (list, tuple)):
            parts.append(joined(child))
        elif child is not None:
            parts.append(escape(child))
    return Html("".join(parts))


def data_block(identifier: str, value: Any) -> Html:
    """JSON for the script of a page; no value can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Html(f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>')
