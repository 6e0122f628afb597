"""An annotation plan: the clips that stand for all others, in the order in which people should label them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataengine.core.errors import TrainingError, suggestion
from dataengine.core.progress import Progress
from dataengine.io.storage import check_place, write_durably
from training.data.types import Numbers, SkeletonDataset
from training.evaluate.clip_sheet import Card, clip_sheet
from training.evaluate.logistic import unit
from training.evaluate.ranking import Ranking, by_classifier, by_k_means, covered, facility_location, k_centres
from training.runs.clip_features import ClipFeatures
from training.runs.tables import write_table

WAYS: Mapping[str, str] = {
    "facility-location": "the clip that brings all clips nearest to a ranked one, on average (the default)",
    "k-means": "the clips nearest to the centres of k-means, those of large clusters first",
    "k-centre": "the clip farthest from all before it (exact)",
    "classifier": "the clip that a classifier is surest to be unlike those before it (Motion-R3)",
    "random": "any clip: what the others are compared with",
}
SHOWN = 200
"""Clips that the page draws at most."""


@dataclass(frozen=True)
class AnnotationPlan:
    """What is to be annotated.

    Attributes:
        path: of the table, see `write_plan`. page: the drawn clips, or None.
        clips: how many it names. radius: the largest distance from a clip of the data to the nearest of them.
        random_radius: the same of as many clips drawn at random (the mean of five draws).
    """

    path: Path
    page: Path | None
    clips: int
    radius: float
    random_radius: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "plan": str(self.path),
            "page": None if self.page is None else str(self.page),
            "clips": self.clips,
            "radius": self.radius,
            "random_radius": self.random_radius,
        }


def rank(
    features: ClipFeatures,
    count: int,
    way: str = "facility-location",
    known: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Ranking:
    """Rank clips by how well the first of them stand for all.

    Args:
        features: of the clips.
        count: how many are ranked.
        way: one of WAYS.
        known: ids of clips that are annotated already: they are not ranked again, and what is like them comes late.
        seed: of random draws and of the classifier.
        progress: tells how far the work is.

    Raises:
        TrainingError: another way, a clip that is not there, or nothing to rank.
    """
    check_way(way)
    where = features.index()
    given = [where[clip_id] for clip_id in known if clip_id in where]
    with (progress or Progress()).step("rank", min(count, len(where) - len(given))) as advance:
        if way == "random":
            return _random(features.rows, count, given, seed)
        if way == "facility-location":
            return facility_location(features.rows, count, given, seed, advance)
        if way == "k-means":
            ranking = by_k_means(features.rows, count, given, seed)
            advance(len(ranking.order))
            return ranking
        if way == "classifier":
            return by_classifier(features.rows, count, None, given, seed, advance=advance)
        return k_centres(features.rows, count, None, given, advance)


def _random(rows: Any, count: int, known: Sequence[int], seed: int) -> Ranking:
    left = np.setdiff1d(np.arange(len(rows)), np.asarray(known, np.int64))
    if not len(left) or count < 1:
        raise TrainingError(f"nothing to rank: {len(known)} of {len(rows)} clips are ranked already, {count} asked for")
    return covered(rows, np.random.default_rng(seed).permutation(left)[:count], known)


def write_plan(
    features: ClipFeatures,
    ranking: Ranking,
    path: str | os.PathLike[str],
    known: Mapping[str, Sequence[str]] | None = None,
    datasets: Sequence[SkeletonDataset] = (),
    joints_of: Callable[[Any], Any] | None = None,
    axes: tuple[int, int, bool] = (0, 1, True),
    seed: int = 0,
) -> AnnotationPlan:
    """Write the plan as a CSV, and a page beside it that shows its clips.

    Columns: rank from 1, clip_id, label (for people to fill in), stands_for (how many clips of the data have no nearer
    clip in the plan), radius (see `Ranking`). Clips known before come last, with their labels and without a rank, so
    that the table as a whole is what `dataengine-train annotate --labels` reads.

    Args:
        path: .csv; the page is the same name with .html.
        known: labels of clips that were annotated before.
        datasets: where the clips are; without them there is no page.
        joints_of: makes (M, T, V, C) joints of a sequence, drawn along `axes`: across, up, and whether up is negative.
        seed: of the random draws that the radius is compared with.

    Raises:
        TrainingError: another ending.
    """
    target, known = check_plan(path), known or {}
    where = features.index()
    given = [where[clip_id] for clip_id in known if clip_id in where]
    share = _nearest(features, [*ranking.order.tolist(), *given])
    ids = [features.clip_ids[number] for number in ranking.order.tolist()]
    table = pl.DataFrame(
        {
            "rank": pl.Series([*range(1, len(ids) + 1), *[None] * len(known)], dtype=pl.Int64),
            "clip_id": pl.Series([*ids, *known], dtype=pl.String),
            "label": pl.Series([*[None] * len(ids), *(";".join(labels) for labels in known.values())], dtype=pl.String),
            "stands_for": pl.Series([*share[: len(ids)].tolist(), *[None] * len(known)], dtype=pl.Int64),
            "radius": pl.Series([*ranking.radius.round(6).tolist(), *[None] * len(known)], dtype=pl.Float64),
        }
    )
    write_table(table, target)
    draws = [_random(features.rows, len(ids), given, seed + n).radius[-1] for n in range(5)]
    page = None
    if datasets and joints_of is not None:
        page = target.with_suffix(".html")
        cards = _cards(datasets, ids[:SHOWN], share, ranking, joints_of)
        heading = f"{len(ids)} clips to annotate, of {len(features.clip_ids)}"
        write_durably(page, clip_sheet(heading, cards, datasets[0].skeleton, axes).encode())
    return AnnotationPlan(target, page, len(ids), float(ranking.radius[-1]), float(np.mean(draws)))


def check_way(way: str) -> None:
    """Refuse a way of ranking that is none of WAYS.

    Raises:
        TrainingError: it is none.
    """
    if way not in WAYS:
        raise TrainingError(f"clips are not ranked by {way!r}{suggestion(way, WAYS)}")


def check_plan(path: str | os.PathLike[str]) -> Path:
    """The file of a plan.

    Raises:
        TrainingError: another ending than .csv.
    """
    target = Path(path)
    if target.suffix != ".csv":
        raise TrainingError(f"{target}: a plan is a table for people to fill in; give a file that ends in .csv")
    return check_place(target)


def _nearest(features: ClipFeatures, picks: Sequence[int]) -> Numbers:
    """How many clips each pick is the nearest of."""
    rows = unit(features.rows)
    centres = rows[list(picks)]
    counts = np.zeros(len(picks), np.int64)
    lengths = np.square(centres).sum(1)
    for part in np.array_split(rows, max(1, len(rows) // 4096)):
        counts += np.bincount((lengths - 2 * part @ centres.T).argmin(1), minlength=len(picks))
    return counts


def _cards(
    datasets: Sequence[SkeletonDataset],
    ids: Sequence[str],
    share: Numbers,
    ranking: Ranking,
    joints_of: Callable[[Any], Any],
) -> list[Card]:
    places = {key: (part, n) for part in datasets for n, key in enumerate(part.keys)}
    cards = []
    for number, clip_id in enumerate(ids):
        part, n = places[clip_id]
        sequence = part.read([n])[0]
        seconds = "" if not sequence.fps else f", {sequence.keypoints.shape[1] / sequence.fps:.1f} s"
        facts = f"stands for {int(share[number])} clips{seconds}"
        cards.append(Card(f"{number + 1}. {clip_id}", facts, joints_of(sequence)))
    return cards
