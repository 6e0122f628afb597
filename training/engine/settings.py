"""Hyper-parameters of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class OptimSettings:
    """Optimiser and learning rate; the table [optim] of `training.config` describes each value."""

    lr: float = 0.1
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    decay_all: bool = True
    schedule: Literal["cosine", "step"] = "cosine"
    min_lr: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: float = 0.0
    backbone_scale: float = 1.0

    def rate(self, epoch: float, epochs: int) -> float:
        """The learning rate at a time in epochs, for a run of `epochs` epochs."""
        if epoch < self.warmup:
            return self.lr * epoch / self.warmup
        if self.schedule == "step":
            return self.lr * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        progress = min(1.0, (epoch - self.warmup) / max(epochs - self.warmup, 1e-9))
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2


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
