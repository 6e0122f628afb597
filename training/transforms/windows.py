"""Windows of a clip, prepared by themselves: all frames stay, so that what is said of frames still belongs to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.types import Array, SkeletonSequence
from training.transforms.preprocess import Preprocess


def prepared_window(preprocess: Preprocess, window: SkeletonSequence, frames: int) -> tuple[Array, NDArray[np.bool_]]:
    """Joints of a window as the network takes them, before its view.

    Args:
        preprocess: prepares the window by itself. Frames before the first and after the last visible person, which it
            leaves out, are zeros in the result.
        window: at most `frames` frames of a clip.
        frames: T of the result; a shorter window repeats its last frame.

    Returns:
        (M, frames, V, C) float32, and (frames,) bool, which frames are of the clip.
    """
    total = window.keypoints.shape[1]
    prepared = preprocess.prepare(window)
    joints = prepared.joints
    whole = np.zeros((joints.shape[0], frames, *joints.shape[2:]), np.float32)
    whole[:, prepared.frames] = joints
    whole[:, total:] = whole[:, total - 1 : total]
    return whole, np.arange(frames) < total
