"""Names of networks and methods and where they live; modules are imported when one is created.

To add one: one file in its folder and one line here. A package of your own adds one by an entry
point of the group `training.backbones` or `training.methods`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
from typing import Any

from dataengine.core.errors import TrainingError, suggestion

REGISTRY: dict[str, dict[str, str]] = {
    "backbones": {
        "unik": "training.backbones.unik:UNIK",
        "stgcn": "training.backbones.stgcn:STGCN",
        "stgcn_pyskl": "training.backbones.stgcn:STGCNPyskl",
        "stgcnpp": "training.backbones.stgcnpp:STGCNpp",
        "agcn": "training.backbones.agcn:AGCN",
        "asgcn": "training.backbones.asgcn:ASGCN",
        "st_transformer": "training.backbones.st_transformer:STTransformer",
        "mmp_transformer": "training.backbones.mmp_transformer:MMPTransformer",
        "slow_r50": "training.backbones.slow_r50:SlowR50",
    },
    "methods": {
        "supervised": "training.methods.supervised:Supervised",
        "mcc": "training.methods.mcc:MCC",
        "tmor": "training.methods.tmor:TMOR",
    },
}


@functools.cache
def _installed(kind: str) -> dict[str, str]:
    return {point.name: point.value for point in importlib.metadata.entry_points(group=f"training.{kind}")}


def names(kind: str) -> list[str]:
    """Names of all backbones or methods, those of other installed packages last."""
    return list(
        REGISTRY[kind] | {name: place for name, place in _installed(kind).items() if name not in REGISTRY[kind]}
    )


def find(kind: str, name: str) -> type[Any]:
    """The class behind a name.

    Raises:
        TrainingError: no such name; the message suggests the nearest.
    """
    place = REGISTRY[kind].get(name) or _installed(kind).get(name)
    if place is None:
        raise TrainingError(f"unknown name {name!r} in {kind}{suggestion(name, names(kind))}")
    module, _, attribute = place.partition(":")
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    return found


def options(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """The options of a class by name: its constructor's parameters that have a default."""
    return {
        name: p for name, p in inspect.signature(cls).parameters.items() if p.default is not inspect.Parameter.empty
    }


def create(kind: str, name: str, *arguments: Any, **given: Any) -> Any:
    """Make one, its options strictly checked.

    Raises:
        TrainingError: unknown name or option, or a value that it refuses.
    """
    cls = find(kind, name)
    allowed = inspect.signature(cls).parameters
    for key in given:
        if key not in allowed:
            raise TrainingError(f"{name} has no option {key!r}{suggestion(key, options(cls))}")
    try:
        return cls(*arguments, **given)
    except ValueError as error:
        raise TrainingError(f"{name}: {error}") from error
