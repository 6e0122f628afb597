"""The configuration of a training run: TOML -> `Config`, strict and complete.

    [run]         seed, epochs, batch, precision, devices ...
    [data]        train, val, split, where, skeleton ...
    [preprocess]  people, normalise, stream ...       (`training.transforms.preprocess.Preprocess`)
    [view]        frames, steps                       (`training.transforms.view.View`)
    [backbone]    name and its options                (`training.backbones`)
    [method]      name and its options                (`training.methods`)
    [optim]       lr, schedule ...

`training.config_tables` has the keys of each table. A run keeps its configuration as run.toml in its folder. Training
with that file gives the same network.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from dataengine.core import settings
from dataengine.core.errors import RecipeError, TrainingError, suggestion
from dataengine.core.settings import Table, find_folder
from training import registry
from training.config_tables import ComponentTable, DataTable, OptimTable, PreprocessTable, RunTable, ViewTable

FORMER: dict[str, dict[str, str]] = {
    "run": {"clip": "grad_clip"},
    "data": {"share": "label_fraction"},
    "optim": {"decay": "weight_decay"},
}
"""Keys by the names they once had, by table."""
FORMER_TABLES = {"prepare": "preprocess"}


class Config(Table):
    """A whole run."""

    run: RunTable = RunTable()
    data: DataTable = DataTable()
    preprocess: PreprocessTable = PreprocessTable()
    view: ViewTable = ViewTable()
    backbone: ComponentTable = pydantic.Field(description="The network and its options.")
    method: ComponentTable = pydantic.Field(description="The method and its options.")
    optim: OptimTable = OptimTable()

    @property
    def classifies(self) -> bool:
        """Whether the method learns classes with the network's own classifier."""
        return _classifies(self.method.name)

    def on(self, train: Sequence[str], val: Sequence[str] = ()) -> Config:
        """The same on other data; without `train` only what is measured on is another."""
        changed: dict[str, Any] = {"val": list(val)} if val or train else {}
        if train:
            weights = self.data.weights
            if weights is not None and len(weights) != len(train):
                warnings.warn(
                    f"data.weights {weights} are those of {len(weights)} datasets, and {len(train)} are named: every "
                    "clip counts alike",
                    stacklevel=2,
                )
                weights = None
            changed |= {"train": list(train), "weights": weights}
        return self.model_copy(update={"data": self.data.model_copy(update=changed)})

    def to_toml(self) -> dict[str, Any]:
        """The tables of a configuration file; loading them again gives an equal configuration."""
        return {name: _without_none(getattr(self, name).model_dump()) for name in type(self).model_fields}


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table as TOML can hold it: without keys that have no value."""
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if value is not None
    }


def available() -> dict[str, Path]:
    """The configurations that have a name."""
    by_name: dict[str, Path] = {}
    for folder in find_folder("recipes"):
        for path in sorted((folder / "training").glob("*.toml")):
            by_name.setdefault(path.stem, path)
    return by_name


def load(name: str, overrides: Sequence[str] = ()) -> Config:
    """A configuration by name or path, with `table.key=TOML value` texts on top, checked as a whole.

    Raises:
        RecipeError: not found, not TOML, an unknown key, a wrong value.
        TrainingError: an unknown backbone or method, or an unknown option of one.
    """
    path = find(name)
    tables = _read(path)
    _override(tables, overrides)
    return validate(tables, str(path))


def _read(path: Path) -> dict[str, Any]:
    """The tables of a file.

    Raises:
        RecipeError: not found, not TOML, or something in it is no table.
    """
    tables = settings.read(path)
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise RecipeError(f"{path}: {name} is {table!r}, and no table; allowed: [{name}] with its keys below")
    return tables


def _override(tables: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put `table.key=TOML value` texts over the tables; what they say holds for sets of any size."""
    for text in overrides:
        settings.override(tables, text)
    given = {text.partition("=")[0].strip() for text in overrides}
    run = tables.get("run", {})
    if "run.by_clips" not in given and isinstance(run.get("by_clips"), list):
        run["by_clips"] = [
            {key: value for key, value in rule.items() if key not in given} if isinstance(rule, dict) else rule
            for rule in run["by_clips"]
        ]
    if "run.epochs" in given and "run.min_steps" not in given:
        run["min_steps"] = 0


def find(name: str) -> Path:
    """The file of a configuration by name or path; of a run's folder its run.toml.

    Raises:
        RecipeError: not found.
    """
    if (Path(name) / "run.toml").is_file():
        return Path(name) / "run.toml"
    path = Path(name) if name.endswith(".toml") else available().get(name)
    if path is None:
        raise RecipeError(
            f"unknown configuration {name!r}{suggestion(name, available())}; or give the path of a .toml file"
        )
    return path


VIDEOS = "videos"
"""`data.format` of data that are pictures."""
FINETUNING: dict[str, dict[str, Any]] = {
    "run": {"epochs": 30, "min_steps": 600, "accumulate": 1, "grad_clip": 5.0},
    "view": {"steps": "weak"},
    "optim": {
        "name": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "min_lr": 0.0,
        "warmup": 1.0,
        "backbone_scale": 0.3,
    },
}
"""What fine-tuning a run takes in place of what the run was trained with: a network that was trained already needs
fewer epochs, a lower rate than its new classifier, and weaker views."""


def finetuning(what: str, start: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration that trains a network on with labels.

    Args:
        what: a configuration by name or path, or a run's folder: its network and data, with the schedule of
            `FINETUNING`; a method that learns no classes becomes supervised.
        start: a finished run's folder or a file of weights; default the run that `what` is.
        overrides: `table.key=TOML value` texts.

    Raises:
        RecipeError, TrainingError: not found, or not a configuration; nothing to start from.
    """
    path = find(what)
    tables = _read(path)
    run = tables.setdefault("run", {})
    start = start or (what if Path(what).is_dir() else run.get("start"))
    if start is None:
        raise TrainingError(
            "finetune goes on from a network: give --from a finished run's folder or a file of weights, or such a "
            "folder in place of CONFIG"
        )
    if "name" in tables.get("method", {}) and not _classifies(str(tables["method"]["name"])):
        _replace_method(tables, "supervised")
    run |= {"name": f"{run.get('name', 'run')}_finetuned", "start": str(start)}
    if Path(what).is_dir():
        for name, table in FINETUNING.items():
            tables[name] = {**tables.get(name, {}), **table}
        tables["optim"].pop("milestones", None)
        if tables.get("data", {}).get("format") == VIDEOS:
            tables["view"]["steps"] = [{"name": "crop", "min": 0.5}]  # the others are of joints
    _override(tables, overrides)
    return validate(tables, str(path))


SPATIAL = ({"name": "flip"}, {"name": "scale", "range": 0.1}, {"name": "shift", "range": 0.1})
"""Steps of the views of a head that is trained on a run whose views change time."""


def segmenting(what: str, start: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration that trains a head for classes of frames.

    Args:
        what: a configuration of the method `segment`, by name or path; or a run's folder: a head on its network, with
            the schedule of `FINETUNING` and views that leave time as it is.
        start: a finished run's folder or a file of weights. Default: the run that `what` is, or none.
        overrides: `table.key=TOML value` texts.

    Raises:
        RecipeError, TrainingError: not found, or not a configuration of this method.
    """
    path = find(what)
    tables = _read(path)
    tables.setdefault("run", {})
    if Path(what).is_dir() and tables.get("method", {}).get("name") != "segment":
        start = start or what
        _replace_method(tables, "segment")
        for name, table in FINETUNING.items():
            tables[name] = {**tables.get(name, {}), **table}
        tables["optim"].pop("milestones", None)
        tables["view"]["steps"] = list(SPATIAL)
        tables["run"]["name"] = f"{tables['run'].get('name', 'run')}_segment"
    if start is not None:
        tables["run"]["start"] = str(start)
    _override(tables, overrides)
    config = validate(tables, str(path))
    if config.method.name != "segment":
        raise TrainingError(
            f"{what} trains {config.method.name!r}, which learns no classes of frames: give segment_small, another "
            'configuration of [method] name = "segment", or the folder of a run to train a head on'
        )
    return config


def _replace_method(tables: dict[str, Any], name: str) -> None:
    """Another method with its own defaults; settings for single networks of the one before mean nothing to it."""
    tables["method"] = {"name": name}
    tables.get("optim", {}).pop("groups", None)


def _classifies(method: str) -> bool:
    classifies: bool = registry.find("methods", method).classifies
    return classifies


def _check_keys(tables: Mapping[str, Any], where: str) -> None:
    """Refuse unknown tables, and former names of tables and keys, with the names of today.

    Raises:
        RecipeError: such a name.
    """
    for name, table in tables.items():
        if name not in Config.model_fields:
            now = FORMER_TABLES.get(name)
            hint = f"; it is called [{now}] now" if now else suggestion(name, Config.model_fields)
            raise RecipeError(f"{where}: unknown table [{name}]{hint}")
        for key in table if isinstance(table, Mapping) else ():
            if now := FORMER.get(name, {}).get(key):
                raise RecipeError(f"{where}: unknown key {key!r} in [{name}]; it is called {now!r} now")


def validate(tables: dict[str, Any], where: str) -> Config:
    """The configuration of these tables.

    Args:
        tables: by name.
        where: names the tables in errors.

    Raises:
        RecipeError, TrainingError: as `load`.
    """
    _check_keys(tables, where)
    try:
        config = Config(**tables)
    except pydantic.ValidationError as error:
        raise RecipeError(f"{where}: {settings.explain(error, Config)}") from error
    for kind, table in (("backbone", config.backbone), ("method", config.method)):
        cls = registry.find(f"{kind}s", table.name)
        if decided := next((name for name in table.options if name in registry.DATA_OPTIONS), None):
            raise TrainingError(f"{where}: [{kind}] {decided} is decided by the data; leave it out")
        registry.checked(f"{where}: [{kind}] {table.name}", cls, table.options)
    return config
