"""Learns from what dataengine builds: networks, pretext methods, their training and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from training.data.loader import Feed
    from training.methods.base import Method


def create_backbone(
    name: str, num_classes: int = 0, skeleton: str = "posetics17", channels: int = 2, **options: Any
) -> nn.Module:
    """A network over motions (N, C, T, V, M) by its name; `num_classes` 0 leaves out the classifier.

    Raises:
        TrainingError: unknown name or option, or a skeleton that no layout has.
    """
    from training import registry

    made: nn.Module = registry.create(
        "backbones", name, num_classes=num_classes, skeleton=skeleton, channels=channels, **options
    )
    return made


def create_method(name: str, **options: Any) -> Method:
    """A pretext or supervised method by its name, around `backbone=` a network.

    Raises:
        TrainingError: unknown name or option.
    """
    from training import registry

    made: Method = registry.create("methods", name, **options)
    return made


def feed(dataset: Any, **options: Any) -> Feed:
    """Batches of a dataset (path, url, list of urls, or open source); see `training.data.loader.Feed`."""
    from training.data.loader import Feed, open_sources

    return Feed(open_sources(dataset), **options)
