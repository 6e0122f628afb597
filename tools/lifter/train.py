"""Training of the built-in lifter. What a step learns from is a function of the seed and its number alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataengine.lift.inputs import HIPS, NUM_BODY
from dataengine.lift.network import TemporalNetwork
from tools.lifter.material import Pool, bank, batch
from tools.lifter.ship import WIDE, make_network

Draw = Callable[[np.random.Generator], tuple[Any, Any]]


@dataclass(frozen=True)
class Training:
    """Numbers of a training run.

    Attributes:
        steps: optimiser steps. windows: per step.
        rate: the learning rate after `warm` steps; it falls to 0 by half a cosine over the second half of the steps.
        average: decay of the running mean of weights that is the result.
        decay: weight decay of AdamW.
        sequences: how many the windows are drawn from.
        seed: of weights and material. channels: width of the network.
    """

    steps: int = 4000
    windows: int = 256
    rate: float = 2e-3
    warm: int = 100
    average: float = 0.995
    decay: float = 1e-3
    sequences: int = 24_000
    seed: int = 1
    channels: int = WIDE


def rate_at(training: Training, step: int) -> float:
    """The learning rate of a step."""
    if step < training.warm:
        return training.rate * (step + 1) / training.warm
    part = max(2 * step / training.steps - 1, 0.0)
    return training.rate * 0.5 * (1 + math.cos(math.pi * part))


def follow(average: dict[str, Any], network: TemporalNetwork, decay: float) -> None:
    """Let the running mean of weights follow the network."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                average[name].lerp_(tensor, 1 - decay)
            else:
                average[name].copy_(tensor)


def loss_of(network: TemporalNetwork, windows: Any, targets: Any) -> Any:
    """The mean distance of joints in metres, the middle of the hips at the origin."""
    made = network.one_frame(windows).reshape(-1, NUM_BODY, 3)
    made = made - made[:, HIPS].mean(1, keepdim=True)
    return torch.linalg.vector_norm(made - targets.reshape(made.shape), dim=-1).mean()


def train(
    training: Training,
    draw: Draw,
    checkpoint: Path | None = None,
    minutes: float = math.inf,
    say: Callable[[str], None] = print,
) -> TemporalNetwork | None:
    """Train, or go on training.

    Args:
        training: the numbers of the run.
        draw: makes features and targets of a step from its random numbers.
        checkpoint: where the state is kept every 100 steps and at the end; gone on from where it is there.
        minutes: after which to stop.
        say: takes a line now and then.

    Returns:
        The network, None where training is not over.
    """
    torch.manual_seed(training.seed)
    network = make_network(training.channels)
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": training.decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=training.rate)
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = 0
    if checkpoint is not None and checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        average, first = state["average"], state["step"]

    def save(step: int) -> None:
        if checkpoint is not None:
            state = {
                "network": network.state_dict(), "average": average, "optimiser": optimiser.state_dict(), "step": step,
            }  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)

    begin, mean = time.monotonic(), 0.0
    network.train()
    step = first
    for step in range(first, training.steps):
        if time.monotonic() - begin > 60 * minutes:
            break
        rng = np.random.default_rng((training.seed, step))
        torch.manual_seed(int(rng.integers(1 << 31)))
        features, targets = (torch.as_tensor(array) for array in draw(rng))
        for group in optimiser.param_groups:
            group["lr"] = rate_at(training, step)
        loss = loss_of(network, features, targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        follow(average, network, min(training.average, (1 + step) / (10 + step)))
        mean += (float(loss.detach()) - mean) * max(0.02, 1 / (step - first + 1))
        if step % 100 == 99:
            pace = (time.monotonic() - begin) / (step - first + 1)
            say(f"step {step + 1}: {1000 * mean:.1f} mm, {pace:.3f} s per step")
            save(step + 1)
    else:
        step = training.steps
    save(step)
    network.load_state_dict(average)
    return network.eval() if step == training.steps else None


def from_pool(pool: Pool, training: Training) -> Draw:
    """Steps that learn from windows of a pool."""
    sequences = bank(pool, training.seed, training.sequences)
    return lambda rng: batch(rng, sequences, training.windows)
