"""Encoders of videos and texts with one embedding space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from dataengine.core.component.configuration import Component
from dataengine.core.component.sessions import SESSIONS, Session
from dataengine.core.types import Float, Frames


class FeaturesSession(Session, ABC):
    """A video and a text encoder with one embedding space, ready to encode."""

    @abstractmethod
    def encode_video(self, frames: Sequence[Frames] | Frames, view: int = 0) -> Float:
        """One embedding per clip.

        Args:
            frames: clips of (T, H, W, 3) uint8 RGB, of any length and size each; or one such array. Either all
                frames of a clip, of which those of the view are taken, or just those of the view.
            view: number of the temporal view.

        Returns:
            (N, D) float32 of unit length.

        Raises:
            ComponentError: frames of another shape or type.
        """

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Float:
        """(N, D) float32 of unit length, one embedding per string.

        Raises:
            ComponentError: something else than strings.
        """


class Features(Component, ABC):
    """A video and a text encoder with one embedding space (frozen dataclass; its fields are its configuration)."""

    views: int
    """Temporal views of a clip that are embedded; view 0 is the encoder's own sampling, the others are shifted in
    time."""
    batch: int
    """Most clips that are encoded at once on an accelerator."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """D, the length of an embedding."""

    @abstractmethod
    def sample_indices(self, num_frames_total: int, view: int = 0) -> list[int]:
        """Numbers of the frames that a view uses of a clip of so many frames, ascending. Only these need decoding."""

    @abstractmethod
    def prepare(self, frames: Frames, view: int = 0) -> Frames:
        """What `encode_video` uses of a clip, as small as possible; encoding the result gives the same embedding."""

    @abstractmethod
    def load(self, device: str = "cpu") -> FeaturesSession:
        """Open a session on a device; raises as `Expert.load`."""

    def _session(self) -> FeaturesSession:
        return SESSIONS.get(f"features {self!r}", self.weights(), self.load)

    def encode_video(self, frames: Sequence[Frames] | Frames, view: int = 0) -> Float:
        """As `FeaturesSession.encode_video`, on the CPU. The session is opened once and kept by this process."""
        return self._session().encode_video(frames, view)

    def encode_text(self, texts: Sequence[str]) -> Float:
        """As `FeaturesSession.encode_text`, on the CPU. The session is opened once and kept by this process."""
        return self._session().encode_text(texts)
