"""Where prepared joints lie in the clip that they were made of: in time, and in pixels or metres.

prepared = preprocess.prepare(clip)
made = decoder(encoder(prepared.joints))              # joints of a network
pixels = prepared.restore(made)                       # drawn over the video
classes = dense(clip.spans, frames, K)[prepared.frames]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.core.errors import TrainingError
from training.data.types import Array, Numbers


@dataclass(frozen=True)
class Prepared:
    """Prepared joints, and where they come from.

    Attributes:
        joints: (M, T, V, C) float32, of `Preprocess.joints`.
        frames: (T,) int64, the frame of the clip that each frame was.
        matrix: (C', C') float64 of the C' coordinates; None where the normalisation cannot be undone.
        offset: (C',) float64: joints @ matrix + offset are joints as they were stored.
    """

    joints: Array
    frames: Numbers
    matrix: Array | None = None
    offset: Array | None = None

    @property
    def placed(self) -> dict[str, Any]:
        """All but the joints, as `SkeletonSequence.placed` has it."""
        return {"frames": self.frames, "matrix": self.matrix, "offset": self.offset}

    @classmethod
    def of(cls, joints: Array, placed: Mapping[str, Any]) -> Prepared:
        """Of joints and of what `placed` gave."""
        return cls(joints, placed["frames"], placed["matrix"], placed["offset"])

    def restore(self, joints: Array) -> Array:
        """Joints of a network, or of a view, as they would have been stored: pixels or metres.

        People and joints that are exactly zero, as absent ones are, become NaN.

        Args:
            joints: (..., V, C) in the space of `joints`, of the stream "joint"; a channel of scores is left out.

        Returns:
            (..., V, C') float32.

        Raises:
            TrainingError: the normalisation cannot be undone.
        """
        if self.matrix is None or self.offset is None:
            raise TrainingError(
                "joints of normalise 'pyskl3d' cannot be brought back to metres: prepare with 'view' or 'view_body'"
            )
        points = np.asarray(joints)[..., : len(self.offset)]
        restored: Array = (points.astype(np.float64) @ self.matrix + self.offset).astype(np.float32)
        restored[(points == 0).all(-1)] = np.nan
        return restored

    def frames_at(self, positions: Any) -> Array:
        """Frames of the clip at positions of a view (T',), float64; -1 for an empty frame. See `View.sampled`."""
        positions = np.asarray(positions, np.float64)
        frames: Array = np.interp(positions, np.arange(len(self.frames)), self.frames)
        return np.where(positions < 0, -1.0, frames)
