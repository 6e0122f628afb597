"""Motions compared with texts: zero-shot classification, retrieval, multiple choice, and fusion of scores.

Motion and text features must lie in one space: the projections `phi_M(E_M(motion))` and `phi_T(E_T(text))` that a
method such as T-MOR learnt, not the outputs of the two encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataengine.core.errors import TrainingError, suggestion
from training.data.types import Array, Numbers
from training.evaluate.confidence_intervals import bootstrap
from training.evaluate.logistic import unit
from training.evaluate.metrics import labelled
from training.evaluate.probes import CELLS, classification_result
from training.evaluate.result import Result, of_seeds

TOP = (1, 5, 10)


def class_embeddings(prompts: Sequence[Sequence[str]], encode: Callable[[list[str]], Array]) -> Array:
    """(K, D) unit vectors: per class the mean of the unit vectors of its texts (Radford et al. 2021, section 3.1.4).

    Args:
        prompts: the texts of each class, one or more.
        encode: returns (N, D) for N texts, such as `TextEncoder.encode`, also followed by the projection of a method.

    Raises:
        TrainingError: a class without text.
    """
    empty = [n for n, texts in enumerate(prompts) if not texts]
    if not prompts or empty:
        raise TrainingError(
            f"every class needs at least one text; {f'class {empty[0]} has none' if empty else 'there are no classes'}"
        )
    vectors = unit(encode([text for texts in prompts for text in texts]))
    ends = np.cumsum([len(texts) for texts in prompts])
    return unit([part.mean(0) for part in np.split(vectors, ends[:-1])])


def similarities(features: ArrayLike, classes: ArrayLike) -> Array:
    """(N, K) cosines of N features with K class embeddings.

    Raises:
        TrainingError: features and classes have different widths.
    """
    rows, columns = unit(features), unit(classes)
    if rows.shape[1] != columns.shape[1]:
        raise TrainingError(
            f"features of {rows.shape[1]} values and texts of {columns.shape[1]} are not in one space; project both "
            "first"
        )
    return np.asarray(rows @ columns.T, np.float64)


def softmax(scores: ArrayLike, temperature: float = 1.0) -> Array:
    """(N, K) probabilities of scores divided by the temperature."""
    rows = np.asarray(scores, np.float64) / temperature
    exponentials = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True), np.float64)


def fuse_scores(
    first: ArrayLike,
    second: ArrayLike,
    alpha: float = 1.0,
    temperature: float = 1.0,
    second_temperature: float | None = None,
) -> Array:
    """(N, K) softmax(first) + alpha * softmax(second): two streams, or two modalities, of the same clips.

    Two streams of logits are summed with alpha 1 (joints and bones of UNIK and 2s-AGCN). For cosines, take the
    temperature of training; at temperature 1 their softmax is almost uniform.

    Args:
        first, second: (N, K) logits or cosines.
        alpha: weight of the second; 0 leaves the first alone.
        temperature: of the softmax of the first.
        second_temperature: of the softmax of the second. Default: `temperature`.

    Raises:
        TrainingError: shapes differ, or alpha is negative.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape or a.ndim != 2 or alpha < 0:
        raise TrainingError(
            f"fusion needs scores of the same clips and classes, alpha >= 0; given {a.shape}, {b.shape}, alpha {alpha}"
        )
    return np.asarray(softmax(a, temperature) + alpha * softmax(b, second_temperature or temperature), np.float64)


@dataclass(frozen=True)
class ExtraScores:
    """Zero-shot scores of another modality.

    Attributes:
        scores: (N, K) logits or cosines.
        weight: of these scores in the fusion.
        temperature: of their softmax.
    """

    scores: Array
    weight: float = 1.0
    temperature: float = 0.01


def zero_shot(
    features: ArrayLike,
    labels: ArrayLike,
    classes: ArrayLike,
    extra: ExtraScores | None = None,
    temperature: float = 0.1,
    name: str = "zero-shot",
    groups: Sequence[str] | None = None,
) -> Result:
    """Top-1 of the class with the nearest text: from motions alone, or fused with the scores of another modality.

    The third row of T-MOR adds the video-text scores of ViCLIP (thesis, table 6.6, V-M-T). The thesis does not print
    the weight and the temperatures. Here the weight is 1, and the temperatures are 0.1 (that of the contrastive loss)
    and 0.01 (that of ViCLIP).

    Args:
        features: (N, D) projected motions.
        labels: (N,), -1 for clips that are left out.
        classes: (K, D) projected texts, see `class_embeddings`.
        extra: scores of another modality for the same clips.
        temperature: of the softmax of the cosines of motions, used only in a fusion.
        name: of the result.
        groups: (N,) who was filmed in each clip, see `classification_result`.
    """
    scores = similarities(features, classes)
    if extra is None:
        return classification_result(name, scores, labels, groups=groups)
    alone = classification_result(name, scores, labels).value
    other = classification_result(name, extra.scores, labels).value
    fused = fuse_scores(scores, extra.scores, extra.weight, temperature, extra.temperature)
    more = {"weight": extra.weight, "motion alone": alone, "other alone": other}
    return classification_result(f"{name}, fused", fused, labels, groups=groups, **more).with_baselines(
        motion_alone=alone, other_alone=other
    )


def conse(
    features: ArrayLike,
    projected_texts: ArrayLike,
    training_texts: ArrayLike,
    new_texts: ArrayLike,
    temperature: float = 0.1,
) -> tuple[Array, Array]:
    """ConSE: motions in the space of the text encoder, each as a convex combination of the training classes.

    Source: Norouzi et al. 2014, equation 3, here over all training classes, with their mean subtracted from both sides.
    Only texts of training classes are projected, since a projection learnt from few texts does not generalise to new
    ones.

    Args:
        features: (N, D) projected motions.
        projected_texts: (S, D) projected texts of the training classes.
        training_texts: (S, E) the same texts in the space of the encoder.
        new_texts: (K, E) texts of the new classes in the space of the encoder.
        temperature: of the softmax over training classes, that of the contrastive loss.

    Returns:
        (N, E) motions and (K, E) classes, for `zero_shot`.

    Raises:
        TrainingError: fewer than two training classes, or texts of another encoder.
    """
    training_units, new_units = unit(training_texts), unit(new_texts)
    if len(training_units) < 2 or training_units.shape[1] != new_units.shape[1]:
        raise TrainingError(
            f"ConSE needs at least two training classes, in the space of the new ones; given "
            f"{training_units.shape} and {new_units.shape}"
        )
    centre = training_units.mean(0)
    weights = softmax(similarities(features, projected_texts), temperature)
    return np.asarray(weights @ (training_units - centre), np.float64), np.asarray(new_units - centre, np.float64)


def _ranks(queries: Array, gallery: Array, query_ids: NDArray[np.int64], gallery_ids: NDArray[np.int64]) -> Numbers:
    """(Q,) rank, from 1, of the best relevant item of each query; 0 where no item is relevant.

    Irrelevant items of equal similarity rank before the relevant one.
    """
    ranks = np.zeros(len(queries), np.int64)
    step = max(1, CELLS // len(gallery))
    for begin in range(0, len(queries), step):
        similar = queries[begin : begin + step] @ gallery.T
        relevant = query_ids[begin : begin + step, None] == gallery_ids
        best = np.where(relevant, similar, -np.inf).max(1, keepdims=True)
        rank = 1 + (~relevant & (similar >= best)).sum(1)
        ranks[begin : begin + step] = np.where(relevant.any(1), rank, 0)
    return ranks


def _ids_or_positions(ids: Sequence[object] | NDArray[Any] | None, count: int) -> list[object]:
    """Ids as a list; positions where ids are None."""
    if ids is not None and len(ids) != count:
        raise TrainingError(f"{len(ids)} ids for {count} features; give one id per feature")
    return list(range(count)) if ids is None else list(np.asarray(ids).tolist())


def _as_numbers(first: list[object], second: list[object]) -> tuple[Numbers, Numbers]:
    """Both lists of ids as int64 numbers; equal ids have equal numbers."""
    numbers: dict[object, int] = {}
    a, b = ([numbers.setdefault(one, len(numbers)) for one in ids] for ids in (first, second))
    return np.array(a, np.int64), np.array(b, np.int64)


def _chance(relevant: Array, total: int, k: int) -> float:
    """Mean probability that at least one of k random items of `total` is relevant to a query."""
    missed = np.ones(len(relevant))
    for n in range(min(k, total)):
        missed *= np.clip((total - relevant - n) / (total - n), 0, 1)
    return float(1 - missed.mean())


def retrieval(
    queries: ArrayLike,
    gallery: ArrayLike,
    query_ids: Sequence[object] | NDArray[Any] | None = None,
    gallery_ids: Sequence[object] | NDArray[Any] | None = None,
    top: Sequence[int] = TOP,
    name: str = "retrieval",
) -> Result:
    """R@k, the fraction of queries with a relevant item among the k nearest, and the median rank of the first one.

    An item is relevant if its id equals that of the query. Without ids, query n and item n are a pair. Pass the texts
    as ids where several clips have the same text, and class labels where any clip of the class is relevant. For the
    other direction swap the arguments, or call `both_directions`.

    Args:
        queries: (Q, D).
        gallery: (G, D).
        query_ids, gallery_ids: (Q,) and (G,) texts or numbers.
        top: the k of R@k; the first is the result's value.
        name: of the result.

    Raises:
        TrainingError: features of different widths, ids for queries or gallery alone, or no query with a relevant item.
    """
    query_rows, gallery_rows = unit(queries), unit(gallery)
    if query_rows.shape[1] != gallery_rows.shape[1] or not len(query_rows) or not len(gallery_rows):
        raise TrainingError(f"queries {query_rows.shape} and gallery {gallery_rows.shape} are not in one space")
    if (query_ids is None) != (gallery_ids is None) or (query_ids is None and len(query_rows) != len(gallery_rows)):
        raise TrainingError(
            f"give ids of both queries and items, or pairs; given {len(query_rows)} queries and "
            f"{len(gallery_rows)} items"
        )
    query_numbers, gallery_numbers = _as_numbers(
        _ids_or_positions(query_ids, len(query_rows)), _ids_or_positions(gallery_ids, len(gallery_rows))
    )
    ranks = _ranks(query_rows, gallery_rows, query_numbers, gallery_numbers)
    has_relevant = ranks > 0
    if not has_relevant.any():
        raise TrainingError("no query has a relevant item in the gallery: their ids have nothing in common")
    ranks = ranks[has_relevant]
    counts = np.bincount(gallery_numbers, minlength=int(max(query_numbers.max(), gallery_numbers.max())) + 1)[
        query_numbers[has_relevant]
    ].astype(np.float64)
    recalls = {f"R@{k}": float((ranks <= k).mean()) for k in top}
    chances = {f"chance R@{k}": _chance(counts, len(gallery_rows), k) for k in top}
    more = {
        **recalls,
        **chances,
        "median rank": float(np.median(ranks)),
        "mean reciprocal rank": float((1 / ranks).mean()),
        "queries": len(ranks),
        "queries without a relevant item": int((~has_relevant).sum()),
        "gallery": len(gallery_rows),
    }
    interval = bootstrap((ranks <= top[0]).astype(np.float64))
    return Result(
        name, f"R@{top[0]}", recalls[f"R@{top[0]}"], (), interval, {"chance": chances[f"chance R@{top[0]}"]}, more
    )


def both_directions(
    motions: ArrayLike,
    texts: ArrayLike,
    motion_ids: Sequence[object] | NDArray[Any] | None = None,
    text_ids: Sequence[object] | NDArray[Any] | None = None,
    top: Sequence[int] = TOP,
) -> tuple[Result, Result]:
    """Retrieval of texts by motions, then of motions by texts; see `retrieval`."""
    motion_to_text = retrieval(motions, texts, motion_ids, text_ids, top, "motion to text")
    text_to_motion = retrieval(texts, motions, text_ids, motion_ids, top, "text to motion")
    return motion_to_text, text_to_motion


def multiple_choice(
    motions: ArrayLike,
    labels: ArrayLike,
    classes: ArrayLike,
    ways: int = 15,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    direction: str = "text to motion",
    questions: int = 450,
    name: str | None = None,
) -> Result:
    """Multiple choice (MoLang, section 4.4): the right answer among those of 14 other classes; top-1 and top-3.

    As printed, a question is a text and the answers are 15 random motions of different classes, 450 questions. In the
    other direction a question is a motion, and the answers are the text of its class and the texts of 14 others. Each
    seed samples one set of questions.

    Args:
        motions: (N, D) projected.
        labels: (N,), -1 for clips that are left out.
        classes: (K, D) projected texts, K >= ways.
        ways: number of answers per question.
        seeds: one per set of questions.
        direction: "text to motion" or "motion to text".
        questions: number per set, balanced over classes; "motion to text" has one question per motion.
        name: of the result.

    Raises:
        TrainingError: fewer classes (with motions) than ways, or an unknown direction.
    """
    if direction not in ("text to motion", "motion to text"):
        raise TrainingError(f"direction {direction!r}{suggestion(direction, ('text to motion', 'motion to text'))}")
    ids, rows = labelled(labels, np.asarray(motions))
    scores = similarities(rows, classes)
    if ids.max() >= scores.shape[1]:
        raise TrainingError(f"label {ids.max()} has no text among {scores.shape[1]}")
    by_class = {int(label): np.flatnonzero(ids == label) for label in np.unique(ids)}
    answers = len(by_class) if direction == "text to motion" else scores.shape[1]
    if not 2 <= ways <= answers:
        raise TrainingError(f"ways = {ways}: must lie between 2 and the number of classes, {answers}")
    accuracies = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        ranks = (
            _ranks_of_motions(scores, by_class, ways, questions, rng)
            if direction == "text to motion"
            else _ranks_of_texts(scores, ids, ways, rng)
        )
        accuracies.append(((ranks < 1).mean(), (ranks < 3).mean()))
    more = {
        **{"top-3": float(np.mean([row[1] for row in accuracies])), "seeds": list(seeds)},
        "questions": questions if direction == "text to motion" else len(ids),
    }
    title = name or f"{ways}-way, {direction}"
    return of_seeds(title, "top-1", [row[0] for row in accuracies], baselines={"chance": 1 / ways}, details=more)


def _ranks_of_motions(
    scores: Array, by_class: dict[int, Numbers], ways: int, questions: int, rng: np.random.Generator
) -> Numbers:
    """(questions,) rank of the right motion, from 0; ties count against the right motion."""
    names, members = np.array(sorted(by_class)), [by_class[name] for name in sorted(by_class)]
    rounds = -(-questions // len(names))
    questioned = np.concatenate([rng.permutation(len(names)) for _ in range(rounds)])[:questions]
    keys = rng.random((questions, len(names)))
    keys[np.arange(questions), questioned] = -1
    chosen = np.argsort(keys, axis=1)[:, :ways]  # the right class, then the others
    counts = np.array([len(clips) for clips in members])
    starts = np.cumsum(counts) - counts
    clips = np.concatenate(members)[starts[chosen] + (rng.random(chosen.shape) * counts[chosen]).astype(np.int64)]
    choices = scores[clips, names[questioned][:, None]]
    return np.asarray((choices[:, 1:] >= choices[:, :1]).sum(1), np.int64)


def _ranks_of_texts(scores: Array, ids: Numbers, ways: int, rng: np.random.Generator) -> Numbers:
    """(N,) rank of the text of the class of each motion, from 0; ties count against the right text."""
    num_clips, num_classes = scores.shape
    keys = rng.random((num_clips, num_classes))
    keys[np.arange(num_clips), ids] = np.inf
    others = np.argsort(keys, axis=1)[:, : ways - 1]
    own = scores[np.arange(num_clips), ids][:, None]
    return np.asarray((np.take_along_axis(scores, others, axis=1) >= own).sum(1), np.int64)
