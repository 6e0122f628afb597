"""What is known of named experts: where they are off, and how far a observation of theirs is to be believed.

A calibration is learned once from annotated poses and stored as one file of plain arrays. Before any fusion
it moves every observation to where its expert mostly means, and replaces its score by the probability that it
lies within half a unit of the truth, so that the scores of different experts mean the same::

    calibration = Calibration.fit(coords, truth, visible, unit, "mpii16", ["hourglass", "tompson"])
    calibration.save(path)
    coords, scores = Calibration.load(path).apply(coords, None, "mpii16", ["hourglass", "tompson"])
    dataengine.fuse(coords, scores, "mean_shift", "mpii16", score_power=4)
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.errors import ComponentError, MissingExtraError, WeightsError
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Bool, Float, Int
from dataengine.fusion import calibration_features, check
from dataengine.fusion._kernels.trees import BoostedTrees

FORMAT = "dataengine calibration 1"

RIGHT = 0.5
"""A observation within this many units of the truth is right; with the unit of PCKh, half a head."""

_NEAR = 0.5
"""Observations farther than this from the truth, in units, say nothing about where an expert is off."""

_CLOSE, _PRIOR = 0.3, 10
"""Observations within this many units of the truth tell how precise an expert is; and how many observations half as far off count as known before."""

_ROWS = 400_000
"""Most observations learned from; of more, some are drawn."""

_FOLDS = 5

_SIZE = {"max_iter": 150, "learning_rate": 0.06, "max_leaf_nodes": 8}
_CHANCE = {
    "max_iter": 200,
    "learning_rate": 0.06,
    "max_leaf_nodes": 16,
    "min_samples_leaf": 60,
    "l2_regularization": 5.0,
}
_SHIFT = {
    "loss": "absolute_error",
    "max_iter": 150,
    "learning_rate": 0.05,
    "max_leaf_nodes": 12,
    "min_samples_leaf": 100,
    "l2_regularization": 5.0,
}
"""Of the trees; chosen by cross-validation within the first fold of MPII's validation persons."""


@dataclass(frozen=True)
class Calibration:
    """What is known of named experts in one layout.

    Five things are learned, in this order, each from what comes before:

    * the size of a person: its unit of length (whatever unit was given to `fit`) from the lengths of its bones;
    * bias: per expert and joint the median of its errors below half a unit, in units along the axes of the picture,
      since most of it is the rounding and the offset of heat maps;
    * precision: the inverse of the mean squared error of its observations within `_CLOSE` units of the truth;
    * shift: what it takes from a observation to the truth: first to the mean of the observations near it, each weighing its precision, then
      what boosted trees tell from all observations;
    * chance: boosted trees tell the probability that it is right.

    What trees look at is in `dataengine.fusion.calibration_features`; nothing of it needs the truth or the picture. Trees are those of scikit-learn's
    HistGradientBoosting, needed by `fit` alone.

    Attributes:
        skeleton: layout of the joints.
        experts: names, in the order of the arrays.
        temporal: learned from sequences, and compares frames.
        known: (V,) bool, joints that had annotations; others pass through as they are.
        bias: (E, V, 2) float64 in units.
        precision: (E, V) float64 in 1 / units^2.
        size, chance, shift_x, shift_y: trees.
    """

    skeleton: str
    experts: tuple[str, ...]
    temporal: bool
    known: Bool
    bias: Float
    precision: Float
    size: BoostedTrees
    chance: BoostedTrees
    shift_x: BoostedTrees
    shift_y: BoostedTrees

    def apply(self, coords: Any, scores: Any, skeleton: str, experts: Sequence[str]) -> tuple[Float, Float]:
        """Calibrate what experts saw of one person.

        Experts that were not learned about pass through as they are, and are no evidence about the others; without scores theirs are
        1. Experts that were learned about may be absent, at some cost in accuracy: best fit a calibration to those that are used together.

        Args:
            coords: (E, T, V, 2) float pixels, NaN where missing.
            scores: (E, T, V) own scores in [0, 1], or None.
            skeleton: layout of the joints; the one of `fit`.
            experts: E names.

        Returns:
            coords (E, T, V, 2) float32 and scores (E, T, V) float32, 0 where missing.

        Raises:
            ComponentError: arrays of a wrong shape, another layout, or a name for each expert not given once.
        """
        points, given = check(coords, scores, skeleton)
        if skeleton != self.skeleton:
            raise ComponentError(
                f"this calibration is of layout {self.skeleton!r}, the coords given of {skeleton!r}: convert them first"
            )
        if len(experts) != len(points) or len(set(experts)) != len(experts):
            raise ComponentError(f"apply takes one name for each of {len(points)} experts; given {list(experts)}")
        seen: Bool = np.asarray(np.isfinite(points).all(-1))
        out, chance = points.copy(), np.where(seen, 1.0 if given is None else given, 0.0).astype(np.float32)
        here = [(slot, experts.index(name)) for slot, name in enumerate(self.experts) if name in experts]
        if not here or not seen[[e for _, e in here]].any():
            return out, chance
        slots, rows = np.array(here).T
        wide = np.full((len(self.experts), *points.shape[1:]), np.nan)
        wide[slots] = np.where(seen[rows][..., None], points[rows], np.nan)
        own = None
        if given is not None:
            own = np.zeros(wide.shape[:3])
            own[slots] = given[rows]
        moved, sure = self._calibrated(wide, own)
        judged = seen[rows] & self.known
        out[rows] = np.where(judged[..., None], moved[slots], out[rows])
        chance[rows] = np.where(judged, sure[slots], chance[rows])
        return out, chance

    def _calibrated(self, points: Float, scores: Float | None) -> tuple[Float, Float]:
        """Coordinates and chances of all slots (E, T, V, 2), NaN and 0 where missing."""
        values, base = calibration_features.lengths(points, self.skeleton)
        unit = base * float(np.exp(self.size(values[None])[0])) if np.isfinite(base) else 1.0
        view = points / unit - self.bias[:, None]
        seen = np.isfinite(view).all(-1) & self.known
        rows = calibration_features.observation_features(view, scores, self.skeleton, self.temporal)[seen]
        moved, chance = np.full(points.shape, np.nan), np.zeros(points.shape[:3])
        shift = calibration_features.pull(view, self.precision, self.skeleton)[seen] + np.stack(
            [self.shift_x(rows), self.shift_y(rows)], axis=-1
        )
        shift[:, 0] *= calibration_features.sign(self.skeleton)[np.nonzero(seen)[2]]
        moved[seen] = (view[seen] + shift) * unit
        chance[seen] = 1 / (1 + np.exp(-self.chance(rows)))
        return moved, chance

    @classmethod
    def fit(
        cls,
        coords: Sequence[Any],
        truth: Sequence[Any],
        visible: Sequence[Any],
        unit: Sequence[float],
        skeleton: str,
        experts: Sequence[str],
        scores: Sequence[Any] | None = None,
        groups: Sequence[Any] | None = None,
        seed: int = 0,
    ) -> Calibration:
        """Learn from N annotated sequences; a still picture is a sequence of one frame.

        Args:
            coords: N times (E, T, V, 2) float pixels, NaN where missing.
            truth: N times (T, V, 2) float pixels.
            visible: N times (T, V) bool, joints whose truth is known.
            unit: N lengths in pixels; those of PCKh, say.
            skeleton: layout of the joints.
            experts: E names.
            scores: N times (E, T, V) own scores in [0, 1], or None.
            groups: N labels; sequences of one label (of one picture, one person) are never used to judge each other. None: all differ.
            seed: of everything that is drawn.

        Raises:
            ComponentError: arrays that do not belong together, or too little to learn from.
            MissingExtraError: scikit-learn is absent.
        """
        data = _Annotated.gathered(coords, truth, visible, unit, skeleton, experts, scores, groups)
        learner = _Learner(seed)
        size, units = _learn_size(data, learner)
        known, bias, precision = _bias(data, units)
        temporal = max(sequence.shape[1] for sequence in data.coords) > 2
        rows, off, pull, right = _rows(data, units, bias, precision, temporal, seed)
        near = np.hypot(*off.T) <= _NEAR
        rest = (off - pull)[near]
        if right.all() or not right.any() or near.sum() < 100:
            raise ComponentError(
                f"too little to learn from: {len(right)} annotated observations, {int(right.sum())} of them right"
            )
        return cls(
            skeleton,
            tuple(experts),
            temporal,
            known,
            bias,
            precision,
            size,
            learner.classify(rows, right, _CHANCE),
            learner.regress(rows[near], rest[:, 0], _SHIFT),
            learner.regress(rows[near], rest[:, 1], _SHIFT),
        )

    def save(self, path: str | Path) -> None:
        """Write one npz file of plain arrays; equal calibrations give equal bytes."""
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "skeleton": np.array(self.skeleton),
            "experts": np.array(self.experts),
            "temporal": np.array(self.temporal),
            "known": self.known,
            "bias": self.bias,
            "precision": self.precision,
        }
        for name in _TREES:
            arrays |= getattr(self, name).arrays(name)
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            WeightsError: no such file, or not a calibration of this version, or its arrays do not belong together.
        """
        try:
            file = np.load(path, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError as error:
            raise WeightsError(f"there is no calibration {path}") from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
            raise WeightsError(f"{path} is not a calibration: {error}") from error
        found = str(arrays.get("format", "none"))
        if found != FORMAT:
            raise WeightsError(f"{path} is of format {found!r}, this version reads {FORMAT!r}: fit it again")
        try:
            calibration = cls(
                str(arrays["skeleton"]),
                tuple(str(name) for name in arrays["experts"]),
                bool(arrays["temporal"]),
                arrays["known"],
                arrays["bias"],
                arrays["precision"],
                *(BoostedTrees.read(arrays, name) for name in _TREES),
            )
            calibration._check()
        except (KeyError, ComponentError, WeightsError) as error:
            raise WeightsError(f"{path} is damaged: {error}") from error
        return calibration

    def _check(self) -> None:
        joints, experts = layout_of(self.skeleton).num_joints, len(self.experts)
        empty = np.full((experts, 3, joints, 2), np.nan)
        width = calibration_features.observation_features(empty, None, self.skeleton, self.temporal).shape[-1]
        wide = [
            self.size.width == len(calibration_features.lengths(empty, self.skeleton)[0]),
            *(getattr(self, n).width == width for n in _TREES[1:]),
        ]
        shapes = {"known": (joints,), "bias": (experts, joints, 2), "precision": (experts, joints)}
        if (
            self.known.dtype != np.bool_
            or not all(wide)
            or any(getattr(self, name).shape != shape for name, shape in shapes.items())
        ):
            raise WeightsError("its arrays do not fit each other or this version")


_TREES = ("size", "chance", "shift_x", "shift_y")


@dataclass(frozen=True)
class _Annotated:
    """What `Calibration.fit` was given, checked; lists of N."""

    coords: list[Float]
    truth: list[Float]
    visible: list[Bool]
    unit: Float
    scores: list[Float | None]
    groups: Int
    skeleton: str

    @classmethod
    def gathered(
        cls,
        coords: Sequence[Any],
        truth: Sequence[Any],
        visible: Sequence[Any],
        unit: Sequence[float],
        skeleton: str,
        experts: Sequence[str],
        scores: Sequence[Any] | None,
        groups: Sequence[Any] | None,
    ) -> _Annotated:
        number = len(coords)
        for name, given in (
            ("truth", truth),
            ("visible", visible),
            ("unit", unit),
            ("scores", scores),
            ("groups", groups),
        ):
            if given is not None and len(given) != number:
                raise ComponentError(f"fit was given {number} sequences of coords and {len(given)} of {name}")
        if number < 2 * _FOLDS:
            raise ComponentError(f"fit takes {2 * _FOLDS} or more annotated sequences; given {number}")
        units = np.asarray(unit, np.float64)
        if not (np.isfinite(units).all() and (units > 0).all()):
            raise ComponentError("fit takes one length > 0 in pixels for each sequence as unit")
        labels = np.arange(number) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        data = cls([], [], [], units, [], labels, skeleton)
        for n in range(number):
            points, rated = check(coords[n], None if scores is None else scores[n], skeleton)
            goal, mask = np.asarray(truth[n], np.float64), np.asarray(visible[n], np.bool_)
            if len(points) != len(experts) or goal.shape != points.shape[1:] or mask.shape != goal.shape[:2]:
                raise ComponentError(
                    f"sequence {n}: {len(experts)} experts, coords {points.shape}, truth {goal.shape} and visible {mask.shape} do not belong together"
                )
            seen = np.isfinite(points).all(-1, keepdims=True)
            data.coords.append(np.where(seen, points.astype(np.float64), np.nan))
            data.truth.append(goal)
            data.visible.append(mask & np.isfinite(goal).all(-1))
            data.scores.append(None if rated is None else rated.astype(np.float64))
        return data


@dataclass(frozen=True)
class _Learner:
    """Grows trees with scikit-learn, on one thread: sums of floats depend on the number of threads."""

    seed: int

    def regress(self, rows: Float, goal: Float, options: dict[str, Any]) -> BoostedTrees:
        return self._grow("HistGradientBoostingRegressor", rows, goal, options)

    def classify(self, rows: Float, goal: Bool, options: dict[str, Any]) -> BoostedTrees:
        return self._grow("HistGradientBoostingClassifier", rows, goal, options)

    def _grow(self, kind: str, rows: Float, goal: Float | Bool, options: dict[str, Any]) -> BoostedTrees:
        try:
            import sklearn.ensemble
            import threadpoolctl
        except ImportError as error:
            raise MissingExtraError("learning a calibration (scikit-learn)", "train") from error
        model = getattr(sklearn.ensemble, kind)(early_stopping=False, random_state=self.seed, **options)
        rows = np.where(
            np.isnan(rows).all(0), 0, rows
        )  # it refuses values that are never known; of one that never changes it makes no use
        with threadpoolctl.threadpool_limits(1):
            return BoostedTrees.grown(model.fit(rows, goal))


def _learn_size(data: _Annotated, learner: _Learner) -> tuple[BoostedTrees, Float]:
    """Trees for the size, and (N,) the unit of each sequence as trees tell it that were grown without its group."""
    found = [calibration_features.lengths(points, data.skeleton) for points in data.coords]
    rows, base = np.stack([values for values, _ in found]), np.array([length for _, length in found])
    fine = np.isfinite(base) & (base > 0)
    goal = np.log(data.unit / np.where(fine, base, 1.0))
    names = np.random.default_rng(learner.seed).permutation(data.groups.max() + 1)
    fold = names[data.groups] % _FOLDS
    told = np.zeros(len(rows))
    for k in range(_FOLDS):
        mine = fold == k
        if mine.any():
            told[mine] = learner.regress(rows[fine & ~mine], goal[fine & ~mine], _SIZE)(rows[mine])
    return learner.regress(rows[fine], goal[fine], _SIZE), np.where(fine, base * np.exp(told), data.unit)


def _bias(data: _Annotated, units: Float) -> tuple[Bool, Float, Float]:
    """(V,) joints with annotations; (E, V, 2) median of small errors in units; (E, V) precision of what is left of them."""
    flat = [(points - truth) / unit for points, truth, unit in zip(data.coords, data.truth, units)]
    off = np.concatenate(
        [np.where(mask[None, ..., None], one, np.nan) for one, mask in zip(flat, data.visible)], axis=1
    )
    scale = np.repeat(units / data.unit, [len(truth) for truth in data.truth])
    far = np.hypot(off[..., 0], off[..., 1]) * scale[:, None]
    bias, squared = np.zeros((off.shape[0], off.shape[2], 2)), np.zeros((off.shape[0], off.shape[2]))
    for expert, joint in np.ndindex(*squared.shape):
        errors = off[expert, far[expert, :, joint] <= _NEAR, joint]
        if len(errors):
            bias[expert, joint] = np.median(errors, axis=0)
        left = ((off[expert, :, joint] - bias[expert, joint]) ** 2).sum(-1)
        left = left[left * scale**2 <= _CLOSE**2]
        squared[expert, joint] = (left.sum() + _PRIOR * _CLOSE**2 / 4) / (len(left) + _PRIOR)
    return np.asarray(np.concatenate(data.visible).any(0)), bias, 1 / squared


def _rows(
    data: _Annotated, units: Float, bias: Float, precision: Float, temporal: bool, seed: int
) -> tuple[Float, Float, Float, Bool]:
    """Of annotated observations: (R, F) evidence; (R, 2) from the observation to the truth and to its neighbours' mean, mirrored, in units; (R,) whether right."""
    rng = np.random.default_rng(seed)
    masks = [np.isfinite(points).all(-1) & visible for points, visible in zip(data.coords, data.visible)]
    share = min(1.0, _ROWS / max(sum(int(mask.sum()) for mask in masks), 1))
    rows, offs, pulls, rights = [], [], [], []
    for points, truth, unit, own, mask, scores in zip(data.coords, data.truth, units, data.unit, masks, data.scores):
        view = points / unit - bias[:, None]
        taken = mask & (rng.random(mask.shape) < share) if share < 1 else mask
        off = (truth / unit - view)[taken]
        rows.append(
            calibration_features.observation_features(view, scores, data.skeleton, temporal)[taken].astype(np.float32)
        )
        rights.append(np.hypot(off[:, 0], off[:, 1]) * unit <= RIGHT * own)
        off[:, 0] *= calibration_features.sign(data.skeleton)[np.nonzero(taken)[2]]
        offs.append(off)
        pulls.append(calibration_features.pull(view, precision, data.skeleton)[taken])
    return np.concatenate(rows), np.concatenate(offs), np.concatenate(pulls), np.concatenate(rights)
