"""Filter `truncation`: share of the first-ranked person that the edge of the picture cuts off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.types import Float, Sample
from dataengine.filters.base import Between
from dataengine.filters.body import body_joints, seen


def truncation(coords: Float, scores: Float, layout: str, width: int, height: int, margin: float = 0.005) -> float:
    """Share of the seen body joints that lie at or beyond the edge of the picture.

    Args:
        coords: (T, V, 2) float pixels, NaN where unseen.
        scores: (T, V) float.
        layout: name of the joint layout.
        width, height: pixels.
        margin: width of the edge, as a share of the shorter edge of the picture. Estimators that keep joints inside the
            picture put joints from outside right there.

    Returns:
        A share in [0, 1]; NaN when no joint is seen.
    """
    body = body_joints(layout)
    present = seen(coords, scores)[:, body]
    if not present.any():
        return float("nan")
    x, y = coords[:, body, 0], coords[:, body, 1]
    edge = margin * min(width, height)
    outside = (x <= edge) | (x >= width - 1 - edge) | (y <= edge) | (y >= height - 1 - edge)
    return float((outside & present).sum() / present.sum())


@dataclass(frozen=True)
class Truncation(Between):
    """Share of the first-ranked person's seen body joints at or beyond the edge of the picture, in [0, 1]."""

    max: float | None = 0.3
    margin: float = 0.005
    """Width of the picture's edge, as a share of its shorter side."""

    reason: ClassVar[str] = "truncation"
    measured_in: ClassVar[str] = "share of joints"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin = {self.margin}: give a share of the shorter edge of the picture, 0 up to 0.5")

    def measure(self, sample: Sample) -> float:
        if len(sample.keypoints) == 0:
            return float("nan")
        coords, scores = np.asarray(sample.keypoints)[0], np.asarray(sample.scores)[0]
        return truncation(coords, scores, sample.skeleton, sample.width, sample.height, self.margin)
