"""Floors: what classification reaches on the coordinates themselves, without learning a network.

A figure of a network says nothing until it is known how far a nearest neighbour or a linear classifier comes on the
same numbers. Both are pure functions of rows. The strength of the ridge is chosen by cross-validation on the training
clips alone. Each floor is found without and with mirrored training clips; the better of the two on the test clips
counts, which favours the floor.

    train = Coordinates(rows, labels, mirrored)      # (N, D), (N,), (N, D)
    floors = coordinate_floors(train, test_rows, test_labels, num_classes)
    floors["ridge"].value, floors["ridge"].details
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataengine.core.errors import TrainingError
from training.data.types import Array, Numbers
from training.evaluate.logistic import folds_of
from training.evaluate.metrics import labelled

NEIGHBOUR, RIDGE, RANDOM = "nearest neighbour", "ridge", "random network"
"""Names of the floors among the baselines of a result."""
STRENGTHS = tuple(float(10.0 ** (exponent / 2)) for exponent in range(-5, 2))
"""Strengths of the ridge that cross-validation chooses from, times the mean squared length of the centred rows."""
FALLBACK = 0.1
"""Strength where there are too few clips to choose by."""
FOLDS = 3
"""Folds of the cross-validation."""
MOST_ROWS = 4096
"""Clips, mirrored ones included, that the ridge learns from at most, where a clip has more numbers than that."""
CELLS = 16_000_000
"""Distances in memory at once."""

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Coordinates:
    """The labelled clips of a training split as rows of coordinates.

    Attributes:
        rows: (N, D) float32.
        labels: (N,) int64; clips labelled -1 are left out.
        mirrored: (N, D) float32 of the mirrored clips, or None where the layout does not say what is left and right.
        groups: (N,) who or what was filmed: no group is in two folds of the cross-validation. Default: every clip is
            on its own.
    """

    rows: Rows
    labels: Numbers
    mirrored: Rows | None = None
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        keep = np.flatnonzero(np.asarray(self.labels) >= 0)
        if not len(keep):
            raise TrainingError("floors are found from labelled clips, and none has a label")
        rows = np.asarray(self.rows, np.float32)
        if rows.ndim != 2 or len(rows) != len(self.labels):
            raise TrainingError(f"coordinates are (clips, numbers), one row a label; given {rows.shape}")
        object.__setattr__(self, "rows", rows[keep])
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int64)[keep])
        if self.mirrored is not None:
            object.__setattr__(self, "mirrored", np.asarray(self.mirrored, np.float32)[keep])
        if self.groups is not None:
            object.__setattr__(self, "groups", [self.groups[index] for index in keep.tolist()])

    def take(self, indices: ArrayLike) -> Coordinates:
        """The clips at these indices of the labelled ones."""
        chosen = np.asarray(indices, np.int64)
        mirrored = None if self.mirrored is None else self.mirrored[chosen]
        groups = None if self.groups is None else [self.groups[index] for index in chosen.tolist()]
        return Coordinates(self.rows[chosen], self.labels[chosen], mirrored, groups)

    def stacked(self, mirror: bool) -> tuple[Rows, Numbers]:
        """Rows and labels, those of the mirrored clips after the others where these are asked for."""
        if not mirror or self.mirrored is None:
            return self.rows, self.labels
        return np.concatenate([self.rows, self.mirrored]), np.tile(self.labels, 2)

    @property
    def mirrors(self) -> tuple[bool, ...]:
        """Whether mirrored clips can be learnt from: the choices there are."""
        return (False,) if self.mirrored is None else (False, True)

    def folds(self, count: int = FOLDS) -> Numbers | None:
        """(N,) fold of each clip: whole groups where there are enough, else classes in equal parts; None where there
        are too few clips."""
        if self.groups is not None and len(set(self.groups)) >= count:
            names = np.random.default_rng(0).permutation(sorted(set(self.groups))).tolist()
            fold = {name: number % count for number, name in enumerate(names)}
            return np.array([fold[group] for group in self.groups], np.int64)
        if len(self.labels) < count or np.bincount(self.labels).max() < 2:
            return None
        return folds_of(self.labels, count)


@dataclass(frozen=True)
class Floor:
    """What one classifier on coordinates reaches.

    Attributes:
        value: top-1 on the test clips.
        details: whether mirrored clips were learnt from, top-1 on the test clips of each choice, and of a ridge its
            strength and the mean top-1 of each strength in the cross-validation.
    """

    value: float
    details: dict[str, Any] = field(default_factory=dict)


def coordinate_floors(train: Coordinates, rows: ArrayLike, labels: ArrayLike, num_classes: int) -> dict[str, Floor]:
    """The nearest neighbour and the ridge on coordinates, by name.

    Args:
        train: clips to learn from.
        rows: (N, D) coordinates of the test clips.
        labels: (N,) their labels; clips labelled -1 are left out.
        num_classes: K.

    Raises:
        TrainingError: no labelled clip, or rows of another length.
    """
    truth, test = labelled(labels, np.asarray(rows, np.float32))
    if test.shape[1] != train.rows.shape[1]:
        raise TrainingError(
            f"the clips to learn from have {train.rows.shape[1]} coordinates, those to measure on {test.shape[1]}"
        )
    return {
        NEIGHBOUR: nearest_neighbour(train, test.astype(np.float32), truth),
        RIDGE: ridge(train, test.astype(np.float32), truth, num_classes),
    }


def nearest_neighbour(train: Coordinates, rows: Rows, labels: Numbers) -> Floor:
    """The class of the training clip at the smallest Euclidean distance."""
    values = {}
    for mirror in train.mirrors:
        known, ids = train.stacked(mirror)
        values[mirror] = _right(ids[nearest(known, rows)], labels)
    return _better(values, {})


def ridge(train: Coordinates, rows: Rows, labels: Numbers, num_classes: int) -> Floor:
    """Least squares onto the classes with a penalty on the weights, the intercept free; the largest output counts.

    The penalty is one of `STRENGTHS` times the mean squared length of the centred rows.
    """
    values: dict[bool, float] = {}
    told: dict[bool, dict[str, Any]] = {}
    for mirror in train.mirrors:
        means = _cross_validated(train, mirror, num_classes)
        best = max(means, key=lambda strength: (means[strength], strength)) if means else FALLBACK
        outputs = _ridge_outputs(*train.stacked(mirror), rows, num_classes, (best,))[best]
        values[mirror] = _right(outputs.argmax(1), labels)
        told[mirror] = {"strength": best, "cross-validation": {f"{s:.3g}": value for s, value in means.items()}}
    return _better(values, told)


def nearest(known: Rows, queries: Rows) -> Numbers:
    """(N,) index of the known row at the smallest Euclidean distance of each query; the first of equals."""
    lengths = np.square(known).sum(1)
    step = max(1, CELLS // len(known))
    parts = [
        (lengths - 2 * queries[begin : begin + step] @ known.T).argmin(1) for begin in range(0, len(queries), step)
    ]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def _ridge_outputs(
    known: Rows, labels: Numbers, queries: Rows, num_classes: int, strengths: Sequence[float]
) -> dict[float, Array]:
    """(N, K) outputs for the queries by strength."""
    from scipy.linalg import cho_factor, cho_solve

    if min(known.shape) > MOST_ROWS:
        chosen = np.sort(np.random.default_rng(0).choice(len(known), MOST_ROWS, replace=False))
        known, labels = known[chosen], labels[chosen]
    centre = known.mean(0, dtype=np.float64)
    rows, asked = known - centre, queries - centre
    goal = np.eye(num_classes)[labels]
    offset = goal.mean(0)
    scale = float(np.square(rows).sum(1).mean()) or 1.0
    tall = len(rows) > rows.shape[1]
    gram = rows.T @ rows if tall else rows @ rows.T
    if tall:
        right, left = rows.T @ (goal - offset), asked
    else:
        right, left = goal - offset, asked @ rows.T
    outputs = {}
    for strength in strengths:
        shrunk = gram + strength * scale * np.eye(len(gram))
        outputs[strength] = np.asarray(left @ cho_solve(cho_factor(shrunk, overwrite_a=True), right) + offset)
    return outputs


def _cross_validated(train: Coordinates, mirror: bool, num_classes: int) -> dict[float, float]:
    """The mean top-1 over folds of each strength; empty where there are too few clips."""
    folds = train.folds()
    if folds is None:
        return {}
    found: dict[float, list[float]] = {strength: [] for strength in STRENGTHS}
    for number in np.unique(folds):
        part, held = train.take(np.flatnonzero(folds != number)), train.take(np.flatnonzero(folds == number))
        outputs = _ridge_outputs(*part.stacked(mirror), held.rows, num_classes, STRENGTHS)
        for strength, rows in outputs.items():
            found[strength].append(_right(rows.argmax(1), held.labels))
    return {strength: float(np.mean(values)) for strength, values in found.items()}


def _right(predictions: ArrayLike, labels: Numbers) -> float:
    return float((np.asarray(predictions) == labels).mean())


def _better(values: dict[bool, float], told: dict[bool, dict[str, Any]]) -> Floor:
    """The better of both choices; of equals the one without mirrored clips."""
    mirror = max(values, key=lambda choice: (values[choice], not choice))
    names = {False: "as they are", True: "with mirrored clips"}
    each = {names[choice]: value for choice, value in values.items()}
    return Floor(values[mirror], {"training clips": names[mirror], "each": each, **told.get(mirror, {})})
