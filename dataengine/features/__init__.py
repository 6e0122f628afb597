"""Features of clips and of strings in one space: what a video shows, and what a label says.

A feature component is a frozen dataclass (see `Features`). Nothing heavy is imported until one is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from dataengine.core import registry
from dataengine.core.types import Float, Frames


@runtime_checkable
class Features(Protocol):
    """A video and a text encoder with a common space (frozen dataclass; its fields are its whole configuration)."""

    @property
    def views(self) -> int:
        """Temporal views wanted of a clip; view 0 is the encoder's own sampling, the others are shifted in time."""
        ...

    @property
    def batch(self) -> int:
        """Most clips that are encoded at once on an accelerator."""
        ...

    @property
    def dim(self) -> int:
        """D, the number of values of a feature."""
        ...

    def weights(self) -> dict[str, str]:
        """Weight files by name, with their sha256; part of every fingerprint."""
        ...

    def load(self, device: str = "cpu") -> None:
        """Make the encoders ready in this process. Idempotent."""
        ...

    def sample_indices(self, num_frames_total: int, view: int = 0) -> list[int]:
        """Which of a clip's frames a view looks at; decode only these. Given just these, `encode_video` takes them all."""
        ...

    def prepare(self, frames: Frames, view: int = 0) -> Frames:
        """What `encode_video` looks at of a clip, as small as it gets; encoding this gives the same feature."""
        ...

    def encode_video(self, frames: Sequence[Frames] | Frames, view: int = 0) -> Float:
        """(N, D) float32 of unit length for N clips of (T, H, W, 3) uint8 RGB frames."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Float:
        """(N, D) float32 of unit length for N strings."""
        ...


def create(name: str, **options: Any) -> Features:
    """Make the features called `name`.

    Args:
        name: one of `dataengine.core.registry.names("features")`.
        options: their configuration; an unknown option is an error.

    Raises:
        ComponentError: unknown name or option, or a value of the wrong type or range.
    """
    features: Features = registry.create("features", name, options)
    return features
