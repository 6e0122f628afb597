"""Learns from what dataengine builds: networks, pretext methods, their training and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataengine.core.skeletons import Skeleton
    from training.backbones.base import Backbone
    from training.data.loader import DataLoader
    from training.methods.base import Method


def create_backbone(
    name: str, num_classes: int = 0, skeleton: str | Skeleton = "posetics17", channels: int = 2, **options: Any
) -> Backbone:
    """A network over motions (N, C, T, V, M) by its name.

    Args:
        name: see `dataengine-train list backbones`.
        num_classes: K; 0 leaves out the classifier.
        skeleton: name of a joint layout, or a layout of your own.
        channels: C, coordinates per joint.
        options: of the network.

    Raises:
        TrainingError: unknown name or option, or a skeleton that no layout has.
    """
    from training import registry

    backbone: Backbone = registry.create(
        "backbones", name, num_classes=num_classes, skeleton=skeleton, channels=channels, **options
    )
    return backbone


def create_method(name: str, **options: Any) -> Method:
    """A pretext or supervised method by its name, around the network `backbone`.

    Raises:
        TrainingError: unknown name or option.
    """
    from training import registry

    method: Method = registry.create("methods", name, **options)
    return method


def feed(dataset: Any, **options: Any) -> DataLoader:
    """Batches of a dataset: a path, url, list of urls, or an open dataset; see `training.data.loader.DataLoader`."""
    from training.data.formats import open_datasets
    from training.data.loader import DataLoader

    return DataLoader(open_datasets(dataset), **options)
