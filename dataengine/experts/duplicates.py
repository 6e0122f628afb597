"""Duplicates: poses of one frame that are the same person twice."""

from __future__ import annotations

import numpy as np

from dataengine.core.types import Float, Int

NEAR = 0.1
"""Two poses are one person where the median distance of their joints is below this share of the longer side of the
smaller box. Two people who stand one before the other lie 0.15 and more apart."""
MIN_JOINTS = 4
"""Joints that both poses must have to be compared."""


def distinct(coords: Float, scores: Float, boxes: Float, near: float = NEAR) -> Int:
    """Which poses to keep: of each person the first one.

    Args:
        coords: (M, V, 2) pixels, NaN where unseen, best first.
        scores: (M, V); joints with score 0 do not count.
        boxes: (M, 4 or more) xyxy pixels.
        near: largest median distance of the joints of one person, as a share of the longer side of the smaller box.

    Returns:
        (K,) ascending indices.
    """
    shown = np.where((scores > 0)[..., None], coords, np.nan)
    longer = (boxes[:, 2:4] - boxes[:, :2]).max(-1, initial=0.0)
    kept: list[int] = []
    for m in range(len(coords)):
        for k in kept:
            gaps = np.linalg.norm(shown[m] - shown[k], axis=-1)
            gaps = gaps[np.isfinite(gaps)]
            if len(gaps) >= MIN_JOINTS and np.median(gaps) <= near * min(longer[m], longer[k]):
                break
        else:
            kept.append(m)
    return np.array(kept, np.int64)
