"""The reference pages of the documentation, made from the code.

`pages()` gives every page as Markdown. `mkdocs build` takes them through `tools/reference/hooks.py`; nothing is
written into the working folder. To read them without mkdocs: `python -m tools.reference DIR`.
"""

from __future__ import annotations

from collections.abc import Callable

Pages = dict[str, tuple[str, str]]
"""Path below docs/ -> title in the navigation, and text in Markdown."""


def pages() -> Pages:
    """Every reference page, in the order of the navigation."""
    from tools.reference import api, commands, components, datasets, recipes, training

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
