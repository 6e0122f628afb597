"""Proposals for the clips that nobody has labelled, and doubts about labels that were given."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataengine.core.errors import TrainingError
from dataengine.core.progress import Progress
from training.data.types import Array, Numbers
from training.evaluate.annotator import fit_annotator
from training.evaluate.metrics import micro_f1
from training.evaluate.result import Result, of_seeds
from training.runs.clip_features import ClipFeatures
from training.runs.no_pose import reasons
from training.runs.tables import table_file, write_table

FOLDS = 5
"""Parts of the labelled clips; each is judged by annotators that learnt from the others."""
REPEATS = 2
"""Divisions into folds."""


@dataclass(frozen=True)
class Proposals:
    """What an annotator said.

    Attributes:
        path: of the table, see `annotate`. proposed: how many clips got proposals. doubted: how many given labels the
            others speak against.
        seconds: that the last training took.
        result: micro-F1 on labelled clips that were held out; None where there were too few.
    """

    path: Path
    proposed: int
    doubted: int
    seconds: float
    result: Result | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "proposals": str(self.path),
            "proposed": self.proposed,
            "doubted": self.doubted,
            "seconds": self.seconds,
            "result": None if self.result is None else self.result.as_dict(),
        }


def annotate(
    features: ClipFeatures,
    labels: Mapping[str, Sequence[str]],
    path: str | os.PathLike[str],
    threshold: float = 0.5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Proposals:
    """Learn from what people labelled, and write a row for every clip.

    Columns: clip_id; given (what people wrote, labels separated by `;`, null for none); proposed (the same form, null
    where no label is probable enough); probability (of the likeliest label); margin (its distance to the second: small
    ones are worth a look first); doubt (for labelled clips in [0, 1]: how probable annotators that did not learn from
    the clip find another answer than the given one; null for others), reason (why nothing is proposed, null for others;
    see `training.runs.no_pose`).

    Where every labelled clip has one label, exactly one is proposed; else any number, each of at least `threshold`.

    Args:
        features: of all clips.
        labels: clip_id -> its labels.
        path: .csv or .parquet; written whole or not at all.
        threshold: least probability of a proposed label where clips have several.
        seed: of the annotators and the folds.
        progress: tells how far the work is.

    Raises:
        TrainingError: another ending, a clip that is not there, or fewer than two different labels.
    """
    target = table_file(path, "proposals")
    where = features.index()
    if unknown := [clip_id for clip_id in labels if clip_id not in where]:
        raise TrainingError(f"{len(unknown)} labelled clips have no features, such as {unknown[0]!r}")
    usable = {clip_id: some for clip_id, some in labels.items() if features.shows_pose[where[clip_id]]}
    check_labels(usable)
    names = sorted({label for some in usable.values() for label in some})
    chosen = np.array([where[clip_id] for clip_id in usable], np.int64)
    truth = np.array([[name in some for name in names] for some in usable.values()], bool)
    exclusive = bool((truth.sum(1) == 1).all())
    begun = time.monotonic()
    annotator = fit_annotator(features.rows[chosen], truth, exclusive, seed)
    seconds = time.monotonic() - begun
    probabilities = annotator.probabilities(features.rows)
    proposed = annotator.propose(features.rows, threshold)
    outside, result = _held_out(features.rows[chosen], truth, exclusive, threshold, seed, progress or Progress())
    doubt = np.full(len(where), np.nan)
    doubt[chosen] = _doubt(outside, truth, exclusive)
    given = {clip_id: ";".join(some) for clip_id, some in labels.items()}
    ordered = np.sort(probabilities, axis=1)
    texts = [";".join(names[k] for k in np.flatnonzero(row)) or None for row in proposed]
    said = {
        "proposed": pl.Series(texts, dtype=pl.String),
        "probability": pl.Series(ordered[:, -1]),
        "margin": pl.Series(ordered[:, -1] - ordered[:, -2]),
        "doubt": pl.Series(doubt).fill_nan(None),
    }
    gone = pl.Series(~features.shows_pose)
    table = pl.DataFrame(
        {
            "clip_id": pl.Series(features.clip_ids, dtype=pl.String),
            "given": pl.Series([given.get(clip_id) for clip_id in features.clip_ids], dtype=pl.String),
            **{name: values.set(gone, None) for name, values in said.items()},
            "reason": reasons(features.shows_pose),
        }
    )
    write_table(table, target)
    proposed_for = int(features.shows_pose.sum()) - len(usable)
    return Proposals(target, proposed_for, int((doubt > 0.5).sum()), round(seconds, 3), result)


def check_labels(labels: Mapping[str, Sequence[str]]) -> None:
    """Refuse labels from which nothing can be learnt.

    Args:
        labels: clip_id -> its labels.

    Raises:
        TrainingError: fewer than two different labels.
    """
    names = {label for some in labels.values() for label in some}
    if len(names) < 2:
        raise TrainingError(
            f"{len(labels)} labelled clips with {len(names)} different labels: an annotator learns from at least two; "
            "fill in the column label of more clips"
        )


def _held_out(
    rows: Array, truth: Array, exclusive: bool, threshold: float, seed: int, progress: Progress
) -> tuple[Array, Result | None]:
    """Probabilities (N, K) of labelled clips by annotators that did not learn from them, and their micro-F1.

    NaN where there are too few clips.
    """
    if len(rows) < 2 * FOLDS:
        return np.full(truth.shape, np.nan), None
    sums, scores = np.zeros(truth.shape), []
    with progress.step("held out", REPEATS * FOLDS) as advance:
        for repeat in range(REPEATS):
            folds = _folds(len(rows), seed + repeat)
            found = np.zeros(truth.shape)
            for fold in range(FOLDS):
                held = folds == fold
                found[held] = fit_annotator(rows[~held], truth[~held], exclusive, seed + repeat).probabilities(
                    rows[held]
                )
                advance(1)
            sums += found / REPEATS
            best = np.arange(truth.shape[1]) == found.argmax(1)[:, None]
            scores.append(micro_f1(best if exclusive else found >= threshold, truth))
    commonest = truth.mean(0)
    guess = np.tile(np.arange(len(commonest)) == commonest.argmax() if exclusive else commonest >= 0.5, (len(rows), 1))
    result = of_seeds("annotator, labelled clips held out", "micro-F1", scores, details={"clips": len(rows)})
    return sums, result.with_baselines(commonest=micro_f1(guess, truth))


def _folds(rows: int, seed: int) -> Numbers:
    return np.asarray(np.random.default_rng(seed).permutation(rows) % FOLDS, np.int64)


def _doubt(probabilities: Array, truth: Array, exclusive: bool) -> Array:
    """(N,) how probable it is that a label is missing or too much: of the least probable cell of the given answer."""
    agreed = np.where(truth, probabilities, 1 - probabilities)
    if exclusive:
        agreed = np.where(truth, probabilities, 1.0)
    return np.asarray(1 - agreed.min(1))
