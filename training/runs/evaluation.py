"""What is measured of a run: probes while it goes on, figures beside their floors at its end."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dataengine.io.storage import write_durably
from training.backbones.base import Backbone
from training.config import Config
from training.data.subsets import random_subset
from training.data.types import Numbers, SkeletonDataset
from training.engine.history import History
from training.engine.loop import Probe
from training.evaluate.figures import figures
from training.evaluate.metrics import confusion, labelled
from training.evaluate.plots import confusion_matrix, training_curves
from training.evaluate.probes import LabelledFeatures, classification_result, knn
from training.evaluate.result import Result, plain
from training.methods.base import Method
from training.runs import splits
from training.runs.classify import class_probabilities
from training.runs.features import WHOLE_CLIP, extract_features, workers_for
from training.runs.floors import Floors
from training.runs.measures import measured
from training.runs.run import needs_of, type_of
from training.runs.sliding import validation_results
from training.transforms.prepared import ClipCache
from training.transforms.preprocess import Preprocess


@dataclass
class RunResult:
    """What `train` did.

    Attributes:
        folder: of the run.
        history: its log.
        measured_on: the validation clips, see `training.runs.splits.facts`; None where none of them has a label.
        results: figures of the validation clips.
        plots: files that were drawn.
    """

    folder: Path
    history: History
    measured_on: Mapping[str, Any] | None = None
    results: list[Result] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as summary.json has them."""
        log = [entry for entry in self.history.log if "loss" in entry]
        return {
            "run": str(self.folder),
            "steps": self.history.steps,
            "epochs": self.history.epochs,
            "loss": log[-1]["loss"] if log else None,
            "probes": [entry for entry in self.history.log if any(name.startswith("probe_") for name in entry)],
            "measured_on": self.measured_on,
            "results": [result.as_dict() for result in self.results],
            "plots": [path.name for path in self.plots],
        }


@dataclass(frozen=True)
class Evaluation:
    """What is measured while a run goes on and at its end.

    Attributes:
        config: with all defaults.
        preprocess: makes the input of the network.
        labels: the classes.
        train, val: datasets of the two splits.
        device: where the network runs.
    """

    config: Config
    preprocess: Preprocess
    labels: Sequence[str]
    train: Sequence[SkeletonDataset]
    val: Sequence[SkeletonDataset]
    device: Any

    @property
    def possible(self) -> bool:
        """Whether both splits have labelled clips."""
        both = (self.train, self.val)
        return bool(self.val) and all((splits.label_ids(self.labels, split) >= 0).any() for split in both)

    def of_frames(self, method: Method) -> list[Result]:
        """Figures of frames and events of a method that learns classes of frames."""
        frames = self.config.view.frames
        return validation_results(method, self.val, self.labels, self.preprocess, frames, self.device)

    def probe(self) -> Probe | None:
        """What the method's class says in `probes`, for the loop; None, with a warning, where nothing can be
        measured."""
        probes = [found for name in type_of(self.config).probes if (found := self._named_probe(name)) is not None]
        if not probes:
            message = "run.probe_every: the data has nothing of a split val or test to measure; nothing is probed"
            warnings.warn(message, stacklevel=3)
            return None
        return lambda method: {name: value for probe in probes for name, value in probe(method).items()}

    def _named_probe(self, name: str) -> Probe | None:
        """One of `Method.probes`; None where the data has nothing that it measures."""
        if name == "measures" and self.val:
            return lambda method: measured(method, self.val, self.preprocess, self.config, self.device)
        if name == "frames" and any(dataset.span_labels for dataset in self.val):
            return lambda method: {result.metric: result.value for result in self.of_frames(method)[:1]}
        if name == "knn" and self.possible:
            return lambda method: {"knn": self.neighbours(method).value}
        return None

    def neighbours(self, method: Method) -> Result:
        """Nearest neighbours of some validation clips among some training clips."""
        train_features, queries = (self._features(method, split) for split in (self.train, self.val))
        return knn(train_features, queries, len(self.labels))

    def _features(self, method: Method, split: Sequence[SkeletonDataset]) -> LabelledFeatures:
        part = random_subset(split, self.config.run.probe_clips)
        frames = self.config.view.frames
        workers = workers_for(part, self.config.run.workers, self.device)
        rows = extract_features(
            method.embed, part, self.preprocess, frames, WHOLE_CLIP, workers=workers, device=self.device
        )[0]
        return LabelledFeatures(rows, splits.label_ids(self.labels, part), splits.groups_of(part))

    def floors(self) -> Floors | None:
        """The floors of the figures; None where they are switched off."""
        if not self.config.run.floors:
            return None
        return Floors(
            self.config,
            self.preprocess,
            self.labels,
            self.train,
            self.val,
            self.device,
            ClipCache.of(self.config.run.cache, self.config.run.cache_gb),
            WHOLE_CLIP,
            self.config.run.probe_clips,
        )

    def finish(self, result: RunResult, method: Method) -> None:
        """Figures of a finished run: its classifier if it has one, neighbours, plots, summary.json."""
        folder = result.folder
        result.plots.append(training_curves(folder / "log.jsonl", folder / "curves.png", title=self.config.run.name))
        if needs_of(self.config).spans:
            result.measured_on = splits.facts(self.val) if self.val else None
            result.results += self.of_frames(method)
        elif self.possible:
            result.measured_on = splits.facts(self.val)
            floors = self.floors()
            if self.config.classifies:
                figure, plot = evaluate_classifier(
                    method.backbone, self.preprocess, self.config, self.labels, self.val, folder, self.device
                )
                result.results.append(figure if floors is None else floors.beside(figure))
                result.plots.append(plot)
            neighbours = self.neighbours(method)
            result.results.append(neighbours if floors is None else floors.beside(neighbours, "knn"))
            result.plots.append(figures(result.results, folder / "figures.png", self.config.run.name))
        write_durably(folder / "summary.json", (json.dumps(plain(result.to_dict()), indent=1) + "\n").encode())


def evaluate_classifier(
    backbone: Backbone,
    preprocess: Preprocess,
    config: Config,
    labels: Sequence[str],
    split: Sequence[SkeletonDataset],
    folder: Path,
    device: Any,
    cache: ClipCache | None = None,
) -> tuple[Result, Path]:
    """The network's own classifier on labelled clips (`class_probabilities`), and confusion.png of it."""
    scores = class_probabilities(backbone, split, preprocess, config, device, cache=cache)[0]
    ids: Numbers = splits.label_ids(labels, split)
    truth, predictions = labelled(ids, scores.argmax(1))
    title = "the network's own classifier"
    plot = confusion_matrix(predictions, truth, labels, folder / "confusion.png", title)
    details: dict[str, Any] = {"per class": per_class(predictions, truth, labels)}
    return classification_result("classifier", scores, ids, groups=splits.groups_of(split), **details), plot


def per_class(predictions: ArrayLike, truth: ArrayLike, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By class that has clips: how many, which share is right, and the class that the wrong ones are mostly taken for.

    Args:
        predictions, truth: (N,) indices of classes.
        names: of the classes.
    """
    counts = confusion(predictions, truth, len(names))
    found: dict[str, dict[str, Any]] = {}
    for number in np.flatnonzero(counts.sum(1)).tolist():
        wrong = counts[number].copy()
        wrong[number] = 0
        other = names[int(wrong.argmax())] if wrong.any() else None
        total, right = int(counts[number].sum()), int(counts[number, number])
        found[names[number]] = {"clips": total, "accuracy": right / total, "taken for": other}
    return found
