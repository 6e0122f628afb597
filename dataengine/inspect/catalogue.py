"""list: recipes and components, what each is, and its options."""

from __future__ import annotations

from typing import Any

from dataengine.core import registry
from dataengine.core.catalogue import components
from dataengine.core.errors import ComponentError, suggestion
from dataengine.pipeline import recipe


def catalogue(kind: str, verbose: bool) -> list[dict[str, Any]]:
    """Entries of one kind: name, and with `verbose` summary and options.

    Raises:
        ComponentError: no such kind.
    """
    if kind == "recipes":
        return [_recipe(name, verbose) for name in recipe.available()]
    kinds = registry.kinds_of("dataengine")
    if kind not in kinds:
        raise ComponentError(f"list has no kind {kind!r}{suggestion(kind, ['recipes', *kinds])}")
    return components(kind, verbose)


def _recipe(name: str, verbose: bool) -> dict[str, Any]:
    if not verbose:
        return {"name": name}
    path = recipe.available()[name]
    overlays = [p.stem.split(".", 1)[1] for p in sorted(path.parent.glob(f"{name}.*.toml"))]
    loaded = recipe.load(name)
    return {"name": name, "summary": loaded.recipe.description, "overlays": overlays, "path": str(path)}
