"""Markdown of cards: tables, and escaped text from sources."""

from __future__ import annotations

import re
from collections.abc import Sequence


def plain(value: object) -> str:
    """Text from a source for a Markdown table: one line without markup."""
    text = re.sub(
        r"\s+", " ", "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    ).strip()
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def cell(value: object) -> str:
    """Text from a source for a table that is read on a terminal, too: one line, and no bar that would end the cell."""
    text = "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def rows(headers: Sequence[str], cells: Sequence[Sequence[object]]) -> str:
    """A Markdown table; cells are not escaped."""
    lines = [f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}"]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in cells)])
