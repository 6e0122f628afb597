"""Clips of pictures: the frames of a video in place of joints.

A clip of pictures is a `SkeletonSequence` of the layout `PICTURES`, whose `keypoints` are (W, T, H, 3) uint8 RGB:
columns stand where people do, rows where joints do. So everything that takes an array (M, T, V, C) at some frames
takes pictures, too, and a batch (N, C, T, V, M) is (N, 3, T, H, W), which networks over pictures take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.core.skeletons import Skeleton
from training.data.types import Array, SkeletonDataset, SkeletonSequence

PICTURES = Skeleton("pictures", ("picture",), ())
"""The layout of clips of pictures; its one joint stands for the whole picture."""
SECONDS = "seconds"
"""Feature of a clip of pictures: (T,) float32, when each frame is shown, from the beginning of the clip."""
DEFAULT_FPS = 25.0
"""Frames per second of pictures that do not say it."""


def as_array(frames: NDArray[Any]) -> NDArray[Any]:
    """Pictures (T, H, W, C) as an array (W, T, H, C), a view of the same memory."""
    return frames.transpose(2, 0, 1, 3)


def as_frames(array: NDArray[Any]) -> NDArray[Any]:
    """An array (W, T, H, C) as pictures (T, H, W, C), a view of the same memory."""
    return array.transpose(1, 2, 0, 3)


def is_pictures(layout: Skeleton) -> bool:
    """Whether clips of this layout are pictures."""
    return layout.name == PICTURES.name


def have_pictures(datasets: Sequence[SkeletonDataset]) -> bool:
    """Whether datasets of one layout hold pictures."""
    return bool(datasets) and is_pictures(datasets[0].skeleton)


def seconds_of(clip: SkeletonSequence) -> Array:
    """(T,) float32, when each frame of a clip is shown, from its beginning."""
    stored = clip.features.get(SECONDS)
    if stored is not None:
        return np.asarray(stored, np.float32)
    return np.arange(clip.keypoints.shape[1], dtype=np.float32) / np.float32(clip.fps or DEFAULT_FPS)
