"""What there is to choose from, by name: the entries of `dataengine list` and `dataengine-train list`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dataengine.core import registry
from dataengine.core.errors import DataEngineError


def components(kind: str, verbose: bool) -> list[dict[str, Any]]:
    """Entries of the components of one kind: name, and with `verbose` summary and options.

    Raises:
        ComponentError: no such kind.
    """
    return [entry(name, lambda name=name: registry.find(kind, name), verbose) for name in registry.names(kind)]  # type: ignore[misc]


def entry(name: str, find: Callable[[], Any], verbose: bool) -> dict[str, Any]:
    """One entry.

    Args:
        name: of a component.
        find: gives its class; called only with `verbose`.
        verbose: add the summary, which says so where the component cannot be imported, and the options with their
            defaults.
    """
    if not verbose:
        return {"name": name}
    try:
        found = find()
    except (ImportError, DataEngineError) as error:
        return {"name": name, "summary": f"not available here: {error}", "options": {}}
    return {"name": name, "summary": registry.summary(found), "options": registry.options(found)}


def to_text(entries: Iterable[Mapping[str, Any]]) -> str:
    """Entries for people: a line each, and one more for each thing that they say beside their name."""
    lines = []
    for one in entries:
        lines.append(one["name"])
        if one.get("summary"):
            lines.append(f"    {one['summary']}")
        if one.get("overlays"):
            lines.append(f"    overlays: {', '.join(one['overlays'])}")
        if one.get("options"):
            lines.append("    options: " + ", ".join(f"{name} = {value!r}" for name, value in one["options"].items()))
    return "\n".join(lines)
