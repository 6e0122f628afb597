"""Calibration of named experts: their bias, and the probability that an observation of theirs is right.

A calibration is learned once from annotated poses and stored as one file of plain arrays. Before any fusion it corrects
the bias of every observation, and replaces the score by the probability that the observation lies within half a scale
length of the truth. The scores of different experts then mean the same::

    calibration = Calibration.fit(coords, truth, visible, scale, "mpii16", ["hourglass", "tompson"])
    calibration.save(path)
    coords, scores = Calibration.load(path).apply(coords, None, "mpii16", ["hourglass", "tompson"])
    dataengine.fuse(coords, scores, "mean_shift", "mpii16", score_power=4)
"""

from __future__ import annotations

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
from dataengine.fusion.score_calibration import ScoreCalibration
from dataengine.io import npy

FORMAT = "dataengine calibration 1"

RIGHT = 0.5
"""An observation within this many scale lengths of the truth is right; with the scale of PCKh, half a head."""

_NEAR = 0.5
"""Largest error that counts for the bias of an expert, in scale lengths."""

_CLOSE, _PRIOR = 0.3, 10
"""Largest error that counts for the precision of an expert, in scale lengths; and the number of errors half as large
that every expert is given in advance."""

_ROWS = 400_000
"""Most observations that are learned from; of more, a random part."""

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
"""Options of the trees, chosen by cross-validation within the first fold of the validation persons of MPII."""


@dataclass(frozen=True)
class Calibration:
    """Calibration of named experts in one layout.

    Five things are learned, each from those before:

    * size: the scale length of a person (whatever `scale` was given to `fit`), from the lengths of the bones;
    * bias: per expert and joint the median of the errors below half a scale length, along the axes of the picture. Most
      of the bias is the rounding and the offset of heat maps;
    * precision: the inverse of the mean squared error of the observations within `_CLOSE` scale lengths of the truth;
    * shift: the vector from an observation to the truth: first to the mean of the observations near it, weighed by
      precision, then by boosted trees over the features of all observations;
    * chance: the probability that an observation is right, by boosted trees.

    `dataengine.fusion.calibration_features` makes the features of the trees, without the truth or the picture. `fit`
    grows the trees with HistGradientBoosting of scikit-learn; everything else needs the core only.

    Attributes:
        skeleton: layout of the joints.
        experts: names, in the order of the arrays.
        temporal: whether the calibration was learned from sequences, and compares frames.
        known: (V,) bool, joints that had annotations. Other joints pass through unchanged.
        bias: (E, V, 2) float64 in scale lengths.
        precision: (E, V) float64 in 1 / scale length^2.
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
        """Calibrate the observations of one person.

        Experts that the calibration does not know pass through unchanged, with score 1 where none was given, and do not
        influence the others. Experts of the calibration may be absent, at some cost in accuracy: it is best fitted to
        the experts that are used together.

        Args:
            coords: (E, T, V, 2) float pixels, NaN where missing.
            scores: (E, T, V) own scores in [0, 1], or None.
            skeleton: layout of the joints, as given to `fit`.
            experts: E names.

        Returns:
            coords (E, T, V, 2) float32 and scores (E, T, V) float32, 0 where missing.

        Raises:
            ComponentError: arrays of a wrong shape, another layout, or names that are not one per expert.
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
        """Coordinates (E, T, V, 2) and probabilities (E, T, V) of all experts of the calibration, NaN and 0 where
        missing."""
        values, base = calibration_features.lengths(points, self.skeleton)
        scale = base * float(np.exp(self.size(values[None])[0])) if np.isfinite(base) else 1.0
        scaled = points / scale - self.bias[:, None]
        seen = np.isfinite(scaled).all(-1) & self.known
        rows = calibration_features.observation_features(scaled, scores, self.skeleton, self.temporal)[seen]
        moved, chance = np.full(points.shape, np.nan), np.zeros(points.shape[:3])
        shift = calibration_features.pull(scaled, self.precision, self.skeleton)[seen] + np.stack(
            [self.shift_x(rows), self.shift_y(rows)], axis=-1
        )
        shift[:, 0] *= calibration_features.sign(self.skeleton)[np.nonzero(seen)[2]]
        moved[seen] = (scaled[seen] + shift) * scale
        chance[seen] = 1 / (1 + np.exp(-self.chance(rows)))
        return moved, chance

    @classmethod
    def fit(
        cls,
        coords: Sequence[Any],
        truth: Sequence[Any],
        visible: Sequence[Any],
        scale: Sequence[float],
        skeleton: str,
        experts: Sequence[str],
        scores: Sequence[Any] | None = None,
        groups: Sequence[Any] | None = None,
        seed: int = 0,
    ) -> Calibration:
        """Learn a calibration from N annotated sequences; a still picture is a sequence of one frame.

        Args:
            coords: N times (E, T, V, 2) float pixels, NaN where missing.
            truth: N times (T, V, 2) float pixels.
            visible: N times (T, V) bool, joints whose truth is known.
            scale: N lengths in pixels, such as those of PCKh.
            skeleton: layout of the joints.
            experts: E names.
            scores: N times (E, T, V) own scores in [0, 1], or None.
            groups: N labels. Sequences of one label (one picture, one person) never judge each other. None: all differ.
            seed: seed of all random draws.

        Raises:
            ComponentError: arrays that do not belong together, or too little to learn from.
            MissingExtraError: scikit-learn is absent.
        """
        data = _Annotated.from_arrays(coords, truth, visible, scale, skeleton, experts, scores, groups)
        learner = _Learner(seed)
        size, scales = _learn_size(data, learner)
        known, bias, precision = _bias(data, scales)
        temporal = max(sequence.shape[1] for sequence in data.coords) > 2
        rows, off, pull, right = _rows(data, scales, bias, precision, temporal, seed)
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
            WeightsError: no such file, no calibration of this version, or arrays that do not fit each other.
        """
        try:
            with npy.reading():
                file = np.load(path, allow_pickle=False)
                if not isinstance(file, np.lib.npyio.NpzFile):
                    raise ValueError("it holds a single array")
                with file:
                    arrays = {name: file[name] for name in file.files}
        except FileNotFoundError as error:
            raise WeightsError(f"there is no calibration {path}; give the path of a fitted one") from error
        except (OSError, ValueError) as error:
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


def load_calibration(path: str | Path) -> Calibration | ScoreCalibration:
    """The calibration in a file: of scores alone (.json), or of positions and scores (npz).

    Raises:
        WeightsError: no such file, or no calibration of this version.
    """
    return ScoreCalibration.load(path) if Path(path).suffix == ".json" else Calibration.load(path)


_TREES = ("size", "chance", "shift_x", "shift_y")


@dataclass(frozen=True)
class _Annotated:
    """The arguments of `Calibration.fit`, checked; lists of N."""

    coords: list[Float]
    truth: list[Float]
    visible: list[Bool]
    scale: Float
    scores: list[Float | None]
    groups: Int
    skeleton: str

    @classmethod
    def from_arrays(
        cls,
        coords: Sequence[Any],
        truth: Sequence[Any],
        visible: Sequence[Any],
        scale: Sequence[float],
        skeleton: str,
        experts: Sequence[str],
        scores: Sequence[Any] | None,
        groups: Sequence[Any] | None,
    ) -> _Annotated:
        number = len(coords)
        for name, given in (
            ("truth", truth),
            ("visible", visible),
            ("scale", scale),
            ("scores", scores),
            ("groups", groups),
        ):
            if given is not None and len(given) != number:
                raise ComponentError(f"fit was given {number} sequences of coords and {len(given)} of {name}")
        if number < 2 * _FOLDS:
            raise ComponentError(f"fit takes {2 * _FOLDS} or more annotated sequences; given {number}")
        scales = np.asarray(scale, np.float64)
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            raise ComponentError("fit takes one scale > 0 in pixels per sequence")
        labels = np.arange(number) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        data = cls([], [], [], scales, [], labels, skeleton)
        for n in range(number):
            points, rated = check(coords[n], None if scores is None else scores[n], skeleton)
            goal, mask = np.asarray(truth[n], np.float64), np.asarray(visible[n], np.bool_)
            if len(points) != len(experts) or goal.shape != points.shape[1:] or mask.shape != goal.shape[:2]:
                raise ComponentError(
                    f"sequence {n}: {len(experts)} experts, coords {points.shape}, truth {goal.shape} and "
                    f"visible {mask.shape} do not fit each other"
                )
            seen = np.isfinite(points).all(-1, keepdims=True)
            data.coords.append(np.where(seen, points.astype(np.float64), np.nan))
            data.truth.append(goal)
            data.visible.append(mask & np.isfinite(goal).all(-1))
            data.scores.append(None if rated is None else rated.astype(np.float64))
        return data


@dataclass(frozen=True)
class _Learner:
    """Fits trees with scikit-learn on one thread, as sums of floats depend on the number of threads."""

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
        # scikit-learn refuses a feature that is always NaN, and makes no use of a constant one
        rows = np.where(np.isnan(rows).all(0), 0, rows)
        with threadpoolctl.threadpool_limits(1):
            return BoostedTrees.from_sklearn(model.fit(rows, goal))


def _learn_size(data: _Annotated, learner: _Learner) -> tuple[BoostedTrees, Float]:
    """Trees for the size, and (N,) the scale of each sequence, predicted by trees grown without the group of the
    sequence."""
    found = [calibration_features.lengths(points, data.skeleton) for points in data.coords]
    rows, base = np.stack([values for values, _ in found]), np.array([length for _, length in found])
    fine = np.isfinite(base) & (base > 0)
    goal = np.log(data.scale / np.where(fine, base, 1.0))
    names = np.random.default_rng(learner.seed).permutation(data.groups.max() + 1)
    fold = names[data.groups] % _FOLDS
    predicted = np.zeros(len(rows))
    for k in range(_FOLDS):
        mine = fold == k
        if mine.any():
            predicted[mine] = learner.regress(rows[fine & ~mine], goal[fine & ~mine], _SIZE)(rows[mine])
    return learner.regress(rows[fine], goal[fine], _SIZE), np.where(fine, base * np.exp(predicted), data.scale)


def _bias(data: _Annotated, scales: Float) -> tuple[Bool, Float, Float]:
    """(V,) joints with annotations; (E, V, 2) median of small errors in scale lengths; (E, V) precision without that
    bias."""
    flat = [(points - truth) / length for points, truth, length in zip(data.coords, data.truth, scales)]
    off = np.concatenate(
        [np.where(mask[None, ..., None], one, np.nan) for one, mask in zip(flat, data.visible)], axis=1
    )
    ratio = np.repeat(scales / data.scale, [len(truth) for truth in data.truth])
    far = np.hypot(off[..., 0], off[..., 1]) * ratio[:, None]
    bias, squared = np.zeros((off.shape[0], off.shape[2], 2)), np.zeros((off.shape[0], off.shape[2]))
    for expert, joint in np.ndindex(*squared.shape):
        errors = off[expert, far[expert, :, joint] <= _NEAR, joint]
        if len(errors):
            bias[expert, joint] = np.median(errors, axis=0)
        left = ((off[expert, :, joint] - bias[expert, joint]) ** 2).sum(-1)
        left = left[left * ratio**2 <= _CLOSE**2]
        squared[expert, joint] = (left.sum() + _PRIOR * _CLOSE**2 / 4) / (len(left) + _PRIOR)
    return np.asarray(np.concatenate(data.visible).any(0)), bias, 1 / squared


def _rows(
    data: _Annotated, scales: Float, bias: Float, precision: Float, temporal: bool, seed: int
) -> tuple[Float, Float, Float, Bool]:
    """Training rows of the annotated observations.

    Returns:
        (R, F) features; (R, 2) vectors to the truth and (R, 2) to the mean of the neighbours, both mirrored for joints
        of the right, in scale lengths; (R,) bool, whether the observation is right.
    """
    rng = np.random.default_rng(seed)
    masks = [np.isfinite(points).all(-1) & visible for points, visible in zip(data.coords, data.visible)]
    share = min(1.0, _ROWS / max(sum(int(mask.sum()) for mask in masks), 1))
    rows, offs, pulls, rights = [], [], [], []
    for points, truth, length, own, mask, scores in zip(
        data.coords, data.truth, scales, data.scale, masks, data.scores
    ):
        scaled = points / length - bias[:, None]
        taken = mask & (rng.random(mask.shape) < share) if share < 1 else mask
        off = (truth / length - scaled)[taken]
        rows.append(
            calibration_features.observation_features(scaled, scores, data.skeleton, temporal)[taken].astype(np.float32)
        )
        rights.append(np.hypot(off[:, 0], off[:, 1]) * length <= RIGHT * own)
        off[:, 0] *= calibration_features.sign(data.skeleton)[np.nonzero(taken)[2]]
        offs.append(off)
        pulls.append(calibration_features.pull(scaled, precision, data.skeleton)[taken])
    return np.concatenate(rows), np.concatenate(offs), np.concatenate(pulls), np.concatenate(rights)
