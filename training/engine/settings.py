"""Hyper-parameters of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from dataengine.core.errors import TrainingError, suggestion
from training.engine.schedules import SCHEDULES


@dataclass(frozen=True)
class GroupSettings:
    """What the parameters of one network have of their own; None: as all others. A rate of 0 freezes the network.

    The tables [optim.groups.NAME] of `training.config` describe each value.
    """

    name: str
    lr: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    min_lr: float | None = None
    milestones: tuple[int, ...] | None = None
    gamma: float | None = None
    warmup: float | None = None
    restart_every: float | None = None
    restart_factor: float | None = None


@dataclass(frozen=True)
class OptimSettings:
    """Optimiser and learning rate; the table [optim] of `training.config` describes each value.

    Raises:
        TrainingError: an unknown schedule, or restarts that do not move on.
    """

    lr: float = 0.1
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    decay_all: bool = True
    schedule: str = "cosine"
    min_lr: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: float = 0.0
    backbone_scale: float = 1.0
    restart_every: float = 10.0
    restart_factor: float = 1.0
    groups: tuple[GroupSettings, ...] = ()

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise TrainingError(f"unknown schedule {self.schedule!r}{suggestion(self.schedule, SCHEDULES)}")
        if self.restart_every <= 0 or self.restart_factor < 1:
            raise TrainingError(
                "restart_every is above 0 and restart_factor at least 1; given "
                f"{self.restart_every} and {self.restart_factor}"
            )

    def rate(self, epoch: float, epochs: float) -> float:
        """The learning rate at a time in epochs, for a run of `epochs` epochs."""
        if epoch < self.warmup:
            return self.lr * epoch / self.warmup
        return SCHEDULES[self.schedule](self, epoch, epochs)

    def of(self, name: str) -> OptimSettings:
        """The settings of the parameters of a network."""
        group = next((group for group in self.groups if group.name == name), None)
        if group is None:
            return self
        own = {key: value for key, value in asdict(group).items() if value is not None and key != "name"}
        return replace(self, groups=(), **own)


@dataclass(frozen=True)
class TrainSettings:
    """Length, steps and outputs of a training; the table [run] of `training.config` describes each value.

    With `grad_clip` None, gradients are not clipped.
    """

    epochs: int = 65
    optim: OptimSettings = field(default_factory=OptimSettings)
    accumulate: int = 1
    grad_clip: float | None = 5.0
    precision: str = "32-true"
    compile: bool = False
    seed: int = 0
    log_every: int = 10
    save_every: float = 300.0
    probe_every: int = 0
    keep_every: int = 0
    keep_best: bool = False
    tensorboard: bool = False
    wandb: bool = False

    def rate(self, epoch: float) -> float:
        """The learning rate at a time in epochs."""
        return self.optim.rate(epoch, self.epochs)
