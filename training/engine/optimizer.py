"""The optimiser of a method, with parameter groups by learning-rate scale and weight decay."""

from __future__ import annotations

import torch
from torch import nn

from dataengine.core.errors import TrainingError
from training.engine.settings import TrainSettings
from training.methods.base import Method

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def make_optimizer(method: Method, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser; a network of learning-rate scale 0 is frozen.

    Raises:
        TrainingError: no parameter is left to train.
    """
    norm_ids = {
        id(p) for module in method.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)
    }
    classifier = dict(method.backbone.named_modules()).get(
        method.backbone.classifier
    )  # the name may be a path, such as "head.fc"
    classifier_ids = (
        {id(p) for p in classifier.parameters()} if classifier is not None and method.backbone.num_classes else set()
    )
    backbone_ids = {id(p) for p in method.backbone.parameters()} - classifier_ids
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = settings.optim.backbone_scale if id(parameter) in backbone_ids else 1.0
        if scale == 0:
            parameter.requires_grad_(False)
            continue
        without_decay = not settings.optim.decay_all and (id(parameter) in norm_ids or name.endswith("bias"))
        groups.setdefault((scale, 0.0 if without_decay else settings.optim.weight_decay), []).append(parameter)
    if not groups:
        raise TrainingError(
            "nothing is left to train: optim.backbone_scale 0 freezes the network, and the method has no parameters "
            "of its own"
        )
    param_groups = [
        {"params": parameters, "weight_decay": decay, "scale": scale} for (scale, decay), parameters in groups.items()
    ]
    if settings.optim.optimizer == "sgd":
        return torch.optim.SGD(
            param_groups,
            lr=settings.optim.lr,
            momentum=settings.optim.momentum,
            nesterov=settings.optim.nesterov and settings.optim.momentum > 0,
        )
    return (torch.optim.AdamW if settings.optim.optimizer == "adamw" else torch.optim.Adam)(
        param_groups, lr=settings.optim.lr
    )
