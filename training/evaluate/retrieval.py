"""Motions beside texts: zero-shot classes, retrieval in both directions, one of fifteen, and scores put together.

Motion and text features lie in one space already: the projections a method learnt, `phi_M(E_M(motion))`
and `phi_T(E_T(text))` of T-MOR, not the outputs of the two encoders.
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
    """(K, D) one unit vector a class: the mean of the unit vectors of its texts (Radford et al. 2021, section 3.1.4).

    Args:
        prompts: the texts of each class, one or more.
        encode: (N, D) of N texts, such as `TextEncoder.encode`, or it followed by a method's projection.

    Raises:
        TrainingError: a class without text.
    """
    empty = [n for n, texts in enumerate(prompts) if not texts]
    if not prompts or empty:
        raise TrainingError(
            f"every class wants one text or more; {f'class {empty[0]} has none' if empty else 'there are no classes'}"
        )
    vectors = unit(encode([text for texts in prompts for text in texts]))
    ends = np.cumsum([len(texts) for texts in prompts])
    return unit([part.mean(0) for part in np.split(vectors, ends[:-1])])


def similarities(features: ArrayLike, classes: ArrayLike) -> Array:
    """(N, K) cosines of N features with K class embeddings.

    Raises:
        TrainingError: the two have different numbers of values.
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
    found = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(found / found.sum(1, keepdims=True), np.float64)


def fuse_scores(
    first: ArrayLike,
    second: ArrayLike,
    alpha: float = 1.0,
    temperature: float = 1.0,
    second_temperature: float | None = None,
) -> Array:
    """(N, K) softmax(first) + alpha * softmax(second): two streams, or two modalities, of the same clips.

    Two streams of logits are summed with alpha 1 (joints and bones of UNIK and 2s-AGCN). Cosines want the temperature
    they were learnt with, or they weigh about the same everywhere.

    Args:
        first, second: (N, K) logits or cosines.
        alpha: weight of the second; 0 leaves the first alone.
        temperature: of the softmax of the first.
        second_temperature: of that of the second; the same without.

    Raises:
        TrainingError: other shapes, or a negative weight.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape or a.ndim != 2 or alpha < 0:
        raise TrainingError(
            f"scores of the same clips and classes and alpha >= 0 are wanted; given {a.shape}, {b.shape}, alpha {alpha}"
        )
    return np.asarray(softmax(a, temperature) + alpha * softmax(b, second_temperature or temperature), np.float64)


@dataclass(frozen=True)
class ExtraScores:
    """Another modality's scores for zero-shot: (N, K), its weight, and the temperature of its softmax."""

    scores: Array
    weight: float = 1.0
    temperature: float = 0.01


def zero_shot(
    features: ArrayLike,
    labels: ArrayLike,
    classes: ArrayLike,
    aid: ExtraScores | None = None,
    temperature: float = 0.1,
    name: str = "zero-shot",
) -> Result:
    """Top-1 of the class whose text is nearest, of motions alone, or with another modality's scores.

    T-MOR's third row adds ViCLIP's video-text scores to its own (thesis, table 6.6, V-M-T); the weight and the
    temperatures are not given there: ours are 1, the 0.1 of the contrast, and ViCLIP's 0.01.

    Args:
        features: (N, D) projected motions.
        labels: (N,), -1 for clips that are left out.
        classes: (K, D) projected texts, see `class_embeddings`.
        aid: scores of another modality for the same clips.
        temperature: of the softmax of the motion's cosines, used only where they are fused.
        name: of the result.
    """
    scores = similarities(features, classes)
    if aid is None:
        return classification_result(name, scores, labels)
    alone = classification_result(name, scores, labels).value
    other = classification_result(name, aid.scores, labels).value
    joined = fuse_scores(scores, aid.scores, aid.weight, temperature, aid.temperature)
    more = {"weight": aid.weight, "motion alone": alone, "other alone": other}
    return classification_result(f"{name}, fused", joined, labels, **more).with_baselines(
        motion_alone=alone, other_alone=other
    )


def through_known_classes(
    features: ArrayLike, projected: ArrayLike, known: ArrayLike, classes: ArrayLike, temperature: float = 0.1
) -> tuple[Array, Array]:
    """Motions and new classes in the text encoder's own space, where each motion is the mixture of the known classes
    that it looks like.

    ConSE (Norouzi et al. 2014, equation 3), with all known classes and their mean taken off both sides. Only known
    texts are projected: what a projection that saw some ten texts makes of another one is little more than chance.

    Args:
        features: (N, D) projected motions.
        projected: (S, D) projected texts of the known classes.
        known: (S, E) the same texts as the encoder has them.
        classes: (K, E) texts of the classes asked for, as the encoder has them.
        temperature: of the softmax over known classes, that of the contrast.

    Returns:
        (N, E) and (K, E), to be compared by `zero_shot`.

    Raises:
        TrainingError: fewer than two known classes, or texts of another encoder.
    """
    texts, asked = unit(known), unit(classes)
    if len(texts) < 2 or texts.shape[1] != asked.shape[1]:
        raise TrainingError(
            f"two known classes or more are wanted, in the space of those asked for; given {texts.shape} and "
            f"{asked.shape}"
        )
    centre = texts.mean(0)
    weights = softmax(similarities(features, projected), temperature)
    return np.asarray(weights @ (texts - centre), np.float64), np.asarray(asked - centre, np.float64)


def _ranks(queries: Array, gallery: Array, query_ids: NDArray[np.int64], gallery_ids: NDArray[np.int64]) -> Numbers:
    """(Q,) place, from 1, of the best relevant item; ties with irrelevant items count against it. 0 where nothing is
    relevant."""
    found = np.zeros(len(queries), np.int64)
    step = max(1, CELLS // len(gallery))
    for begin in range(0, len(queries), step):
        similar = queries[begin : begin + step] @ gallery.T
        relevant = query_ids[begin : begin + step, None] == gallery_ids
        best = np.where(relevant, similar, -np.inf).max(1, keepdims=True)
        place = 1 + (~relevant & (similar >= best)).sum(1)
        found[begin : begin + step] = np.where(relevant.any(1), place, 0)
    return found


def _given(ids: Sequence[object] | NDArray[Any] | None, count: int) -> list[object]:
    """Ids as a list, or positions where there are none."""
    if ids is not None and len(ids) != count:
        raise TrainingError(f"{len(ids)} ids for {count} features; want one each")
    return list(range(count)) if ids is None else list(np.asarray(ids).tolist())


def _same(first: list[object], second: list[object]) -> tuple[Numbers, Numbers]:
    """Ids as numbers that agree where the ids do."""
    numbers: dict[object, int] = {}
    a, b = ([numbers.setdefault(one, len(numbers)) for one in ids] for ids in (first, second))
    return np.array(a, np.int64), np.array(b, np.int64)


def _chance(relevant: Array, total: int, k: int) -> float:
    """Mean chance that one of k items drawn of `total` is among a query's relevant ones."""
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
    """Share of queries that have a relevant item among the k nearest, and the median place of the first one.

    Items are relevant where their id equals the query's. Without ids the pairs by position are meant. Give the texts
    themselves where several clips have the same one, and class labels where any clip of the class will do.
    Both directions are two calls with the arguments swapped, or `both_ways`.

    Args:
        queries: (Q, D).
        gallery: (G, D).
        query_ids, gallery_ids: (Q,) and (G,) texts or numbers.
        top: the k of R@k; the first is the result's value.
        name: of the result.

    Raises:
        TrainingError: features of different lengths, ids for one side only, or no query with a relevant item.
    """
    asked, known = unit(queries), unit(gallery)
    if asked.shape[1] != known.shape[1] or not len(asked) or not len(known):
        raise TrainingError(f"queries {asked.shape} and gallery {known.shape} are not in one space")
    if (query_ids is None) != (gallery_ids is None) or (query_ids is None and len(asked) != len(known)):
        raise TrainingError(f"give ids for both sides, or pairs; given {len(asked)} queries and {len(known)} items")
    ours, theirs = _same(_given(query_ids, len(asked)), _given(gallery_ids, len(known)))
    places = _ranks(asked, known, ours, theirs)
    counted = places > 0
    if not counted.any():
        raise TrainingError("no query has a relevant item in the gallery: their ids have nothing in common")
    places = places[counted]
    counts = np.bincount(theirs, minlength=int(max(ours.max(), theirs.max())) + 1)[ours[counted]].astype(np.float64)
    reached = {f"R@{k}": float((places <= k).mean()) for k in top}
    chances = {f"chance R@{k}": _chance(counts, len(known), k) for k in top}
    more = {
        **reached,
        **chances,
        "median rank": float(np.median(places)),
        "mean reciprocal rank": float((1 / places).mean()),
        "queries": len(places),
        "queries without a relevant item": int((~counted).sum()),
        "gallery": len(known),
    }
    interval = bootstrap((places <= top[0]).astype(np.float64))
    return Result(
        name, f"R@{top[0]}", reached[f"R@{top[0]}"], (), interval, {"chance": chances[f"chance R@{top[0]}"]}, more
    )


def both_ways(
    motions: ArrayLike,
    texts: ArrayLike,
    motion_ids: Sequence[object] | NDArray[Any] | None = None,
    text_ids: Sequence[object] | NDArray[Any] | None = None,
    top: Sequence[int] = TOP,
) -> tuple[Result, Result]:
    """Retrieval of texts by motions, then of motions by texts; see `retrieval`."""
    there = retrieval(motions, texts, motion_ids, text_ids, top, "motion to text")
    back = retrieval(texts, motions, text_ids, motion_ids, top, "text to motion")
    return there, back


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
    """One of fifteen (MoLang, section 4.4): the right answer and one of each of 14 other classes; top-1, and top-3
    beside it.

    As printed, a text is given and 15 random motions of different classes are the choice, 450 questions. The other
    direction gives each motion its own class's text among the texts of 14 others. A seed draws the questions.

    Args:
        motions: (N, D) projected.
        labels: (N,), -1 for clips that are left out.
        classes: (K, D) projected texts, K >= ways.
        ways: how many answers there are.
        seeds: one set of questions each.
        direction: "text to motion" or "motion to text".
        questions: of a set, as evenly over the classes as they go; the other direction asks about every motion once.
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
        raise TrainingError(f"ways = {ways}: want between 2 and the {answers} classes there are")
    reached = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        places = (
            _by_text(scores, by_class, ways, questions, rng)
            if direction == "text to motion"
            else _by_motion(scores, ids, ways, rng)
        )
        reached.append(((places < 1).mean(), (places < 3).mean()))
    more = {
        **{"top-3": float(np.mean([row[1] for row in reached])), "seeds": list(seeds)},
        "questions": questions if direction == "text to motion" else len(ids),
    }
    shown = name or f"{ways}-way, {direction}"
    return of_seeds(shown, "top-1", [row[0] for row in reached], baselines={"chance": 1 / ways}, details=more)


def _by_text(
    scores: Array, by_class: dict[int, Numbers], ways: int, questions: int, rng: np.random.Generator
) -> Numbers:
    """(questions,) place of the right motion, 0 the first; ties count against it."""
    names, members = np.array(sorted(by_class)), [by_class[name] for name in sorted(by_class)]
    rounds = -(-questions // len(names))
    asked = np.concatenate([rng.permutation(len(names)) for _ in range(rounds)])[:questions]
    keys = rng.random((questions, len(names)))
    keys[np.arange(questions), asked] = -1
    chosen = np.argsort(keys, axis=1)[:, :ways]  # the right class, then the others
    counts = np.array([len(clips) for clips in members])
    starts = np.cumsum(counts) - counts
    clips = np.concatenate(members)[starts[chosen] + (rng.random(chosen.shape) * counts[chosen]).astype(np.int64)]
    given = scores[clips, names[asked][:, None]]
    return np.asarray((given[:, 1:] >= given[:, :1]).sum(1), np.int64)


def _by_motion(scores: Array, ids: Numbers, ways: int, rng: np.random.Generator) -> Numbers:
    """(N,) place of each motion's own text, 0 the first; ties count against it."""
    num_clips, num_classes = scores.shape
    keys = rng.random((num_clips, num_classes))
    keys[np.arange(num_clips), ids] = np.inf
    others = np.argsort(keys, axis=1)[:, : ways - 1]
    own = scores[np.arange(num_clips), ids][:, None]
    return np.asarray((np.take_along_axis(scores, others, axis=1) >= own).sum(1), np.int64)
