"""The keys of recipes, from the models that check them."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import pydantic

from dataengine.core.describe import descriptions, summary
from dataengine.core.former_names import FORMER_NAMES
from dataengine.core.settings import Table
from dataengine.pipeline import recipe as recipes
from dataengine.pipeline.cluster_kinds import ClusterSettings
from tools.reference.markdown import Pages, cell, code, join, kind, limits, prose, sentence, table, toml

SOURCE_KEYS = {
    "path": "Folder of the source's media and annotations, as `--sources NAME=PATH` says it.",
    "mirror": "Url of another copy of the source, in place of the public mirror.",
}
"""Keys of every table [sources.NAME], beside the source's own options."""


def pages() -> Pages:
    """The pages of recipe keys, of the keys of cluster files, and of former names."""
    return {
        "reference/recipe.md": ("Builds/Recipe keys", page()),
        "reference/cluster.md": ("Builds/Cluster files", cluster_page()),
        "reference/former-names.md": ("Builds/Former names", former_page()),
    }


def cluster_page() -> str:
    """The keys of a file that `--cluster` takes."""
    return join(
        "# Cluster files",
        "A file for `dataengine build --cluster FILE.toml` says how workers are started, or which scheduler to join. "
        "The options `--scheduler` and `--workers` stand before the file. No key changes a dataset. "
        "[Clusters and GPUs](../how-to/cluster.md) has an example of each kind.",
        keys_table(ClusterSettings),
    )


def former_page() -> str:
    """What is called otherwise now."""
    from training import config, registry

    rows = [(code(old), " or ".join(code(name) for name in new)) for old, new in FORMER_NAMES.items()]
    tables = [(code(f"[{old}]"), code(f"[{new}]")) for old, new in config.FORMER_TABLES.items()]
    keys = [
        (code(f"{table}.{old}"), code(f"{table}.{new}"))
        for table, names in config.FORMER.items()
        for old, new in names.items()
    ]
    options = [
        (f"{code(old)} of {code(name)}", code(new))
        for kind_name in ("backbones", "methods")
        for name in registry.names(kind_name)
        for old, new in getattr(registry.find(kind_name, name), "former_options", {}).items()
    ]
    return join(
        "# Former names",
        "Names that are called otherwise now. An error about a former name says the new one. A word stands here only "
        "where "
        "it is a name no longer: `path` is still a key of sources.",
        "## Recipes, components, passes and index columns",
        table(("formerly", "now"), rows),
        "## Training configurations",
        table(("formerly", "now"), [*tables, *keys, *options]),
    )


def page() -> str:
    """All tables of a recipe."""
    parts = [
        "# Recipe keys",
        "A recipe is one TOML file. Every key below can be overridden: `--set TABLE.KEY=VALUE`. An unknown key is an "
        "error "
        "that names the nearest allowed one. Tables of components, such as `[filters.motion]`, hold the options of "
        "that "
        "component.",
    ]
    for name, model in models(recipes.Recipe).items():
        parts += [f"## [{name}]", prose(sentence(summary(model).partition(": ")[2])), keys_table(model)]
        if name == "recipe":
            parts += _sources()
    kinds = [(code(f"[{kind}.NAME]"), f"[{kind}](components/{kind}.md)") for kind in recipes.COMPONENT_TABLES]
    parts += ["## Options of components", table(("table", "options"), kinds)]
    return join(*parts)


def _sources() -> list[str]:
    use = ("`use`", "list of text", "required", "Sources, by name. `--sources` replaces the list.")
    rows = [use, *((f"`NAME.{key}`", "text", "", meaning) for key, meaning in SOURCE_KEYS.items())]
    more = "Further keys of `[sources.NAME]` are the options of that source: [sources](components/sources.md)."
    return ["## [sources]", "Where clips come from.", table(("key", "takes", "default", "meaning"), rows), more]


def models(whole: type[pydantic.BaseModel]) -> dict[str, type[pydantic.BaseModel]]:
    """The tables of a settings file by name."""
    found = {}
    for name, field in whole.model_fields.items():
        for part in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, pydantic.BaseModel):
                found[name] = part
    return found


def keys_table(model: type[pydantic.BaseModel], meanings: dict[str, str] | None = None) -> str:
    """The keys of one table."""
    told = {**(meanings or {}), **descriptions(model)}
    return table(("key", "takes", "default", "meaning"), _rows(model, told))


def _rows(model: type[pydantic.BaseModel], told: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        bounds = limits(field.metadata)
        takes = kind(field.annotation) + (f", {bounds}" if bounds else "")
        yield code(name), takes, default(field), cell(told.get(name, ""))


def default(field: Any) -> str:
    """The default of a pydantic field."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if isinstance(value, Table) else code(toml(value))
