"""The data that rooms exchange: clips, poses, tracks, and outcomes of clips.

Axes by letter: N batch, C coordinates, T frames, V joints, M people, E experts. Boxes are xyxy pixels. A joint that was
not seen is NaN with score 0, never (0, 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.floating[Any]]
Bool: TypeAlias = NDArray[np.bool_]
Int: TypeAlias = NDArray[np.integer[Any]]
Frames: TypeAlias = NDArray[np.uint8]
"""(T, H, W, 3) uint8 RGB."""

_T = TypeVar("_T")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Clip:
    """One planned clip: its origin, its media file, and its rights.

    `start` and `end` are seconds in the original video, as the annotation gives them, and are part of the id.
    `span_start` and `span_end` are the seconds of the media file to decode (None: from the first frame, to the last).
    """

    clip_id: str
    source: str
    video_id: str
    media: str
    """Path of the media file relative to the root of the source, with forward slashes; '' where none was found."""
    start: float | None = None
    end: float | None = None
    span_start: float | None = None
    span_end: float | None = None
    split: str = "train"
    label: str | None = None
    """The label as the source gives it."""
    licence: str | None = None
    consent: str | None = None
    url: str | None = None
    subject: str | None = None
    actor: str | None = None
    """JSON [[seconds in the file, x0, y0, x1, y1], ...]: key boxes of the person that the clip is about."""
    truth: str | None = None
    """Path of exact joints relative to the root of the source (rendered sources only)."""
    reason: str | None = None
    """A key of `dataengine.core.reasons.REASONS` for a clip that is out before any work; `detail` says more."""
    detail: str | None = None
    file: str | None = None
    """Relative name of the media file in the annotation, which fetchers search for where `media` is ''."""


CLIP_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Clip))


@dataclass(frozen=True, slots=True)
class Keep:
    """The clip goes on to the next pass."""

    clip_id: str


@dataclass(frozen=True, slots=True)
class Reject:
    """The clip is out: its `value` missed the `threshold`."""

    clip_id: str
    reason: str
    value: float | None = None
    threshold: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Fail:
    """The clip could not be processed."""

    clip_id: str
    kind: str
    retryable: bool
    detail: str = ""
    value: float | None = None
    threshold: float | None = None


Outcome: TypeAlias = Keep | Reject | Fail


@dataclass(frozen=True)
class Poses:
    """The people that one expert found in one frame.

    Attributes:
        coords: (M, V, 2) float32 pixels of the given frame, NaN where unseen.
        scores: (M, V) float32 in [0, 1], 0 where unseen.
        boxes: (M, 5) float32 x0, y0, x1, y1, score.
    """

    coords: Float
    scores: Float
    boxes: Float

    def __len__(self) -> int:
        return len(self.coords)

    @staticmethod
    def empty(num_joints: int) -> Poses:
        return Poses(
            np.zeros((0, num_joints, 2), np.float32),
            np.zeros((0, num_joints), np.float32),
            np.zeros((0, 5), np.float32),
        )


@dataclass(frozen=True)
class Track:
    """One person over a clip, with the poses of every expert.

    Attributes:
        coords: (E, T, V, 2) float32 pixels in the common layout, NaN where the expert gave no joint.
        scores: (E, T, V) float32.
        boxes: (T, 4) float32 xyxy, NaN in frames without the person.
    """

    track_id: int
    coords: Float
    scores: Float
    boxes: Float


@dataclass(frozen=True)
class Fused:
    """One pose sequence, made from those of several experts (see `dataengine.fuse`).

    Attributes:
        coords: (T, V, 2) float32, NaN where no expert gave the joint.
        scores: (T, V) float32 in [0, 1].
        confidence: (T,) float32, C of SST-A in [0, 1]; 0 where nothing is present.
        support: (T,) int32, number of present (expert, joint) pairs.
        kept: (T,) bool, confidence >= gamma.
        winner: (T, V) int8, index of the expert whose joint was taken; -1 for none, -2 for a blend of several.
    """

    coords: Float
    scores: Float
    confidence: Float
    support: Int
    kept: Bool
    winner: Int


@dataclass(frozen=True)
class LabelledFrame:
    """One picture with the poses that a student is to learn there.

    Attributes:
        key: "CLIP_ID:FRAME", where the picture comes from.
        image: (H, W, 3) uint8 RGB.
        keypoints: (M, V, 2) float32 pixels of `image`, NaN where there is no label.
        scores: (M, V) float32 in [0, 1], how sure the label is; 0 where there is none.
        boxes: (M, 4) float32 xyxy pixels: the extent of the joints, each side moved outwards by 5 % of the box's width
            or height, so that the box is 10 % wider and higher. May reach beyond the picture.
        skeleton: name of the layout of the joints (`dataengine.core.skeletons`), which `convert` turns into another.
    """

    key: str
    image: NDArray[np.uint8]
    keypoints: Float
    scores: Float
    boxes: Float
    skeleton: str

    def __len__(self) -> int:
        return len(self.keypoints)


@dataclass(frozen=True)
class Lifted:
    """One pose sequence in space, made from one in the picture (see `dataengine.lift`).

    Axes are the camera's: x to the right of the picture, y down, z away from the camera.

    Attributes:
        keypoints3d: (T, V, 3) float32 metres from the middle of the hips, in the layout that was given; NaN in frames
            that are not lifted, and for joints that the layout has and the lifter cannot give.
        reprojection_error: (T,) float32 pixels, mean distance of the joints seen in the picture to the lifted joints
            projected by the scaled orthographic camera that fits them best; NaN in frames that are not lifted.
    """

    keypoints3d: Float
    reprojection_error: Float


@dataclass(frozen=True)
class Sample:
    """The input of filters: the poses of one clip and what is measured on its frames.

    Attributes:
        width, height: pixels.
        fps: frames per second.
        skeleton: layout of the joints.
        keypoints: (M, T, V, 2) float32 pixels, people ranked, NaN where unseen.
        scores: (M, T, V) float32 in [0, 1].
        confidence: (M, T) float32, C of SST-A.
        support: (M, T) int32, number of present (expert, joint) pairs.
        disagreement: (M, T, V) mean distance of the experts to the fused joint in head-neck lengths, NaN where unknown.
        people: (T,) int32, number of tracked people, also of those beyond `pose.max_people`.
        change: (T,) float32 in [0, 1], difference of each frame to the previous one, 0 for the first.
        reprojection: (M,) mean distance of each person's joints in space, projected, to those of the picture, in body
            heights, NaN where unknown; None where nothing was lifted.
    """

    width: int
    height: int
    fps: float
    skeleton: str
    keypoints: Float
    scores: Float
    confidence: Float
    support: Int
    disagreement: Float
    people: Int
    change: Float
    reprojection: Float | None = None

    def once(self, make: Callable[[Sample], _T]) -> _T:
        """`make(self)`, worked out for the first filter that asks and kept for the others."""
        if make not in self._made:
            self._made[make] = make(self)
        made: _T = self._made[make]
        return made

    @cached_property
    def _made(self) -> dict[Callable[[Sample], Any], Any]:
        return {}
