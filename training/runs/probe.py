"""What a trained network knows: probes of a finished run, beside the floors that figures need.

Each function gives results and leaves pictures in the run's folder; `report` writes both down as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dataengine.core.errors import TrainingError
from dataengine.io.storage import write_durably
from training import create_backbone
from training.backbones.base import Backbone
from training.config import DataTable
from training.data.loader import Feed
from training.data.types import Array, Source
from training.evaluate import logistic
from training.evaluate.joints import attention
from training.evaluate.plots import confusion_matrix, embedding
from training.evaluate.probes import Labelled, few_shot, knn, scored
from training.evaluate.result import Result, plain, table
from training.runs import splits as sides
from training.runs.features import THREE, Rows, calibrate, encode, joint_weights
from training.runs.train import Run, classifier

STRENGTH = 0.3
"""C of the linear probe, fixed beforehand."""
SHOWN = 2000
"""Clips of a picture of the features."""
BATCH = 64


@dataclass
class Report:
    """What was measured, on what.

    Attributes:
        verb: probe, zeroshot or retrieve.
        run: the network.
        data: names of the datasets.
        measured_on: see `training.runs.splits.facts`.
        results: the figures.
        pictures: files that were drawn.
    """

    verb: str
    run: Run
    data: list[str]
    measured_on: Mapping[str, Any]
    results: list[Result] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "verb": self.verb,
            "run": str(self.run.folder),
            "step": self.run.step,
            "finished": self.run.done,
            "trained on": self.run.facts["data"],
            "data": self.data,
            "measured_on": dict(self.measured_on),
            "results": [result.as_dict() for result in self.results],
            "pictures": [str(path) for path in self.pictures],
        }

    def write(self) -> Path:
        """VERB.json in the run's folder."""
        path = self.run.folder / f"{self.verb}.json"
        write_durably(path, (json.dumps(plain(self.to_dict()), indent=1, ensure_ascii=False) + "\n").encode())
        return path

    def text(self) -> str:
        """A table of the results, and where the pictures lie."""
        return table(self.results) + "".join(
            f"\n{path}" for path in [*self.pictures, self.run.folder / f"{self.verb}.json"]
        )


def side(
    run: Run,
    data: Sequence[str],
    val: Sequence[str],
    which: Literal["train", "val"],
    split: str | None = None,
    wants: Sequence[str] = (),
) -> list[Source]:
    """One side to measure on, in the joints that the run's network takes.

    Args:
        run: the network.
        data, val: paths; without any the run's own.
        which: the side.
        split: which clips; default train, or of val and test the one there is; "" all.
        wants: stored features to read.

    Raises:
        TrainingError, DatasetError: nothing is named, or it cannot be opened.
    """
    table = run.config.data
    if data or val:
        used = {"train": list(data) or table.train, "val": list(val), "skeleton": sides.known_layout(run.skeleton)}
        table = DataTable(**used, options=table.options, where=None if data else table.where)  # type: ignore[arg-type]
    if which == "train" or split is not None:
        return sides.open_side(table, which, wants, split)
    found = sides.open_val(table, wants)
    if found is None:
        raise TrainingError(
            f"{', '.join(table.train)}: there are no clips of a split val or test; give --val PATH, or --val-split (--split) NAME"
        )
    return found[0]


def classes_of(*each: Sequence[Source]) -> tuple[str, ...]:
    """The classes of several sides together.

    Raises:
        TrainingError: a side without any labelled clip.
    """
    names = Feed([source for side in each for source in side], shuffle=False).labels
    for side in each:
        if not (sides.label_ids(names, side) >= 0).any():
            raise TrainingError(f"{sides.named(side)}: no clip has a label, and this is measured by labels")
    return names


def features(run: Run, function: Any, side: Sequence[Source], device: Any) -> Rows:
    """(N, D) of a function of the run's network, the mean over three fixed parts of a clip."""
    workers = run.config.run.workers if sum(map(len, side)) > 2000 else 0
    return encode(function, side, run.prepare, run.frames, THREE, BATCH, workers, device)[0]


def probe(
    run: Run,
    train: Sequence[Source],
    test: Sequence[Source],
    shares: Sequence[float] = (),
    seeds: int = 5,
    neighbours: bool = False,
    device: str = "cpu",
    beside: Run | None = None,
) -> Report:
    """A linear probe of frozen features, beside that of a network of the same shape as it was drawn.

    Args:
        run: the network.
        train, test: the two sides.
        shares: of the training labels, each probed `seeds` times on another part of them.
        seeds: how many parts.
        neighbours: whether nearest neighbours are asked, too.
        device: where the network runs.
        beside: another classifier of the same classes, such as one on bones, whose probabilities are added.

    Raises:
        TrainingError: a side without labels, clips that the network does not take, or a second run of other classes.
    """
    names = classes_of(train, test)
    report = Report("probe", run, [source.name for source in (*train, *test)], sides.facts(test))
    run.method.to(device)
    ids = [sides.label_ids(names, side) for side in (train, test)]
    drawn = drawn_network(run, train, device)
    known, asked = (
        Labelled(features(run, run.method.embed, side, device), own) for side, own in zip((train, test), ids)
    )
    floor, ceiling = (
        Labelled(features(run, drawn.features, side, device), own) for side, own in zip((train, test), ids)
    )
    result, scores = _linear(known, asked, len(names))
    report.results.append(result.against(random_network=_linear(floor, ceiling, len(names))[0].value))
    if neighbours:
        report.results.append(
            knn(known, asked, len(names)).against(random_network=knn(floor, ceiling, len(names)).value)
        )
    if shares:
        some = [few_shot(*pair, len(names), tuple(shares), range(seeds)) for pair in ((known, asked), (floor, ceiling))]
        report.results += [own.against(random_network=other.value) for own, other in zip(*some)]
    told = scores.argmax(1)
    if run.config.classifies and (sides.label_ids(run.labels, test) >= 0).any():
        shown, drawing = classifier(run.backbone, run.prepare, run.frames, run.labels, test, run.folder, device)
        report.results.append(shown)
        report.pictures.append(drawing)
    if beside is not None:
        report.results.append(two_streams(run, beside, test, device))
    picture = "probe_confusion.png" if run.config.classifies else "confusion.png"
    report.pictures.append(confusion_matrix(told, asked.labels, names, run.folder / picture, "linear probe"))
    if len(asked.labels) >= 5:
        report.pictures.append(embedding(asked.features, asked.labels, names, run.folder / "tsne.png", most=SHOWN))
    weights = joint_weights(run.backbone, test, run.prepare, run.frames)
    report.pictures.append(attention(weights, run.skeleton, run.folder / "joints.png", "which joints decide"))
    return report


def two_streams(run: Run, beside: Run, test: Sequence[Source], device: str = "cpu") -> Result:
    """Two classifiers whose probabilities are added, each over three fixed parts of a clip: joints and bones of UNIK (section 4.1).

    Raises:
        TrainingError: one is no classifier, or they were trained on other classes.
    """
    if not (run.config.classifies and beside.config.classifies) or run.labels != beside.labels:
        raise TrainingError(
            f"{run.folder} and {beside.folder} are not two classifiers of the same classes; train both supervised, on one data"
        )
    said = [
        encode(one.backbone.to(device), test, one.prepare, one.frames, THREE, device=device, softmax=True)[0]
        for one in (run, beside)
    ]
    return scored(f"classifier and {beside.folder.name}", said[0] + said[1], sides.label_ids(run.labels, test))


def _linear(known: Labelled, asked: Labelled, classes: int) -> tuple[Result, Array]:
    """The probe and its scores (N, K)."""
    scores = logistic.fit(known.features, known.labels, classes, STRENGTH).scores(asked.features)
    more = {"strength": STRENGTH, "training clips": len(known.labels)}
    often = float((asked.labels == np.bincount(known.labels).argmax()).mean())
    return scored("linear probe", scores, asked.labels, **more).against(largest_class=often), scores


def drawn_network(run: Run, train: Sequence[Source], device: Any = "cpu") -> Backbone:
    """A network of the run's shape as it is drawn, the statistics of its norms measured on the training clips."""
    torch.manual_seed(run.config.run.seed + 1)
    made: Any = create_backbone(run.config.backbone.name, 0, run.skeleton, run.channels, **run.config.backbone.options)  # type: ignore[arg-type]
    backbone: Backbone = made.to(device)
    return calibrate(backbone, sides.thinned(train, SHOWN), run.prepare, run.frames, device)
