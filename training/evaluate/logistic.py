"""Multinomial logistic regression, the classifier of linear probes: exact, regularised, and fast on many classes.

The optimum equals that of scikit-learn's LogisticRegression for the same C. `fit` reaches the optimum sooner, because
the features are first rotated and scaled so that the curvature is about equal in all directions (see `_basis`).
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
"""Values of C that cross-validation chooses from."""
TOLERANCE = 1e-3
"""Largest error of a weight in the basis of `_basis`, where weights are of the order of 1."""


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier.

    Attributes:
        weight: (D, K) float64 over normalised, standardised features; 0 for classes that no clip had.
        bias: (K,) float64; -inf for classes that no clip had.
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
    """(N, D) float64 rows of unit length; a row of zeros stays zero.

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
        features: (N, D), of any length; `fit` normalises and standardises them.
        labels: (N,), -1 for clips that are left out.
        num_classes: K; classes without a clip are never predicted.
        strength: C, the inverse of the regularisation strength.
        device: where the products are computed.
        precise: whether the solver runs until rounding ends it, instead of until the error is within `TOLERANCE`.
        start: initial weights: a fit on the same clips with another C.

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

    The Hessian of the cross entropies is at most half the covariance of the features per class (Boehning 1992). Near
    the start the Hessian is p(1 - p) times the covariance, with p = 1 / K. The basis holds the eigenvectors of the
    covariance, divided by the root of this curvature plus that of the penalty. In this basis the curvature of the
    objective is about equal in all directions.
    """
    values, vectors = np.linalg.eigh(rows.T @ rows)
    probability = 1 / max(num_classes, 2)
    lengths = 1 / np.sqrt(1 + strength * probability * (1 - probability) * np.maximum(values, 0))
    return vectors * lengths, lengths


class _Problem:
    """The objective in the basis of `_basis`, and its minimum by L-BFGS."""

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
        """Solution (D, K) and bias (K,) as float64, and the number of evaluations.

        Single precision leads near the minimum, where rounding ends the line search. Double precision continues from
        there until the gradient shows that the solution is within `TOLERANCE`. In this basis the curvature is about
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
        minimum = self._minimise(solution, ftol=0.0, gtol=bound).reshape(dim + 1, classes)
        return minimum[:-1], minimum[-1], self.steps

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
        factor = 1 / (self.strength * len(self.rows))
        gradient /= len(self.rows)
        gradient[:-1] += factor * shrunk
        value = loss / len(self.rows) + 0.5 * factor * float((shrunk * weight).sum(dtype=torch.float64))
        return value, gradient.double().cpu().numpy().ravel()


def folds_of(labels: ArrayLike, folds: int, seed: int = 0) -> Numbers:
    """(N,) int64 fold of each clip, stratified: the shuffled clips of a class are dealt to the folds in turn."""
    ids = np.asarray(labels, np.int64)
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(ids), np.int64)
    shift = 0
    for name in np.unique(ids):
        members = rng.permutation(np.flatnonzero(ids == name))
        fold[members] = (np.arange(len(members)) + shift) % folds
        shift += len(members)
    return fold


def choose_strength(
    features: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 3,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[float, dict[str, float]]:
    """Chooses C by cross-validation on training clips.

    Returns:
        The C with the best mean top-1, the smallest of equals, and the mean top-1 of each C.

    Raises:
        TrainingError: fewer clips than folds; see also `fit`.
    """
    ids, rows = labelled(labels, np.asarray(features))
    if folds < 2 or len(ids) < folds:
        raise TrainingError(
            f"cross-validation needs at least 2 folds and as many clips; given {folds} folds and {len(ids)} clips"
        )
    fold_ids = folds_of(ids, folds, seed)
    candidates = sorted(strengths)
    accuracies: dict[float, list[float]] = {strength: [] for strength in candidates}
    for fold in range(folds):
        train, held = fold_ids != fold, fold_ids == fold
        last: Any = None
        for strength in candidates:
            last = fit(rows[train], ids[train], num_classes, strength, device, start=last)
            accuracies[strength].append(top_k(last.scores(rows[held]), ids[held]))
    means = {strength: float(np.mean(values)) for strength, values in accuracies.items()}
    best = max(candidates, key=lambda strength: (means[strength], -strength))
    return best, {f"{strength:g}": value for strength, value in means.items()}
