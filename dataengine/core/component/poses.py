"""Experts and detectors, which look at frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from dataengine.core.component.configuration import Component
from dataengine.core.component.sessions import Batcher, Session
from dataengine.core.types import Clip, Float, Frames, Int, Poses


@dataclass(frozen=True)
class ClipFrames:
    """Consecutive frames of one clip.

    Attributes:
        clip: the clip.
        frames: (T, H, W, 3) uint8 RGB; for sessions that upload frames, what their `upload` made of them.
        indices: (T,) int64, numbers of the frames within the clip's span, from 0.
        timestamps: (T,) float64 seconds from the span's start.
        fps: frames per second of the video.
    """

    clip: Clip
    frames: Frames
    indices: Int
    timestamps: Float
    fps: Fraction

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, part: slice) -> ClipFrames:
        return ClipFrames(self.clip, self.frames[part], self.indices[part], self.timestamps[part], self.fps)


class ExpertSession(Session, ABC):
    """A pose estimator that is ready to predict."""

    @abstractmethod
    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Find people and their joints.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            boxes: one (M, 4 or 5) array of person boxes per frame, xyxy pixels and score; only top-down experts
                look at them.

        Returns:
            One `Poses` per frame.

        Raises:
            ExpertError: the frames cannot be processed.
        """

    def start_clip(self) -> None:
        """Begin a new clip. Experts that remember earlier frames forget them. Default: nothing."""

    def observe(self, batch: ClipFrames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Poses in the next frames of a clip, as `predict`. Experts that look up saved poses need the clip itself."""
        return self.predict(batch.frames, boxes)

    def use_batcher(self, batcher: Batcher) -> None:
        """Share batches with other sessions from now on. Default: nothing, for experts that do not work in batches."""


class Expert(Component, ABC):
    """A pose estimator (frozen dataclass; its fields are its whole configuration).

    Attributes:
        remembers_frames: whether the poses of a frame depend on earlier frames of the clip.
        looks_up: whether poses are looked up by clip and frame number instead of predicted from pixels.
        licence: of its code and weights, where it is not this package's own.
    """

    licence: ClassVar[str | None] = None
    remembers_frames: ClassVar[bool] = False
    looks_up: ClassVar[bool] = False

    @property
    @abstractmethod
    def skeleton(self) -> str:
        """Name of the layout of its joints (`dataengine.core.skeletons`)."""

    @property
    def needs_boxes(self) -> bool:
        """Whether the expert is top-down: it looks inside given person boxes."""
        return False

    @property
    def score_calibration(self) -> str | None:
        """Name of the built-in calibration of its scores (`dataengine.fusion.score_calibration`); None: without one,
        scores are used as the expert gives them."""
        return None

    @abstractmethod
    def load(self, device: str = "cpu") -> ExpertSession:
        """Open a session on a device such as 'cpu', 'cuda' or 'cuda:1'.

        Raises:
            MissingExtraError: a library is not installed.
            WeightsError: the weights are not here, or are of another network.
            ComponentError: there is no such device.
        """


class DetectorSession(Session, ABC):
    """A person detector that is ready to detect."""

    @abstractmethod
    def detect(self, frames: Frames) -> list[Float]:
        """One (M, 5) float32 array of x0, y0, x1, y1, score per frame of (T, H, W, 3) uint8 RGB, best first."""

    def use_batcher(self, batcher: Batcher) -> None:
        """Share batches with other sessions from now on. Default: nothing."""


class Detector(Component, ABC):
    """A person detector (frozen dataclass; its fields are its whole configuration).

    Attributes:
        licence: of its code and weights, where it is not this package's own.
    """

    licence: ClassVar[str | None] = None

    @abstractmethod
    def load(self, device: str = "cpu") -> DetectorSession:
        """Open a session on a device; raises as `Expert.load`."""


class FaceDetector(Component, ABC):
    """A detector of faces, for blurring them (frozen dataclass; its fields are its whole configuration).

    Attributes:
        licence: of its code and weights, where it is not this package's own.
    """

    licence: ClassVar[str | None] = None

    @abstractmethod
    def load(self, device: str = "cpu") -> DetectorSession:
        """Open a session on a device, whose boxes are of faces; raises as `Expert.load`."""
