"""Views of a clip: random augmentations that the features should not depend on.

A `View` is a list of named steps: on time (`training.transforms.temporal`), on the whole body and on single joints
(`training.transforms.spatial`). The clip is read once, at the frames that the steps on time select. Successive affine
steps are combined into one matrix.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from dataengine.core.errors import TrainingError, suggestion
from dataengine.core.skeletons import Skeleton
from dataengine.core.skeletons import skeleton as layout
from training.data.types import ROTATION, Array
from training.transforms import spatial as augment
from training.transforms import temporal as time
from training.transforms.temporal import Positions

_CUT, _TAKE, _ORDER, _AFFINE, _POINT = range(5)


@dataclass(frozen=True)
class _Kind:
    """One kind of step: phase, function, and default probability."""

    phase: int
    function: Any
    chance: float = 1.0

    def options(self) -> set[str]:
        """Options of a step beside its name; the view sets the other parameters of the function."""
        filled = {"positions", "array", "rng", "axes"} | ({"frames"} if self.phase < _AFFINE else set())
        return (set(inspect.signature(self.function).parameters) - filled) | {"chance"}


STEPS: dict[str, _Kind] = {
    "crop": _Kind(_CUT, time.crop),
    "resample": _Kind(_TAKE, time.resample),
    "pad": _Kind(_TAKE, time.pad),
    "speed": _Kind(_TAKE, time.speed),
    "choose": _Kind(_TAKE, time.choose),
    "uniform": _Kind(_TAKE, time.spread),
    "shuffle": _Kind(_ORDER, time.shuffle),
    "segments": _Kind(_ORDER, time.segments),
    "reverse": _Kind(_ORDER, time.reverse, 0.5),
    "disorder": _Kind(_ORDER, time.disorder),
    "rotate": _Kind(_AFFINE, augment.rotation),
    "scale": _Kind(_AFFINE, augment.scaling),
    "stretch": _Kind(_AFFINE, augment.stretching),
    "shift": _Kind(_AFFINE, augment.shifting),
    "shear": _Kind(_AFFINE, augment.shearing),
    "flip": _Kind(_AFFINE, augment.mirror, 0.5),
    "invert_depth": _Kind(_AFFINE, augment.depth, 0.5),
    "mask_joints": _Kind(_POINT, augment.mask_joints),
    "mask_axis": _Kind(_POINT, augment.mask_axis, 0.5),
    "noise": _Kind(_POINT, augment.noise),
    "blur": _Kind(_POINT, augment.blur, 0.5),
    "drop_frames": _Kind(_POINT, augment.drop_frames),
    "wander": _Kind(_POINT, augment.wander),
}
"""All kinds of steps by name."""

_WEAK = ({"name": "crop", "min": 0.5}, {"name": "scale", "range": 0.1}, {"name": "shift", "range": 0.1})
_STRONG = (
    {"name": "crop", "min": 0.4},
    {"name": "flip"},
    {"name": "scale", "range": 0.2},
    {"name": "stretch", "range": 0.2},
    {"name": "shear", "range": 0.3},
    {"name": "noise", "sigma": 0.03},
    {"name": "mask_joints", "share": 0.05},
)
_SMALL = ({"name": "crop", "min": 0.5}, {"name": "flip"}, *_WEAK[1:])
PRESETS: dict[str, dict[int, tuple[Mapping[str, Any], ...]]] = {
    "none": {2: (), 3: ()},
    "weak": {2: (*_WEAK, {"name": "rotate", "degrees": 15}), 3: (*_WEAK, {"name": "rotate", "degrees": (10, 30, 10)})},
    "small": {
        2: (*_SMALL, {"name": "rotate", "degrees": 15}),
        3: (*_SMALL, {"name": "rotate", "degrees": (10, 30, 10)}),
    },
    "strong": {
        2: (*_STRONG, {"name": "rotate", "degrees": 30}),
        3: (*_STRONG, {"name": "rotate", "degrees": (15, 60, 10)}),
    },
}
"""Steps by name of the preset and number of coordinates. Distances are in the unit of the preprocessed clip, such as
the body size of normalisation "body"."""


@dataclass(frozen=True)
class _Step:
    """A step with all its options bound."""

    phase: int
    function: Any
    chance: float
    mirrors: bool


_Pipeline = tuple[tuple[_Step, ...], tuple[_Step, ...]]


@dataclass(frozen=True)
class View:
    """A random view of a clip, of a fixed number of frames. Can be pickled.

    The same state of the generator gives the same view. Steps on time come first: crop, then one step that selects
    frames (resample by default), then steps that change the order of frames. The other steps keep their order.

    Attributes:
        frames: T of the result.
        steps: tables with `name`, the options of the step and `chance`, its probability; or the name of a preset
            (none, weak, strong, small).
        skeleton: layout, or its name, whose left and right joints `flip` exchanges. `flip` is left out, with a warning,
            where the layout names no joint of both sides.
        score: whether the last channel is a score, which steps on coordinates do not change.

    Raises:
        TrainingError: unknown preset, step or option, an invalid value, or a flip without a skeleton.
    """

    frames: int = 64
    steps: str | Sequence[Mapping[str, Any]] = "weak"
    skeleton: Skeleton | str | None = None
    score: bool = False
    _flip: Any = field(init=False, repr=False, compare=False)
    _mirrors: bool = field(init=False, repr=False, compare=False)
    _pipelines: dict[int, _Pipeline | TrainingError] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise TrainingError(f"a view has at least 1 frame; given {self.frames}")
        if isinstance(self.steps, str) and self.steps not in PRESETS:
            raise TrainingError(f"unknown view {self.steps!r}{suggestion(self.steps, PRESETS)}")
        if not isinstance(self.steps, str):
            object.__setattr__(self, "steps", tuple(dict(step) for step in self.steps))
        if isinstance(self.skeleton, str):
            object.__setattr__(self, "skeleton", layout(self.skeleton))
        joints = [] if self.skeleton is None else list(self.skeleton.flip)  # type: ignore[union-attr]
        object.__setattr__(self, "_flip", np.array(joints, dtype=np.int64))
        object.__setattr__(self, "_mirrors", joints != list(range(len(joints))))
        object.__setattr__(self, "_pipelines", self._compile())
        if joints and not self._mirrors and any(step["name"] == "flip" for step in self._steps(2)):
            warnings.warn(
                f"layout {self.skeleton.name!r} has no joint left_X with a right_X, so what a mirrored body is cannot "  # type: ignore[union-attr]
                "be told: step flip of the view is left out; name the joints, for example with "
                "data.layout = {joints = [...]}",
                stacklevel=3,
            )

    @property
    def in_time_alone(self) -> bool:
        """Whether all steps are on time, so that a view can be of pictures, too."""
        return all(STEPS[str(step["name"])].phase < _AFFINE for step in self._steps(3))

    @property
    def mirrors(self) -> bool:
        """Whether clips are seen mirrored, too: there is a step flip, and the layout has a left and a right."""
        return self._mirrors and any(step["name"] == "flip" for step in self._steps(3))

    def without_time(self) -> View:
        """The same view without its steps on time: of an array of `frames` frames every frame stays in its place."""
        view = dataclasses.replace(self)
        whole = (_Step(_TAKE, partial(time.resample, frames=self.frames), 1.0, False),)
        kept: dict[int, _Pipeline | TrainingError] = {
            axes: one if isinstance(one, TrainingError) else (whole, one[1]) for axes, one in view._pipelines.items()
        }
        object.__setattr__(view, "_pipelines", kept)
        return view

    def _steps(self, axes: int) -> Sequence[Mapping[str, Any]]:
        """The steps as they were given, for a number of coordinates."""
        return PRESETS[self.steps][axes] if isinstance(self.steps, str) else self.steps

    def _compile(self) -> dict[int, _Pipeline | TrainingError]:
        """The pipelines for two and for three coordinates, or the error of each; at least one must be valid."""
        compiled: dict[int, _Pipeline | TrainingError] = {}
        for axes in (2, 3):
            try:
                compiled[axes] = self._pipeline(axes)
            except TrainingError as error:
                compiled[axes] = error
        if isinstance(compiled[2], TrainingError) and isinstance(compiled[3], TrainingError):
            raise compiled[2]
        return compiled

    def _pipeline(self, axes: int) -> _Pipeline:
        steps = self._steps(axes)
        compiled = [self._step(n, step, axes) for n, step in enumerate(steps)]
        if sum(step.phase == _TAKE for step in compiled) > 1:
            raise TrainingError(f"a view takes its frames in one way; given {[str(step['name']) for step in steps]}")
        if not any(step.phase == _TAKE for step in compiled):
            compiled.append(_Step(_TAKE, partial(time.resample, frames=self.frames), 1.0, False))
        in_time = tuple(sorted((s for s in compiled if s.phase < _AFFINE), key=lambda s: s.phase))
        return in_time, tuple(s for s in compiled if s.phase >= _AFFINE and (self._mirrors or not s.mirrors))

    def _step(self, number: int, config: Mapping[str, Any], axes: int) -> _Step:
        """One step. Options are checked by name, and the step is tried on zeros.

        Raises:
            TrainingError: as the class.
        """
        options = dict(config)
        name = options.pop("name", None)
        if name not in STEPS:
            raise TrainingError(f"unknown step {name!r} of a view, number {number + 1}{suggestion(str(name), STEPS)}")
        kind = STEPS[name]
        for key in options:
            if key not in kind.options():
                raise TrainingError(f"step {name} of a view has no option {key!r}{suggestion(key, kind.options())}")
        if name == "flip" and self.skeleton is None:
            raise TrainingError("step flip exchanges left and right joints: give the view its skeleton")
        parameters = inspect.signature(kind.function).parameters
        chance = options.pop("chance", kind.chance)
        if kind.phase < _AFFINE and "frames" in parameters:
            options["frames"] = self.frames
        elif kind.phase == _AFFINE or "axes" in parameters:
            options["axes"] = axes
        step = _Step(kind.phase, partial(kind.function, **options), chance, name == "flip")
        rng = np.random.default_rng(0)
        try:
            augment.within("chance", chance, 1)
            step.function(
                *(
                    (np.arange(4),)
                    if step.phase < _AFFINE
                    else (np.zeros((1, 4, 2, axes), np.float32),) * (step.phase == _POINT)
                ),
                rng,
            )
        except (ValueError, TypeError) as error:
            raise TrainingError(f"step {name} of a view: {error}") from error
        return step

    def __call__(self, array: Array, rng: np.random.Generator) -> Array:
        """A view of a preprocessed clip, (M, frames, V, C), a new array; see `sampled`."""
        return self.sampled(array, rng)[0]

    def sampled(self, array: Array, rng: np.random.Generator) -> tuple[Array, Positions]:
        """A view of a preprocessed clip, and where in time it lies.

        Args:
            array: (M, T, V, C) float32 without NaN.
            rng: the only source of randomness.

        Returns:
            (M, frames, V, C), a new array; and (frames,) the position in `array` that each frame was taken at: whole
            or, between two frames, a fraction; -1 for an empty frame.

        Raises:
            TrainingError: the steps do not fit the number of channels.
        """
        in_time, steps = self._for(array)
        positions = self._positions(array, in_time, rng)
        return self._changed((time.sample(array, positions),), steps, rng)[0], positions

    def with_clean(self, array: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """A view as calling gives it, and the same view without what its steps on single joints do (noise, hidden
        joints and the like): what can be asked of a network that sees the former.

        Returns:
            two new arrays (M, frames, V, C).
        """
        in_time, steps = self._for(array)
        taken = time.sample(array, self._positions(array, in_time, rng))
        shown, clean = self._changed((taken, taken.copy()), steps, rng)
        return shown, clean

    def at_all_frames(self, array: Array, rng: np.random.Generator) -> Array:
        """What the view does to joints, at all frames of a clip as they are: its steps on time are left out.

        Args:
            array: (M, T, V, C) float32 without NaN.
            rng: the only source of randomness.

        Returns:
            (M, T, V, C), a new array.

        Raises:
            TrainingError: the steps do not fit the number of channels.
        """
        return self._changed((array.copy(),), self._for(array)[1], rng)[0]

    def _for(self, array: Array) -> _Pipeline:
        """The steps for the number of coordinates of an array."""
        axes = array.shape[-1] - self.score
        in_time = self._pipelines[2]
        if axes == ROTATION and not isinstance(in_time, TrainingError) and not in_time[1]:
            return in_time
        if axes not in self._pipelines:
            hint = "; rotations take steps on time alone" if axes == ROTATION else ""
            raise TrainingError(
                f"a view has 2 or 3 coordinates; given {axes}: choose channels, and say score where the last one is a "
                f"score{hint}"
            )
        pipeline = self._pipelines[axes]
        if isinstance(pipeline, TrainingError):
            raise pipeline
        return pipeline

    @staticmethod
    def _positions(array: Array, steps: Sequence[_Step], rng: np.random.Generator) -> Positions:
        """What the steps on time take of an array, in order."""
        positions = np.arange(array.shape[1])
        for step in steps:
            if step.chance >= 1 or rng.random() < step.chance:
                positions = step.function(positions, rng)
        return np.asarray(positions)

    def _changed(self, arrays: Sequence[Array], steps: Sequence[_Step], rng: np.random.Generator) -> list[Array]:
        """Steps on joints, of which only the first array gets those on single joints; affine ones that follow each
        other are one matrix."""
        out = list(arrays)
        matrix: Any = None
        for step in steps:
            if step.chance < 1 and rng.random() >= step.chance:
                continue
            if step.phase == _AFFINE:
                new_matrix = step.function(rng)
                matrix = new_matrix if matrix is None else new_matrix @ matrix
                if step.mirrors:
                    out = [np.take(one, self._flip, axis=2) for one in out]
                continue
            if matrix is not None:
                out, matrix = [augment.transform(one, matrix) for one in out], None
            out[0] = step.function(out[0], rng)
        return out if matrix is None else [augment.transform(one, matrix) for one in out]
