"""The annotator: a small network on frozen features that learns from few labels in seconds and proposes the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from dataengine.core.errors import TrainingError
from training.data.types import Array

HIDDEN = 256
"""Width of the hidden layer."""
STEPS = 200
"""Of the optimiser, whatever the number of examples."""
BATCH = 256
"""Examples of a step."""
RATE = 4e-3
"""Highest learning rate, in one cycle."""
WEIGHT_DECAY = 1e-2
DROPOUT = 0.2


@dataclass(frozen=True)
class Annotator:
    """A fitted annotator: two linear layers over standardised features.

    Attributes:
        layers: weight (out, in) and bias (out,) float32 of each layer.
        mean, scale: (D,) float32 of the features learnt from.
        exclusive: whether a clip has exactly one label (softmax), or any number of them (a sigmoid each).
        prior: (K,) float32 share of each label among those learnt from; labels that no example had are never proposed.
    """

    layers: tuple[tuple[Array, Array], ...]
    mean: Array
    scale: Array
    exclusive: bool
    prior: Array

    def probabilities(self, features: ArrayLike) -> Array:
        """(N, K) float64 of features (N, D), such as clips or frames.

        Raises:
            TrainingError: features of another size.
        """
        rows = np.asarray(features, np.float32)
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise TrainingError(f"the annotator takes features (N, {len(self.mean)}); given {rows.shape}")
        values = (rows - self.mean) / self.scale
        for number, (weight, bias) in enumerate(self.layers):
            values = values @ weight.T + bias
            if number < len(self.layers) - 1:
                values = np.maximum(values, 0)
        logits = np.where(self.prior > 0, values.astype(np.float64), -np.inf)
        if self.exclusive:
            powers = np.exp(logits - logits.max(1, keepdims=True))
            return np.asarray(powers / powers.sum(1, keepdims=True), np.float64)
        return np.asarray(1 / (1 + np.exp(-logits)), np.float64)

    def propose(self, features: ArrayLike, threshold: float = 0.5) -> Array:
        """(N, K) bool: the most probable label of each row, or all labels of at least `threshold`."""
        found = self.probabilities(features)
        if self.exclusive:
            return np.asarray(np.arange(found.shape[1]) == found.argmax(1)[:, None])
        return np.asarray(found >= threshold)


def fit_annotator(
    features: ArrayLike, targets: ArrayLike, exclusive: bool = False, seed: int = 0, steps: int = STEPS
) -> Annotator:
    """Train the annotator of Motion-R3: an MLP on frozen features, with one sigmoid per label (binary cross entropy).

    The paper names neither widths nor the schedule; ours takes the same number of steps whatever the number of
    examples, so that a retraining ends in seconds.

    Args:
        features: (N, D) of clips or of frames.
        targets: (N, K) bool, which labels each has.
        exclusive: every row has exactly one label: a softmax over the labels takes the place of the sigmoids.
        seed: of weights, batches and dropout; equal seeds give equal annotators.
        steps: of the optimiser.

    Raises:
        TrainingError: no rows, shapes that do not agree, features that are not finite, or with `exclusive` a row with
            none or several labels.
    """
    rows, wanted = np.asarray(features, np.float32), np.asarray(targets).astype(np.float32)
    if rows.ndim != 2 or wanted.ndim != 2 or len(rows) != len(wanted) or not len(rows):
        raise TrainingError(
            f"an annotator learns from features (N, D) and labels (N, K); given {rows.shape}, {wanted.shape}"
        )
    if not np.isfinite(rows).all():
        raise TrainingError(f"{int((~np.isfinite(rows)).any(1).sum())} of {len(rows)} features are not finite")
    if exclusive and not (wanted.sum(1) == 1).all():
        raise TrainingError("labels that exclude each other: every row has exactly one of them")
    mean, scale = rows.mean(0), np.maximum(rows.std(0), 1e-6)
    values, truth = torch.as_tensor((rows - mean) / scale), torch.as_tensor(wanted)
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(rows.shape[1], HIDDEN), nn.Linear(HIDDEN, wanted.shape[1])]
    for layer in layers:
        bound = layer.in_features**-0.5
        for parameter in (layer.weight, layer.bias):
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    loss_of = nn.functional.cross_entropy if exclusive else nn.functional.binary_cross_entropy_with_logits
    for _ in range(steps):
        chosen = torch.randint(len(values), (min(BATCH, len(values)),), generator=generator)
        hidden = torch.relu(layers[0](values[chosen]))
        kept = torch.rand(hidden.shape, generator=generator) >= DROPOUT
        loss = loss_of(layers[1](hidden * kept / (1 - DROPOUT)), truth[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    found = tuple((layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers)
    return Annotator(found, mean, scale, exclusive, wanted.mean(0))
