"""Filter `pose_coverage`: share of frames with a pose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.types import Float, Sample
from dataengine.filters.base import Between
from dataengine.filters.body import seen


def pose_coverage(keypoints: Float, scores: Float) -> float:
    """Share of frames in which at least one person has a joint.

    Args:
        keypoints: (M, T, V, 2) float pixels, NaN where unseen; M may be 0.
        scores: (M, T, V) float.

    Returns:
        A share in [0, 1]; 0 without people, NaN without frames.
    """
    if keypoints.shape[1] == 0:
        return float("nan")
    return float(seen(keypoints, scores).any((0, 2)).mean()) if len(keypoints) else 0.0


@dataclass(frozen=True)
class PoseCoverage(Between):
    """Share of frames that hold a pose of a kept person, in [0, 1]."""

    min: float | None = 0.5

    reason: ClassVar[str] = "pose_coverage"
    measured_in: ClassVar[str] = "share of frames"

    def measure(self, sample: Sample) -> float:
        return pose_coverage(np.asarray(sample.keypoints), np.asarray(sample.scores))
