"""Multinomial logistic regression, the classifier of linear probes: exact, regularised, and fast on many classes.

The optimum is the one scikit-learn's LogisticRegression finds for the same C; `fit` reaches it sooner, because
it first turns and scales the features so that all directions bend about equally (see `_basis`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from dataengine.core.errors import TrainingError
from training.data.types import Array, Numbers
from training.evaluate.metrics import labelled, top_k

ROWS = 8192
"""Clips whose scores are in memory at once."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""C tried when it is chosen by cross-validation."""
TOLERANCE = 1e-3
"""Largest error of a weight in the round basis, where weights are of the order of 1."""


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier.

    Attributes:
        weight: (D, K) float64 over normalised, standardised features; 0 for classes that no clip had.
        bias: (K,) float64; -inf for those classes.
        mean, scale: (D,) of the unit-length training features.
        strength: C.
        steps: evaluations of the objective that the fit took.
    """

    weight: Array
    bias: Array
    mean: Array
    scale: Array
    strength: float
    steps: int

    def scores(self, features: ArrayLike) -> Array:
        """(N, K) float64 logits."""
        return np.asarray((unit(features) - self.mean) / self.scale @ self.weight + self.bias, np.float64)


def unit(features: ArrayLike) -> Array:
    """(N, D) float64 rows of unit length; a row of zeros stays.

    Raises:
        TrainingError: not (N, D), or not finite.
    """
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2:
        raise TrainingError(f"features are (clips, values); given {rows.shape}")
    if not np.isfinite(rows).all():
        raise TrainingError(
            f"{int((~np.isfinite(rows)).any(1).sum())} of {len(rows)} features are not finite; a network that "
            "diverged gives these"
        )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float64)


def fit(
    features: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    strength: float = 0.3,
    device: str = "cpu",
    precise: bool = False,
    start: Logistic | None = None,
) -> Logistic:
    """The classifier that minimises C * sum of cross entropies + half the squared weights (the bias is free).

    Args:
        features: (N, D); brought to unit length and standardised here.
        labels: (N,), -1 for clips that are left out.
        num_classes: K; classes without a clip are never predicted.
        strength: C, larger trusts the data more.
        device: where the products are computed.
        precise: whether the minimum is found to rounding, instead of within `TOLERANCE`.
        start: a fit on the same clips with another C, to begin from.

    Raises:
        TrainingError: features that are not finite, no labelled clip, or a label outside 0..K-1.
    """
    if strength <= 0:
        raise TrainingError(f"strength = {strength}: C of a logistic regression is positive, such as 0.3")
    ids, rows = labelled(labels, unit(features))
    if ids.max() >= num_classes:
        raise TrainingError(f"label {ids.max()} lies outside 0..{num_classes - 1}")
    mean, scale = rows.mean(0), rows.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    present, ids = np.unique(ids, return_inverse=True)
    basis, back = _basis((rows - mean) / scale, strength, len(present))
    problem = _Problem((rows - mean) / scale @ basis, np.square(back), ids, len(present), strength, device)
    first = None if start is None else (np.linalg.solve(basis, start.weight[:, present]), start.bias[present])
    solution, bias, steps = problem.solve(first, precise)
    weight, offset = np.zeros((rows.shape[1], num_classes)), np.full(num_classes, -np.inf)
    weight[:, present], offset[present] = basis @ solution, bias
    return Logistic(weight, offset, mean, scale, strength, steps)


def _basis(rows: Array, strength: float, num_classes: int) -> tuple[Array, Array]:
    """(D, D) matrix P with weight = P z, and its column lengths.

    The Hessian of the cross entropies is at most half the covariance of the features a class (Boehning 1992); near
    the start it is p(1 - p) of it with p = 1 / K. In the eigenvectors of the covariance, divided by the root of that
    curvature plus that of the penalty, the whole objective is about round.
    """
    values, vectors = np.linalg.eigh(rows.T @ rows)
    share = 1 / max(num_classes, 2)
    lengths = 1 / np.sqrt(1 + strength * share * (1 - share) * np.maximum(values, 0))
    return vectors * lengths, lengths


class _Problem:
    """The objective in the round basis, and its minimum by L-BFGS."""

    def __init__(
        self, rows: Array, penalty: Array, ids: Numbers, num_classes: int, strength: float, device: str
    ) -> None:
        self.device, self.ids = device, torch.as_tensor(ids, device=device)
        self.num_classes, self.strength = num_classes, strength
        self.steps = 0
        self._arrays = rows, penalty
        self._use(torch.float32)

    def _use(self, kind: torch.dtype) -> None:
        rows, penalty = self._arrays
        self.rows = torch.as_tensor(rows, dtype=kind, device=self.device)
        self.penalty = torch.as_tensor(penalty, dtype=kind, device=self.device)[:, None]

    def solve(self, start: tuple[Array, Array] | None, precise: bool) -> tuple[Array, Array, int]:
        """Solution (D, K) and bias (K,) as float64, and the evaluations they took.

        Single precision leads near the minimum, where rounding ends its line search. Double precision goes on from
        there until the gradient says that the solution is within `TOLERANCE`. In the round basis the curvature is about
        1 / (C N), so the bound on the gradient is the tolerance divided by C N.
        """
        dim, classes = self.rows.shape[1], self.num_classes
        first = np.zeros((dim + 1, classes))
        first[-1] = np.log(np.bincount(self.ids.cpu().numpy(), minlength=classes) / len(self.ids))
        if start is not None:
            first[:-1], first[-1] = start
        solution: Array = first.ravel()
        if not precise:
            solution = self._minimise(solution, ftol=1e-8, gtol=1e-5)
        self._use(torch.float64)
        bound = 1e-9 if precise else TOLERANCE / (self.strength * len(self.ids))
        found = self._minimise(solution, ftol=0.0, gtol=bound).reshape(dim + 1, classes)
        return found[:-1], found[-1], self.steps

    def _minimise(self, start: Array, ftol: float, gtol: float) -> Array:
        from scipy.optimize import minimize

        limits = {"maxiter": 10_000, "maxcor": 10, "ftol": ftol, "gtol": gtol}
        return np.asarray(minimize(self._objective, start, jac=True, method="L-BFGS-B", options=limits).x)

    def _objective(self, flat: Array) -> tuple[float, Array]:
        """Value and gradient, both divided by C times the number of clips."""
        self.steps += 1
        values = torch.as_tensor(flat, dtype=self.rows.dtype, device=self.rows.device).view(-1, self.num_classes)
        weight, bias = values[:-1], values[-1]
        loss = 0.0
        gradient = torch.zeros_like(values)
        for begin in range(0, len(self.rows), ROWS):
            rows, ids = self.rows[begin : begin + ROWS], self.ids[begin : begin + ROWS, None]
            logits = torch.addmm(bias, rows, weight)
            logits -= logits.amax(1, keepdim=True)
            own = logits.gather(1, ids)
            wrong = logits.exp_()
            total = wrong.sum(1, keepdim=True)
            loss += float((total.log() - own).sum(dtype=torch.float64))
            wrong /= total
            wrong.scatter_add_(1, ids, torch.full_like(own, -1))
            gradient[:-1].addmm_(rows.T, wrong)
            gradient[-1] += wrong.sum(0)
        shrunk = self.penalty * weight
        share = 1 / (self.strength * len(self.rows))
        gradient /= len(self.rows)
        gradient[:-1] += share * shrunk
        value = loss / len(self.rows) + 0.5 * share * float((shrunk * weight).sum(dtype=torch.float64))
        return value, gradient.double().cpu().numpy().ravel()


def folds_of(labels: ArrayLike, folds: int, seed: int = 0) -> Numbers:
    """(N,) fold of each clip, stratified: the clips of a class, shuffled, go round the folds."""
    ids = np.asarray(labels, np.int64)
    rng = np.random.default_rng(seed)
    found = np.zeros(len(ids), np.int64)
    shift = 0
    for name in np.unique(ids):
        mine = rng.permutation(np.flatnonzero(ids == name))
        found[mine] = (np.arange(len(mine)) + shift) % folds
        shift += len(mine)
    return found


def choose_strength(
    features: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 3,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[float, dict[str, float]]:
    """C with the best top-1 in cross-validation on these (training) clips, the smallest of equals; and the mean top-1
    of each.

    Raises:
        TrainingError: fewer clips than folds; see also `fit`.
    """
    ids, rows = labelled(labels, np.asarray(features))
    if folds < 2 or len(ids) < folds:
        raise TrainingError(f"{folds} folds want at least 2 of them and as many clips; given {len(ids)} clips")
    place = folds_of(ids, folds, seed)
    wanted = sorted(strengths)
    found: dict[float, list[float]] = {strength: [] for strength in wanted}
    for fold in range(folds):
        train, held = place != fold, place == fold
        last: Any = None
        for strength in wanted:
            last = fit(rows[train], ids[train], num_classes, strength, device, start=last)
            found[strength].append(top_k(last.scores(rows[held]), ids[held]))
    means = {strength: float(np.mean(values)) for strength, values in found.items()}
    best = max(wanted, key=lambda strength: (means[strength], -strength))
    return best, {f"{strength:g}": value for strength, value in means.items()}
