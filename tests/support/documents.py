"""Pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
"""Every page that is written by hand."""

_FENCE = re.compile(r"^(?P<run><!-- run -->\n)?```(?P<language>\w+)(?P<about>[^\n]*)\n(?P<code>.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        page: path of the page below the checkout.
        language: console, python, toml, text ...
        about: what follows the language, such as title="recipe".
        code: its lines.
        runs: whether the page says that the block can be run as it is.
    """

    page: str
    language: str
    about: str
    code: str
    runs: bool

    @property
    def name(self) -> str:
        """For the ids of tests."""
        return f"{self.page}: {self.code.strip().splitlines()[0][:60]}"


def blocks(*languages: str) -> list[Block]:
    """All blocks of some languages in all pages."""
    found = []
    for path in WRITTEN:
        for match in _FENCE.finditer(path.read_text(encoding="utf-8")):
            if match["language"] in languages:
                page = path.relative_to(ROOT).as_posix()
                found.append(Block(page, match["language"], match["about"].strip(), match["code"], bool(match["run"])))
    return found


def spans() -> list[tuple[str, str]]:
    """(page, text) of every piece of code within a sentence of a page."""
    found = []
    for path in WRITTEN:
        prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        found += [(path.relative_to(ROOT).as_posix(), text) for text in re.findall(r"`([^`\n]+)`", prose)]
    return found


def programs() -> dict[str, Any]:
    """The command groups of both programs."""
    from dataengine.cli import app
    from training.cli import app as train_app

    return {"dataengine": typer.main.get_command(app), "dataengine-train": typer.main.get_command(train_app)}


def commands() -> list[tuple[str, str, list[str]]]:
    """(page, program, arguments) of every command line that the pages show."""
    found = []
    for block in blocks("console"):
        for line in block.code.splitlines():
            if match := re.search(r"(?:^|\s)(dataengine(?:-train)?) (.*)", line):
                found.append((block.page, match[1], shlex.split(match[2], comments=True)))
    return found
