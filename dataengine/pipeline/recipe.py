"""Recipes: TOML -> validated `Recipe`, overlays and overrides, fingerprints.

A recipe is complete and flat; an unknown key or name is an error that says where and suggests the
nearest allowed one, before any work. Options of a component stand in `[KIND.NAME]` and are checked
by the component itself.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from blake3 import blake3

from dataengine.core import registry, settings
from dataengine.core.errors import ComponentError, RecipeError, suggestion
from dataengine.core.settings import Table, find_folder
from dataengine.pipeline.recipe_checks import check_components
from dataengine.pipeline.recipe_tables import (
    TABLES,
    CurateTable,
    EmbedTable,
    EngineTable,
    FetchTable,
    Head,
    LiftTable,
    PackTable,
    PlanTable,
    PoseTable,
    RefineTable,
    ReportTable,
)

COMPONENT_TABLES = (
    "sources",
    "fetchers",
    "decoders",
    "detectors",
    "face_detectors",
    "experts",
    "trackers",
    "fusion",
    "lifters",
    "filters",
    "features",
    "students",
    "passes",
)
"""Tables whose sub-tables are options of components of that kind."""

PLACES = ("path", "mirror")
"""Keys of every [sources.NAME]: where its files lie, or come from; the source itself does not see them."""


class Recipe(Table):
    """A whole recipe. Component tables hold options by name, as given."""

    recipe: Head
    plan: PlanTable = PlanTable()
    fetch: FetchTable = FetchTable()
    pose: PoseTable
    refine: RefineTable = RefineTable()
    lift: LiftTable = LiftTable()
    curate: CurateTable = CurateTable()
    embed: EmbedTable = EmbedTable()
    pack: PackTable = PackTable()
    report: ReportTable | None = None
    engine: EngineTable = EngineTable()
    use: list[str] = pydantic.Field(min_length=1)
    options: dict[str, dict[str, dict[str, Any]]] = pydantic.Field(default_factory=dict)
    overlay: str | None = None

    def component(self, kind: str, name: str) -> Any:
        """The component `name` of `kind` with this recipe's options."""
        options = dict(self.options.get(kind, {}).get(name, {}))
        if kind == "sources":
            for key in PLACES:
                options.pop(key, None)
        return registry.create(kind, name, options)

    def expert(self, name: str) -> Any:
        """The expert `name`, in a process of its own where the recipe says so."""
        if name not in self.pose.isolated:
            return self.component("experts", name)
        from dataengine.experts.isolation.isolated import Isolated

        options = registry.config(self.component("experts", name))
        return Isolated(name, {k: v for k, v in options.items() if k != "name"}, self.pose.isolated[name])

    @property
    def detector(self) -> str | None:
        """The person detector to run: none when no expert looks inside boxes."""
        boxed = any(self.component("experts", name).needs_boxes for name in self.pose.experts)
        return self.pose.detector if boxed else None

    @property
    def student(self) -> Any:
        """The student that learns; None where nothing is refined."""
        return None if self.refine.student is None else self.component("students", self.refine.student)

    @property
    def face_detector(self) -> str | None:
        """The face detector to run: none when no faces are blurred in kept videos."""
        return self.pack.face_detector if self.pack.keep_video and self.pack.blur_faces else None

    @property
    def lifter(self) -> str | None:
        """The lifter to run: none when no poses in space are made."""
        return self.lift.use or None

    @property
    def brings_poses(self) -> bool:
        """Whether the sources bring saved poses in place of videos."""
        return any(registry.component_class("sources", name).brings_poses for name in self.use)

    def source_path(self, name: str) -> str | None:
        """Where the recipe says that a source's media and annotations lie."""
        path = self.options.get("sources", {}).get(name, {}).get("path")
        return None if path is None else str(path)

    def source_mirror(self, name: str) -> str | None:
        """The url that the recipe names for a source's mirror in place of the official one."""
        base = self.options.get("sources", {}).get(name, {}).get("mirror")
        return None if base is None else str(base)

    def to_toml(self) -> dict[str, Any]:
        """The recipe as the tables of a recipe file; loading them again gives an equal recipe."""
        tables: dict[str, Any] = {
            "recipe": self.recipe.model_dump(),
            "sources": {"use": list(self.use), **self.options.get("sources", {})},
        }
        for name in TABLES:
            table = getattr(self, name)
            if table is not None:
                tables[name] = _without_none(table.model_dump())
        if self.refine.student is None and self.refine == RefineTable():
            del tables["refine"]
        if self.lifter is None:
            del tables["lift"]
        tables.update(
            {kind: self.options[kind] for kind in COMPONENT_TABLES if kind != "sources" and self.options.get(kind)}
        )
        return tables


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """A table without the keys that have no value, which TOML cannot say."""
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def available() -> dict[str, Path]:
    """All recipes that `build` finds by name, without their overlays."""
    found: dict[str, Path] = {}
    for folder in find_folder("recipes"):
        for path in sorted(folder.glob("*.toml")):
            if "." not in path.stem:
                found.setdefault(path.stem, path)
    return found


@dataclass(frozen=True)
class Layer:
    """Tables from one place.

    Attributes:
        label: the place, as errors and notes name it: a file, or an argument of the command line.
        tables: the tables it sets.
        overlay: name of the overlay, where the layer is one.
        override: `table.key=VALUE`, where the layer is one; the value replaces a whole table, too.
    """

    label: str
    tables: dict[str, Any]
    overlay: str | None = None
    override: str | None = None

    @property
    def is_argument(self) -> bool:
        """Whether the layer comes from the command line or a call, not from a file."""
        return self.label.startswith("--")


def layers(
    name: str,
    overlay: str | None = None,
    overrides: Sequence[str] = (),
    sources: Mapping[str, str | None] | None = None,
) -> list[Layer]:
    """What makes a recipe, lowest first: its file, the overlay, each override, the sources; arguments as in `load`.

    Raises:
        RecipeError: not found, not TOML, or an override that is no `table.key=VALUE`.
    """
    path = Path(name) if name.endswith(".toml") else available().get(name)
    if path is None:
        raise RecipeError(f"unknown recipe {name!r}{suggestion(name, available())}; or give the path of a .toml file")
    found = [Layer(str(path), {key: table for key, table in settings.read(path).items() if key != "lock"})]
    if overlay is not None:
        top = path.with_name(f"{path.stem}.{overlay}.toml")
        if not top.exists():
            names = [p.stem.split(".", 1)[1] for p in sorted(path.parent.glob(f"{path.stem}.*.toml"))]
            raise RecipeError(f"recipe {path.stem!r} has no overlay {overlay!r}{suggestion(overlay, names)}")
        found.append(Layer(str(top), settings.read(top), overlay))
    for text in overrides:
        tables: dict[str, Any] = {}
        settings.override(tables, text)
        found.append(Layer(f"--set {text}", tables, override=text))
    if sources is not None:
        paths = {
            source: {"path": os.path.abspath(where)}  # noqa: PTH100 - a path may not exist yet
            for source, where in sources.items()
            if where is not None
        }
        found.append(Layer("--sources", {"sources": {"use": list(sources), **paths}}))
    return found


def merged(found: Sequence[Layer]) -> Recipe:
    """The recipe of these layers, checked as a whole.

    Raises:
        RecipeError: an unknown key, a wrong value, an unknown component, or wrong options of one.
    """
    tables: dict[str, Any] = {}
    for layer in found:
        if layer.override is not None:
            settings.override(tables, layer.override)
        else:
            tables = settings.merge(tables, copy.deepcopy(layer.tables))
    overlay = next((layer.overlay for layer in found if layer.overlay), None)
    return validate(tables, found[0].label if overlay is None else f"{found[0].label} with overlay {overlay}", overlay)


def load(
    name: str,
    overlay: str | None = None,
    overrides: Sequence[str] = (),
    sources: Mapping[str, str | None] | None = None,
) -> Recipe:
    """Load a recipe by name or path, put the overlay and the overrides on top, and check it as a whole.

    Args:
        name: a name found in ./recipes or the packaged recipes, or the path of a .toml file.
        overlay: applies `<recipe>.<overlay>.toml` beside the recipe.
        overrides: `table.key=TOML value` texts, applied last.
        sources: replaces the recipe's sources: name -> path of its media and annotations, or None.

    Raises:
        RecipeError: not found, not TOML, an unknown key, a wrong value, an unknown component, or wrong options of one.
    """
    return merged(layers(name, overlay, overrides, sources))


def validate(tables: dict[str, Any], where: str, overlay: str | None) -> Recipe:
    """The recipe of these tables; `where` names them in errors (RecipeError)."""
    known = {"recipe", *TABLES, *COMPONENT_TABLES}
    for key in tables:
        if key not in known:
            raise RecipeError(f"{where}: unknown table [{key}]{suggestion(key, known)}")
    given = {k: v for k, v in tables.items() if k not in COMPONENT_TABLES}
    options = {kind: dict(tables.get(kind, {})) for kind in COMPONENT_TABLES if kind in tables}
    use = options.get("sources", {}).pop("use", [])
    for kind, table in options.items():
        for name, value in table.items():
            if name not in registry.names(kind) or not isinstance(value, dict):
                raise RecipeError(f"{where}: [{kind}] unknown name {name!r}{suggestion(name, registry.names(kind))}")
    try:
        recipe = Recipe(**given, use=use, options=options, overlay=overlay)
    except pydantic.ValidationError as error:
        raise RecipeError(f"{where}: {settings.explain(error, Recipe)}") from error
    try:
        check_components(recipe)
    except ComponentError as error:
        raise RecipeError(f"{where}: {error}") from error
    return recipe


def fingerprint(value: Any) -> str:
    """The blake3 hex digest of a JSON-like value, independent of the order of keys."""
    return blake3(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()
