"""Filter `body_visible`: share of frames that show enough of a body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.types import Float, Sample
from dataengine.filters.base import Between
from dataengine.filters.body import body_joints


def body_visible(
    keypoints: Float, scores: Float, layout: str, width: int, height: int, joints: int = 8, score: float = 0.5
) -> float:
    """Share of frames in which the same person shows enough body joints.

    A joint counts when it lies inside the picture with a score above `score`. A person who sits half outside the
    picture, or whose skeleton is guessed from two feet, has a pose in every frame and still gets a low share.

    Args:
        keypoints: (M, T, V, 2) float pixels, NaN where unseen; M may be 0.
        scores: (M, T, V) float in [0, 1].
        layout: name of the joint layout.
        width, height: pixels.
        joints: number of the twelve body joints that is enough.
        score: a joint with a higher score counts.

    Returns:
        The share in [0, 1] of the best person; 0 without people, NaN without frames.
    """
    if keypoints.shape[1] == 0:
        return float("nan")
    if len(keypoints) == 0:
        return 0.0
    body = body_joints(layout)
    x, y = keypoints[:, :, body, 0], keypoints[:, :, body, 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # False for NaN
    enough = (inside & (scores[:, :, body] > score)).sum(-1) >= joints
    return float(enough.mean(1).max())


@dataclass(frozen=True)
class BodyVisible(Between):
    """Share of frames in which the best person shows `joints` of 12 body joints with a score above `score`."""

    min: float | None = 0.5
    joints: int = 8
    """How many of the twelve body joints are enough."""
    score: float = 0.5
    """A joint counts with a score above this."""

    reason: ClassVar[str] = "body_visible"
    measured_in: ClassVar[str] = "share of frames"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.joints <= 12:
            raise ValueError(f"joints = {self.joints}: a body has 12 joints; give 1 to 12")

    def measure(self, sample: Sample) -> float:
        keypoints, scores = np.asarray(sample.keypoints), np.asarray(sample.scores)
        return body_visible(keypoints, scores, sample.skeleton, sample.width, sample.height, self.joints, self.score)
