"""Filter `motion`: movement of the body, without the movement of the camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.types import Float, Sample
from dataengine.filters.base import Between
from dataengine.filters.body import Body, foremost, length, percentile_range, quantile, running_median

MIN_FRAMES = 3
"""Frames in which a joint must be seen to count."""


def motion(coords: Float, scores: Float, skeleton: str, fps: float) -> float:
    """Range of the joints that move most, relative to the middle of the body, in body heights.

    Positions are relative to the median of the body joints of the same frame, which removes pans of the camera, and to
    the body height, which removes zooms. A running median of 0.2 s removes trembling. The range of a joint is the
    diagonal from its 5th to its 95th percentile in x and y. The value is the upper quartile over joints, so that the
    movement of one arm counts.

    Args:
        coords: (T, V, 2) float pixels, NaN where unseen.
        scores: (T, V) float, 0 where unseen.
        skeleton: name of the joint layout.
        fps: frames per second.

    Returns:
        Body heights; NaN when no joint is seen in `MIN_FRAMES` frames.
    """
    return body_motion(Body.of(coords, scores, skeleton, fps))


def body_motion(body: Body) -> float:
    """See `motion`."""
    points = body.joints
    if len(points) < MIN_FRAMES:
        return float("nan")
    relative: Float = (points - quantile(points, 0.5, axis=1)[:, None]) / body.height[:, None, None]
    finite = np.isfinite(relative)
    often = np.count_nonzero(finite[..., 0] & finite[..., 1], axis=0) >= MIN_FRAMES
    relative = running_median(relative, max(1, round(body.fps / 10)))
    ranges = np.where(often, length(percentile_range(relative, 0.05, 0.95)), np.nan)
    return float(quantile(ranges, 0.75))


@dataclass(frozen=True)
class Motion(Between):
    """Range of the first-ranked person's most moving joints about the body's middle, in body heights.

    95 % of the hand-annotated tracks of Penn Action and Multi-Person PoseTrack (Bonn) exceed 0.039. A person who sits
    and watches television measures 0.05 to 0.12.
    """

    min: float | None = 0.03

    reason: ClassVar[str] = "motion"
    measured_in: ClassVar[str] = "body heights"

    def measure(self, sample: Sample) -> float:
        return body_motion(sample.once(foremost)) if len(sample.keypoints) else float("nan")
