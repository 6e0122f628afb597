"""Every reference page of the documentation, made from the code.

`pages()` gives every page as Markdown. `mkdocs build` takes them through `tools/reference/hooks.py`; nothing is
written into the working folder. To read them without mkdocs: `python -m tools.reference.site DIR`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tools.reference import api, commands, components, datasets, recipes, training
from tools.reference.markdown import Pages


def pages() -> Pages:
    """Every reference page, in the order of the navigation."""
    makers: tuple[Callable[[], Pages], ...] = (
        commands.pages,
        recipes.pages,
        components.pages,
        datasets.pages,
        training.pages,
        api.pages,
    )
    made: Pages = {}
    for maker in makers:
        made |= maker()
    return made


if __name__ == "__main__":
    for name, (_, text) in pages().items():
        path = Path(sys.argv[1]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
