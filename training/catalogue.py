"""What there is to choose from: networks, methods, configurations and formats by name."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from training import registry
from training.config import available
from training.data.formats import FORMATS


def catalogue(kind: str, verbose: bool = False) -> list[dict[str, Any]]:
    """Entries of a kind: name, and with `verbose` summary and options.

    Args:
        kind: backbones, methods, configs or formats.
        verbose: imports every network and method.
    """
    if kind == "configs":
        return [
            {"name": name, **({"summary": _first_comment(path.read_text()), "path": str(path)} if verbose else {})}
            for name, path in available().items()
        ]
    if kind == "formats":
        return [{"name": name, **(_described(_located(place)) if verbose else {})} for name, place in FORMATS.items()]
    return [
        {"name": name, **(_described(registry.find(kind, name)) if verbose else {})} for name in registry.names(kind)
    ]


def to_text(entries: list[dict[str, Any]]) -> str:
    """Entries as lines."""
    lines = []
    for entry in entries:
        lines.append(entry["name"] if "summary" not in entry else f"{entry['name']:<16} {entry['summary']}")
        lines += [f"{'':<16}   {name} = {value}" for name, value in entry.get("options", {}).items()]
    return "\n".join(lines)


def _located(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _described(made: Any) -> dict[str, Any]:
    summary = (inspect.getdoc(made) or "").split("\n\n")[0].replace("\n", " ")
    return {"summary": summary, "options": {name: repr(p.default) for name, p in registry.options(made).items()}}


def _first_comment(text: str) -> str:
    return next((line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")), "")
