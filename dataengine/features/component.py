"""What features have in common before any network: which frames they look at, what they take for a clip, their options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataengine.core.errors import ComponentError, WeightsError, suggestion
from dataengine.core.types import Frames
from dataengine.io import weights


def sample_indices(num_frames_total: int, num_frames: int = 8, view: int = 0) -> list[int]:
    """Indices of the frames of one temporal view of a clip.

    View 0 is the sampling published with ViCLIP (OpenGVLab/InternVideo@3965eef, Data/InternVid/viclip):
    every (total // num_frames)-th frame from the first. The other views are the same comb, moved to the
    right by a share of the frames that remain after its last tooth: 1/2, 1/4, 3/4, 1/8, ... (the radical
    inverse of the view in base 2), so asking for more views never changes those there are. A clip shorter
    than `num_frames` repeats frames evenly and has one view only.

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


def check_options(table: str, num_frames: int, views: int, batch: int, precision: str) -> None:
    """Check the options that all features have.

    Raises:
        ComponentError: one is out of range.
    """
    for name, value in (("num_frames", num_frames), ("views", views), ("batch", batch)):
        if value < 1:
            raise ComponentError(f"[{table}] {name} = {value}: at least 1")
    if precision not in PRECISIONS:
        raise ComponentError(f"[{table}] precision = {precision!r}{suggestion(precision, PRECISIONS)}")


def located(table: str, file: str) -> Path:
    """The local file of a name of manifests/weights.toml, or of a path.

    Raises:
        WeightsError: it is not here; the message names its address, its licence and what gets it.
    """
    try:
        return weights.locate(file)
    except WeightsError as error:
        hint = '; or give a file of yours as checkpoint = "PATH"' if weights.names_of(file) else ""
        raise WeightsError(f"[{table}] {error}{hint}") from error


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
