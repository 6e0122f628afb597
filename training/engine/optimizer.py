"""The optimiser of a method, with parameter groups by network and weight decay."""

from __future__ import annotations

import torch
from torch import nn

from dataengine.core.errors import TrainingError, suggestion
from training.engine.settings import TrainSettings
from training.methods.base import Method

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


HEADS = "heads"
"""The group of what belongs to no network: projectors, and the classifier of the primary network."""


def owners(method: Method) -> dict[int, str]:
    """The name of the network that each parameter belongs to, by id; the first where several hold it."""
    classifier = dict(method.backbone.named_modules()).get(
        method.backbone.classifier
    )  # the name may be a path, such as "head.fc"
    taken: dict[int, str] = {}
    if classifier is not None and method.backbone.num_classes:
        taken = {id(parameter): HEADS for parameter in classifier.parameters()}
    for name, network in method.networks.items():
        for parameter in network.parameters():
            taken.setdefault(id(parameter), name)
    return taken


def make_optimizer(method: Method, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser; a network whose rate is 0 is frozen. Each group has `settings` (of its rate) and `scale`.

    Raises:
        TrainingError: settings of a network that the method does not have, or no parameter is left to train.
    """
    optim, names = settings.optim, (*method.networks, HEADS)
    known = (*names, *method.optional_networks)
    if unknown := next((group.name for group in optim.groups if group.name not in known), None):
        raise TrainingError(
            f"optim.groups.{unknown}: {type(method).__name__} has no such network{suggestion(unknown, names)}"
        )
    norm_ids = {
        id(p) for module in method.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)
    }
    network_of, primary = owners(method), next(iter(method.networks))
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        network = network_of.get(id(parameter), HEADS)
        own = optim.of(network)
        scale = optim.backbone_scale if network == primary else 1.0
        if scale == 0 or own.lr == 0:
            parameter.requires_grad_(False)
            continue
        without_decay = not optim.decay_all and (id(parameter) in norm_ids or name.endswith("bias"))
        key = (network if own is not optim else "", scale, 0.0 if without_decay else own.weight_decay)
        groups.setdefault(key, []).append(parameter)
    if not groups:
        raise TrainingError(
            "nothing is left to train: optim.backbone_scale 0 and a rate of 0 freeze a network, and the method has no "
            "other parameters"
        )
    param_groups = [
        {"params": parameters, "weight_decay": decay, "scale": scale, "settings": optim.of(network), "name": network}
        for (network, scale, decay), parameters in groups.items()
    ]
    if optim.optimizer == "sgd":
        return torch.optim.SGD(
            param_groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov and optim.momentum > 0
        )
    return (torch.optim.AdamW if optim.optimizer == "adamw" else torch.optim.Adam)(param_groups, lr=optim.lr)


def set_rates(optimizer: torch.optim.Optimizer, epoch: float, epochs: float) -> dict[str, float]:
    """Sets the learning rates of a time in epochs; those of networks with settings of their own, by name for the
    log."""
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["settings"].rate(epoch, epochs) * group["scale"]
        if group["name"]:
            rates[f"lr_{group['name']}"] = group["lr"]
    return rates
