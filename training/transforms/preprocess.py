"""From a stored clip to what networks see: people chosen, missing joints filled, size and place normalised, joints or
bones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.core.errors import ComponentError, TrainingError, suggestion
from dataengine.core.skeletons import Skeleton
from dataengine.core.skeletons import skeleton as named
from dataengine.core.types import Bool
from training.data.types import Array, SkeletonSequence
from training.transforms import normalise as normal
from training.transforms.streams import STREAMS, stream

CHOICES: dict[str, tuple[str, ...]] = {
    "rank": ("score", "motion", "given"),
    "fill": ("interpolate", "loop", "zero"),
    "normalise": ("body", "view", "view_body", "screen", "none", "pyskl2d", "pyskl3d"),
    "stream": STREAMS,
    "up": ("y", "z"),
}


def visible(array: Array) -> Bool:
    """(M, T, V) where all coordinates (M, T, V, C) are finite."""
    return np.asarray(np.isfinite(array).all(-1))


def ranked(keypoints: Array, scores: Array | None, people: int, by: str = "score") -> NDArray[np.int64]:
    """Indices of at most so many people who have a joint seen, the most important first; ties keep their order.

    Args:
        keypoints: (M, T, V, C), NaN where unseen.
        scores: (M, T, V), or None.
        people: how many.
        by: "score" the sum of scores (joints seen where there are none), "motion" the mean over joints of how far they
            move (standard deviation over time), "given" their order in the clip.
    """
    seen = visible(keypoints)
    present = np.flatnonzero(np.asarray(seen.any(axis=(1, 2))))
    if by == "given" or len(present) < 2:
        return present[:people]
    if by == "motion":
        count = np.maximum(seen.sum(1, keepdims=True), 1)[..., None]
        centre = np.where(seen[..., None], keypoints, 0).sum(1, keepdims=True) / count
        apart = np.where(seen[..., None], keypoints - centre, 0)
        far = np.sqrt(np.square(apart).sum((1, 3)) / count[:, 0, :, 0])
        worth = far.sum(1) / np.maximum(seen.any(1).sum(1), 1)
    else:
        worth = (seen if scores is None else np.where(seen, scores, 0)).sum((1, 2))
    return present[np.argsort(-worth[present], kind="stable")][:people]


def interpolate(array: Array) -> Array:
    """Fill joints between the frames in which they were seen, linearly, and hold them before the first and after the
    last.

    A joint never seen lies, in each frame, at the mean of that person's other joints.

    Args:
        array: (M, T, V, C), NaN where unseen.

    Returns:
        (M, T, V, C) of the dtype given; a person never seen stays NaN.
    """
    seen = visible(array)
    if seen.all():
        return array.copy()
    total = array.shape[1]
    time = np.arange(total)[:, None]
    before = np.maximum.accumulate(np.where(seen, time, -1), axis=1)
    after = np.minimum.accumulate(np.where(seen, time, total)[:, ::-1], axis=1)[:, ::-1]
    low, high = np.where(before < 0, after, before), np.where(after == total, before, after)
    share = ((time - low) / np.maximum(high - low, 1)).astype(array.dtype)[..., None]
    low, high = np.minimum(low, total - 1)[..., None], np.maximum(high, 0)[..., None]
    begin = np.take_along_axis(array, low, axis=1)
    out: Array = begin + (np.take_along_axis(array, high, axis=1) - begin) * np.clip(share, 0, 1)
    for person, ever in zip(out, np.asarray(seen.any(axis=1))):
        if ever.any() and not ever.all():
            person[:, ~ever] = person[:, ever].mean(1, keepdims=True)
    return out


def loop(array: Array) -> Array:
    """Fill empty frames as UNIK does (data_gen/preprocess.py @ bf39968): a person whose first frame is empty is packed
    to the front, an empty end repeats the front; gaps inside stay.

    Args:
        array: (M, T, V, C), zero where unseen.
    """
    out = array.copy()
    total = array.shape[1]
    for person in out:
        there = person.any((1, 2))
        if not there.any():
            continue
        if not there[0]:
            packed = person[there]
            person[:] = 0
            person[: len(packed)] = packed
            there = np.arange(total) < len(packed)
        end = int(np.flatnonzero(there)[-1]) + 1
        person[end:] = person[np.arange(total - end) % end]
    return out


@dataclass(frozen=True)
class Preprocess:
    """From a clip to (M, T, V, C) float32 without NaN. Can be pickled.

    Frames before anybody is seen and after nobody is any more are left out. A clip of one frame stays one frame long
    (views repeat it, its motion is zero); one in which nobody is seen becomes zeros of its length.

    Attributes:
        skeleton: layout of the clips, or its name.
        people: M of the result; who is absent is zero.
        rank: how people are chosen, see `ranked`.
        channels: which channels of the clip are the coordinates; None: all.
        fill: "interpolate" unseen joints over time, "zero" them, or zero them and "loop" (UNIK).
        normalise: "body" (centre and size of the first person), "view" (in space: root to the origin, facing along an
            axis), "view_body" (first that, then centre and size of the first person), "screen" (picture, as UNIK),
            "none", "pyskl2d" (picture, as pyskl), "pyskl3d" (as pyskl).
        stream: "joint", "bone", "motion" or "bone_motion".
        score: whether scores follow as another channel, 0 where unseen.
        keep_root: whether the root of bones keeps its place (UNIK) instead of being zero.
        up: upright axis of clips in space, for "view" and "view_body".
        size: width and height for "screen" and "pyskl2d" in place of the clip's own; UNIK takes (640, 480).

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
        if self.normalise == "pyskl3d":
            lacking = {"mid_hip", "spine", "left_shoulder", "right_shoulder"} - set(self.layout.joints)
            if lacking:
                raise TrainingError(
                    f"layout {self.layout.name!r} has no {', '.join(sorted(lacking))}, which pyskl3d needs; choose "
                    "'view'"
                )
            if self.score:
                raise TrainingError(
                    "pyskl3d leaves out frames and has no scores; choose normalise 'view' or score false"
                )

    @property
    def layout(self) -> Skeleton:
        """The skeleton itself, whatever it was given as."""
        return named(self.skeleton) if isinstance(self.skeleton, str) else self.skeleton

    def __call__(
        self,
        clip: SkeletonSequence,
        view: Callable[[Array, np.random.Generator], Array] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Array:
        """What networks see of a clip.

        Args:
            clip: any clip of the skeleton.
            view: changes the prepared joints before bones and motion are made of them, such as
                `training.transforms.view.View`; with scores as a channel it must know (`View(score=True)`).
            rng: what the view draws from; None is a fixed start.

        Returns:
            (people, T, V, C) float32.

        Raises:
            TrainingError: another number of joints, channels that the clip lacks, or a normalisation it cannot have.
        """
        joints = self.joints(clip)
        return self.finish(joints if view is None else view(joints, np.random.default_rng(0) if rng is None else rng))

    def finish(self, array: Array) -> Array:
        """The stream asked for, of joints (M, T, V, C) that `joints` gave and views may have changed."""
        return stream(array, self.stream, self.layout, array.shape[-1] - self.score, self.keep_root)

    def joints(self, clip: SkeletonSequence) -> Array:
        """The normalised joints (people, T, V, C) float32 of a clip before any stream, for several views of one
        clip."""
        self._check(clip)
        keypoints = clip.keypoints if self.channels is None else clip.keypoints[..., list(self.channels)]
        who = ranked(keypoints, clip.scores, self.people, self.rank)
        if not len(who):
            return np.zeros((self.people, *keypoints.shape[1:3], keypoints.shape[-1] + self.score), np.float32)
        array = np.asarray(keypoints[who], np.float32)
        seen = visible(array)
        when = np.flatnonzero(seen.any((0, 2)))
        part = slice(when[0], when[-1] + 1)
        array, seen = array[:, part], seen[:, part]
        scores = None if clip.scores is None else np.asarray(clip.scores[who][:, part], np.float32)
        array = self._normalised(interpolate(array) if self.fill == "interpolate" else array, scores, clip)
        array = np.nan_to_num(array, copy=False, nan=0.0)
        if self.score:
            channel = seen.astype(np.float32) if scores is None else np.where(seen, scores, np.float32(0))
            array = np.concatenate([array, channel[..., None]], -1)
        if self.fill == "loop":
            array = loop(array)
        out = np.zeros((self.people, *array.shape[1:]), np.float32)
        out[: len(array)] = array
        return out

    def _normalised(self, array: Array, scores: Array | None, clip: SkeletonSequence) -> Array:
        """Joints (M, T, V, C), NaN where unseen, in the place and size asked for."""
        made = self.layout
        match self.normalise:
            case "body":
                return normal.body(array)
            case "view":
                return normal.facing(array, made, "xyz".index(self.up))
            case "view_body":
                return normal.body(normal.facing(array, made, "xyz".index(self.up)))
            case "screen":
                return normal.screen(array, self._size(clip))
            case "pyskl2d":
                return normal.picture(array, scores, self._size(clip))
            case "pyskl3d":
                spine = (made.index("mid_hip"), made.index("spine"))
                sides = (made.index("right_shoulder"), made.index("left_shoulder"))
                return normal.upright(np.nan_to_num(array, nan=0.0), spine, sides, spine[1]).astype(np.float32)
        return array

    def _size(self, clip: SkeletonSequence) -> tuple[int, int]:
        size = self.size or clip.size
        if size is None:
            raise TrainingError(
                f"clip {clip.key!r} has no picture size, which normalise {self.normalise!r} needs: give size, or "
                "choose body"
            )
        return size

    def _check(self, clip: SkeletonSequence) -> None:
        """Raises TrainingError where the clip is not what this was made for."""
        made = self.layout
        joints, given = clip.keypoints.shape[2:]
        if joints != made.num_joints:
            raise TrainingError(f"clip {clip.key!r} has {joints} joints; layout {made.name!r} has {made.num_joints}")
        if self.channels is not None and not all(0 <= channel < given for channel in self.channels):
            raise TrainingError(f"clip {clip.key!r} has {given} channels; given channels {self.channels}")
        axes = given if self.channels is None else len(self.channels)
        wanted = {"view": 3, "view_body": 3, "pyskl3d": 3, "screen": 2, "pyskl2d": 2}.get(self.normalise, axes)
        if axes != wanted:
            raise TrainingError(
                f"normalise {self.normalise!r} works on {wanted} coordinates; clip {clip.key!r} has {axes}: choose "
                "channels"
            )
