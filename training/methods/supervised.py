"""Supervised classification (UNIK, section 3.4)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone
from training.distributed import masked_mean
from training.methods.base import Batch, LossOutput, Method, features_of


class Supervised(Method):
    """Cross-entropy of the network's logits; clips without a label do not count.

    Args:
        backbone: a network with a classifier.
        smoothing: label smoothing in [0, 1).
    """

    classifies = True
    probes = ("knn", "measures")

    def __init__(self, backbone: Backbone, smoothing: float = 0.0) -> None:
        super().__init__(backbone)
        if not backbone.num_classes:
            raise TrainingError("supervised training needs a network with a classifier: num_classes of the data, not 0")
        if not 0 <= smoothing < 1:
            raise TrainingError(f"supervised: smoothing {smoothing:g}; allowed: from 0 to below 1")
        self.smoothing = smoothing

    def measures(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and accuracy of the network's own classifier."""
        output = self.loss(batch)
        return {"loss": output.loss, **output.parts}

    def loss(self, batch: Batch) -> LossOutput:
        features = features_of(self.backbone, batch["motion"], batch.get("motion_mask"))
        logits = self.backbone.classify(features)
        labels = batch["label"]
        labelled = labels >= 0
        each = functional.cross_entropy(logits, labels.clamp(min=0), reduction="none", label_smoothing=self.smoothing)
        correct = (logits.argmax(1) == labels).to(each)
        return LossOutput(masked_mean(each, labelled), {"accuracy": masked_mean(correct, labelled)}, features)
