"""Exact joints of rendered clips, in the frames that poses were made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import Clip, Float


@dataclass(frozen=True)
class ExactJoints:
    """What a renderer knows of a video.

    Attributes:
        joints: (F, P, 13, 2) float32 pixels in the common layout, also outside of the picture.
        heads: (F, P) head-neck lengths in pixels.
        fps: frames per second.
        condition: what makes the video hard, where it says so.
    """

    joints: Float
    heads: Float
    fps: float
    condition: str | None

    def at(self, clip: Clip, meta: Mapping[str, Any], timestamps: Float) -> tuple[Float, Float]:
        """Joints (P, T, 13, 2) and head lengths (P, T) in the frames of a clip.

        Args:
            meta: entry `json` of the clip's poses. timestamps: (T,) seconds from the clip's start.
        """
        index = np.arange(meta["num_frames"])
        if clip.span_start is not None or len(self.joints) != meta["num_frames"]:
            index = np.round((timestamps.astype(np.float64) + (clip.span_start or 0.0)) * self.fps).astype(int)
        index = np.clip(index, 0, len(self.joints) - 1)
        return self.joints[index].transpose(1, 0, 2, 3), self.heads[index].T


def read_exact_joints(path: Path) -> ExactJoints:
    """What lies beside a rendered video.

    Raises:
        OSError, ValueError, KeyError: it cannot be read, or is something else.
    """
    with np.load(path, allow_pickle=False) as truth:
        condition = str(truth["condition"]) if "condition" in truth else None
        joints, _ = convert(truth["joints"], None, "body14", COMMON)
        return ExactJoints(joints, truth["head"], float(truth["fps"]), condition)
