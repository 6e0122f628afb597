"""How a student learns: epochs, order of frames, optimiser, early stopping, and a checkpoint after every epoch.

A run is a function of (student, frames, settings). Killed at any moment and started again in the same folder, it ends
with the same bytes: the order of frames, the augmentation and what torch draws are seeded by (seed, epoch, step);
weights and optimiser are read back from the last checkpoint, which is whole or not there. On a CPU the number of
threads is fixed by the settings, since sums depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FitSettings:
    """How a student learns.

    Attributes:
        epochs: most passes over the frames.
        batch: frames per step.
        rate: learning rate after the warm-up; it falls to a hundredth of itself along a half cosine.
        warmup: share of all steps in which the rate rises from 0.
        optimizer: AdamW, or SGD with a momentum of 0.9.
        weight_decay: of the optimiser.
        clip: largest norm of the gradient.
        patience: epochs without a lower validation loss after which learning ends.
        seed: of everything that is drawn.
        threads: of torch on a CPU.
    """

    epochs: int = 8
    batch: int = 8
    rate: float = 1e-4
    warmup: float = 0.1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-4
    clip: float = 1.0
    patience: int = 3
    seed: int = 0
    threads: int = 2
