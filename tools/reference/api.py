"""The Python API: public functions and classes with their docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable
from typing import Any

from dataengine.core.describe import descriptions, details, section, summary
from tools.reference.markdown import Pages, cell, code, join, prose, table

PUBLIC: dict[str, tuple[str, ...]] = {
    "Builds and datasets": (
        "dataengine.build",
        "dataengine.BuildResult",
        "dataengine.open",
        "dataengine.Dataset",
        "dataengine.export",
        "dataengine.ExportResult",
    ),
    "Poses": (
        "dataengine.fuse",
        "dataengine.Fused",
        "dataengine.convert",
    ),
    "Components": (
        "dataengine.experts.create",
        "dataengine.features.create",
    ),
    "Base classes of components": (
        "dataengine.core.component.Component",
        "dataengine.core.component.Session",
        "dataengine.core.component.Source",
        "dataengine.core.component.Expert",
        "dataengine.core.component.ExpertSession",
        "dataengine.core.component.Detector",
        "dataengine.core.component.DetectorSession",
        "dataengine.core.component.Tracker",
        "dataengine.core.component.Fusion",
        "dataengine.core.component.Filter",
        "dataengine.core.component.Features",
        "dataengine.core.component.FeaturesSession",
        "dataengine.fetch.Fetcher",
        "dataengine.media.decode.Decoder",
        "dataengine.exports.base.Export",
        "dataengine.exports.base.ExportJob",
        "dataengine.exports.base.ExportedClip",
    ),
    "Checks for tests of components": (
        "dataengine.testing.check_component",
        "dataengine.testing.check_source",
        "dataengine.testing.check_expert",
        "dataengine.testing.check_detector",
        "dataengine.testing.check_tracker",
        "dataengine.testing.check_fusion",
        "dataengine.testing.check_filter",
        "dataengine.testing.check_features",
        "dataengine.testing.check_decoder",
    ),
    "Data that components exchange": (
        "dataengine.core.types.Clip",
        "dataengine.core.types.Poses",
        "dataengine.core.types.Track",
        "dataengine.core.types.Sample",
        "dataengine.core.skeletons.Skeleton",
    ),
    "Training": (
        "training.create_backbone",
        "training.create_method",
        "training.feed",
        "training.data.loader.DataLoader",
        "training.data.types.SkeletonSequence",
        "training.data.types.SkeletonDataset",
        "training.data.formats.base.Format",
        "training.backbones.base.Backbone",
        "training.methods.base.Method",
        "training.methods.base.LossOutput",
        "training.methods.base.Needs",
    ),
}
"""What programs may rely on, by chapter."""


def pages() -> Pages:
    """The page of the Python API."""
    return {"reference/python.md": ("Python", page())}


def find(path: str) -> Any:
    """The object behind a dotted name."""
    parts = path.split(".")
    found: Any = importlib.import_module(parts[0])
    for n, name in enumerate(parts[1:], 2):
        try:
            found = getattr(found, name)
        except AttributeError:
            found = importlib.import_module(".".join(parts[:n]))
    return found


def page() -> str:
    """Every public name."""
    parts = ["# Python", "Errors of all functions are subclasses of `dataengine.core.errors.DataEngineError`."]
    for chapter, names in PUBLIC.items():
        parts.append(f"## {chapter}")
        for name in names:
            parts += describe(name, find(name), "###")
    return join(*parts)


def describe(name: str, made: Any, level: str) -> list[str]:
    """Blocks about a function or a class with its public methods."""
    title = name if name.count(".") == 1 or name.endswith(".create") else name.rpartition(".")[2]
    home = "" if title == name else f"`from {name.rpartition('.')[0]} import {title}`"
    parts = [f"{level} {title}", home, signature(title, made), *docstring(made)]
    if inspect.isclass(made):
        for method, value in members(made):
            parts += [f"{level}# {made.__name__}.{method}"]
            target = value.fget if isinstance(value, property) else value
            if not isinstance(value, property):
                parts.append(signature(f"{made.__name__}.{method}", value))
            parts += docstring(target)
    return parts


def members(cls: type[Any]) -> Iterable[tuple[str, Any]]:
    """Public methods and properties that have a docstring."""
    for name, value in cls.__dict__.items():
        made = value.fget if isinstance(value, property) else value
        if not name.startswith("_") and (inspect.isfunction(made) or isinstance(value, property)) and made.__doc__:
            yield name, value


def signature(name: str, made: Any) -> str:
    """The signature as code, one parameter per line where it is long."""
    try:
        given = inspect.signature(made)
    except (TypeError, ValueError):
        return ""
    pieces: list[str] = []
    keyword_only = False
    for parameter in given.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            pieces, keyword_only = [*pieces, "*"], True
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else stars
        text = f"{stars}{parameter.name}" + _annotated(parameter.annotation, ": ")
        if parameter.default is not parameter.empty:
            text += f" = {parameter.default!r}"
        pieces.append(text)
        keyword_only = keyword_only or parameter.kind is parameter.VAR_POSITIONAL
    end = "" if inspect.isclass(made) else _annotated(given.return_annotation, " -> ")
    line = f"{name}({', '.join(pieces)}){end}"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {piece},\n" for piece in pieces) + f"){end}"
    return f"```python\n{line}\n```"


def _annotated(annotation: Any, sign: str) -> str:
    if annotation in (inspect.Signature.empty, None, "None"):
        return ""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return sign + text


def docstring(made: Any) -> list[str]:
    """Blocks of a docstring in Google style."""
    text = inspect.getdoc(made) or ""
    parts = [prose(summary(made)), prose(details(made))]
    for title in ("Args", "Attributes"):
        told = descriptions(made) if title == "Attributes" and inspect.isclass(made) else section(text, title)
        named = "argument" if title == "Args" else "attribute"
        parts.append(table((named, "meaning"), [(code(n), cell(t)) for n, t in told.items()]) if told else "")
    for title in ("Returns", "Yields", "Raises"):
        if match := re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", text, re.M):
            parts.append(f"**{title}** {prose(' '.join(match[1].split()))}")
    return parts
