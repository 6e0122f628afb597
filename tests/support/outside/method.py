"""A method: two random views of a clip shall have features alike, and clips shall differ."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from training.backbones.base import Backbone
from training.methods.base import Batch, LossOutput, Method, RandomViews


class TwoNoises(Method):
    """Contrast of two random views within the batch.

    Args:
        backbone: the network that learns.
        temperature: of the similarities.
    """

    def __init__(self, backbone: Backbone, temperature: float = 0.2) -> None:
        super().__init__(backbone)
        self.temperature = temperature

    def sample_transform(self, preprocess: Any, view: Any) -> RandomViews:
        return RandomViews(preprocess, {"first": view, "second": view})

    def loss(self, batch: Batch) -> LossOutput:
        first, second = (self.backbone.features(batch[name]) for name in ("first", "second"))
        rows = functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T / self.temperature
        right = torch.arange(len(rows), device=rows.device)
        return LossOutput(functional.cross_entropy(rows, right), features=first)
