"""Normalisation of position, size and orientation of a clip.

Each function takes joints (M, T, V, C), NaN where unseen, and returns a new array of the same dtype unless stated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from dataengine.core.types import Bool
from training.data.types import Array, Numbers


def body(array: Array) -> Array:
    """Normalises by centre and size of the first person over the whole sequence.

    The mean joint of the first person becomes 0, and the root mean square of the coordinates becomes 1. Rotation and
    time reversal commute with this normalisation. Other people keep their position relative to the first.
    """
    centre, size = body_frame(array)
    moved: Array = array - centre
    return moved / size if size > 0 else moved


def body_frame(array: Array) -> tuple[Array, np.floating[Any]]:
    """Centre (C,) and size of the first person over the whole sequence, see `body`."""
    first = array[0].reshape(-1, array.shape[-1])
    if np.isnan(first).any():
        first = first[np.isfinite(first).all(axis=1)]
    centre: Array = first.mean(axis=0)
    return centre, np.sqrt(np.square(first - centre).mean())


def screen(array: Array, size: tuple[int, int]) -> Array:
    """Normalises pixels by the image size: x 2/w - 1 and y 2/w - h/w.

    The width of the image spans [-1, 1], the centre is 0, and coordinates that are exactly 0 stay 0. Source: the
    preprocessing of UNIK (data_gen/preprocess.py @ bf39968), which assumes 640 x 480 for every image.

    Args:
        array: (..., 2) pixels.
        size: width and height of the image in pixels.
    """
    width, height = size
    moved: Array = array / width * 2 - np.array([1, height / width], array.dtype)
    return np.where(array == 0, array, moved)


def pyskl2d(
    array: Array,
    scores: Array | None,
    size: tuple[int, int] = (1920, 1080),
    auto: bool = False,
    threshold: float = 0.01,
) -> Array:
    """The 2D normalisation of pyskl: each axis of the image, or of the bounding box of the joints, to [-1, 1].

    Source: PreNormalize2D of kennymckormick/pyskl @ 3f6795f, pose_related.py.

    Args:
        array: (M, T, V, 2) pixels.
        scores: (M, T, V); joints at or below the threshold become 0. None: no joint does.
        size: width and height of the image in pixels.
        auto: whether the bounding box of the visible joints replaces the image. Boxes of at most 10 pixels in width or
            height leave the joints as they are.
        threshold: of the score.
    """
    visible = np.ones(array.shape[:-1], bool) if scores is None else scores > threshold
    centre = half = np.array(size, array.dtype) / 2
    if auto:
        points = array[visible]
        low, high = (points.min(0), points.max(0)) if len(points) else (centre * 0, centre * 0)
        if (high - low <= 10).any():
            return np.where(visible[..., None], array, array.dtype.type(0))
        centre, half = (high + low) / 2, (high - low) / 2
    return np.where(visible[..., None], (array - centre) / half, array.dtype.type(0))


def facing(array: Array, skeleton: Skeleton, up: int = 1) -> Array:
    """Moves the root of the reference frame to the origin and turns the clip to face along an axis.

    The clip is turned about the upright axis until the line from right to left shoulder and hip runs along x. The
    reference frame is the first in which all these joints of the first person are visible. A clip without a reference
    frame is only centred on the mean joint.

    Args:
        array: (M, T, V, 3).
        skeleton: layout with left and right shoulders and hips.
        up: the upright axis, 1 for y, 2 for z.

    Raises:
        TrainingError: the array has no three coordinates.
    """
    origin, rotation = facing_frame(array, skeleton, up)
    if rotation is None:
        centred: Array = array - origin
        return centred
    aligned: Array = ((array - origin.astype(array.dtype)) @ rotation.T.astype(array.dtype)).astype(array.dtype)
    return aligned


def facing_frame(array: Array, skeleton: Skeleton, up: int = 1) -> tuple[Array, Array | None]:
    """Origin (3,) and rotation (3, 3) of `facing`; no rotation where no frame shows the joints that it needs.

    Raises:
        TrainingError: the array has no three coordinates.
    """
    if array.shape[-1] != 3:
        raise TrainingError(f"view turns poses in space; given {array.shape[-1]} coordinates")
    needed = skeleton.indices(("left_shoulder", "right_shoulder", "left_hip", "right_hip"))
    root = next((skeleton.index(name) for name in ("mid_hip", "pelvis") if name in skeleton.joints), None)
    used = array[0][:, needed + ([] if root is None else [root])]
    complete = np.flatnonzero(np.isfinite(used).all(axis=(1, 2)))
    if not len(complete):
        return np.nanmean(array[0], axis=(0, 1)).astype(array.dtype), None
    pose = array[0, complete[0]].astype(np.float64)
    left, right, left_hip, right_hip = pose[needed]
    origin = (left_hip + right_hip) / 2 if root is None else pose[root]
    direction = left - right + left_hip - right_hip
    depth = 3 - up
    length = np.hypot(direction[0], direction[depth])
    rotation = np.eye(3)
    if length > 0:
        cos, sin = direction[0] / length, direction[depth] / length
        rotation[np.ix_((0, depth), (0, depth))] = [[cos, sin], [-sin, cos]]
    return origin, rotation


def pyskl3d(
    array: Array, spine: tuple[int, int] = (0, 1), shoulders: tuple[int, int] = (8, 4), centre: int = 1
) -> Array:
    """The 3D normalisation of pyskl.

    Frames without the reference person are dropped. In the first of the others, one joint moves to the origin, the
    spine is turned to z, and then the shoulders to x. Zero joints stay zero. Source: PreNormalize3D of
    kennymckormick/pyskl @ 3f6795f, pose_related.py. The default joints are indices of the layout of NTU RGB+D.

    Args:
        array: (M, T, V, 3), zero where unseen. Of two people, the one visible in more frames is the reference person
            and becomes the first.
        spine: lower and upper joint of the line that becomes z.
        shoulders: right and left joint of the line that becomes x.
        centre: joint that becomes the origin.

    Returns:
        (M, T', V, 3) float64.
    """
    present = _present(array)
    if not present.any():
        return array.astype(np.float64)
    if len(array) == 2 and present[1].sum() > present[0].sum():
        array, present = array[::-1], present[::-1]
    array = array[:, present[0]]
    visible = (array != 0).any(-1, keepdims=True)
    moved: Array = (array - array[0, 0, centre]) * visible
    for (begin, end), axis in ((spine, 2), (shoulders, 0)):
        moved = (
            moved
            @ _onto(
                moved[0, 0, end] - moved[0, 0, begin] if axis == 2 else moved[0, 0, begin] - moved[0, 0, end], axis
            ).T
        )
    return moved


def _present(array: Array) -> Bool:
    """(M, T) bool, where joints (M, T, V, C) of a person are not all zero."""
    return np.asarray(~np.isclose(array, 0).reshape(*array.shape[:2], -1).all(axis=2))


def pyskl3d_frames(array: Array) -> Numbers:
    """(T',) int64, the frames that `pyskl3d` keeps."""
    present = _present(array)
    if not present.any():
        return np.arange(array.shape[1])
    second = len(array) == 2 and present[1].sum() > present[0].sum()
    return np.flatnonzero(present[1] if second else present[0])


def _onto(vector: Array, axis: int) -> Array:
    """(3, 3) the smallest rotation that aligns a vector with an axis (Rodrigues' formula)."""
    goal = np.eye(3)[axis]
    length = np.linalg.norm(vector)
    if not length:
        return np.eye(3)
    cos = float(np.clip(vector / length @ goal, -1, 1))  # in the precision of the input, as published
    normal, sin = np.cross(vector, goal), np.sqrt(1 - cos * cos)
    if sin < 1e-9:
        return np.eye(3)
    x, y, z = normal / np.linalg.norm(normal)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    out: Array = np.eye(3) + sin * cross + (1 - cos) * cross @ cross
    return out
