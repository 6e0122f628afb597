"""The tables of a training configuration, key by key; `training.config` reads and checks them as a whole."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from dataengine.core.errors import suggestion
from dataengine.core.settings import Table
from training.engine.schedules import SCHEDULES

MOST_WORKERS = 64


def _field(default: Any, description: str, **limits: Any) -> Any:
    return pydantic.Field(default=default, description=description, **limits)


class RunTable(Table):
    """[run]: how long the run is, and what it leaves."""

    name: str = _field("run", "Name of the run; its folder is runs/NAME by default.", pattern=r"^[A-Za-z0-9_.-]+$")
    seed: int = _field(0, "Decides the first weights, the order of clips and all random views.", ge=0, lt=1 << 31)
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
        "or a CSV or Parquet file; see `training.data.annotations`. Default: the spans that the data hold.",
    )
    format: str | None = _field(
        None,
        'Format of the data, where a path can be read in several: "videos" reads the pictures of a built dataset. '
        "Default: what lies at the path.",
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
        'of joints in space that name shoulders and hips, "none" of rotations, else "body".',
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
        None,
        'Width and height for "screen" and "pyskl2d". Default: those of the clip. Of pictures: those that the '
        "network is given, 224 and 224 by default.",
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
