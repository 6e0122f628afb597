"""Streams of a clip: joints, bones, and their motion."""

from __future__ import annotations

from functools import cache

import numpy as np

from dataengine.core.errors import TrainingError, suggestion
from dataengine.core.skeletons import SKELETONS, Skeleton
from training.data.types import Array

STREAMS = ("joint", "bone", "motion", "bone_motion", "joint+motion", "joint+bone", "joint+bone+motion")
"""Inputs of a network; with "+" several are stacked as channels, in this order."""

PUBLISHED: dict[str, tuple[int, ...]] = {
    "coco17": (0, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 0, 0, 11, 12, 13, 14),
    "openpose18": (0, 0, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15),
    "posetics17": (0, 0, 1, 2, 3, 2, 2, 5, 6, 7, 8, 4, 4, 11, 12, 13, 14),
    "nturgbd25": (1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11),
}
"""Published parents of the joints of a layout: of pyskl (pose_related.py @ 3f6795f), for posetics17 of UNIK
(data_gen/gen_bone_data.py @ bf39968). A root is its own parent."""


@cache
def parents(skeleton: Skeleton) -> tuple[int, ...]:
    """Parent of each joint; a root is its own parent.

    Parents are the published ones, or else those of the bones of the layout. Where the bones are no forest,
    parents follow a breadth-first search from the head point (or joint 0). A part that the search does not reach begins
    with a child of that root.
    """
    if skeleton.name in PUBLISHED and SKELETONS.get(skeleton.name) == skeleton:
        return PUBLISHED[skeleton.name]
    parent_of_child = {child: parent for parent, child in skeleton.bones}
    if len(parent_of_child) == len(skeleton.bones) and not any(
        _circles(joint, parent_of_child) for joint in parent_of_child
    ):
        return tuple(parent_of_child.get(joint, joint) for joint in range(skeleton.num_joints))
    root = next((skeleton.index(name) for name in ("nose", "head", "head_top") if name in skeleton.joints), 0)
    parent_of = {root: root}
    starts = [root]
    while True:
        for joint in starts:  # the list grows during iteration: breadth-first search
            for a, b in skeleton.bones:
                for end, other in ((a, b), (b, a)):
                    if end == joint and other not in parent_of:
                        parent_of[other] = joint
                        starts.append(other)
        remaining = [joint for joint in range(skeleton.num_joints) if joint not in parent_of]
        if not remaining:
            return tuple(parent_of[joint] for joint in range(skeleton.num_joints))
        pair = {remaining[0], skeleton.flip[remaining[0]]}
        parent_of |= dict.fromkeys(pair, root)
        starts = sorted(pair)


def _circles(joint: int, parent_of_child: dict[int, int]) -> bool:
    """Whether the chain of parents of a joint leads back to the joint."""
    current = parent_of_child[joint]
    for _ in parent_of_child:
        current = parent_of_child.get(current, current)
        if current == joint:
            return True
    return False


def bones(array: Array, skeleton: Skeleton, axes: int | None = None, keep_root: bool = False) -> Array:
    """Vectors from the parent to each joint.

    A root is zero, or keeps its position (`keep_root`, as UNIK, data_gen/gen_bone_data.py @ bf39968).

    Args:
        array: (M, T, V, C).
        skeleton: layout of the joints.
        axes: number of channels that are coordinates; None: all. The others become the mean of joint and parent, as in
            pyskl.
        keep_root: see above.

    Returns:
        (M, T, V, C) of the dtype of `array`.
    """
    parent_ids = np.array(parents(skeleton))
    other = array[:, :, parent_ids]
    out: Array = array - other
    if axes is not None and axes < array.shape[-1]:
        out[..., axes:] = (array[..., axes:] + other[..., axes:]) / 2
    if keep_root:
        roots = parent_ids == np.arange(len(parent_ids))
        out[:, :, roots] = array[:, :, roots]
    return out


def motion(array: Array, axes: int | None = None) -> Array:
    """Differences from each frame to the next; the last is zero. Channels beyond `axes` become means, as in pyskl.

    Args:
        array: (M, T, V, C).
        axes: number of channels that are coordinates; None: all. The others become the mean of both frames.

    Returns:
        (M, T, V, C) of the dtype of `array`.
    """
    out = np.zeros_like(array)
    np.subtract(array[:, 1:], array[:, :-1], out=out[:, :-1])
    if axes is not None and axes < array.shape[-1]:
        out[:, :-1, :, axes:] = (array[:, 1:, :, axes:] + array[:, :-1, :, axes:]) / 2
    return out


def stream(array: Array, name: str, skeleton: Skeleton, axes: int | None = None, keep_root: bool = False) -> Array:
    """Joints, bones, motion of the joints, motion of the bones, or several of them stacked as channels.

    Several streams as channels of one input are the early fusion of EfficientGCN's input branches without their
    separate layers (Song et al., TPAMI 2022, section 3.2). Channels beyond `axes`, such as scores, are those of the
    first stream.

    Raises:
        TrainingError: unknown name.
    """
    if name not in STREAMS:
        raise TrainingError(f"unknown stream {name!r}{suggestion(name, STREAMS)}")
    first, *others = (_one(array, part, skeleton, axes, keep_root) for part in name.split("+"))
    if not others:
        return first
    axes = array.shape[-1] if axes is None else axes
    stacked: Array = np.concatenate([first[..., :axes], *(part[..., :axes] for part in others), first[..., axes:]], -1)
    return stacked


def _one(array: Array, name: str, skeleton: Skeleton, axes: int | None, keep_root: bool) -> Array:
    """One stream."""
    if name.startswith("bone"):
        array = bones(array, skeleton, axes, keep_root)
    return motion(array, axes) if name.endswith("motion") else array
