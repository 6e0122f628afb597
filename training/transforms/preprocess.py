"""Preprocessing of a stored clip: selection of people, missing joints, normalisation, and the stream of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.core.errors import ComponentError, TrainingError, suggestion
from dataengine.core.skeletons import Skeleton
from dataengine.core.skeletons import skeleton as named
from dataengine.core.types import Bool
from training.data.entries import Motion
from training.data.types import ROTATION, Array, SkeletonSequence
from training.transforms import normalise as normal
from training.transforms.kernels import fill
from training.transforms.placement import Prepared
from training.transforms.streams import STREAMS, stream

CHOICES: dict[str, tuple[str, ...]] = {
    "rank": ("score", "motion", "given"),
    "fill": ("interpolate", "loop", "zero"),
    "normalise": ("body", "view", "view_body", "screen", "none", "pyskl2d", "pyskl3d"),
    "stream": STREAMS,
    "up": ("y", "z"),
}
_SIDES = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
NEEDED: dict[str, tuple[str, ...]] = {
    "view": _SIDES,
    "view_body": _SIDES,
    "pyskl3d": ("mid_hip", "spine", "left_shoulder", "right_shoulder"),
}
"""Joints that a normalisation needs by name."""


def visible(array: Array) -> Bool:
    """(M, T, V) bool, where all coordinates of (M, T, V, C) are finite."""
    out: Bool = np.isfinite(array[..., 0])  # by channel: a reduction over a short last axis is slow
    for channel in range(1, array.shape[-1]):
        out &= np.isfinite(array[..., channel])
    return out


def ranked(keypoints: Array, scores: Array | None, people: int, by: str = "score") -> NDArray[np.int64]:
    """Indices of at most `people` people with a visible joint, the most important first; ties keep their order.

    Args:
        keypoints: (M, T, V, C), NaN where unseen.
        scores: (M, T, V), or None.
        people: largest number of people.
        by: "score": the sum of scores, or the number of visible joints without scores. "motion": the mean over joints
            of the standard deviation over time. "given": the order in the clip.
    """
    is_visible = visible(keypoints)
    present = np.flatnonzero(np.asarray(is_visible.any(axis=(1, 2))))
    if by == "given" or len(present) < 2:
        return present[:people]
    if by == "motion":
        count = np.maximum(is_visible.sum(1, keepdims=True), 1)[..., None]
        centre = np.where(is_visible[..., None], keypoints, 0).sum(1, keepdims=True) / count
        offsets = np.where(is_visible[..., None], keypoints - centre, 0)
        deviation = np.sqrt(np.square(offsets).sum((1, 3)) / count[:, 0, :, 0])
        importance = deviation.sum(1) / np.maximum(is_visible.any(1).sum(1), 1)
    else:
        importance = (is_visible if scores is None else np.where(is_visible, scores, 0)).sum((1, 2))
    return present[np.argsort(-importance[present], kind="stable")][:people]


def interpolate(array: Array) -> Array:
    """Fills missing joints linearly between visible frames, and holds them before the first and after the last.

    A joint that is never visible is placed, per frame, at the mean of the other joints of that person.

    Args:
        array: (M, T, V, C), NaN where unseen.

    Returns:
        (M, T, V, C) of the dtype of `array`; a person who is never visible stays NaN.
    """
    if visible(array).all():
        return array.copy()
    source = np.ascontiguousarray(array)
    out: Array = np.empty_like(source)
    ever_visible = fill(source, out)
    for person, seen in zip(out, ever_visible):
        if seen.any() and not seen.all():
            person[:, ~seen] = person[:, seen].mean(1, keepdims=True)
    return out


def loop(array: Array) -> Array:
    """Fills empty frames as UNIK does (data_gen/preprocess.py @ bf39968).

    If the first frame of a person is empty, the frames that are not are moved to the front. An empty end repeats the
    front. Other gaps stay.

    Args:
        array: (M, T, V, C), zero where unseen.
    """
    out = array.copy()
    total = array.shape[1]
    for person in out:
        present = person.any((1, 2))
        if not present.any():
            continue
        if not present[0]:
            packed = person[present]
            person[:] = 0
            person[: len(packed)] = packed
            present = np.arange(total) < len(packed)
        end = int(np.flatnonzero(present)[-1]) + 1
        person[end:] = person[np.arange(total - end) % end]
    return out


@dataclass(frozen=True)
class Preprocess:
    """Turns a clip into (M, T, V, C) float32 without NaN. Can be pickled.

    Frames before the first and after the last visible person are left out. A clip of one frame keeps one frame: views
    repeat the frame, and the motion is zero. A clip without a visible person becomes zeros of the same length.

    Attributes:
        skeleton: layout of the clips, or its name.
        people: M of the result; absent people are zero.
        rank: how people are selected, see `ranked`.
        channels: indices of the coordinates among the channels of the clip. None: all channels.
        fill: "interpolate" unseen joints over time, "zero" them, or zero them and "loop" (UNIK).
        normalise: "body" (centre and size of the first person), "view" (in space: root to the origin, facing along an
            axis), "view_body" ("view", then "body"), "screen" (image size, as UNIK), "none", "pyskl2d" (image size, as
            pyskl), "pyskl3d" (as pyskl).
        stream: "joint", "bone", "motion" or "bone_motion".
        score: whether scores are appended as a channel, 0 where unseen.
        keep_root: whether the root of bones keeps its position (UNIK) instead of being zero.
        up: upright axis of clips in space, for "view" and "view_body".
        size: width and height for "screen" and "pyskl2d". Default: the size of the clip. UNIK uses (640, 480).
        mask: whether networks are told which frames of which people are there, so that absent people and empty frames
            do not count in the mean; otherwise they count as zeros, as published.

    Raises:
        TrainingError: an unknown layout or choice, or fewer than one person.
    """

    skeleton: Skeleton | str
    people: int = 1
    rank: str = "score"
    channels: tuple[int, ...] | None = None
    fill: str = "interpolate"
    normalise: str = "body"
    stream: str = "joint"
    score: bool = False
    keep_root: bool = False
    up: str = "y"
    size: tuple[int, int] | None = None
    mask: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.skeleton, str):
            try:
                object.__setattr__(self, "skeleton", named(self.skeleton))
            except ComponentError as error:
                raise TrainingError(str(error)) from error
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise TrainingError(f"{name} {value!r} is unknown{suggestion(str(value), allowed)}")
        if self.people < 1:
            raise TrainingError(f"people must be at least 1; given {self.people}")
        self._check_layout()
        if self.normalise == "pyskl3d" and self.score:
            raise TrainingError("pyskl3d leaves out frames and has no scores; choose normalise 'view' or score false")

    def _check_layout(self) -> None:
        """Raises TrainingError where the layout lacks joints or bones that the choices need."""
        missing = set(NEEDED.get(self.normalise, ())) - set(self.layout.joints)
        if missing:
            other = "view" if self.normalise == "pyskl3d" else "body"
            raise TrainingError(
                f"layout {self.layout.name!r} has no {', '.join(sorted(missing))}, which {self.normalise} needs; "
                f"choose {other!r}"
            )
        if "bone" in self.stream and not self.layout.bones:
            raise TrainingError(
                f"stream {self.stream!r} takes vectors along bones, and layout {self.layout.name!r} has no bones: say "
                "them with data.layout = {joints = [...], parents = [...]}, or choose joint or motion"
            )

    @property
    def layout(self) -> Skeleton:
        """The skeleton as a layout."""
        return named(self.skeleton) if isinstance(self.skeleton, str) else self.skeleton

    def __call__(
        self,
        clip: SkeletonSequence,
        view: Callable[[Array, np.random.Generator], Array] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Array:
        """The input of the network of a clip.

        Args:
            clip: a clip of the skeleton.
            view: augments the normalised joints before bones and motion are computed, such as
                `training.transforms.view.View`. With a channel of scores, the view needs `View(score=True)`.
            rng: random numbers of the view. Default: a generator with seed 0.

        Returns:
            (people, T, V, C) float32.

        Raises:
            TrainingError: the clip has another number of joints, lacks channels, or does not fit the normalisation.
        """
        joints = self.joints(clip)
        return self.finish(joints if view is None else view(joints, np.random.default_rng(0) if rng is None else rng))

    def finish(self, array: Array) -> Array:
        """The configured stream of joints (M, T, V, C) from `joints`, which views may have augmented."""
        return stream(array, self.stream, self.layout, array.shape[-1] - self.score, self.keep_root)

    def entry(self, array: Array) -> Motion:
        """The entry of a sample of joints (M, T, V, C) from `joints`, which views may have augmented."""
        valid = np.asarray((array != 0).any((2, 3))) if self.mask else None
        return Motion(self.finish(array), valid)

    def joints(self, clip: SkeletonSequence) -> Array:
        """Normalised joints (people, T, V, C) float32 of a clip, before views and streams."""
        if clip.prepared_by is not None:
            assert clip.prepared_by == self, "a clip that was prepared otherwise"
            return clip.keypoints
        return self._prepare(clip, placed=False).joints

    def prepare(self, clip: SkeletonSequence) -> Prepared:
        """As `joints`, with the frames of the clip that they are of, and the way back to pixels or metres.

        Frames of fill "loop" are counted as if it moved none.
        """
        if clip.prepared_by is not None:
            return Prepared.of(self.joints(clip), clip.placed)
        return self._prepare(clip, placed=True)

    def _prepare(self, clip: SkeletonSequence, placed: bool) -> Prepared:
        self._check(clip)
        keypoints = clip.keypoints if self.channels is None else clip.keypoints[..., list(self.channels)]
        people = ranked(keypoints, clip.scores, self.people, self.rank)
        if not len(people):
            nobody = np.zeros((self.people, *keypoints.shape[1:3], keypoints.shape[-1] + self.score), np.float32)
            axes = keypoints.shape[-1]
            return Prepared(nobody, np.arange(nobody.shape[1]), np.eye(axes), np.zeros(axes))
        array = np.asarray(keypoints[people], np.float32)
        is_visible = visible(array)
        frames = np.flatnonzero(is_visible.any((0, 2)))
        part = slice(frames[0], frames[-1] + 1)
        array, is_visible = array[:, part], is_visible[:, part]
        scores = None if clip.scores is None else np.asarray(clip.scores[people][:, part], np.float32)
        array = interpolate(array) if self.fill == "interpolate" else array
        shown = np.arange(frames[0], frames[-1] + 1)
        if placed and self.normalise == "pyskl3d":
            shown = shown[normal.pyskl3d_frames(np.nan_to_num(array, nan=0.0))]
        matrix, offset = self._placement(array, clip) if placed else (None, None)
        array = self._normalised(array, scores, clip)
        array = np.nan_to_num(array, copy=False, nan=0.0)
        if self.score:
            channel = is_visible.astype(np.float32) if scores is None else np.where(is_visible, scores, np.float32(0))
            array = np.concatenate([array, channel[..., None]], -1)
        if self.fill == "loop":
            array = loop(array)
        out = np.zeros((self.people, *array.shape[1:]), np.float32)
        out[: len(array)] = array
        return Prepared(out, shown, matrix, offset)

    def _placement(self, array: Array, clip: SkeletonSequence) -> tuple[Array | None, Array | None]:
        """The way back from `_normalised`, see `Prepared`."""
        axes = array.shape[-1]
        matrix: Array = np.eye(axes)
        offset: Array = np.zeros(axes)
        match self.normalise:
            case "view" | "view_body":
                origin, rotation = normal.facing_frame(array, self.layout, "xyz".index(self.up))
                matrix, offset = (matrix if rotation is None else rotation), origin.astype(np.float64)
                array = normal.facing(array, self.layout, "xyz".index(self.up))
            case "screen":
                width, height = self._size(clip)
                return matrix * width / 2, np.array([width, height]) / 2
            case "pyskl2d":
                half = np.array(self._size(clip)) / 2
                return matrix * half, half
            case "pyskl3d":
                return None, None
        if self.normalise.endswith("body"):
            centre, size = normal.body_frame(array)
            offset = centre.astype(np.float64) @ matrix + offset
            matrix = matrix * (float(size) or 1.0)
        return matrix, offset

    def _normalised(self, array: Array, scores: Array | None, clip: SkeletonSequence) -> Array:
        """Joints (M, T, V, C), NaN where unseen, normalised as configured."""
        layout = self.layout
        match self.normalise:
            case "body":
                return normal.body(array)
            case "view":
                return normal.facing(array, layout, "xyz".index(self.up))
            case "view_body":
                return normal.body(normal.facing(array, layout, "xyz".index(self.up)))
            case "screen":
                return normal.screen(array, self._size(clip))
            case "pyskl2d":
                return normal.pyskl2d(array, scores, self._size(clip))
            case "pyskl3d":
                spine = (layout.index("mid_hip"), layout.index("spine"))
                shoulders = (layout.index("right_shoulder"), layout.index("left_shoulder"))
                return normal.pyskl3d(np.nan_to_num(array, nan=0.0), spine, shoulders, spine[1]).astype(np.float32)
        return array

    def _size(self, clip: SkeletonSequence) -> tuple[int, int]:
        size = self.size or clip.size
        if size is None:
            raise TrainingError(
                f"clip {clip.key!r} has no image size, which normalise {self.normalise!r} needs: give size, or "
                "choose body"
            )
        return size

    def _check(self, clip: SkeletonSequence) -> None:
        """Raises TrainingError if the joints or channels of the clip do not fit."""
        layout = self.layout
        joints, num_channels = clip.keypoints.shape[2:]
        if joints != layout.num_joints:
            raise TrainingError(
                f"clip {clip.key!r} has {joints} joints; layout {layout.name!r} has {layout.num_joints}"
            )
        if self.channels is not None and not all(0 <= channel < num_channels for channel in self.channels):
            raise TrainingError(f"clip {clip.key!r} has {num_channels} channels; given channels {self.channels}")
        axes = num_channels if self.channels is None else len(self.channels)
        required = {"view": 3, "view_body": 3, "pyskl3d": 3, "screen": 2, "pyskl2d": 2}.get(self.normalise, axes)
        if axes == ROTATION and (self.normalise != "none" or "bone" in self.stream):
            raise TrainingError(
                f"clip {clip.key!r} has rotations, not coordinates: set preprocess.normalise to none and "
                f"preprocess.stream to joint or motion; given {self.normalise!r} and {self.stream!r}"
            )
        if axes != required:
            raise TrainingError(
                f"normalise {self.normalise!r} works on {required} coordinates; clip {clip.key!r} has {axes}: choose "
                "channels"
            )
