"""The components of a build, one page per kind: what each is, its options, its licence, the extra it needs."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from dataengine.core import registry
from dataengine.core.describe import descriptions, details, summary
from dataengine.io import weights
from tools.reference.markdown import Pages, cell, code, join, kind, prose, table, toml

KINDS: dict[str, str] = {
    "sources": "A source finds the clips of one collection of videos. A recipe names sources in `[sources] use`.",
    "fetchers": "A fetcher downloads media that a plan needs and that are missing. A recipe names fetchers in `[fetch] "
    "fetchers`.",
    "decoders": "A decoder reads the frames of a video. A recipe names it in `[pose] decoder`.",
    "detectors": "A detector finds people in frames. A recipe names it in `[pose] detector`.",
    "face_detectors": "A face detector finds faces that are to be blurred in kept videos. A recipe names it in `[pack] "
    "face_detector`.",
    "experts": "An expert estimates poses. A recipe names experts in `[pose] experts`.",
    "trackers": "A tracker links the people of all frames and experts. A recipe names it in `[pose] tracker`.",
    "fusion": "A fusion makes one pose sequence of those of several experts. A recipe names it in `[pose] fusion`.",
    "lifters": "A lifter brings poses from the picture into space: root-relative joints in metres. A recipe names it "
    "in `[lift] use`.",
    "filters": "A filter measures a clip and compares the value with `min` and `max`. A recipe names filters in "
    "`[curate] filters`. "
    "Every measure is stored, whether a recipe uses the filter or not.",
    "features": "Features put videos and texts into one space. A recipe names them in `[embed] features`.",
    "students": "A student is a pose estimator that learns from the fused poses of a build. A recipe names it in "
    "`[refine] student`.",
    "exports": "An export writes a dataset in the format of another program: `dataengine export OUT --format NAME`. "
    "`--set KEY=VALUE` sets an option.",
    "relabel": "A label map turns the labels of sources into those of the dataset. A recipe names one in `[curate] "
    "relabel`.",
}
"""What a component of each kind does."""


def pages() -> Pages:
    """One page per kind, and one for weights."""
    made = {
        f"reference/components/{kind}.md": (f"Components/{kind.capitalize()}", page(kind))
        for kind in registry.COMPONENTS
    }
    made["reference/components/passes.md"] = ("Components/Passes", passes_page())
    return made | {"reference/weights.md": ("Components/Weights", weights_page())}


def page(kind_name: str) -> str:
    """The page of one kind."""
    group = f'`[project.entry-points."dataengine.{kind_name}"]`'
    parts = [
        f"# {kind_name.capitalize()}",
        KINDS.get(kind_name, ""),
        f"`dataengine list {kind_name} -v` prints this list. A package of your own adds to it by an entry point: "
        f"{group}.",
    ]
    several: dict[type[Any], list[str]] = {}
    for name in registry.COMPONENTS[kind_name]:
        several.setdefault(registry.component_class(kind_name, name), []).append(name)
    for cls, names in several.items():
        parts += [f"## {', '.join(names)}", *describe(cls)]
    return join(*parts)


def passes_page() -> str:
    """Every pass: what it works on, what it reads, and what it adds to the dataset."""
    parts = [
        "# Passes",
        "A build runs the passes of this list, in this order, after the plan was made and missing media were "
        "downloaded. "
        "A pass that a recipe does not enable leaves no trace.",
        "`after` names passes, or what passes give: `poses` stands for the last enabled pass that gives poses. A "
        "package of "
        'your own adds a pass by an entry point: `[project.entry-points."dataengine.passes"]`. A recipe enables it by '
        "the "
        "table `[passes.NAME]`, which holds its options.",
    ]
    for name in registry.kind("passes").builtin:
        cls = registry.component_class("passes", name)
        facts = (
            ("works on", f"one {cls.scope}" if cls.scope in ("unit", "shard") else f"the {cls.scope} as a whole"),
            ("version", str(cls.version)),
            ("after", ", ".join(code(each) for each in cls.after)),
            ("gives", code(cls.gives or "")),
            ("reasons of its own", ", ".join(code(reason) for reason in cls.reasons)),
            ("adds columns", ", ".join(code(column.name) for column in cls.columns)),
            ("adds tables", ", ".join(code(each) for each in cls.tables)),
            ("adds entries", ", ".join(code(each) for each in cls.entries)),
        )
        parts += [f"## {name}", prose(summary(cls)), prose(details(cls))]
        parts.append("\n".join(f"- {key}: {value}" for key, value in facts if value))
    return join(*parts)


def describe(cls: type[Any]) -> list[str]:
    """Blocks about one component."""
    facts = [("extra", getattr(cls, "extra", None)), ("licence", getattr(cls, "licence", None))]
    said = "; ".join(f"{name}: {code(value) if name == 'extra' else value}" for name, value in facts if value)
    return [prose(summary(cls)), prose(details(cls)), said, table(("option", "takes", "default", "meaning"), rows(cls))]


def options(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    """The options that a recipe may set."""
    return [f for f in dataclasses.fields(cls) if f.init and not f.name.startswith("_") and f.name != "name"]


def rows(cls: type[Any]) -> list[tuple[str, str, str, str]]:
    """One row per option."""
    told, hints = descriptions(cls), typing.get_type_hints(cls, include_extras=True)
    made = []
    for field in options(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        value = field.default if field.default is not dataclasses.MISSING else None
        default = "required" if required else code(toml(value))
        made.append((code(field.name), kind(hints[field.name]), default, cell(told.get(field.name, ""))))
    return made or [("no options", "", "", "")]


def weights_page() -> str:
    """Every file of the manifest of weights."""
    lines = []
    for entry in weights.manifest().values():
        size = f"{entry.bytes / 1e6:,.1f} MB" if entry.bytes else ""
        users = ", ".join(code(name) for name in entry.used_by)
        name = f"[{entry.name}]({entry.page})" if entry.page else entry.name
        lines.append((name, cell(entry.licence), users, size, cell(entry.note)))
    return join(
        "# Weights",
        "Files that components ask for by name. None of them is part of the package. `dataengine weights NAME` "
        "downloads one; "
        "a build downloads those that its recipe needs, unless `DATAENGINE_OFFLINE=1`. "
        "[Weights and machines without a network](../how-to/weights.md) says more.",
        table(("file", "licence", "used by", "size", "note"), lines),
    )
