"""What a classifier says of every clip: its class and how probable that is, as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataengine.core.errors import TrainingError
from dataengine.core.progress import Progress
from dataengine.core.types import Bool
from training.data.sampler import joined_labels
from training.data.types import Numbers, SkeletonDataset, remark
from training.evaluate.metrics import labelled
from training.evaluate.probes import classification_result
from training.evaluate.result import Result
from training.runs import splits
from training.runs.classify import class_probabilities
from training.runs.evaluation import per_class
from training.runs.no_pose import keys_of, reasons, tell_of_no_pose
from training.runs.overlap import learnt_by
from training.runs.run import Run
from training.runs.tables import table_file, write_table


@dataclass(frozen=True)
class Predictions:
    """What was said of clips.

    Attributes:
        path: of the table, one row a clip: clip_id, label (as the data have it, null for none), predicted, probability
            (of the predicted class, in [0, 1]), reason (why nothing is predicted, null where something is; see
            `training.runs.no_pose`).
        counts: how many clips each class was said of.
        result: top-1 on the clips that show a pose and whose label the network knows, without those that it learnt
            from; None without such clips.
        no_pose: how many clips show no pose.
    """

    path: Path
    counts: dict[str, int]
    result: Result | None
    no_pose: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        result = None if self.result is None else self.result.as_dict()
        return {"predictions": str(self.path), "counts": self.counts, "no_pose": self.no_pose, "result": result}


def predict(
    run: Run,
    datasets: Sequence[SkeletonDataset],
    path: str | os.PathLike[str],
    device: Any = "cpu",
    progress: Progress | None = None,
) -> Predictions:
    """Write the class that a network says of every clip, see `training.runs.classify.class_probabilities`.

    Args:
        run: a classifier.
        datasets: the clips, in the joints of the run.
        path: of the table, .csv or .parquet; it is written whole or not at all.
        device: where the network runs.
        progress: what tells how far the work is. Default: nothing does.

    Raises:
        TrainingError: the run learnt no classes, or another ending of the file.
    """
    target = table_file(path, "predictions")
    if run.method.per_frame:
        raise TrainingError(
            f"{run.folder} ({run.config.method.name}) learnt what happens when, not classes of clips: write it with "
            f"`dataengine-train segment {run.folder} --to events.csv`"
        )
    if not run.config.classifies:
        raise TrainingError(
            f"{run.folder} ({run.config.method.name}) learnt no classes: train its network on with `dataengine-train "
            "finetune`, or name motions by texts with `dataengine-train zeroshot`"
        )
    with (progress or Progress()).step("predict", sum(map(len, datasets))) as advance:
        scores, _, shows_pose = class_probabilities(
            run.backbone, datasets, run.preprocess, run.config, device, advance, run.cache
        )
    write_predictions(target, datasets, run.labels, scores, shows_pose)
    best = scores.argmax(1)
    known = np.where(shows_pose, _to_measure(run, datasets), -1)
    result = None
    if (known >= 0).any():
        truth, said = labelled(known, best)
        details: dict[str, Any] = {"per class": per_class(said, truth, run.labels)}
        result = classification_result("classifier", scores, known, groups=splits.groups_of(datasets), **details)
    numbers, times = np.unique(best[shows_pose], return_counts=True)
    counts = {run.labels[number]: int(count) for number, count in zip(numbers, times)}
    return Predictions(target, counts, result, int((~shows_pose).sum()))


def _to_measure(run: Run, datasets: Sequence[SkeletonDataset]) -> Numbers:
    """(N,) classes of the clips that a figure is of, -1 for the others; with a note of those that were learnt from."""
    known = splits.label_ids(run.labels, datasets)
    learnt = learnt_by(run, datasets)
    if learnt.any():
        remark(
            f"{int(learnt.sum())} of {len(learnt)} clips were learnt from: the figure is of the others alone"
            if (known[~learnt] >= 0).any()
            else f"all clips with a known label ({int((known >= 0).sum())}) were learnt from: no figure is given"
        )
    known[learnt] = -1
    return known


def write_predictions(
    target: Path,
    datasets: Sequence[SkeletonDataset],
    labels: Sequence[str],
    scores: NDArray[np.floating[Any]],
    shows_pose: Bool,
) -> None:
    """Write the table of `Predictions`, whole or not at all; of clips that show no pose it says nothing.

    Args:
        target: the file.
        datasets: the clips.
        labels: names of the K classes.
        scores: (N, K) probabilities.
        shows_pose: (N,).
    """
    names, ids = joined_labels(datasets)
    keys, best, shown = keys_of(datasets), scores.argmax(1), shows_pose.tolist()
    tell_of_no_pose(keys, shows_pose, "no class is said of them")
    chances = scores[np.arange(len(best)), best]
    table = pl.DataFrame(
        {
            "clip_id": pl.Series(keys, dtype=pl.String),
            "label": pl.Series([names[label] if label >= 0 else None for label in ids.tolist()], dtype=pl.String),
            "predicted": pl.Series([labels[k] if s else None for k, s in zip(best.tolist(), shown)], dtype=pl.String),
            "probability": pl.Series(chances).set(~pl.Series(shows_pose), None),
            "reason": reasons(shows_pose),
        }
    )
    write_table(table, target)
