"""The data that rooms hand to each other: clips, poses, tracks, and what became of a clip.

Axes by letter: N batch, C coordinates, T frames, V joints, M people, E experts. Boxes are
xyxy pixels. A joint that was not seen is NaN with score 0, never (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.floating[Any]]
Bool: TypeAlias = NDArray[np.bool_]
Int: TypeAlias = NDArray[np.integer[Any]]
Frames: TypeAlias = NDArray[np.uint8]
"""(T, H, W, 3) uint8 RGB."""

SPLITS = ("train", "val", "test")

REASONS: dict[str, str] = {
    # plan
    "bad_row": "an annotation row cannot be read",
    "duplicate_id": "another row already has this clip id",
    "leak_guard": "the video, or a near-duplicate of it, belongs to an evaluation set that the recipe keeps out",
    "takedown": "the clip or its video was taken down",
    # fetch
    "media_missing": "no media file was found for the clip",
    "media_empty": "the media file has no bytes",
    "media_corrupt": "the media file cannot be opened (no index, garbage, truncated header)",
    "no_video_stream": "the media file holds no video (audio only)",
    "too_large": "the picture is larger than the stated pixel limit, or the file than the byte limit",
    "too_long": "the span is longer than the stated duration limit",
    "not_a_file": "the path is not a regular file (a pipe, a device, a folder)",
    "media_unreadable": "the file system refused to give the file",
    "media_timeout": "reading or decoding took longer than the stated limit",
    "gone": "the video or its archive is no longer offered (removed, account closed, HTTP 404 or 410)",
    "private": "the video or its archive is offered to others only (private, members only, age check, HTTP 401 or 403)",
    "geo_blocked": "the video or its archive is not offered in this country (HTTP 451)",
    "timeout": "a server did not answer, or stopped sending, in every try",
    "unavailable": "a server refused or broke off in every try, or asks to come back later",
    "corrupt": "what was downloaded is not what was promised (hash, length, torn archive)",
    "disk_limit": "the download needs more room than the disk or the stated limit leaves",
    # pose
    "decode_failed": "no frame could be decoded in the clip's span",
    "stream_damaged": "the stream breaks off or is damaged beyond the stated share of frames",
    "span_empty": "the clip's span holds no frame of the file",
    "expert_crashed": "an expert's process died on this clip, twice",
    "expert_timeout": "an expert gave no answer within its deadline, twice",
    "expert_failed": "an expert refused the clip's frames",
    "worker_killed": "the clip kept killing the worker that ran it and stands in quarantine",
    "out_of_memory": "memory ran out while the clip was processed, twice",
    "unit_timeout": "the clip alone ran past the unit deadline and stands in quarantine",
    "internal_error": "an unforeseen error while the clip was processed",
    # curate
    "no_person": "no person was found in any frame",
    "pose_coverage": "too few frames hold a pose",
    "body_visible": "too few frames show enough body joints",
    "confidence": "the experts disagree or are not confident",
    "truncation": "too many joints lie at or beyond the picture's edge",
    "jitter": "joints tremble from frame to frame",
    "bone_variation": "bone lengths vary as no body's do",
    "motion": "too little motion",
    "camera_cut": "the camera cuts within the clip",
    "num_people": "more or fewer people than wanted",
    "length": "too few or too many frames",
    "label_left_out": "the relabel table leaves this label out, or does not know it",
    "duplicate": "the same pictures are already in the dataset",
    "licence_unknown": "its pictures would be copied into the dataset, and no licence says that they may",
    "class_cap": "its label has as many clips as the recipe wants",
    "class_small": "its label has fewer clips than the recipe wants",
    # embed
    "label_disagrees": "the video's features do not agree with its label",
}
"""Why a clip is not in a dataset: the closed list of reasons, each with its meaning."""


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
    """A key of REASONS when the clip is out before any work; then `detail` says more."""
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
    """What one expert sees in one frame.

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


@runtime_checkable
class Expert(Protocol):
    """A pose estimator (frozen dataclass; its fields are its whole configuration)."""

    @property
    def skeleton(self) -> str:
        """Name of the layout of its joints (`dataengine.core.skeletons`)."""
        ...

    @property
    def needs_boxes(self) -> bool:
        """True for top-down experts, which look inside given person boxes."""
        ...

    def weights(self) -> dict[str, str]:
        """Weight files by name, with their blake3 or sha256; part of every fingerprint."""
        ...

    def load(self, device: str = "cpu") -> None:
        """Make the expert ready in this process. Idempotent."""
        ...

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Look at `frames` (T, H, W, 3) uint8 RGB; `boxes` is one (M, 4 or 5) xyxy array a frame. One `Poses` a frame."""
        ...


@runtime_checkable
class Detector(Protocol):
    """A person detector."""

    def weights(self) -> dict[str, str]: ...

    def load(self, device: str = "cpu") -> None: ...

    def detect(self, frames: Frames) -> list[Float]:
        """One (M, 5) float32 array of x0, y0, x1, y1, score a frame, best first."""
        ...


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


@runtime_checkable
class Filter(Protocol):
    """A filter measures a clip and keeps it if the value lies within its thresholds (its `min` and `max` fields)."""

    def measure(self, sample: Sample) -> float: ...

    def keep(self, value: float) -> bool: ...
