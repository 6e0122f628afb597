"""Calibration of scores: the probability that a joint is right, from the score that an expert gives it.

The scores of different networks do not compare as they come: one says 0.96 where it is right in 83 % of the joints,
another 0.4 where it is right in 90 %. A curve per expert maps its scores to probabilities::

    P(right) = 1 / (1 + exp(-(slope * logit(score) + intercept[joint])))

A joint is right within half a head-neck length of the truth. Curves are fitted to annotated poses (`fit`), or to the
poses of several experts without any annotation (`fit_agreement`). The package ships curves for its own experts
(`built_in`). Positions stay as they are; `dataengine.fusion.calibration` also learns to correct those, from many
annotated poses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.skeletons import COMMON, all_finite
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Bool, Float, Int
from dataengine.fusion import check
from dataengine.fusion.observations import typical_scale

FORMAT = "dataengine score calibration 1"

BUILT_IN = Path(__file__).parent / "built_in_scores.json"

RIGHT = 0.5
"""A joint within this many scale lengths of the truth is right; observations within it of each other agree."""

_ENDS = 0.001, 0.999
"""Scores are brought into this range, where their logit is finite."""

_TOGETHER = 0.1
"""Share of the pairs of wrong observations that are wrong at the same place: networks err together."""

_CORRELATION = 0.5
"""Correlation of the errors of two experts: 0.43 to 0.57 between families, 0.73 to 0.78 within one, measured on
annotated pictures."""

_SLOPE, _SLOPE_SPREAD, _JOINT_SPREAD, _INTERCEPT_SPREAD = 1.0, 1.0, 1.0, 3.0
"""What is expected of a curve in advance: mean and standard deviation of the slope, and standard deviation of the
intercepts of the joints around that of the expert and of that around 0."""

_LARGEST = 200_000
"""Most comparisons that a fit without annotations reads; of more, evenly spaced ones."""


@dataclass(frozen=True)
class ScoreCurve:
    """The curve of one expert.

    Attributes:
        slope: factor of logit(score), at least 0.
        intercept: one summand per joint of the layout.
        fitted_on: statement of the data that the curve was fitted on.
    """

    slope: float
    intercept: tuple[float, ...]
    fitted_on: str = ""

    @property
    def is_identity(self) -> bool:
        """Whether scores are probabilities as they come."""
        return self.slope == 1.0 and not any(self.intercept)

    def __call__(self, scores: Float) -> Float:
        """Probabilities (..., V) float64 in (0, 1) of scores (..., V) in [0, 1]; NaN and missing joints are up to the
        caller."""
        return _sigmoid(self.slope * _logit(scores) + np.array(self.intercept))


@dataclass(frozen=True)
class ScoreCalibration:
    """Curves of named experts in one layout.

    Attributes:
        curves: by name of the expert.
        skeleton: layout of the joints.
    """

    curves: Mapping[str, ScoreCurve] = field(default_factory=dict)
    skeleton: str = COMMON

    def apply(self, coords: Any, scores: Any, skeleton: str, experts: Sequence[str]) -> tuple[Float, Float]:
        """Replace scores by probabilities.

        Experts without a curve, and those whose curve is the identity, keep their scores.

        Args:
            coords: (E, T, V, 2) float pixels, NaN where missing.
            scores: (E, T, V) own scores in [0, 1], or None for experts that give none.
            skeleton: layout of the joints, that of the calibration.
            experts: E names.

        Returns:
            coords as given, float32, and scores (E, T, V) float32: probabilities, 0 where missing.

        Raises:
            ComponentError: arrays of a wrong shape, another layout, or names that are not one per expert.
        """
        points, given = check(coords, scores, skeleton)
        if skeleton != self.skeleton:
            raise ComponentError(
                f"this calibration is of layout {self.skeleton!r}, the coords given of {skeleton!r}: convert them first"
            )
        if len(experts) != len(points):
            raise ComponentError(f"apply takes one name for each of {len(points)} experts; given {list(experts)}")
        seen: Bool = np.asarray(np.isfinite(points).all(-1))
        out = np.ones(seen.shape, np.float32) if given is None else given.copy()
        for e, name in enumerate(experts):
            curve = self.curves.get(name)
            if curve is not None and not curve.is_identity:
                out[e] = np.where(seen[e], curve(out[e]), 0.0)
        return points, np.where(seen, out, np.float32(0)) if given is None else out

    def save(self, path: str | Path) -> None:
        """Write one JSON file; equal calibrations give equal bytes."""
        experts = {
            name: {
                "fitted_on": c.fitted_on,
                "slope": round(c.slope, 4),
                "intercept": [round(i, 4) for i in c.intercept],
            }
            for name, c in sorted(self.curves.items())
        }
        content = {"format": FORMAT, "skeleton": self.skeleton, "experts": experts}
        Path(path).write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> ScoreCalibration:
        """Read what `save` wrote.

        Raises:
            WeightsError: no such file, or no score calibration of this version.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise WeightsError(f"{path} is no score calibration of this version ({FORMAT!r}): fit it again")
            joints = layout_of(str(content["skeleton"])).num_joints
            curves = {str(name): _curve(values, joints) for name, values in content["experts"].items()}
            return cls(curves, str(content["skeleton"]))
        except FileNotFoundError as error:
            raise WeightsError(f"there is no calibration {path}; give the path of a fitted one") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ComponentError) as error:
            raise WeightsError(f"{path} is not a score calibration: {error!r}") from error


def of_related_experts(scores: Float, coords: Float) -> Float:
    """The probability that a fused joint is right, from the one that takes the errors of the experts as independent.

    Experts err together. The errors of n experts whose errors are correlated by r count as those of n / (1 + (n - 1) r)
    independent ones.

    Args:
        scores: (T, V) of a fusion that combines scores, from calibrated scores of the experts.
        coords: (E, T, V, 2) of the experts, NaN where missing.

    Returns:
        (T, V) float32, at most `scores`.
    """
    count = np.maximum(np.isfinite(coords).all(-1).sum(0), 1)
    wrong = 1.0 - np.asarray(scores, np.float64)
    out: Float = 1.0 - wrong ** (1.0 / (1.0 + (count - 1) * _CORRELATION))
    return out.astype(np.float32)


@cache
def built_in() -> ScoreCalibration:
    """The curves that the package ships, by `Expert.score_calibration`."""
    return ScoreCalibration.load(BUILT_IN)


def fit(
    coords: Sequence[Any],
    scores: Sequence[Any],
    truth: Sequence[Any],
    visible: Sequence[Any],
    scale: Sequence[float],
    experts: Sequence[str],
    skeleton: str = COMMON,
    fitted_on: str = "",
) -> ScoreCalibration:
    """Fit curves to N annotated sequences; a still picture is a sequence of one frame.

    Logistic regression (Platt 1999) with a weak prior. Left and right joints share an intercept.

    Args:
        coords: N times (E, T, V, 2) float pixels, NaN where missing.
        scores: N times (E, T, V) own scores in [0, 1].
        truth: N times (T, V, 2) float pixels.
        visible: N times (T, V) bool, joints whose truth is known.
        scale: N head-neck lengths in pixels, such as those of PCKh.
        experts: E names.
        skeleton: layout of the joints.
        fitted_on: statement of the data, kept in the file.

    Raises:
        ComponentError: arrays that do not belong together, or nothing annotated.
    """
    given = [_checked(x, s, skeleton, len(experts)) for x, s in zip(coords, scores, strict=True)]
    group, count = _joint_groups(skeleton)
    curves = {}
    for e, name in enumerate(experts):
        rows: list[tuple[Float, Int, Bool]] = []
        for (points, rated), goal, mask, length in zip(given, truth, visible, scale, strict=True):
            away = np.linalg.norm(points[e] - np.asarray(goal, np.float64), axis=-1)
            known = np.isfinite(away) & np.asarray(mask, np.bool_)
            rows.append((_logit(rated[e])[known], group[np.nonzero(known)[1]], away[known] <= RIGHT * length))
        x, joints, right = (np.concatenate(parts) for parts in zip(*rows))
        if not len(x):
            raise ComponentError(f"too little to learn from: expert {name!r} has no annotated joint")
        found = _minimum(lambda p, x=x, j=joints, y=right: _labelled_loss(p, x, j, y, count), 1, count)
        curves[name] = _made(found[0], group, fitted_on)
    return ScoreCalibration(curves, skeleton)


def fit_agreement(
    coords: Sequence[Any],
    scores: Sequence[Any],
    experts: Sequence[str],
    skeleton: str = COMMON,
    fitted_on: str = "",
    families: Sequence[str] | None = None,
) -> ScoreCalibration:
    """Fit curves to N sequences without annotations, from how experts agree with each other and over time.

    Two right observations of a joint agree: they lie within half a head-neck length of each other. Two observations
    agree with the probability p q + c (1 - p)(1 - q), where p and q are the probabilities that each is right, given its
    score, and c is the share of wrong pairs that are wrong together. With three experts, the rates at which the pairs
    agree determine how often each is right (Dawid and Skene 1979); the curves make that depend on the score. Over time,
    an expert that is right in three frames in a row moves evenly; a joint that jumps out of line shows that it is not.

    Variants of one network err together, and both would pass for right: experts of one family are not compared.

    Args:
        coords: N times (E, T, V, 2) float pixels of one person, NaN where missing; E is at least 2, better 3 or more.
        scores: N times (E, T, V) own scores in [0, 1].
        experts: E names.
        skeleton: layout of the joints.
        fitted_on: statement of the data, kept in the file.
        families: E names of families; None: all differ.

    Raises:
        ComponentError: fewer than two experts or families, arrays of a wrong shape, or experts that never see the same
            joint.
    """
    if len(experts) < 2:
        raise ComponentError("without annotations a calibration compares experts: give 2 or more, better 3")
    kin = list(experts) if families is None else list(families)
    if len(kin) != len(experts) or len(set(kin)) < 2:
        raise ComponentError(
            f"fit_agreement takes a family for each of {len(experts)} experts, two or more; given {kin}"
        )
    given = [_checked(x, s, skeleton, len(experts)) for x, s in zip(coords, scores, strict=True)]
    group, count = _joint_groups(skeleton)
    pairs = _thinned([_pairs(points, rated, group, skeleton, kin) for points, rated in given])
    if not len(pairs[0]):
        raise ComponentError("the experts never see the same joint of a person: nothing to compare")
    steps = _thinned([_steps(points, rated, group, skeleton) for points, rated in given])
    found = _minimum(lambda p: _agreement_loss(p, pairs, steps, count), len(experts), count, len(experts))
    return ScoreCalibration({name: _made(found[e], group, fitted_on) for e, name in enumerate(experts)}, skeleton)


def _curve(values: Any, joints: int) -> ScoreCurve:
    intercept = tuple(float(i) for i in values["intercept"])
    slope = float(values["slope"])
    if len(intercept) != joints or not np.isfinite([slope, *intercept]).all() or slope < 0:
        raise ValueError(f"a curve is a slope >= 0 and {joints} intercepts")
    return ScoreCurve(slope, intercept, str(values.get("fitted_on", "")))


def _checked(coords: Any, scores: Any, skeleton: str, experts: int) -> tuple[Float, Float]:
    """Coordinates (E, T, V, 2) and scores (E, T, V) as float64."""
    points, rated = check(coords, scores, skeleton)
    if rated is None or len(points) != experts:
        raise ComponentError(f"fit takes coords and scores of {experts} experts; given coords {points.shape}")
    return points.astype(np.float64), rated.astype(np.float64)


def _logit(scores: Float) -> Float:
    clipped = np.clip(np.asarray(scores, np.float64), *_ENDS)
    out: Float = np.log(clipped / (1 - clipped))
    return out


def _sigmoid(values: Float) -> Float:
    out: Float = 0.5 * (1 + np.tanh(0.5 * values))
    return out


@cache
def _joint_groups(skeleton: str) -> tuple[Int, int]:
    """(V,) number of the pair of mirrored joints that each joint belongs to, and how many there are."""
    flip = np.array(layout_of(skeleton).flip)
    found, group = np.unique(np.minimum(np.arange(len(flip)), flip), return_inverse=True)
    return group, len(found)


def _made(parameters: Float, group: Int, fitted_on: str) -> ScoreCurve:
    """The curve of one row of `_minimum`."""
    intercept = parameters[1] + parameters[2:][group]
    return ScoreCurve(float(parameters[0]), tuple(float(i) for i in intercept), fitted_on)


def _minimum(loss: Any, experts: int, groups: int, further: int = 0) -> Float:
    """(E, 2 + G) slope, intercept and intercepts of joints that minimise a loss of E rows and `further` numbers."""
    start = np.zeros(experts * (2 + groups) + further)
    start[: experts * (2 + groups)].reshape(experts, -1)[:, 0] = _SLOPE
    bounds = [(0.0, None) if n % (2 + groups) == 0 else (None, None) for n in range(experts * (2 + groups))]
    bounds += [(None, None)] * further
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    out: Float = found.x[: experts * (2 + groups)].reshape(experts, -1)
    return out


def _prior(rows: Float) -> tuple[float, Float]:
    """Negative logarithm of the prior of (E, 2 + G) parameters, and its gradient."""
    precision = np.full(rows.shape[1], 1 / _JOINT_SPREAD**2)
    precision[:2] = 1 / _SLOPE_SPREAD**2, 1 / _INTERCEPT_SPREAD**2
    off = rows - np.eye(1, rows.shape[1])[0] * _SLOPE
    return 0.5 * float((precision * off**2).sum()), precision * off


def _labelled_loss(parameters: Float, x: Float, joints: Int, right: Bool, groups: int) -> tuple[float, Float]:
    value, gradient = _prior(parameters[None])
    chance = _sigmoid(parameters[0] * x + parameters[1] + parameters[2:][joints])
    value -= float(np.log(np.where(right, chance, 1 - chance) + 1e-12).sum())
    gradient[0] += _chain(chance - right, x, joints, groups)
    return value, gradient[0]


def _chain(by_logit: Float, x: Float, joints: Int, groups: int) -> Float:
    """(2 + G,) gradient by the parameters of a curve, from that by its logits."""
    return np.concatenate(
        [[(by_logit * x).sum(), by_logit.sum()], np.bincount(joints, weights=by_logit, minlength=groups)]
    )


def _pairs(points: Float, scores: Float, group: Int, skeleton: str, families: Sequence[str]) -> tuple[Any, ...]:
    """Comparisons of experts of two families: expert and logit of each, joint group, and whether they agree."""
    seen, logit = all_finite(points), _logit(scores)
    reach = RIGHT * typical_scale(points, skeleton)
    rows = []
    for a in range(len(points)):
        for b in range(a + 1, len(points)):
            if families[a] == families[b]:
                continue
            both = seen[a] & seen[b]
            near = np.linalg.norm(points[a] - points[b], axis=-1)[both] <= reach
            joints = group[np.nonzero(both)[1]]
            rows.append((np.full(len(near), a), np.full(len(near), b), logit[a][both], logit[b][both], joints, near))
    return tuple(np.concatenate(parts) for parts in zip(*rows))


def _steps(points: Float, scores: Float, group: Int, skeleton: str) -> tuple[Any, ...]:
    """Triples of frames in a row of one expert: expert, three logits (R, 3), joint group, and whether it moves
    evenly."""
    seen, logit = all_finite(points), _logit(scores)
    reach = RIGHT * typical_scale(points, skeleton)
    every = seen[:, :-2] & seen[:, 1:-1] & seen[:, 2:]
    bend = np.linalg.norm(points[:, 1:-1] - (points[:, :-2] + points[:, 2:]) / 2, axis=-1)
    three = np.stack([logit[:, :-2], logit[:, 1:-1], logit[:, 2:]], -1)
    return np.nonzero(every)[0], three[every], group[np.nonzero(every)[2]], bend[every] <= reach


def _thinned(parts: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """All comparisons, or evenly spaced ones of too many."""
    every = tuple(np.concatenate(columns) for columns in zip(*parts))
    step = -(-len(every[0]) // _LARGEST) or 1
    return tuple(column[::step] for column in every)


def _agreement_loss(
    parameters: Float, pairs: tuple[Any, ...], steps: tuple[Any, ...], groups: int
) -> tuple[float, Float]:
    """Composite likelihood of agreement between experts and of even motion, with its gradient.

    The last E parameters are, per expert, the logit of the share of wrong triples of frames that still move evenly.
    """
    experts = len(parameters) // (3 + groups)
    rows = parameters[: experts * (2 + groups)].reshape(experts, -1)
    value, gradient = _prior(rows)
    first, second, x, y, joints, near = pairs

    def chance(e: Int, x: Float, j: Int) -> Float:
        return _sigmoid(rows[e, 0] * x + rows[e, 1] + rows[e, 2 + j])

    def add(e: Int, by_logit: Float, x: Float, j: Int) -> None:
        for k in range(experts):
            mine = e == k
            gradient[k] += _chain(by_logit[mine], x[mine], j[mine], groups)

    p, q = chance(first, x, joints), chance(second, y, joints)
    agree = np.clip(p * q + _TOGETHER * (1 - p) * (1 - q), 1e-9, 1 - 1e-9)
    value -= float(np.log(np.where(near, agree, 1 - agree)).sum())
    by_agree = np.where(near, -1 / agree, 1 / (1 - agree))
    add(first, by_agree * (q - _TOGETHER * (1 - q)) * p * (1 - p), x, joints)
    add(second, by_agree * (p - _TOGETHER * (1 - p)) * q * (1 - q), y, joints)

    expert, three, group, even = steps
    rest = np.zeros(experts)
    if len(expert):
        stay = _sigmoid(parameters[-experts:])[expert]
        each = np.stack([chance(expert, three[:, k], group) for k in range(3)])
        every = each.prod(0)
        smooth = np.clip(every + (1 - every) * stay, 1e-9, 1 - 1e-9)
        value -= float(np.log(np.where(even, smooth, 1 - smooth)).sum())
        by_smooth = np.where(even, -1 / smooth, 1 / (1 - smooth))
        for k in range(3):
            add(expert, by_smooth * (1 - stay) * every * (1 - each[k]), three[:, k], group)
        rest += np.bincount(expert, weights=by_smooth * (1 - every) * stay * (1 - stay), minlength=experts)
    value += 0.5 * float((parameters[-experts:] ** 2).sum()) / 9
    return value, np.concatenate([gradient.ravel(), rest + parameters[-experts:] / 9])
