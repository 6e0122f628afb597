"""The configuration of a training run: TOML -> `Config`, strict and complete.

    [run]       seed, epochs, batch, precision, devices ...
    [data]      train, val, split, where, skeleton ...
    [prepare]   people, normalise, stream ...       (`training.transforms.preprocess.Prepare`)
    [view]      frames, steps                       (`training.transforms.view.View`)
    [backbone]  name and its options                (`training.backbones`)
    [method]    name and its options                (`training.methods`)
    [optim]     lr, schedule ...

A finished run keeps its configuration as run.toml, which is itself one that trains the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from dataengine.core import settings
from dataengine.core.errors import RecipeError, TrainingError, suggestion
from dataengine.core.settings import Table, find_folder
from training import registry


class RunTable(Table):
    """[run]

    Attributes:
        start: what the network starts from, its classifier aside: the folder of a finished run, or a file of weights; default drawn by the seed.
        batch: clips a step, of all devices together; at most all there are.
        accumulate: steps whose gradients are added before the optimiser moves.
        clip: largest norm of the gradients; 0: as they are.
        workers: processes that read ahead, for each device; 0: none.
        log_every: steps; save_every: seconds between checkpoints; probe_every: epochs between kNN probes of the validation clips, 0: none.
        probe_clips: at most so many clips of each side of a probe.
        wandb: whether Weights & Biases is told, where it is installed; nothing leaves the machine otherwise.
    """

    name: str = pydantic.Field(default="run", pattern=r"^[A-Za-z0-9_.-]+$")
    seed: int = pydantic.Field(default=0, ge=0)
    start: str | None = None
    epochs: int = pydantic.Field(default=65, ge=1)
    batch: int = pydantic.Field(default=64, ge=1)
    accumulate: int = pydantic.Field(default=1, ge=1)
    clip: float = pydantic.Field(default=5.0, ge=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    devices: int | Literal["auto"] = 1
    compile: bool = False
    workers: int = pydantic.Field(default=2, ge=0, le=64)
    log_every: int = pydantic.Field(default=10, ge=1)
    save_every: float = pydantic.Field(default=300.0, ge=0)
    probe_every: int = pydantic.Field(default=0, ge=0)
    probe_clips: int = pydantic.Field(default=5000, ge=2)
    tensorboard: bool = True
    wandb: bool = False


class DataTable(Table):
    """[data]

    Attributes:
        train: datasets, each a path or url of whatever `training.data.formats` reads; val: what is measured on, default those of train.
        weights: share of each dataset in an epoch; default by size.
        split, val_split: which clips; "" all. Of val and test the one there is is measured on.
        where: an SQL condition over the index, such as "confidence_mean > 0.4".
        skeleton: layout to convert to; default the data's own.
        options: handed to the format.
        share: how much of every class's clips is learnt from, as `probe --share` of seed `run.seed` takes them; default all, unlabelled too.
        balance: whether rare classes are drawn as often as frequent ones.
        epoch_size: clips an epoch; default all.
    """

    train: list[str] = []
    val: list[str] = []
    weights: list[float] | None = None
    split: str = "train"
    val_split: str = "val"
    where: str | None = None
    skeleton: str | None = None
    options: dict[str, Any] = {}
    share: float | None = pydantic.Field(default=None, gt=0, le=1)
    balance: bool = False
    epoch_size: int | None = pydantic.Field(default=None, ge=1)


class PrepareTable(Table):
    """[prepare]: see `training.transforms.preprocess.Prepare`."""

    people: int = pydantic.Field(default=2, ge=1, le=32)
    rank: str = "score"
    channels: list[int] | None = None
    fill: str = "interpolate"
    normalise: str = "body"
    stream: str = "joint"
    score: bool = False
    keep_root: bool = False
    up: str = "y"
    size: tuple[int, int] | None = None


class ViewTable(Table):
    """[view]: see `training.transforms.view.View`."""

    frames: int = pydantic.Field(default=64, ge=1)
    steps: str | list[dict[str, Any]] = "weak"


class OptimTable(Table):
    """[optim]

    Attributes:
        schedule: "cosine" to `min_lr`, or "step": times `gamma` at each of `milestones` (epochs).
        warmup: epochs of a linear rise from 0.
        decay_all: whether weight decay is on norms and biases too, as published code does.
        backbone_scale: learning rate of the network in parts of that of the classifier and heads; 0 keeps it frozen.
    """

    name: Literal["sgd", "adamw", "adam"] = "sgd"
    lr: float = pydantic.Field(default=0.1, gt=0)
    momentum: float = pydantic.Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    decay: float = pydantic.Field(default=1e-4, ge=0)
    decay_all: bool = True
    schedule: Literal["cosine", "step"] = "cosine"
    min_lr: float = pydantic.Field(default=0.0, ge=0)
    milestones: list[int] = []
    gamma: float = pydantic.Field(default=0.1, gt=0)
    warmup: float = pydantic.Field(default=0.0, ge=0)
    backbone_scale: float = pydantic.Field(default=1.0, ge=0)


class Named(pydantic.BaseModel):
    """[backbone] and [method]: a name and its options."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class Config(Table):
    """A whole run."""

    run: RunTable = RunTable()
    data: DataTable = DataTable()
    prepare: PrepareTable = PrepareTable()
    view: ViewTable = ViewTable()
    backbone: Named
    method: Named
    optim: OptimTable = OptimTable()

    @property
    def classifies(self) -> bool:
        """Whether the method learns classes with the network's own classifier."""
        return _classifies(self.method.name)

    def on(self, train: Sequence[str], val: Sequence[str] = ()) -> Config:
        """The same on other data; without `train` only what is measured on is another."""
        changed: dict[str, Any] = {"val": list(val)} if val or train else {}
        if train:
            weights = self.data.weights if len(self.data.weights or ()) == len(train) else None
            changed |= {"train": list(train), "weights": weights}
        return self.model_copy(update={"data": self.data.model_copy(update=changed)})

    def to_toml(self) -> dict[str, Any]:
        """The tables of a configuration file; loading them again gives an equal configuration."""
        return {
            name: {k: v for k, v in getattr(self, name).model_dump().items() if v is not None}
            for name in type(self).model_fields
        }


def available() -> dict[str, Path]:
    """All configurations that are found by name."""
    found: dict[str, Path] = {}
    for folder in find_folder("recipes"):
        for path in sorted((folder / "training").glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def load(name: str, overrides: Sequence[str] = ()) -> Config:
    """A configuration by name or path, with `table.key=TOML value` texts on top, checked as a whole.

    Raises:
        RecipeError: not found, not TOML, an unknown key, a wrong value.
        TrainingError: an unknown backbone or method, or an unknown option of one.
    """
    path = find(name)
    tables = settings.read(path)
    for text in overrides:
        settings.override(tables, text)
    return validate(tables, str(path))


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


def finetuning(what: str, start: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration that trains a network on with labels.

    Args:
        what: a configuration by name or path, or a run's folder: its network, seen as it was trained; a method that learns no
            classes becomes supervised.
        start: a finished run's folder or a file of weights; default the run that `what` is.
        overrides: `table.key=TOML value` texts.

    Raises:
        RecipeError, TrainingError: not found, or not a configuration; nothing to start from.
    """
    path = find(what)
    tables = settings.read(path)
    run = tables.setdefault("run", {})
    start = start or (what if Path(what).is_dir() else run.get("start"))
    if start is None:
        raise TrainingError(
            "finetune goes on from a network: give --from a finished run's folder or a file of weights, or such a folder in place of CONFIG"
        )
    if "name" in tables.get("method", {}) and not _classifies(str(tables["method"]["name"])):
        tables["method"] = {"name": "supervised"}
    run |= {"name": f"{run.get('name', 'run')}_finetuned", "start": str(start)}
    for text in overrides:
        settings.override(tables, text)
    return validate(tables, str(path))


def _classifies(method: str) -> bool:
    from training.methods.supervised import Supervised

    return issubclass(registry.find("methods", method), Supervised)


def validate(tables: dict[str, Any], where: str) -> Config:
    """The configuration of these tables; `where` names them in errors.

    Raises:
        RecipeError, TrainingError: as `load`.
    """
    for key in tables:
        if key not in Config.model_fields:
            raise RecipeError(f"{where}: unknown table [{key}]{suggestion(key, Config.model_fields)}")
    try:
        config = Config(**tables)
    except pydantic.ValidationError as error:
        raise RecipeError(f"{where}: {settings.explain(error, Config)}") from error
    for kind, named in (("backbones", config.backbone), ("methods", config.method)):
        allowed = registry.options(registry.find(kind, named.name))
        for key in named.options:
            if key not in allowed:
                raise TrainingError(
                    f"{where}: [{kind[:-1]}] {named.name} has no option {key!r}{suggestion(key, allowed)}"
                )
    return config
