"""What a method says of validation clips itself, and which methods and configurations there are for a purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dataengine.core import settings
from dataengine.core.errors import DataEngineError
from training import registry
from training.config import Config, available, load
from training.data.loader import DataLoader
from training.data.types import SkeletonDataset
from training.methods.base import Method
from training.transforms.preprocess import Preprocess
from training.transforms.view import View


@torch.no_grad()
def measured(
    method: Method, val: Sequence[SkeletonDataset], preprocess: Preprocess, config: Config, device: Any = "cpu"
) -> dict[str, float]:
    """`Method.measures` of all validation clips, the mean over clips; the method is left as it was.

    Views are those of no augmentation, partners those of the first epoch: equal networks have equal measures.

    Args:
        method: what is measured.
        val: the clips.
        preprocess: makes the input of the network.
        config: of the run.
        device: where the method runs.
    """
    view = View(config.view.frames, "none", preprocess.layout, preprocess.score)
    loader = DataLoader(
        val,
        method.sample_transform(preprocess, view),
        config.run.batch,
        config.run.seed,
        shuffle=False,
        partners=method.partners,
    )
    before, sums, clips = method.training, dict[str, float](), 0
    dtype = next(method.parameters()).dtype
    method.eval()
    for batch in loader:
        count = len(batch["label"])
        moved = {name: _moved(value, device, dtype) for name, value in batch.items()}
        for name, value in method.measures(moved).items():
            sums[name] = sums.get(name, 0.0) + count * float(value)
        clips += count
    method.train(before)
    return {name: value / max(clips, 1) for name, value in sums.items()}


def _moved(value: Any, device: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else None)


def methods_without_labels() -> list[str]:
    """Names of methods that learn from clips without labels, by what they say they need with their defaults."""
    classes = {name: registry.find("methods", name) for name in registry.names("methods")}
    needs = {name: cls.needs(registry.defaults(cls)) for name, cls in classes.items()}
    return [name for name, need in needs.items() if not need.labels and not need.spans and not need.networks]


def methods_with_projection() -> list[str]:
    """Names of methods whose motions have a projection beside the features."""
    return [name for name in registry.names("methods") if registry.find("methods", name).has_projection]


def configurations_with_texts(videos: bool = False) -> list[str]:
    """Names of configurations whose method learns beside texts, with `videos` also beside stored features."""
    found = []
    for name in available():
        try:
            config = load(name)
            cls = registry.find("methods", config.method.name)
            needs = cls.needs(settings.merge(registry.defaults(cls), config.method.options))
        except DataEngineError:  # of a package or a file that cannot be used
            continue
        if needs.texts or needs.text_networks or (videos and needs.features):
            found.append(name)
    return found
