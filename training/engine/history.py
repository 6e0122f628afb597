"""What a run logged, step by step: read from log.jsonl, and looked at for a loss that rises."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RISE = 0.02
"""Part by which the loss rises before it is told."""


@dataclass
class History:
    """Log and length of a run.

    Attributes:
        log: lines of log.jsonl.
        steps: number of steps of the optimiser.
        epochs: `steps` in epochs.
    """

    log: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    epochs: float = 0.0

    @property
    def losses(self) -> list[float]:
        """The logged losses, in order of steps."""
        return [entry["loss"] for entry in self.log if "loss" in entry]


def log_until(path: Path, step: int) -> Iterator[dict[str, Any]]:
    """Lines of a log up to a step; later lines are written again by the resumed run."""
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # incomplete, as the process was killed
            continue
        if entry["step"] <= step:
            yield entry


def tell_of_rise(log: Sequence[Mapping[str, Any]]) -> None:
    """Warn where the loss rose in the second half of a run: the mean of its last fifth is above that of its first."""
    losses = [(entry["epoch"], entry["loss"]) for entry in log if "loss" in entry]
    half = losses[len(losses) // 2 :]
    part = len(half) // 5
    if part < 2:
        return
    first, last = (sum(loss for _, loss in some) / part for some in (half[:part], half[-part:]))
    if last > first + RISE * abs(first):
        warnings.warn(
            f"the loss rose in the second half of the run, from {first:.4g} (epoch {half[0][0]:g}) to {last:.4g}: what "
            "was learnt gets lost again; lower optim.lr, or, where keys come from a momentum encoder, see queue.anneal",
            stacklevel=5,
        )
