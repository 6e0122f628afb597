"""What there is to choose from, by name: the entries of `dataengine list` and `dataengine-train list`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dataengine.core import registry
from dataengine.core.describe import descriptions, summary
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
            defaults and meanings.
    """
    if not verbose:
        return {"name": name}
    try:
        found = find()
    except (ImportError, DataEngineError) as error:
        return {"name": name, "summary": f"not available here: {error}", "options": {}}
    options = registry.options(found)
    told = descriptions(found) if isinstance(found, type) else {}
    meanings = {option: told[option] for option in options if option in told}
    return {"name": name, "summary": summary(found), "options": options, "meanings": meanings}


def to_text(entries: Iterable[Mapping[str, Any]]) -> str:
    """Entries for people: a line each, and one more for each thing that they say beside their name."""
    lines = []
    for one in entries:
        lines.append(one["name"])
        if one.get("summary"):
            lines.append(f"    {one['summary']}")
        if one.get("overlays"):
            lines.append(f"    overlays: {', '.join(one['overlays'])}")
        for name, value in one.get("options", {}).items():
            meaning = one.get("meanings", {}).get(name, "")
            lines.append(f"      {f'{name} = {value!r}':<28}  {meaning}".rstrip())
    return "\n".join(lines)
