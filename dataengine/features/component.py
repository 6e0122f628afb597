"""What features have in common before any network: their options, the frames that they use, and checks of clips."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataengine.core.component import Features
from dataengine.core.errors import ComponentError, WeightsError, suggestion
from dataengine.core.types import Frames
from dataengine.io import weights


def sample_indices(num_frames_total: int, num_frames: int = 8, view: int = 0) -> list[int]:
    """Indices of the frames of one temporal view of a clip.

    View 0 is the sampling published with ViCLIP (OpenGVLab/InternVideo@3965eef, Data/InternVid/viclip):
    every (total // num_frames)-th frame from the first. The other views take the same pattern, moved to the
    right by a share of the frames that remain after its last frame: 1/2, 1/4, 3/4, 1/8, ... (the radical
    inverse of the view in base 2). So more views never change the first ones. A clip shorter than
    `num_frames` repeats frames evenly and has one view only.

    Raises:
        ComponentError: no frame, or a negative view.
    """
    if num_frames_total < 1 or view < 0:
        raise ComponentError(
            f"a clip has at least one frame and its views count from 0; given {num_frames_total} frames, view {view}"
        )
    if num_frames_total < num_frames:
        return [i * num_frames_total // num_frames for i in range(num_frames)]
    step = num_frames_total // num_frames
    room = num_frames_total - step * (num_frames - 1)
    digits = f"{view:b}"
    offset = room * int(digits[::-1], 2) >> len(digits)
    return [offset + step * i for i in range(num_frames)]


PRECISIONS = ("auto", "float32", "float16", "bfloat16")
"""Number formats to compute in; auto is float16 on CUDA and float32 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Encoders(Features):
    """What the features have in common: the options, and a file of weights.

    Attributes:
        num_frames: frames per view.
        views: temporal views of a clip, see `sample_indices`.
        batch: most clips at once on CUDA, and sixteen times as many strings; a CPU takes one by one.
        precision: auto (half on CUDA, float32 elsewhere), float32, float16 or bfloat16.
    """

    num_frames: int = 8
    views: int = 1
    batch: int = 16
    precision: str = "auto"

    extra: ClassVar[str | None] = "clip"

    def __post_init__(self) -> None:
        for name, value in (("num_frames", self.num_frames), ("views", self.views), ("batch", self.batch)):
            if value < 1:
                raise ComponentError(f"{self.title} {name} = {value}: at least 1")
        if self.precision not in PRECISIONS:
            raise ComponentError(f"{self.title} precision = {self.precision!r}{suggestion(self.precision, PRECISIONS)}")

    @property
    @abstractmethod
    def file(self) -> str | None:
        """Name or path of the weights in use; None where there is no file."""

    def needs(self) -> list[str]:
        """Published weights that must lie on this machine."""
        return [] if self.file is None else weights.names_of(self.file)

    def locate(self) -> Path | None:
        """The local file of weights; None where there is none.

        Raises:
            WeightsError: it is not here; the message names its address, its licence and the command that gets it.
        """
        if self.file is None:
            return None
        try:
            return weights.locate(self.file)
        except WeightsError as error:
            hint = '; or give a file of yours as checkpoint = "PATH"' if weights.names_of(self.file) else ""
            raise WeightsError(f"{self.title} {error}{hint}") from error

    def sample_indices(self, num_frames_total: int, view: int = 0) -> list[int]:
        """The `num_frames` indices that a view uses of a clip of so many frames, ascending; see `sample_indices`."""
        return sample_indices(num_frames_total, self.num_frames, view)


def as_clips(frames: Sequence[Frames] | Frames) -> list[Frames]:
    """The clips given, one array each.

    Raises:
        ComponentError: something else than (T, H, W, 3) uint8 arrays with at least one frame.
    """
    clips = [frames] if isinstance(frames, np.ndarray) and frames.ndim == 4 else list(frames)
    for clip in clips:
        if (
            not isinstance(clip, np.ndarray)
            or clip.ndim != 4
            or clip.shape[-1] != 3
            or clip.dtype != np.uint8
            or 0 in clip.shape
        ):
            given = f"{clip.shape} {clip.dtype}" if isinstance(clip, np.ndarray) else type(clip).__name__
            raise ComponentError(
                f"encode_video takes clips of (T, H, W, 3) uint8 RGB frames, T at least 1; given {given}"
            )
    return clips
