"""Markdown of cards: tables, and texts of others that cannot break them."""

from __future__ import annotations

import re
from collections.abc import Sequence


def plain(value: object) -> str:
    """Text that others wrote, for a Markdown table: one line without markup."""
    text = re.sub(
        r"\s+", " ", "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    ).strip()
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def rows(headers: Sequence[str], cells: Sequence[Sequence[object]]) -> str:
    """A Markdown table; cells are taken as they are."""
    lines = [f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}"]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in cells)])
