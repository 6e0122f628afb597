"""The configuration of a training run: TOML -> `Config`, strict and complete.

    [run]         seed, epochs, batch, precision, devices ...
    [data]        train, val, split, where, skeleton ...
    [preprocess]  people, normalise, stream ...       (`training.transforms.preprocess.Preprocess`)
    [view]        frames, steps                       (`training.transforms.view.View`)
    [backbone]    name and its options                (`training.backbones`)
    [method]      name and its options                (`training.methods`)
    [optim]       lr, schedule ...

A run keeps its configuration as run.toml in its folder. Training with that file gives the same network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from dataengine.core import settings
from dataengine.core.errors import RecipeError, TrainingError, suggestion
from dataengine.core.settings import Table, find_folder
from training import registry
from training.engine.schedules import SCHEDULES

FORMER: dict[str, dict[str, str]] = {
    "run": {"clip": "grad_clip"},
    "data": {"share": "label_fraction"},
    "optim": {"decay": "weight_decay"},
}
"""Keys by the names they once had, by table."""
FORMER_TABLES = {"prepare": "preprocess"}
MOST_WORKERS = 64


def _field(default: Any, description: str, **limits: Any) -> Any:
    return pydantic.Field(default=default, description=description, **limits)


class RunTable(Table):
    """[run]: how long the run is, and what it leaves."""

    name: str = _field("run", "Name of the run; its folder is runs/NAME by default.", pattern=r"^[A-Za-z0-9_.-]+$")
    seed: int = _field(0, "Decides the first weights, the order of clips and all random views.", ge=0)
    start: str | None = _field(
        None,
        "Folder of a finished run, or a file of weights, that the network starts from, without its classifier. "
        "Default: weights drawn by the seed.",
    )
    epochs: int = _field(65, "Passes over the training clips.", ge=1)
    min_steps: int = _field(
        0,
        "Steps that the run has at least. With few clips its epochs grow until it has them, and with them, by the same "
        "factor, `optim.milestones`, `optim.warmup`, `probe_every` and `keep_every`. `--set run.epochs` in place of it "
        "turns it off.",
        ge=0,
    )
    by_clips: list[dict[str, Any]] = _field(
        [],
        'What else holds for small sets: {up_to = CLIPS, "table.key" = value, ...}, of which the first with enough '
        "clips is taken. `--set` of such a key comes before it.",
    )
    batch: int = _field(64, "Clips per step, of all devices together; at most all clips.", ge=1)
    accumulate: int = _field(1, "Batches whose gradients are added up before the optimiser makes a step.", ge=1)
    grad_clip: float = _field(5.0, "Largest norm of the gradients; 0 leaves them as they are.", ge=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = _field("32-true", "Precision of the network.")
    devices: int | Literal["auto"] = _field(1, "Number of devices; one process runs on each.")
    compile: bool = _field(False, "Whether the network is compiled by torch.compile.")
    workers: int | str = _field(
        "auto",
        'Processes per device that make batches ahead, up to 64; 0: none. "auto": as the machine has cores. '
        "The result is the same.",
    )
    cache: str = _field(
        "auto",
        'Where clips are kept once they are prepared: "auto" for $DATAENGINE_PREPARED, else '
        '~/.cache/dataengine/prepared; a folder; "memory"; or "off", which prepares them anew in every epoch. The '
        "result is the same, and the folder may be deleted at any time.",
        min_length=1,
    )
    cache_gb: float = _field(
        4.0,
        "Most gigabytes of the folder of `cache`, of all runs together; also of what the processes of a device hold in "
        "memory where nothing can be written. 0 is as `cache` off.",
        ge=0,
    )

    @pydantic.field_validator("workers")
    @classmethod
    def _known_workers(cls, given: int | str) -> int | str:
        if given != "auto" and (isinstance(given, str) or not 0 <= given <= MOST_WORKERS):
            raise ValueError(f'{given} is not allowed; allowed: 0 to {MOST_WORKERS}, or "auto"')
        return given

    log_every: int = _field(10, "Steps between lines of log.jsonl.", ge=1)
    save_every: float = _field(300.0, "Seconds between checkpoints.", ge=0)
    probe_every: int = _field(0, "Epochs between kNN probes of the validation clips; 0: no probes.", ge=0)
    probe_clips: int = _field(5000, "Most clips of each split in a probe.", ge=2)
    keep_every: int = _field(
        0, "Epochs between networks that are kept, as epochN.safetensors in the folder of the run; 0: none.", ge=0
    )
    keep_best: bool = _field(
        False,
        "Whether the network of the best probe (see `probe_every`) is kept as best.safetensors. It is chosen by the "
        "validation clips: figures on the same clips are too good.",
    )
    floors: bool = _field(
        True,
        "Whether figures are given beside floors: nearest neighbour and ridge on the coordinates that the network is "
        "given, and three networks with random weights.",
    )
    tensorboard: bool = _field(True, "Whether the log is written for TensorBoard, where it is installed.")
    wandb: bool = _field(
        False,
        "Whether the log is sent to Weights & Biases, where it is installed. Nothing leaves the machine otherwise.",
    )


class DataTable(Table):
    """[data]: what the network learns from, and what it is measured on."""

    train: list[str] = _field([], "Training datasets: paths or urls of any format of `training.data.formats`.")
    val: list[str] = _field([], "Datasets to measure on. Default: those of `train`.")
    weights: list[float] | None = _field(None, "Share of each dataset in an epoch. Default: by size.")
    split: str = _field("train", 'Split of the training clips; "" takes all clips.')
    val_split: str = _field(
        "val", 'Split to measure on; "" takes all clips. Of val and test the one that exists is used.'
    )
    where: str | None = _field(None, 'SQL condition over the index, for example "confidence_mean > 0.4".')
    skeleton: str | None = _field(None, "Joint layout to convert to. Default: the layout of the data.")
    layout: str | dict[str, Any] | None = _field(
        None,
        "What the joints of the data are, where a file does not name them: the name of a layout, or "
        "{joints = [names], parents = [the parent of each by name or number, -1 of a root]}. Bones and mirroring "
        "follow from it. Default: what the file says, else by the number of its joints.",
    )
    spans: list[str] = _field(
        [],
        "Annotations of what happens when in the clips, which are found by their ids: files of Charades, TSU, PKU-MMD, "
        "or a CSV; see `training.data.annotations`. Default: the spans that the data hold.",
    )
    options: dict[str, Any] = _field({}, "Options of the format.")
    label_fraction: float | None = _field(
        None,
        "Fraction of the labelled clips of every class to learn from, chosen by `run.seed` as "
        "`dataengine-train probe --label-fraction` chooses them. Default: all clips, also unlabelled ones.",
        gt=0,
        le=1,
    )
    balance: bool = _field(False, "Whether every class is drawn equally often.")
    epoch_size: int | None = _field(None, "Clips per epoch. Default: all clips.", ge=1)


class PreprocessTable(Table):
    """[preprocess]: from stored joints to the input of the network; see `training.transforms.preprocess.Preprocess`."""

    people: int = _field(2, "People of the input; absent people are zeros.", ge=1, le=32)
    rank: str = _field("score", 'How people are chosen: "score", "motion", or "given" for their order in the clip.')
    channels: list[int] | None = _field(None, "Channels of the clip that are coordinates. Default: all.")
    fill: str = _field("interpolate", 'Unseen joints: "interpolate" over time, "zero", or "loop" as UNIK does.')
    normalise: str = _field(
        "auto",
        'Origin and scale: "body", "view", "view_body", "screen", "none", "pyskl2d" or "pyskl3d"; "auto": "view_body" '
        'of joints in space that name shoulders and hips, else "body".',
    )
    stream: str = _field(
        "joint",
        'Input of the network: "joint", "bone", "motion" or "bone_motion", or several as channels of one input: '
        '"joint+motion", "joint+bone" or "joint+bone+motion".',
    )
    score: bool = _field(False, "Whether scores are one more channel, 0 where a joint is unseen.")
    keep_root: bool = _field(False, "Whether the root of bones keeps its position instead of being zero.")
    up: str = _field(
        "auto", 'Upright axis of joints in space: "y" or "z"; "auto": along which shoulders and hips lie apart.'
    )
    size: tuple[int, int] | None = _field(
        None, 'Width and height for "screen" and "pyskl2d". Default: those of the clip.'
    )
    mask: bool = _field(
        False,
        "Whether absent people and empty frames are left out of the mean over people and time; otherwise they count as "
        "zeros, as published.",
    )


class ViewTable(Table):
    """[view]: the random views that the network learns from; see `training.transforms.view.View`."""

    frames: int = _field(64, "Frames of a view.", ge=1)
    steps: str | list[dict[str, Any]] = _field(
        "weak",
        'Augmentations: tables with `name` and options, or a preset: "none", "weak", "strong", or "small", '
        "for small sets.",
    )


class GroupTable(Table):
    """[optim.groups.NAME]: what one network of a method has of its own; by default all is as in [optim].

    "heads" is what belongs to none of the networks of the method, such as projectors and the classifier.
    """

    lr: float | None = _field(None, "Learning rate of the network; 0 keeps it frozen.", ge=0)
    weight_decay: float | None = _field(None, "Weight decay.", ge=0)
    schedule: str | None = _field(None, "Schedule of its rate, as in [optim].")
    min_lr: float | None = _field(None, "Lowest rate of its schedule.", ge=0)
    milestones: list[int] | None = _field(None, "Epochs at which its step schedule multiplies the rate.")
    gamma: float | None = _field(None, "Factor of its step and exponential schedules.", gt=0)
    warmup: float | None = _field(None, "Epochs in which its rate rises from 0.", ge=0)
    restart_every: float | None = _field(None, "Epochs of its first cosine with warm restarts.", gt=0)
    restart_factor: float | None = _field(None, "How many times longer each further cosine is.", ge=1)

    @pydantic.field_validator("schedule")
    @classmethod
    def _known(cls, schedule: str | None) -> str | None:
        return schedule if schedule is None else _known_schedule(schedule)


class OptimTable(Table):
    """[optim]: the optimiser and the schedule of its learning rate."""

    name: Literal["sgd", "adamw", "adam"] = _field("sgd", "The optimiser.")
    lr: float = _field(0.1, "Learning rate after the warm-up.", gt=0)
    momentum: float = _field(0.9, "Momentum of SGD.", ge=0, lt=1)
    nesterov: bool = _field(True, "Whether the momentum of SGD is Nesterov's.")
    weight_decay: float = _field(1e-4, "Weight decay.", ge=0)
    decay_all: bool = _field(True, "Whether weight decay is on norms and biases too, as in published code.")
    schedule: str = _field(
        "cosine",
        'Schedule of the learning rate: "constant"; "cosine" and "linear" fall to `min_lr` over the run; '
        '"warm_restarts" falls to it again and again; "step" multiplies by `gamma` at milestones, "exponential" after '
        "every epoch.",
    )
    min_lr: float = _field(0.0, "Learning rate at the end of a schedule that falls to it.", ge=0)
    milestones: list[int] = _field([], "Epochs at which the step schedule multiplies the learning rate.")
    gamma: float = _field(0.1, "Factor of the step schedule at each milestone, of the exponential one per epoch.", gt=0)
    warmup: float = _field(0.0, "Epochs in which the learning rate rises from 0.", ge=0)
    backbone_scale: float = _field(
        1.0, "Learning rate of the network relative to that of its classifier and heads; 0 keeps it frozen.", ge=0
    )
    restart_every: float = _field(10.0, "Epochs of the first cosine with warm restarts.", gt=0)
    restart_factor: float = _field(1.0, "How many times longer each further cosine is than the one before.", ge=1)
    groups: dict[str, GroupTable] = _field(
        {}, "By name of a network of the method: what its parameters have of their own."
    )

    @pydantic.field_validator("schedule")
    @classmethod
    def _known(cls, schedule: str) -> str:
        return _known_schedule(schedule)


def _known_schedule(schedule: str) -> str:
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule{suggestion(schedule, SCHEDULES)}")
    return schedule


class ComponentTable(pydantic.BaseModel):
    """[backbone] and [method]: a name and its options."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    name: str = pydantic.Field(description="Name of the network or method; see `dataengine-train list`.")

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


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
            weights = self.data.weights if len(self.data.weights or ()) == len(train) else None
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
    tables = settings.read(path)
    _override(tables, overrides)
    return validate(tables, str(path))


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
    tables = settings.read(path)
    run = tables.setdefault("run", {})
    start = start or (what if Path(what).is_dir() else run.get("start"))
    if start is None:
        raise TrainingError(
            "finetune goes on from a network: give --from a finished run's folder or a file of weights, or such a "
            "folder in place of CONFIG"
        )
    if "name" in tables.get("method", {}) and not _classifies(str(tables["method"]["name"])):
        tables["method"] = {"name": "supervised"}
    run |= {"name": f"{run.get('name', 'run')}_finetuned", "start": str(start)}
    if Path(what).is_dir():
        for name, table in FINETUNING.items():
            tables[name] = {**tables.get(name, {}), **table}
        tables["optim"].pop("milestones", None)
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
    tables = settings.read(path)
    tables.setdefault("run", {})
    if Path(what).is_dir() and tables.get("method", {}).get("name") != "segment":
        start = start or what
        tables["method"] = {"name": "segment"}
        for name, table in FINETUNING.items():
            tables[name] = {**tables.get(name, {}), **table}
        tables["optim"].pop("milestones", None)
        tables["view"]["steps"] = list(SPATIAL)
        tables["run"]["name"] = f"{tables['run'].get('name', 'run')}_segment"
    if start is not None:
        tables["run"]["start"] = str(start)
    for text in overrides:
        settings.override(tables, text)
    config = validate(tables, str(path))
    if config.method.name != "segment":
        raise TrainingError(
            f"{what} trains {config.method.name!r}, which learns no classes of frames: give segment_small, another "
            'configuration of [method] name = "segment", or the folder of a run to train a head on'
        )
    return config


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
