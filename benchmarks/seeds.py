"""Long benchmarks seed by seed: each seed's figures are kept beside the results, and a run that was stopped goes on.
Not a benchmark."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import RESULTS, commit, cpu_seconds, hardware

from training import create_backbone, create_method
from training.backbones.base import Backbone
from training.data.loader import DataLoader
from training.data.types import Numbers, SkeletonDataset
from training.engine.loop import fit
from training.engine.settings import TrainSettings
from training.evaluate.confidence_intervals import over_seeds, paired
from training.methods.base import Method
from training.runs.features import THREE_CROPS, extract_features
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

WORK = Path(os.environ.get("DATAENGINE_BENCHMARKS", Path(tempfile.gettempdir()) / "dataengine-benchmarks"))
"""Checkpoints of seeds that are not done yet."""


def seeds(
    name: str, protocol: Mapping[str, Any], numbers: Iterable[int], job: Callable[[int, Path], dict[str, Any]]
) -> list[dict[str, Any]]:
    """What `job(seed, folder)` gives for each seed; those that were run before with the same protocol are read, not
    run.

    Args:
        name: of the benchmark and the part of it.
        protocol: everything that decides the figures; another protocol is another set of files.
        job: trains and measures; may keep checkpoints in the folder.

    A seed's `cpu_s` is that of the run that ended it; work restored from checkpoints is not counted.
    """
    found = []
    for seed in numbers:
        path = place(name, protocol, seed)
        if not path.exists():
            wall, cpu = time.time(), cpu_seconds()
            measured = job(seed, WORK / path.stem)
            facts = {
                "cpu_s": round(cpu_seconds() - cpu, 1),
                "wall_s": round(time.time() - wall, 1),
                "hardware": hardware(),
                "commit": commit(),
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            partial.write_text(
                json.dumps({"seed": seed, **measured, **facts, "protocol": dict(protocol)}, indent=1, sort_keys=True)
                + "\n"
            )
            partial.replace(path)
            print(f"{path.stem}: {measured}", flush=True)
        found.append(json.loads(path.read_text()))
    return found


def place(name: str, protocol: Mapping[str, Any], seed: int) -> Path:
    """The file that a seed's figures are kept in."""
    mark = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]
    return RESULTS / "seeds" / f"{name}-{mark}-{seed}.json"


def kept(name: str, protocol: Mapping[str, Any], numbers: Iterable[int]) -> list[int]:
    """The seeds that were run before with this protocol."""
    return [seed for seed in numbers if place(name, protocol, seed).exists()]


def spread(runs: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Mean and 95 % interval over seeds of one figure, and each."""
    values = [run[key] for run in runs]
    if len(values) < 2:
        return {"mean": values[0], "each": values}
    interval = over_seeds(values)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "each": values}


def difference(runs: Sequence[Mapping[str, Any]], first: str, second: str) -> dict[str, Any]:
    """Mean and 95 % interval of `first` - `second`, paired by seed."""
    interval = paired([run[first] for run in runs], [run[second] for run in runs])
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def network(
    dataset: SkeletonDataset,
    seed: int,
    num_classes: int = 0,
    channels: int = 2,
    channels_base: int = 32,
    name: str = "unik",
) -> Backbone:
    """A network of the benchmarks, initialised by the seed; by default UNIK of half width."""
    torch.manual_seed(seed)
    options = {"people": 1, "channels_base": channels_base}
    backbone: Backbone = create_backbone(name, num_classes, dataset.skeleton, channels, **options)
    return backbone


def tmor_options(table: Mapping[str, Any]) -> dict[str, Any]:
    """Options of T-MOR from the flat table of a protocol, whose names are part of the names of result files."""
    groups = {"queue": {"queue": "size", "momentum": "momentum"}}
    groups["projector"] = {name: name for name in ("hidden", "width", "layers")}
    moved = {old: (group, new) for group, names in groups.items() for old, new in names.items()}
    options: dict[str, Any] = {name: value for name, value in table.items() if name not in moved}
    for old, (group, new) in moved.items():
        if old in table:
            options.setdefault(group, {})[new] = table[old]
    return options


def supervise(
    dataset: SkeletonDataset,
    preprocess: Preprocess,
    view: View,
    settings: TrainSettings,
    seed: int,
    folder: Path,
    batch: int = 32,
    smoothing: float = 0.1,
    **options: Any,
) -> Backbone:
    """A network trained with labels; `options` of `network`, or `backbone=` one to go on with."""
    backbone = options.pop("backbone", None) or network(dataset, seed, len(dataset.labels), **options)
    method = create_method("supervised", backbone=backbone, smoothing=smoothing)
    train(method, dataset, preprocess, view, settings, seed, folder, batch)
    return backbone


def train(
    method: Method,
    dataset: SkeletonDataset,
    preprocess: Preprocess,
    view: View,
    settings: TrainSettings,
    seed: int,
    folder: Path,
    batch: int = 32,
) -> Method:
    """A method trained on a dataset, from its checkpoint in the folder where there is one; the last epoch is what
    counts."""
    loader = DataLoader(dataset, method.sample_transform(preprocess, view), batch, seed=seed)
    fit(method, loader, settings, folder)
    return method


def mirrored(dataset: SkeletonDataset, motion: torch.Tensor) -> torch.Tensor:
    """Motions (N, C, T, V, M) mirrored: left and right joints exchanged, x negated."""
    found = motion[:, :, :, list(dataset.skeleton.flip)]
    found[:, 0] = -found[:, 0]
    return found


def predict(backbone: Backbone, dataset: SkeletonDataset, preprocess: Preprocess, frames: int) -> np.ndarray:
    """Probabilities (N, K), the mean over three fixed parts of each clip and their mirror images."""

    def both(motion: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.stack([backbone(motion), backbone(mirrored(dataset, motion))]), 2).mean(0)

    backbone.eval()
    return extract_features(both, dataset, preprocess, frames, THREE_CROPS)[0]


def accuracy(probabilities: np.ndarray, labels: Numbers) -> float:
    """Top-1 in per cent."""
    return round(100 * float((probabilities.argmax(1) == labels).mean()), 3)
