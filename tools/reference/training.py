"""Training: the keys of configurations, networks, methods, formats of data, and the steps of a view."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

from dataengine.core.describe import descriptions, details, section, summary
from tools.reference.markdown import Pages, cell, code, join, kind, prose, sentence, table, toml
from tools.reference.recipes import keys_table, models


def pages() -> Pages:
    """Configuration, backbones, methods, formats, views."""
    return {
        "reference/training-configuration.md": ("Training/Configuration", configuration_page()),
        "reference/backbones.md": ("Training/Backbones", registry_page("backbones", BACKBONES)),
        "reference/methods.md": ("Training/Methods", registry_page("methods", METHODS)),
        "reference/formats.md": ("Training/Formats of data", formats_page()),
        "reference/views.md": ("Training/Steps of a view", views_page()),
    }


BACKBONES = (
    "Networks over motions. A configuration names one in `[backbone] name`; its other keys are the options below."
)
METHODS = (
    "What is learnt, and from what. A configuration names one in `[method] name`; its other keys are the options below."
)


def configuration_page() -> str:
    """All tables of a training configuration."""
    from training.config import Config
    from training.transforms.preprocess import Preprocess
    from training.transforms.view import View

    more = {"preprocess": descriptions(Preprocess), "view": descriptions(View)}
    parts = [
        "# Training configuration",
        "A configuration is one TOML file. Every key below can be overridden: `--set TABLE.KEY=VALUE`. An unknown key "
        "is an "
        "error that names the nearest allowed one. The `run.toml` of a finished run is a configuration, too.",
    ]
    for name, model in models(Config).items():
        about = prose(sentence(summary(model).partition(": ")[2]))
        parts.append(f"## [{name}]")
        if name in ("backbone", "method"):
            page = "backbones" if name == "backbone" else "methods"
            parts.append(f"`name` is required. The other keys are the options of that name: [{page}]({page}.md).")
        else:
            parts += [about, keys_table(model, more.get(name))]
    return join(*parts)


def registry_page(kind_name: str, about: str) -> str:
    """Every network or method."""
    from training import registry

    group = f'`[project.entry-points."training.{kind_name}"]`'
    parts = [
        f"# {kind_name.capitalize()}",
        about,
        f"`dataengine-train list {kind_name} -v` prints this list. A package of your own adds to it by an entry point: "
        f"{group}.",
    ]
    for name in registry.names(kind_name):
        parts += [f"## {name}", *describe(registry.find(kind_name, name))]
    return join(*parts)


def describe(made: Any) -> list[str]:
    """Blocks about one network, method or format."""
    return [prose(summary(made)), prose(details(made)), table(("option", "takes", "default", "meaning"), rows(made))]


def rows(made: Any) -> list[tuple[str, str, str, str]]:
    """One row per parameter that has a default; of a group of options, one row per option."""
    from training import registry

    hints, told = typing.get_type_hints(made.__init__), descriptions(made)
    found = []
    for name, parameter in registry.options(made).items():
        if name in registry.DATA_OPTIONS:
            continue
        default = parameter.default
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            found += _group(name, default)
        else:
            found.append((code(name), kind(hints.get(name, Any)), code(toml(default)), cell(told.get(name, ""))))
    return found


def _group(name: str, default: Any) -> list[tuple[str, str, str, str]]:
    """The options of a group, which configurations write as a table."""
    hints, told = typing.get_type_hints(type(default)), descriptions(type(default))
    return [
        (
            code(f"{name}.{field.name}"),
            kind(hints[field.name]),
            code(toml(getattr(default, field.name))),
            cell(told.get(field.name, "")),
        )
        for field in dataclasses.fields(default)
    ]


def formats() -> dict[str, Any]:
    """The reader of every format of training data."""
    from training import registry

    return {name: registry.find("formats", name) for name in registry.names("formats")}


def formats_page() -> str:
    """Every format of training data."""
    parts = [
        "# Formats of training data",
        "`--data` takes a path or url. Its format is found by looking at it. `data.split`, `data.where` and the keys "
        "of `[data.options]` go to the reader of the format.",
    ]
    for name, reader in formats().items():
        parts += [f"## {name}", *describe(reader)]
    return join(*parts)


def views_page() -> str:
    """Every step of a view, and the presets."""
    from training.transforms.view import PRESETS, STEPS

    parts = [
        "# Steps of a view",
        "A view is a random augmentation of a sequence. `[view] steps` is a list of steps, each a table with its "
        "`name` and its options, or the name of a preset. `chance` is the probability that a step is applied.",
    ]
    for name, step in STEPS.items():
        told = section(inspect.getdoc(step.function) or "", "Args")
        hints, parameters = typing.get_type_hints(step.function), inspect.signature(step.function).parameters
        lines = []
        for option in sorted(step.options(), key=[*parameters, "chance"].index):
            if option == "chance":
                lines.append((code(option), "number", code(toml(step.chance)), "Probability that the step is applied."))
                continue
            default = parameters[option].default
            shown = "required" if default is inspect.Parameter.empty else code(toml(default))
            lines.append((code(option), kind(hints.get(option, Any)), shown, cell(told.get(option, ""))))
        parts += [f"## {name}", prose(summary(step.function)), table(("option", "takes", "default", "meaning"), lines)]
    parts.append("## Presets")
    for name, by_axes in PRESETS.items():
        for axes, steps in by_axes.items():
            listed = "\n".join(f"    {toml(dict(step))}," for step in steps)
            parts += [
                f"`{name}`, {axes} coordinates:",
                f"```toml\nsteps = [\n{listed}\n]\n```" if listed else "no steps",
            ]
    return join(*parts)
