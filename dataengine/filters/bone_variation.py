"""How much the lengths of bones vary against the size of the body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Sample
from dataengine.filters.base import Between
from dataengine.filters.body import SEGMENTS, blanked, body_height, mean, percentile_range

MIN_FRAMES = 8
QUARTILES_OF_NORMAL = 1.349
"""Interquartile range of a normal distribution of standard deviation 1."""


def bone_variation(coords: Float, scores: Float, skeleton: str, fps: float) -> float:
    """Robust coefficient of variation of bone lengths, mean over bones.

    A bone's length is taken against the body height of its frame, so that coming closer and zooming
    change nothing; its spread is the interquartile range / 1.349, divided by the length the bone has in
    a body of that height (its share in `SEGMENTS`; a median would vanish for a bone that points at the
    camera). What remains of a real body is foreshortening.

    Args:
        coords: (T, V, 2) float pixels, NaN where unseen.
        scores: (T, V) float, 0 where unseen.
        skeleton: name of the joint layout.
        fps: frames a second.

    Returns:
        A coefficient of variation; NaN when no bone is seen in 8 frames.
    """
    points = blanked(coords, scores)
    if len(points) < MIN_FRAMES:
        return float("nan")
    joints = layout_of(skeleton)
    starts, ends = joints.indices(tuple(a for a, _, _ in SEGMENTS)), joints.indices(tuple(b for _, b, _ in SEGMENTS))
    lengths = np.linalg.norm(points[:, starts] - points[:, ends], axis=-1) / body_height(points, skeleton, fps)[:, None]
    usable = np.isfinite(lengths).sum(0) >= MIN_FRAMES
    spread = percentile_range(lengths, 0.25, 0.75) / QUARTILES_OF_NORMAL
    return mean((spread / np.array([share for _, _, share in SEGMENTS]))[usable])


@dataclass(frozen=True)
class BoneVariation(Between):
    """Robust coefficient of variation of the first-ranked person's bone lengths.

    People annotated by hand stay below 0.24 in 99 % of the tracks of Penn Action and Bonn's PoseTrack.
    """

    max: float | None = 0.35

    reason: ClassVar[str] = "bone_variation"
    measured_in: ClassVar[str] = "coefficient of variation"

    def measure(self, sample: Sample) -> float:
        if len(sample.keypoints) == 0:
            return float("nan")
        return bone_variation(
            np.asarray(sample.keypoints)[0], np.asarray(sample.scores)[0], sample.skeleton, sample.fps
        )
