"""Bones and motion of a clip: what a network sees in place of joints, or beside them in a second one."""

from __future__ import annotations

from functools import cache

import numpy as np

from dataengine.core.errors import TrainingError, suggestion
from dataengine.core.skeletons import Skeleton
from training.data.types import Array

STREAMS = ("joint", "bone", "motion", "bone_motion")

PUBLISHED: dict[str, tuple[int, ...]] = {
    "coco17": (0, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 0, 0, 11, 12, 13, 14),
    "openpose18": (0, 0, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15),
    "posetics17": (0, 0, 1, 2, 3, 2, 2, 5, 6, 7, 8, 4, 4, 11, 12, 13, 14),
    "nturgbd25": (1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11),
}
"""Parent of every joint where bones of a layout are published: pyskl (pose_related.py @ 3f6795f), for posetics17 UNIK
(data_gen/gen_bone_data.py @ bf39968). A root is its own parent."""


@cache
def parents(skeleton: Skeleton) -> tuple[int, ...]:
    """Parent of every joint, a root being its own: as published, or as the layout's bones say, or the shortest way
    along them.

    The last is for layouts whose bones make circles: from the head point (or joint 0) outwards; what bones do not reach
    begins there.
    """
    if skeleton.name in PUBLISHED:
        return PUBLISHED[skeleton.name]
    above = {child: parent for parent, child in skeleton.bones}
    if len(above) == len(skeleton.bones) and not any(_circles(joint, above) for joint in above):
        return tuple(above.get(joint, joint) for joint in range(skeleton.num_joints))
    root = next((skeleton.index(name) for name in ("nose", "head", "head_top") if name in skeleton.joints), 0)
    found = {root: root}
    starts = [root]
    while True:
        for joint in starts:  # grows while it is read: nearest joints first
            for a, b in skeleton.bones:
                for end, other in ((a, b), (b, a)):
                    if end == joint and other not in found:
                        found[other] = joint
                        starts.append(other)
        left = [joint for joint in range(skeleton.num_joints) if joint not in found]
        if not left:
            return tuple(found[joint] for joint in range(skeleton.num_joints))
        pair = {left[0], skeleton.flip[left[0]]}
        found |= dict.fromkeys(pair, root)
        starts = sorted(pair)


def _circles(joint: int, above: dict[int, int]) -> bool:
    """Whether the way upwards comes back to the joint."""
    at = above[joint]
    for _ in above:
        at = above.get(at, at)
        if at == joint:
            return True
    return False


def bones(array: Array, skeleton: Skeleton, axes: int | None = None, keep_root: bool = False) -> Array:
    """From the parent to each joint; a root is zero, or keeps its place (`keep_root`, as UNIK's
    data_gen/gen_bone_data.py @ bf39968).

    Args:
        array: (M, T, V, C).
        skeleton: its layout.
        axes: how many channels are coordinates (None: all); the others become the mean of joint and parent, as in
            pyskl.
        keep_root: see above.

    Returns:
        (M, T, V, C) of the dtype given.
    """
    above = np.array(parents(skeleton))
    other = array[:, :, above]
    out: Array = array - other
    if axes is not None and axes < array.shape[-1]:
        out[..., axes:] = (array[..., axes:] + other[..., axes:]) / 2
    if keep_root:
        roots = above == np.arange(len(above))
        out[:, :, roots] = array[:, :, roots]
    return out


def motion(array: Array, axes: int | None = None) -> Array:
    """From each frame to the next, the last zero; channels beyond `axes` become the mean of both frames, as in pyskl.

    Args:
        array: (M, T, V, C).
        axes: how many channels are coordinates; None: all.

    Returns:
        (M, T, V, C) of the dtype given.
    """
    out = np.zeros_like(array)
    np.subtract(array[:, 1:], array[:, :-1], out=out[:, :-1])
    if axes is not None and axes < array.shape[-1]:
        out[:, :-1, :, axes:] = (array[:, 1:, :, axes:] + array[:, :-1, :, axes:]) / 2
    return out


def stream(array: Array, name: str, skeleton: Skeleton, axes: int | None = None, keep_root: bool = False) -> Array:
    """Joints, bones, motion of the joints or motion of the bones.

    Raises:
        TrainingError: another name.
    """
    if name not in STREAMS:
        raise TrainingError(f"unknown stream {name!r}{suggestion(name, STREAMS)}")
    if name.startswith("bone"):
        array = bones(array, skeleton, axes, keep_root)
    return motion(array, axes) if name.endswith("motion") else array
