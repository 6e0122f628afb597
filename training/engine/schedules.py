"""Schedules of the learning rate by name: functions of a time in epochs.

To add one: a function here, and one line in `SCHEDULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from training.engine.settings import OptimSettings

Schedule: TypeAlias = "Callable[[OptimSettings, float, float], float]"
"""(settings, time in epochs from the end of the warm-up on, epochs of the run) -> learning rate."""


def _progress(optim: OptimSettings, epoch: float, epochs: float) -> float:
    """Part of the run after the warm-up that lies behind, in [0, 1]."""
    return min(1.0, (epoch - optim.warmup) / max(epochs - optim.warmup, 1e-9))


def constant(optim: OptimSettings, epoch: float, epochs: float) -> float:
    """The same rate all the time."""
    return optim.lr


def cosine(optim: OptimSettings, epoch: float, epochs: float) -> float:
    """Half a cosine from `lr` to `min_lr` (Loshchilov and Hutter 2017, SGDR, equation 5)."""
    return optim.min_lr + (optim.lr - optim.min_lr) * (1 + math.cos(math.pi * _progress(optim, epoch, epochs))) / 2


def linear(optim: OptimSettings, epoch: float, epochs: float) -> float:
    """A line from `lr` to `min_lr`."""
    return optim.lr + (optim.min_lr - optim.lr) * _progress(optim, epoch, epochs)


def step(optim: OptimSettings, epoch: float, epochs: float) -> float:
    """`lr`, multiplied by `gamma` at each milestone."""
    return optim.lr * optim.gamma ** sum(epoch >= milestone for milestone in optim.milestones)


def exponential(optim: OptimSettings, epoch: float, epochs: float) -> float:
    """`lr`, multiplied by `gamma` after every whole epoch."""
    return optim.lr * optim.gamma ** math.floor(epoch - optim.warmup + 1e-9)


def warm_restarts(optim: OptimSettings, epoch: float, epochs: float) -> float:
    """Half a cosine from `lr` to `min_lr` again and again. The first lasts `restart_every` epochs, each further one
    `restart_factor` times as long as the one before (Loshchilov and Hutter 2017, SGDR, section 3)."""
    time, length = epoch - optim.warmup, optim.restart_every
    while time >= length:
        time -= length
        length *= optim.restart_factor
    return optim.min_lr + (optim.lr - optim.min_lr) * (1 + math.cos(math.pi * time / length)) / 2


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "step": step,
    "exponential": exponential,
    "warm_restarts": warm_restarts,
}
"""All schedules by name."""
