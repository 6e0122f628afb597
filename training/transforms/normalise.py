"""Where a clip's origin lies and how large it is: functions from joints (M, T, V, C), NaN unseen, to new arrays of the
same dtype."""

from __future__ import annotations

import numpy as np

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from dataengine.core.types import Bool
from training.data.types import Array


def body(array: Array) -> Array:
    """Centre and size of the first person, once a sequence: its mean joint becomes 0, the root mean square of its
    coordinates 1.

    Turning the body and playing it backwards commute with this; other people keep their place beside the first.
    """
    first = array[0].reshape(-1, array.shape[-1])
    if np.isnan(first).any():
        first = first[np.isfinite(first).all(axis=1)]
    centre = first.mean(axis=0)
    moved: Array = array - centre
    size = np.sqrt(np.square(first - centre).mean())
    return moved / size if size > 0 else moved


def screen(array: Array, size: tuple[int, int]) -> Array:
    """x 2/w - 1 and y 2/w - h/w: the picture's width spans [-1, 1], the centre is 0; coordinates that are exactly 0
    stay 0.

    As UNIK's preprocessing (data_gen/preprocess.py @ bf39968), which takes every picture for 640 x 480.

    Args:
        array: (..., 2) pixels.
        size: width and height of the picture.
    """
    width, height = size
    moved: Array = array / width * 2 - np.array([1, height / width], array.dtype)
    return np.where(array == 0, array, moved)


def picture(
    array: Array,
    scores: Array | None,
    size: tuple[int, int] = (1920, 1080),
    auto: bool = False,
    threshold: float = 0.01,
) -> Array:
    """pyskl's normalisation in the plane: either axis of the picture, or of what the points span, to [-1, 1].

    PreNormalize2D of kennymckormick/pyskl @ 3f6795f, pose_related.py.

    Args:
        array: (M, T, V, 2) pixels.
        scores: (M, T, V); points at or below the threshold become 0. None keeps all.
        size: width and height of the picture.
        auto: the smallest box around all kept points in place of the picture, if more than 10 pixels wide and high.
        threshold: of the score.
    """
    kept = np.ones(array.shape[:-1], bool) if scores is None else scores > threshold
    centre = half = np.array(size, array.dtype) / 2
    if auto:
        points = array[kept]
        low, high = (points.min(0), points.max(0)) if len(points) else (centre * 0, centre * 0)
        if (high - low <= 10).any():
            return np.where(kept[..., None], array, array.dtype.type(0))
        centre, half = (high + low) / 2, (high - low) / 2
    return np.where(kept[..., None], (array - centre) / half, array.dtype.type(0))


def facing(array: Array, skeleton: Skeleton, up: int = 1) -> Array:
    """Root of the first frame removed; turned about the upright axis until the line from right to left shoulder and hip
    in it runs along x.

    The first frame is the first in which all these joints of the first person are seen; a clip without one is only
    moved to its mean.

    Args:
        array: (M, T, V, 3).
        skeleton: its layout, with left and right shoulders and hips.
        up: the upright axis, 1 for y, 2 for z.

    Raises:
        TrainingError: not three coordinates.
    """
    if array.shape[-1] != 3:
        raise TrainingError(f"view turns poses in space; given {array.shape[-1]} coordinates")
    needed = skeleton.indices(("left_shoulder", "right_shoulder", "left_hip", "right_hip"))
    root = next((skeleton.index(name) for name in ("mid_hip", "pelvis") if name in skeleton.joints), None)
    used = array[0][:, needed + ([] if root is None else [root])]
    whole = np.flatnonzero(np.isfinite(used).all(axis=(1, 2)))
    if not len(whole):
        centred: Array = array - np.nanmean(array[0], axis=(0, 1)).astype(array.dtype)
        return centred
    start = array[0, whole[0]].astype(np.float64)
    left, right, left_hip, right_hip = start[needed]
    origin = (left_hip + right_hip) / 2 if root is None else start[root]
    across = left - right + left_hip - right_hip
    ahead = 3 - up
    length = np.hypot(across[0], across[ahead])
    turn = np.eye(3)
    if length > 0:
        cos, sin = across[0] / length, across[ahead] / length
        turn[np.ix_((0, ahead), (0, ahead))] = [[cos, sin], [-sin, cos]]
    moved: Array = ((array - origin.astype(array.dtype)) @ turn.T.astype(array.dtype)).astype(array.dtype)
    return moved


def upright(
    array: Array, spine: tuple[int, int] = (0, 1), shoulders: tuple[int, int] = (8, 4), centre: int = 1
) -> Array:
    """pyskl's normalisation in space: frames without the reference person dropped, a joint of its first frame to the
    origin, its spine turned to z, then its shoulders to x.

    PreNormalize3D of kennymckormick/pyskl @ 3f6795f, pose_related.py; joints are numbers of NTU RGB+D's layout. Zero
    points stay zero.

    Args:
        array: (M, T, V, 3), zero where unseen. Of two people the one seen longer is the reference and becomes the
            first.
        spine: lower and upper joint of the line that becomes z.
        shoulders: right and left joint of the line that becomes x.
        centre: joint that becomes the origin.

    Returns:
        (M, T', V, 3) float64.
    """
    there: Bool = np.asarray(~np.isclose(array, 0).reshape(*array.shape[:2], -1).all(axis=2))
    if not there.any():
        return array.astype(np.float64)
    if len(array) == 2 and there[1].sum() > there[0].sum():
        array, there = array[::-1], there[::-1]
    array = array[:, there[0]]
    seen = (array != 0).any(-1, keepdims=True)
    moved: Array = (array - array[0, 0, centre]) * seen
    for (begin, end), axis in ((spine, 2), (shoulders, 0)):
        moved = (
            moved
            @ _onto(
                moved[0, 0, end] - moved[0, 0, begin] if axis == 2 else moved[0, 0, begin] - moved[0, 0, end], axis
            ).T
        )
    return moved


def _onto(vector: Array, axis: int) -> Array:
    """(3, 3) the shortest turn that brings a vector onto an axis (Rodrigues' formula)."""
    goal = np.eye(3)[axis]
    length = np.linalg.norm(vector)
    if not length:
        return np.eye(3)
    cos = float(np.clip(vector / length @ goal, -1, 1))  # in the precision given, as published
    normal, sin = np.cross(vector, goal), np.sqrt(1 - cos * cos)
    if sin < 1e-9:
        return np.eye(3)
    x, y, z = normal / np.linalg.norm(normal)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    out: Array = np.eye(3) + sin * cross + (1 - cos) * cross @ cross
    return out
