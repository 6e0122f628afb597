"""What lifting networks are given: joints of the picture as numbers that do not depend on its resolution."""

from __future__ import annotations

import numpy as np

from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import BODY12, COMMON
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Bool, Float, Int

TRUNK = layout_of(COMMON).indices(("left_shoulder", "right_shoulder", "left_hip", "right_hip"))
HIPS = layout_of(COMMON).indices(("left_hip", "right_hip"))
NUM_BODY = 1 + len(BODY12)
"""Joints of the layout `body13`."""
CHANNELS = 3 * NUM_BODY + 3
"""Numbers per frame that the network of `temporal` is given (see `person_features`)."""
SMOOTHING = 27
"""Frames over which the size of a person is averaged."""


def screen(points: Float, size: tuple[int, int]) -> Float:
    """Pixels to the units of VideoPose3D: x in [-1, 1] from the left to the right edge of the picture, y in the same
    unit, so that a square stays a square (Pavllo et al. 2019, section 4).

    Args:
        points: (..., 2) pixels.
        size: width and height of the picture in pixels.
    """
    width, height = size
    return np.asarray(points * (2.0 / width) - np.array([1.0, height / width]))


def check_arrays(keypoints: Float, scores: Float, skeleton: str, size: tuple[int, int]) -> None:
    """Raise where what is to be lifted has another shape than it should.

    Raises:
        ComponentError: arrays of other shapes, an unknown layout, or an impossible size.
    """
    joints = layout_of(skeleton).num_joints
    if keypoints.ndim != 3 or keypoints.shape[1:] != (joints, 2) or scores.shape != keypoints.shape[:2]:
        raise ComponentError(
            f"cannot lift keypoints {keypoints.shape} with scores {scores.shape}: "
            f"layout {skeleton!r} takes (T, {joints}, 2) and (T, {joints})"
        )
    if len(size) != 2 or not all(np.isfinite(one) and one > 0 for one in size):
        raise ComponentError(f"cannot lift in a picture of size {tuple(size)}: give width and height in pixels")


def distance_to(present: Bool) -> Int:
    """(T,) frames to the nearest frame that is present; T where none is."""
    total = len(present)
    at = np.flatnonzero(present)
    if not len(at):
        return np.full(total, total)
    after = np.searchsorted(at, np.arange(total))
    later = at[np.minimum(after, len(at) - 1)]
    sooner = at[np.maximum(after - 1, 0)]
    return np.asarray(np.minimum(abs(later - np.arange(total)), abs(sooner - np.arange(total))))


def over_gaps(values: Float, known: Bool) -> Float:
    """(T, C) values with unknown frames interpolated in time, those at the ends held; zeros where none is known."""
    frames = np.arange(len(values))
    if not known.any():
        return np.zeros_like(values)
    return np.stack([np.interp(frames, frames[known], column[known]) for column in values.T], -1)


def _mean(values: Float, mask: Bool) -> Float:
    """Mean over axis 1 of (T, V, C) where the mask (T, V) holds; zeros where it never does."""
    weight = mask[..., None].astype(values.dtype)
    return np.asarray((np.where(mask[..., None], values, 0)).sum(1) / np.maximum(weight.sum(1), 1))


def person_features(keypoints: Float, seen: Bool, size: tuple[int, int]) -> Float:
    """What the network of `temporal` is given, per frame.

    The joints are told from the centre of the seen joints of the trunk (of all seen joints where none of the trunk is
    seen), in units of the size of the person: the root mean square distance of seen joints from the centre, averaged
    over `SMOOTHING` frames. Place and size of the person in the picture follow in units of `screen`, since the
    direction in which a camera sees somebody depends on them.

    Args:
        keypoints: (T, 13, 2) pixels of the layout body13; unseen ones may hold anything.
        seen: (T, 13) whether the joint is seen.
        size: width and height of the picture in pixels.

    Returns:
        (T, 42) float32: x and y of the 13 joints, 0 where unseen; 1 or 0 for each joint, whether it is seen; x and y
        of the centre; natural logarithm of the size.
    """
    total = len(keypoints)
    points = np.where(seen[..., None], screen(np.asarray(keypoints, np.float64), size), 0.0)
    trunk = np.zeros_like(seen)
    trunk[:, TRUNK] = seen[:, TRUNK]
    use = np.where(trunk.any(1, keepdims=True), trunk, seen)
    present: Bool = np.asarray(seen.any(1))
    centre = over_gaps(_mean(points, use), present)
    spread = np.sqrt(_mean(((points - centre[:, None]) ** 2).sum(-1, keepdims=True), seen))
    large = present & (seen.sum(1) >= 4) & (spread[:, 0] > 0)
    spread = over_gaps(spread, large) if large.any() else np.full((total, 1), 0.5)
    scale = np.maximum(smoothed(spread[:, 0], SMOOTHING), 1e-6)
    joints = np.where(seen[..., None], (points - centre[:, None]) / scale[:, None, None], 0.0)
    parts = [joints.reshape(total, -1), seen.astype(np.float64), centre, np.log(scale)[:, None]]
    return np.concatenate(parts, 1).astype(np.float32)


def smoothed(values: Float, width: int) -> Float:
    """(..., T) mean over the `width` frames around each frame, over fewer at the ends."""
    half, total = width // 2, values.shape[-1]
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, -1, dtype=np.float64)], -1)
    low, high = np.maximum(np.arange(total) - half, 0), np.minimum(np.arange(total) + half + 1, total)
    return np.asarray((sums[..., high] - sums[..., low]) / (high - low))


def mirrored_features(features: Float) -> Float:
    """The features of the mirrored picture: (T, 42) -> (T, 42)."""
    flip = list(layout_of(COMMON).flip)
    total = len(features)
    joints = features[:, : 2 * NUM_BODY].reshape(total, NUM_BODY, 2)[:, flip] * np.array([-1, 1], np.float32)
    seen = features[:, 2 * NUM_BODY : 3 * NUM_BODY][:, flip]
    centre = features[:, 3 * NUM_BODY :] * np.array([-1, 1, 1], np.float32)
    return np.concatenate([joints.reshape(total, -1), seen, centre], 1)


def padded(sequence: Float, before: int, after: int) -> Float:
    """(T, ...) with its first and last frame repeated."""
    width = [(before, after), *[(0, 0)] * (sequence.ndim - 1)]
    return np.pad(sequence, width, mode="edge")
