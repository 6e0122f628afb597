"""What a learnt encoder finds in a dataset: labels that look wrong, clips that look alike, and clips like no other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataengine.core.errors import TrainingError
from dataengine.core.progress import Progress
from dataengine.io.storage import write_durably
from training.data.types import Array, Numbers, SkeletonDataset
from training.evaluate.clip_sheet import Card, clip_sheet
from training.evaluate.logistic import fit, folds_of, unit
from training.runs.clip_features import ClipFeatures
from training.runs.no_pose import reasons
from training.runs.tables import table_file, write_table

FOLDS = 5
"""Parts of the labelled clips; each is judged by a classifier that learnt from the others."""
REPEATS = 2
"""Divisions into folds."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C of the classifiers that are tried."""
NEIGHBOURS = 10
"""Of a clip, whose mean distance says how far it lies from all others."""
ALIKE = 0.99
"""Cosine from which two clips are counted as alike."""
FAR = 3.0
"""Times the median distance from which a clip is counted as like no other."""
SHOWN = 100
"""Clips that the page draws at most."""
ROWS = 2048
"""Clips whose distances to all others are in memory at once."""


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        path: of the table, see `check`. page: the most doubtful clips, drawn; or None.
        clips: how many rows. doubted: labels of a doubt above 0.5. alike: clips whose nearest one has a cosine of at
            least `ALIKE`. far: clips that lie `FAR` times as far from their neighbours as clips usually do.
        unjudged: labelled clips whose class has fewer than `FOLDS` clips, so that no doubt is given. labelled: clips
        that show a pose and have a label.
    """

    path: Path
    page: Path | None
    clips: int
    doubted: int
    alike: int
    far: int
    unjudged: int
    labelled: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "path": str(self.path), "page": None if self.page is None else str(self.page)}


def check(
    features: ClipFeatures,
    path: str | os.PathLike[str],
    datasets: Sequence[SkeletonDataset] = (),
    joints_of: Callable[[Any], Any] | None = None,
    axes: tuple[int, int, bool] = (0, 1, True),
    margins: Array | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Findings:
    """Write what features say about every clip, the most doubtful labels first.

    Columns: clip_id; label, keep, why (empty, for people to fill in: `dataengine build` reads them, see its key
    curate.annotations); current_label; doubt (1 less the probability of that label by what the other clips tell; null
    without a label, or where its class has fewer than `FOLDS` clips); proposed and probability (the likeliest label,
    where it is another one); text_margin (see `margins`; only where it is given); nearest and similarity (the clip most
    alike, and their cosine); outlier (mean distance to the `NEIGHBOURS` nearest clips, as a multiple of the median over
    all clips); reason (why nothing is said of a clip, null for others; see `training.runs.no_pose`). Such clips come
    last.

    Args:
        features: of the clips, with the labels that the data give.
        path: .csv or .parquet, written whole or not at all; the page is the same name with .html.
        datasets: where the clips are; without them there is no page.
        joints_of: makes (M, T, V, C) joints of a sequence, drawn along `axes`: across, up, and whether up is negative.
        margins: (N,) cosine of each motion and the texts of its label less that of the best other label; NaN without a
            label.
        seed: of the folds.
        progress: tells how far the work is.

    Raises:
        TrainingError: another ending, or fewer than two clips.
    """
    target, told = table_file(path, "findings"), progress or Progress()
    every, features = features, features.with_pose()
    if len(features.clip_ids) < 2:
        count = len(features.clip_ids)
        raise TrainingError(
            f"{count or 'no'} clip{'s' * (count != 1)} with a pose: to compare clips, give at least two"
        )
    table = _judged(features, seed, told)
    if margins is not None:
        table = table.with_columns(text_margin=pl.Series(margins[every.shows_pose]).fill_nan(None))
    table = table.hstack(_neighbours(features, told))
    table = table.sort("doubt", descending=True, nulls_last=True, maintain_order=True)
    table = pl.concat([table, _of_no_pose(every)], how="diagonal")
    write_table(table.with_columns(pl.selectors.float().round(6)), target)
    page, doubtful = None, table.filter(pl.col("doubt").is_not_null()).head(SHOWN)
    if datasets and joints_of is not None and len(doubtful):
        page = target.with_suffix(".html")
        cards = _cards(datasets, doubtful, joints_of)
        heading = f"The {len(cards)} most doubtful labels of {len(table)} clips"
        write_durably(page, clip_sheet(heading, cards, datasets[0].skeleton, axes).encode())
    return Findings(
        path=target,
        page=page,
        clips=len(table),
        doubted=int((table["doubt"] > 0.5).sum()),
        alike=int((table["similarity"] >= ALIKE).sum()),
        far=int((table["outlier"] >= FAR).sum()),
        unjudged=len(features.labels) - features.labels.count(None) - table["doubt"].count(),
        labelled=len(features.labels) - features.labels.count(None),
    )


def _of_no_pose(features: ClipFeatures) -> pl.DataFrame:
    """clip_id, current_label and reason of the clips that show no pose."""
    facts = {
        "clip_id": pl.Series(features.clip_ids, dtype=pl.String),
        "current_label": pl.Series(features.labels, dtype=pl.String),
        "reason": reasons(features.shows_pose),
    }
    return pl.DataFrame(facts).filter(pl.col("reason").is_not_null())


def _judged(features: ClipFeatures, seed: int, progress: Progress) -> pl.DataFrame:
    """clip_id, the columns for people, and what the other clips tell of the labels."""
    names = sorted({label for label in features.labels if label is not None})
    ids = np.array([-1 if label is None else names.index(label) for label in features.labels], np.int64)
    found, rows = _probabilities(features.rows, ids, len(names), seed, progress), np.arange(len(ids))
    best = np.where(np.isfinite(found).all(1), np.nan_to_num(found).argmax(1), ids) if names else ids
    doubt = 1 - np.where(ids >= 0, found[rows, ids], np.nan) if names else np.full(len(ids), np.nan)
    other = best != ids
    return pl.DataFrame(
        {
            "clip_id": pl.Series(features.clip_ids, dtype=pl.String),
            **{name: pl.Series([None] * len(ids), dtype=pl.String) for name in ("label", "keep", "why")},
            "current_label": pl.Series(features.labels, dtype=pl.String),
            "doubt": pl.Series(doubt).fill_nan(None),
            "proposed": pl.Series([names[k] if o else None for k, o in zip(best, other)], dtype=pl.String),
            "probability": pl.Series([found[n, best[n]] if other[n] else None for n in rows], dtype=pl.Float64),
        }
    )


def _probabilities(rows: Array, ids: Numbers, num_classes: int, seed: int, progress: Progress) -> Array:
    """(N, K) probabilities of labels by others than the clip itself; NaN where it cannot be judged.

    The normalised geometric mean of two judges that fail differently: logistic regressions that did not learn from the
    clip, and the shares of the labels among its nearest labelled neighbours. Of labels
    planted wrong, they find together about as many as the better one of them alone, whichever that is (benchmark
    `loop`).
    """
    counts = np.bincount(ids[ids >= 0], minlength=num_classes)
    judged = (ids >= 0) & (counts[np.maximum(ids, 0)] >= FOLDS) if num_classes else np.zeros(len(ids), bool)
    if (counts >= FOLDS).sum() < 2:
        return np.full((len(ids), num_classes), np.nan)
    found = np.sqrt(
        _out_of_fold(rows, ids, judged, num_classes, seed, progress) * _votes(rows, ids, judged, num_classes)
    )
    found /= found.sum(1, keepdims=True)
    found[(ids >= 0) & ~judged] = np.nan
    return np.asarray(found)


def _out_of_fold(rows: Array, ids: Numbers, judged: Any, num_classes: int, seed: int, progress: Progress) -> Array:
    """(N, K) by logistic regressions; clips that are not `judged` by those that learnt from all others but a fold."""
    sums = np.zeros((len(ids), num_classes))
    free, where = ~judged, np.flatnonzero(judged)
    strength = _surest(rows[judged], ids[judged], num_classes, seed)
    with progress.step("labels", REPEATS * FOLDS) as advance:
        for repeat in range(REPEATS):
            folds = folds_of(ids[where], FOLDS, seed + repeat)
            for fold in range(FOLDS):
                held = where[folds == fold]
                model = fit(rows[where[folds != fold]], ids[where[folds != fold]], num_classes, strength)
                sums[held] += _softmax(model.scores(rows[held])) / REPEATS
                if free.any():
                    sums[free] += _softmax(model.scores(rows[free])) / (REPEATS * FOLDS)
                advance(1)
    return sums


def _votes(rows: Array, ids: Numbers, judged: Any, num_classes: int) -> Array:
    """(N, K) shares of the labels among the `NEIGHBOURS` nearest judged clips, with a tenth of a vote more each."""
    values, where = unit(rows).astype(np.float32), np.flatnonzero(judged)
    near, votes = min(NEIGHBOURS, len(where) - 1), np.full((len(ids), num_classes), 0.1)
    for start in range(0, len(ids), ROWS):
        cosines = values[start : start + ROWS] @ values[where].T
        cosines[where[None] == np.arange(start, start + len(cosines))[:, None]] = -np.inf
        closest = np.argpartition(-cosines, near - 1, axis=1)[:, :near]
        for neighbour in ids[where[closest]].T:
            votes[np.arange(start, start + len(cosines)), neighbour] += 1
    return np.asarray(votes / votes.sum(1, keepdims=True))


def _surest(rows: Array, ids: Numbers, num_classes: int, seed: int) -> float:
    """The C whose probabilities for a part of the clips that was not learnt from have the least cross entropy.

    Accuracy says nothing of how sure a classifier is, and doubts are probabilities.
    """
    held = folds_of(ids, FOLDS, seed) == 0

    def loss(strength: float) -> float:
        scores = fit(rows[~held], ids[~held], num_classes, strength).scores(rows[held])
        return float(-np.log(np.maximum(_softmax(scores)[np.arange(held.sum()), ids[held]], 1e-12)).mean())

    return min(STRENGTHS, key=loss)


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _neighbours(features: ClipFeatures, progress: Progress) -> pl.DataFrame:
    """Of every clip: the nearest other, their cosine, and the mean distance to its neighbours over the median's."""
    values = unit(features.rows).astype(np.float32)
    count, near = len(values), min(NEIGHBOURS, len(values) - 1)
    nearest, similarity, distance = np.zeros(count, np.int64), np.zeros(count), np.zeros(count)
    with progress.step("neighbours", count) as advance:
        for start in range(0, count, ROWS):
            cosines = values[start : start + ROWS] @ values.T
            part = np.arange(len(cosines))
            cosines[part, start + part] = -np.inf
            nearest[start : start + ROWS] = cosines.argmax(1)
            similarity[start : start + ROWS] = cosines.max(1)
            closest = np.partition(cosines, count - near, axis=1)[:, count - near :].astype(np.float64)
            distance[start : start + ROWS] = np.sqrt(np.maximum(2 - 2 * closest, 0)).mean(1)
            advance(len(cosines))
    usual = float(np.median(distance))
    return pl.DataFrame(
        {
            "nearest": pl.Series([features.clip_ids[n] for n in nearest], dtype=pl.String),
            "similarity": np.minimum(similarity, 1.0),
            "outlier": distance / usual if usual > 0 else np.ones(count),
        }
    )


def _cards(datasets: Sequence[SkeletonDataset], rows: pl.DataFrame, joints_of: Callable[[Any], Any]) -> list[Card]:
    places = {key: (part, n) for part in datasets for n, key in enumerate(part.keys)}
    cards = []
    for row in rows.iter_rows(named=True):
        part, n = places[row["clip_id"]]
        facts = f"said to be {row['current_label']}, doubt {row['doubt']:.2f}"
        if row["proposed"] is not None:
            facts += f"; looks like {row['proposed']} ({row['probability']:.2f})"
        cards.append(Card(row["clip_id"], facts, joints_of(part.read([n])[0])))
    return cards
