"""list: recipes and components, what each is, and its options."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from dataengine.core import registry
from dataengine.core.errors import ComponentError, DataEngineError, suggestion
from dataengine.pipeline import recipe


def catalogue(kind: str, verbose: bool) -> list[dict[str, Any]]:
    """Entries of one kind: name, and if `verbose` its summary and options.

    Raises:
        ComponentError: no such kind.
    """
    if kind == "recipes":
        return [_recipe(name, verbose) for name in recipe.available()]
    if kind not in registry.COMPONENTS:
        raise ComponentError(f"list has no kind {kind!r}{suggestion(kind, ['recipes', *registry.COMPONENTS])}")
    return [_component(kind, name) if verbose else {"name": name} for name in registry.names(kind)]


def _recipe(name: str, verbose: bool) -> dict[str, Any]:
    if not verbose:
        return {"name": name}
    path = recipe.available()[name]
    overlays = [p.stem.split(".", 1)[1] for p in sorted(path.parent.glob(f"{name}.*.toml"))]
    loaded = recipe.load(name)
    return {"name": name, "summary": loaded.recipe.description, "overlays": overlays, "path": str(path)}


def _component(kind: str, name: str) -> dict[str, Any]:
    try:
        cls = registry.component_class(kind, name)
    except (ImportError, DataEngineError) as error:
        return {"name": name, "summary": f"not available here: {error}", "options": {}}
    summary = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
    fields = [f for f in dataclasses.fields(cls) if f.init and not f.name.startswith("_") and f.name != "name"]
    return {
        "name": name,
        "summary": summary,
        "options": {f.name: None if f.default is dataclasses.MISSING else f.default for f in fields},
    }


def to_text(found: list[dict[str, Any]], verbose: bool) -> str:
    """The catalogue for people."""
    if not verbose:
        return "\n".join(entry["name"] for entry in found)
    lines = []
    for entry in found:
        lines.append(f"{entry['name']}\n    {entry['summary']}")
        if entry.get("overlays"):
            lines.append(f"    overlays: {', '.join(entry['overlays'])}")
        if entry.get("options"):
            lines.append("    options: " + ", ".join(f"{k} = {v!r}" for k, v in entry["options"].items()))
    return "\n".join(lines)
