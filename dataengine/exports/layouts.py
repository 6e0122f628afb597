"""Poses in the layout that a format fixes."""

from __future__ import annotations

from functools import cache

import numpy as np

from dataengine.core.skeletons import convert, positions, skeleton
from dataengine.core.types import Float


@cache
def copies(source: str, target: str) -> tuple[int, ...]:
    """Joints of a layout that would only repeat another joint of it, such as eyes and ears made of one head point."""
    origin, wanted = skeleton(source), skeleton(target)
    marked = np.arange(1, origin.num_joints + 1, dtype=np.float32)
    made_of = positions(np.stack([marked, -marked], -1), source, wanted.joints)[:, 0].tolist()
    own = {value for joint, value in zip(wanted.joints, made_of) if joint in origin.joints}
    return tuple(
        number
        for number, (joint, value) in enumerate(zip(wanted.joints, made_of))
        if joint not in origin.joints and value in own
    )


def converted(keypoints: Float, scores: Float, source: str, target: str, keep_copies: bool) -> tuple[Float, Float]:
    """Poses of one clip in another layout.

    Args:
        keypoints: (M, T, V, 2), NaN where unseen.
        scores: (M, T, V).
        source: layout given.
        target: layout wanted.
        keep_copies: whether joints that only repeat another one are kept; else they are unseen.

    Returns:
        keypoints (M, T, V', 2) and scores (M, T, V'), float32; arrays of their own.
    """
    coords, found = np.array(keypoints, np.float32), np.array(scores, np.float32)
    if source != target:
        coords, found = convert(coords, found, source, target)
        if not keep_copies and (repeated := list(copies(source, target))):
            coords[:, :, repeated], found[:, :, repeated] = np.nan, 0
    found[~np.isfinite(coords).all(-1)] = 0
    return coords, found


def zeroed(keypoints: Float) -> Float:
    """Joints as most programs write them: (0, 0) where unseen."""
    return np.nan_to_num(keypoints, copy=True, nan=0.0)
