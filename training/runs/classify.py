"""What a network's own classifier says of clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from training.backbones.base import Backbone
from training.config import Config
from training.data.types import SkeletonDataset
from training.runs.features import THREE_CROPS, Extracted, extract, mirror_view, workers_for
from training.transforms.prepared import ClipCache
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

BATCH = 64
"""Clips per forward pass."""


def learnt_mirrored(config: Config, preprocess: Preprocess) -> bool:
    """Whether a run learns from mirrored clips, too: its classes are then those of a clip and of its mirror image."""
    if mirror_view(preprocess, config.view.frames) is None:
        return False
    return View(config.view.frames, config.view.steps, preprocess.layout, preprocess.score).mirrors


def class_probabilities(
    backbone: Backbone,
    datasets: Sequence[SkeletonDataset],
    preprocess: Preprocess,
    config: Config,
    device: Any = "cpu",
    advance: Callable[[int], None] | None = None,
    cache: ClipCache | None = None,
) -> Extracted:
    """Probabilities of the classes of every clip: the mean over three fixed crops, and over their mirror images where
    the network learnt from mirrored clips.

    Args:
        backbone: with a classifier; it is moved to the device.
        datasets: the clips.
        preprocess: makes the input of the network.
        config: what the network learnt with.
        device: where the network runs.
        advance: is given the number of clips done after every batch.
        cache: where prepared clips are kept.

    Returns:
        Rows (N, K); the labels are those that the clips have in their own datasets.
    """
    return extract(
        backbone.to(device),
        datasets,
        preprocess,
        config.view.frames,
        THREE_CROPS,
        BATCH,
        workers_for(datasets, config.run.workers, device),
        device,
        softmax=True,
        advance=advance,
        cache=cache,
        mirrored=learnt_mirrored(config, preprocess),
    )
