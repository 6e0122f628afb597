"""What there is to choose from: networks, methods, configurations and formats by name."""

from __future__ import annotations

from functools import partial
from typing import Any

from dataengine.core.catalogue import entry
from training import registry
from training.config import available


def catalogue(kind: str, verbose: bool = False) -> list[dict[str, Any]]:
    """Entries of a kind: name, and with `verbose` summary and options.

    Args:
        kind: backbones, methods, configs or formats.
        verbose: imports every network, method or format.
    """
    if kind == "configs":
        return [
            {"name": name, **({"summary": _first_comment(path.read_text()), "path": str(path)} if verbose else {})}
            for name, path in available().items()
        ]
    return [entry(name, partial(registry.find, kind, name), verbose) for name in registry.names(kind)]


def _first_comment(text: str) -> str:
    return next((line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")), "")
