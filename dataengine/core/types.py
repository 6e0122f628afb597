"""The data that rooms hand to each other: clips, poses, tracks, and what became of a clip.

Axes by letter: N batch, C coordinates, T frames, V joints, M people, E experts. Boxes are
xyxy pixels. A joint that was not seen is NaN with score 0, never (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.floating[Any]]
Bool: TypeAlias = NDArray[np.bool_]
Int: TypeAlias = NDArray[np.integer[Any]]
Frames: TypeAlias = NDArray[np.uint8]
"""(T, H, W, 3) uint8 RGB."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Clip:
    """One planned clip: where it comes from, where its media lies, and the rights that travel with it.

    `start` and `end` are what the annotation says (seconds in the original video) and are part of
    the id; `span_start` and `span_end` are seconds within the media file to decode (None: from
    the first frame, to the last).
    """

    clip_id: str
    source: str
    video_id: str
    media: str
    """Path of the media file relative to the source's root, with forward slashes; '' when none was found."""
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
    """JSON [[seconds in the file, x0, y0, x1, y1], ...]: key boxes of the person the clip is about."""
    truth: str | None = None
    """Path of exact joints relative to the source's root (rendered sources only)."""
    reason: str | None = None
    """A key of `dataengine.core.reasons.REASONS` when the clip is out before any work; then `detail` says more."""
    detail: str | None = None
    file: str | None = None
    """Name of the media file as the annotation gives it, relative; what a fetcher looks for where `media` is ''."""


CLIP_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Clip))


@dataclass(frozen=True)
class Keep:
    """The clip goes on."""

    clip_id: str


@dataclass(frozen=True)
class Reject:
    """The clip was judged and is out: its `value` missed the `threshold`."""

    clip_id: str
    reason: str
    value: float | None = None
    threshold: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Fail:
    """The clip could not be judged."""

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
    """One person over a clip, as every expert saw them.

    Attributes:
        coords: (E, T, V, 2) float32 pixels in the common layout, NaN where the expert gave nothing.
        scores: (E, T, V) float32.
        boxes: (T, 4) float32 xyxy, NaN in frames without the person.
    """

    track_id: int
    coords: Float
    scores: Float
    boxes: Float


@dataclass(frozen=True)
class Fused:
    """One pose sequence made of several experts' (see `dataengine.fuse`).

    Attributes:
        coords: (T, V, 2) float32, NaN where no expert gave the joint.
        scores: (T, V) float32 in [0, 1].
        confidence: (T,) float32, SST-A's C in [0, 1]; 0 where nothing is present.
        support: (T,) int32, number of present (expert, joint) pairs.
        kept: (T,) bool, confidence >= gamma.
        winner: (T, V) int8, index of the expert whose joint was taken, -1 where none, -2 where blended of several.
    """

    coords: Float
    scores: Float
    confidence: Float
    support: Int
    kept: Bool
    winner: Int


@dataclass(frozen=True)
class Sample:
    """What a clip's filters look at, measured on the poses of one clip.

    Attributes:
        width, height: pixels. fps: frames a second.
        keypoints: (M, T, V, 2) float32 in layout `skeleton`, people ranked, NaN unseen.
        scores: (M, T, V) float32. confidence: (M, T) float32. support: (M, T) int32.
        disagreement: (M, T, V) mean distance of the experts to the fused joint in head-neck lengths, NaN where unknown.
        people: (T,) int32 number of tracked people a frame, ranked out ones included.
        change: (T,) float32 difference of each frame to the one before, in [0, 1] (0 for the first), for cuts.
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
    extra: dict[str, Any] = field(default_factory=dict)
