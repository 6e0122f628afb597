"""Loggers beside log.jsonl: TensorBoard and Weights & Biases."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from training.engine.settings import TrainSettings


class Logger(Protocol):
    """Receives the entries of a log."""

    def write(self, entry: Mapping[str, Any]) -> None:
        """Logs one entry: `step` and numbers by name."""

    def close(self) -> None:
        """Ends the log."""


class TensorBoard:
    """Writes event files for TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=step + 1)  # hides what was logged after the checkpoint

    def write(self, entry: Mapping[str, Any]) -> None:
        """Logs one entry: `step` and numbers by name."""
        for name, value in entry.items():
            if name not in ("step", "epoch"):
                self.writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Ends the log."""
        self.writer.close()


class Wandb:
    """Sends the log to Weights & Biases."""

    def __init__(self, folder: Path, step: int) -> None:
        import wandb

        self.run = wandb.init(dir=str(folder), name=folder.name, resume="allow")

    def write(self, entry: Mapping[str, Any]) -> None:
        """Logs one entry: `step` and numbers by name."""
        self.run.log(dict(entry), step=entry["step"])

    def close(self) -> None:
        """Ends the log."""
        self.run.finish()


def loggers_of(settings: TrainSettings, out: Path | None, step: int = 0) -> list[Logger]:
    """The enabled loggers of a run that is at a step; one that is not installed is left out with a warning."""
    loggers: list[Logger] = []
    choices: tuple[tuple[bool, Any, str], ...] = (
        (settings.tensorboard, TensorBoard, "tensorboard"),
        (settings.wandb, Wandb, "wandb"),
    )
    for enabled, logger, folder in choices:
        if enabled and out is not None:
            try:
                loggers.append(logger(out / folder, step))
            except ImportError as error:
                warnings.warn(f"{error.name} is not installed: its log is left out", stacklevel=3)
    return loggers
