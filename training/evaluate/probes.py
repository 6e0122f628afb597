"""Probes of frozen features: linear probe, probe with few labels, and nearest neighbours.

Every result has baselines beside the value. The caller adds those of a random network and of a nearest neighbour on
coordinates, which show how much was learnt (`Result.with_baselines`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dataengine.core.errors import TrainingError, suggestion
from training.data.subsets import label_subsets
from training.data.types import Array, Numbers
from training.evaluate import confidence_intervals
from training.evaluate.logistic import STRENGTHS, choose_strength, fit, unit
from training.evaluate.metrics import class_scores, hits, labelled, mean_class_accuracy, top_k
from training.evaluate.result import Result, of_seeds

TEMPERATURE = 0.07
"""Temperature of the votes of nearest neighbours (Wu et al. 2018, Unsupervised feature learning via non-parametric
instance discrimination)."""
CELLS = 4_000_000
"""Number of similarities in memory at once."""


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (N, D) and labels (N,) of one split, and who was filmed (N,) where that is known; clips labelled -1 are
    left out."""

    features: Array
    labels: Numbers
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        groups = None if self.groups is None else _labelled_groups(self.labels, self.groups)
        ids, rows = labelled(self.labels, self.features)
        object.__setattr__(self, "features", rows)
        object.__setattr__(self, "labels", ids)
        object.__setattr__(self, "groups", groups)

    def take(self, indices: ArrayLike) -> LabelledFeatures:
        """The clips at these indices."""
        chosen = np.asarray(indices)
        groups = None if self.groups is None else [self.groups[index] for index in chosen.tolist()]
        return LabelledFeatures(self.features[chosen], self.labels[chosen], groups)


def _labelled_groups(labels: ArrayLike, groups: Sequence[str]) -> list[str]:
    return [group for group, label in zip(groups, np.asarray(labels).tolist()) if label >= 0]


def classification_result(
    name: str,
    scores: ArrayLike,
    labels: ArrayLike,
    level: float = 0.95,
    groups: Sequence[str] | None = None,
    **details: Any,
) -> Result:
    """Top-1 of one run, its bootstrap interval, and top-5, mean class accuracy and chance beside it.

    Args:
        name: of the result.
        scores: (N, K).
        labels: (N,), -1 for clips that are left out.
        level: of the interval.
        groups: (N,) who or what was filmed in each clip: the interval is over these, and over clips without them.
        details: further details of the result.
    """
    rows, ids = class_scores(scores, labels)
    num_classes = rows.shape[1]
    right = hits(rows, ids)
    more = {
        "top-5": top_k(rows, ids, 5),
        "mean class accuracy": mean_class_accuracy(rows.argmax(1), ids, num_classes),
        "clips": len(ids),
        "classes": num_classes,
    }
    baselines = {"chance": 1 / num_classes}
    return Result(
        name,
        "top-1",
        float(right.mean()),
        (),
        confidence_intervals.bootstrap(
            right, groups=None if groups is None else _labelled_groups(labels, groups), level=level
        ),
        baselines,
        {**more, **details},
    )


def linear_probe(
    train: LabelledFeatures,
    test: LabelledFeatures,
    num_classes: int,
    strength: float | None = 0.3,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 3,
    device: str = "cpu",
    name: str = "linear probe",
) -> Result:
    """Logistic regression on frozen features; top-1 on the test split.

    Args:
        train: clips that the classifier is fitted on.
        test: clips that the classifier is evaluated on, once.
        num_classes: K.
        strength: C; None: chosen from `strengths` by cross-validation on the training split.
        strengths: candidates for C.
        folds: of the cross-validation.
        device: of the computation.
        name: of the result.
    """
    cross_validation: dict[str, float] = {}
    if strength is None:
        strength, cross_validation = choose_strength(
            train.features, train.labels, num_classes, strengths, folds, device=device
        )
    model = fit(train.features, train.labels, num_classes, strength, device)
    more: dict[str, Any] = {"strength": strength, "training clips": len(train.labels)}
    if cross_validation:
        more["cross-validation"] = cross_validation
    return classification_result(
        name, model.scores(test.features), test.labels, groups=test.groups, **more
    ).with_baselines(largest_class=_largest(train, test))


def _largest(train: LabelledFeatures, test: LabelledFeatures) -> float:
    """Top-1 of always predicting the most frequent class of the training clips."""
    return float((test.labels == np.bincount(train.labels).argmax()).mean())


def few_shot(
    train: LabelledFeatures,
    test: LabelledFeatures,
    num_classes: int,
    amounts: Sequence[float] = (0.05, 0.1),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    by: str = "share",
    classifier: str = "linear",
    strength: float = 0.3,
    device: str = "cpu",
) -> list[Result]:
    """Probes on subsets of the training labels; per amount the mean over seeds of top-1 on the test split.

    The subset of a seed is the same for every network, so results of two networks are paired.

    Args:
        train, test: the two splits.
        num_classes: K.
        amounts, by: see `label_subsets`.
        seeds: one per subset.
        classifier: "linear", or "knn" with one nearest neighbour.
        strength: C of the linear classifier. C is fixed, since few labels cannot choose it.
        device: of the linear classifier.

    Raises:
        TrainingError: an unknown classifier, or amounts as for `label_subsets`.
    """
    if classifier not in ("linear", "knn"):
        raise TrainingError(f"classifier {classifier!r}{suggestion(classifier, ('linear', 'knn'))}")
    runs: dict[float, list[tuple[float, float, int]]] = {amount: [] for amount in amounts}
    for seed in seeds:
        for amount, indices in label_subsets(train.labels, amounts, seed, by).items():
            subset = train.take(indices)
            if classifier == "linear":
                scores = fit(subset.features, subset.labels, num_classes, strength, device).scores(test.features)
            else:
                scores = knn_scores(subset, test.features, num_classes, k=1)
            mean_class = mean_class_accuracy(scores.argmax(1), test.labels, num_classes)
            runs[amount].append((top_k(scores, test.labels), mean_class, len(indices)))
    results = []
    for amount, rows in runs.items():
        title = f"{amount * 100:g} % of labels" if by == "share" else f"{amount:g} shots"
        more = {
            **{"amount": amount, "by": by, "classifier": classifier, "seeds": list(seeds)},
            **{
                "mean class accuracy": float(np.mean([row[1] for row in rows])),
                "training clips": [row[2] for row in rows],
            },
            "strength": strength if classifier == "linear" else None,
        }
        name = f"{classifier} probe, {title}"
        results.append(
            of_seeds(name, "top-1", [row[0] for row in rows], baselines={"chance": 1 / num_classes}, details=more)
        )
    return results


def knn_scores(
    train: LabelledFeatures, features: ArrayLike, num_classes: int, k: int = 20, temperature: float = TEMPERATURE
) -> Array:
    """(N, K) votes of the k most similar training clips, weighted by exp(cosine / temperature); a row sums to 1."""
    if k < 1 or temperature <= 0:
        raise TrainingError(f"k = {k} and temperature = {temperature}: both are positive")
    train_rows, test_rows = unit(train.features).astype(np.float32), unit(features).astype(np.float32)
    if train.labels.max() >= num_classes:
        raise TrainingError(f"label {train.labels.max()} lies outside 0..{num_classes - 1}")
    k = min(k, len(train_rows))
    scores = np.zeros((len(test_rows), num_classes))
    step = max(1, CELLS // len(train_rows))
    for begin in range(0, len(test_rows), step):
        similar = test_rows[begin : begin + step] @ train_rows.T
        near = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(similar, near, axis=1).astype(np.float64)
        votes = np.exp((values - values.max(1, keepdims=True)) / temperature)
        rows = np.repeat(np.arange(len(near)) + begin, k)
        np.add.at(scores, (rows, train.labels[near].ravel()), votes.ravel())
    return np.asarray(scores / scores.sum(1, keepdims=True), np.float64)


def knn(
    train: LabelledFeatures,
    test: LabelledFeatures,
    num_classes: int,
    k: int = 20,
    temperature: float = TEMPERATURE,
    name: str | None = None,
) -> Result:
    """k nearest neighbours by cosine, without training. See `knn_scores`."""
    scores = knn_scores(train, test.features, num_classes, k, temperature)
    more = {"k": k, "temperature": temperature, "training clips": len(train.labels)}
    title = name or ("nearest neighbour" if k == 1 else f"{k} nearest neighbours")
    return classification_result(title, scores, test.labels, groups=test.groups, **more).with_baselines(
        largest_class=_largest(train, test)
    )


def over_runs(results: Sequence[Result], level: float = 0.95) -> Result:
    """The mean of results of one evaluation on several networks, one per seed, with its interval over seeds.

    Raises:
        TrainingError: no results, or results of different evaluations.
    """
    kinds = {(result.name, result.metric) for result in results}
    if len(kinds) != 1:
        raise TrainingError(f"the mean needs results of one evaluation; given {sorted(kinds) or 'none'}")
    first = results[0]
    more = {"runs": [result.as_dict()["details"] for result in results]}
    mean = of_seeds(
        first.name, first.metric, [result.value for result in results], level, details=more, unit=first.unit
    )
    shared = set.intersection(*(set(result.baselines) for result in results))
    means = {
        name: float(np.mean([result.baselines[name] for result in results]))
        for name in first.baselines
        if name in shared
    }
    return dataclasses.replace(mean, baselines=means)
