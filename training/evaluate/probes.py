"""What frozen features know: linear probe, few labels, and nearest neighbours.

Baselines are the caller's to give and are printed beside every figure: a random network's probe and a
nearest neighbour on plain coordinates say how much of it was learnt (`Result.with_baselines`).
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
"""Of the votes of nearest neighbours (Wu et al. 2018, Unsupervised feature learning via non-parametric instance
discrimination)."""
CELLS = 4_000_000
"""Similarities in memory at once."""


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (N, D) and labels (N,) of one side of a split; clips labelled -1 are left out."""

    features: Array
    labels: Numbers

    def __post_init__(self) -> None:
        ids, rows = labelled(self.labels, self.features)
        object.__setattr__(self, "features", rows)
        object.__setattr__(self, "labels", ids)

    def take(self, indices: ArrayLike) -> LabelledFeatures:
        """Some of its clips."""
        return LabelledFeatures(self.features[np.asarray(indices)], self.labels[np.asarray(indices)])


def classification_result(
    name: str, scores: ArrayLike, labels: ArrayLike, level: float = 0.95, **details: Any
) -> Result:
    """Top-1 of one run, its bootstrap interval over clips, and top-5, mean class accuracy and chance beside it.

    Args:
        name: of the result.
        scores: (N, K).
        labels: (N,), -1 for clips that are left out.
        level: of the interval.
        details: what else belongs to the result.
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
        confidence_intervals.bootstrap(right, level=level),
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
    """Logistic regression on frozen features, top-1 on the test side.

    Args:
        train: what the classifier is fitted on.
        test: what it is measured on, once.
        num_classes: K.
        strength: C; None chooses it of `strengths` by cross-validation on the training side alone.
        strengths: C to choose from.
        folds: of the cross-validation.
        device: where it is computed.
        name: of the result.
    """
    tried: dict[str, float] = {}
    if strength is None:
        strength, tried = choose_strength(train.features, train.labels, num_classes, strengths, folds, device=device)
    model = fit(train.features, train.labels, num_classes, strength, device)
    more: dict[str, Any] = {"strength": strength, "training clips": len(train.labels)}
    if tried:
        more["cross-validation"] = tried
    return classification_result(name, model.scores(test.features), test.labels, **more).with_baselines(
        largest_class=_largest(train, test)
    )


def _largest(train: LabelledFeatures, test: LabelledFeatures) -> float:
    """Top-1 of always naming the class that most training clips have."""
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
    """Probes on parts of the training labels: for each amount the mean over seeds of top-1 on the test side.

    The part a seed takes is the same for every network, so that results of two networks are paired.

    Args:
        train, test: the two sides.
        num_classes: K.
        amounts, by: see `label_subsets`.
        seeds: one part each.
        classifier: "linear", or "knn" with the one nearest neighbour.
        strength: C of the linear one, fixed: few labels are too few to choose it.
        device: where the linear one is computed.

    Raises:
        TrainingError: an unknown classifier, or amounts as for `label_subsets`.
    """
    if classifier not in ("linear", "knn"):
        raise TrainingError(f"classifier {classifier!r}{suggestion(classifier, ('linear', 'knn'))}")
    found: dict[float, list[tuple[float, float, int]]] = {amount: [] for amount in amounts}
    for seed in seeds:
        for amount, indices in label_subsets(train.labels, amounts, seed, by).items():
            part = train.take(indices)
            if classifier == "linear":
                scores = fit(part.features, part.labels, num_classes, strength, device).scores(test.features)
            else:
                scores = knn_scores(part, test.features, num_classes, k=1)
            mean_class = mean_class_accuracy(scores.argmax(1), test.labels, num_classes)
            found[amount].append((top_k(scores, test.labels), mean_class, len(indices)))
    results = []
    for amount, rows in found.items():
        shown = f"{amount * 100:g} % of labels" if by == "share" else f"{amount:g} shots"
        more = {
            **{"amount": amount, "by": by, "classifier": classifier, "seeds": list(seeds)},
            **{
                "mean class accuracy": float(np.mean([row[1] for row in rows])),
                "training clips": [row[2] for row in rows],
            },
            "strength": strength if classifier == "linear" else None,
        }
        name = f"{classifier} probe, {shown}"
        results.append(
            of_seeds(name, "top-1", [row[0] for row in rows], baselines={"chance": 1 / num_classes}, details=more)
        )
    return results


def knn_scores(
    train: LabelledFeatures, features: ArrayLike, num_classes: int, k: int = 20, temperature: float = TEMPERATURE
) -> Array:
    """(N, K) votes of the k most similar training clips, each counting exp(cosine / temperature); a row sums to 1."""
    if k < 1 or temperature <= 0:
        raise TrainingError(f"k = {k} and temperature = {temperature}: both are positive")
    known, asked = unit(train.features).astype(np.float32), unit(features).astype(np.float32)
    if train.labels.max() >= num_classes:
        raise TrainingError(f"label {train.labels.max()} lies outside 0..{num_classes - 1}")
    k = min(k, len(known))
    found = np.zeros((len(asked), num_classes))
    step = max(1, CELLS // len(known))
    for begin in range(0, len(asked), step):
        similar = asked[begin : begin + step] @ known.T
        near = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(similar, near, axis=1).astype(np.float64)
        votes = np.exp((values - values.max(1, keepdims=True)) / temperature)
        rows = np.repeat(np.arange(len(near)) + begin, k)
        np.add.at(found, (rows, train.labels[near].ravel()), votes.ravel())
    return np.asarray(found / found.sum(1, keepdims=True), np.float64)


def knn(
    train: LabelledFeatures,
    test: LabelledFeatures,
    num_classes: int,
    k: int = 20,
    temperature: float = TEMPERATURE,
    name: str | None = None,
) -> Result:
    """Nearest neighbours by cosine, no training at all; k = 1 is the plain nearest neighbour. See `knn_scores`."""
    scores = knn_scores(train, test.features, num_classes, k, temperature)
    more = {"k": k, "temperature": temperature, "training clips": len(train.labels)}
    shown = name or ("nearest neighbour" if k == 1 else f"{k} nearest neighbours")
    return classification_result(shown, scores, test.labels, **more).with_baselines(largest_class=_largest(train, test))


def over_runs(results: Sequence[Result], level: float = 0.95) -> Result:
    """One result of the same evaluation on several trained networks, one a seed: the mean with its interval over seeds.

    Raises:
        TrainingError: nothing given, or results of different evaluations.
    """
    kinds = {(result.name, result.metric) for result in results}
    if len(kinds) != 1:
        raise TrainingError(f"results of one evaluation are joined; given {sorted(kinds) or 'none'}")
    first = results[0]
    more = {"runs": [result.as_dict()["details"] for result in results]}
    joined = of_seeds(
        first.name, first.metric, [result.value for result in results], level, details=more, unit=first.unit
    )
    shared = set.intersection(*(set(result.baselines) for result in results))
    means = {
        name: float(np.mean([result.baselines[name] for result in results]))
        for name in first.baselines
        if name in shared
    }
    return dataclasses.replace(joined, baselines=means)
