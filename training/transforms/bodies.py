"""Bodies and cameras as tensors: a motion on other bone lengths, seen by an orthographic camera.

A motion is carried to another body by keeping the direction of every bone and changing its length, which is what the
same rotations of the joints give on another skeleton. So any two clips in space give the truth of motion retargeting.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton

ROOTS = ("mid_hip", "pelvis", "neck", "nose")
"""Joints that a tree of bones may begin at, the first that is there."""
LEGS = tuple(
    (f"{side}_{a}", f"{side}_{b}") for side in ("left", "right") for a, b in (("hip", "knee"), ("knee", "ankle"))
)
"""Bones whose length decides how far a body walks."""


@cache
def tree(skeleton: Skeleton) -> tuple[int, tuple[tuple[int, int], ...]]:
    """The root of a layout, and its bones as (parent, child) from the root outwards, each joint once.

    Raises:
        TrainingError: the bones do not reach every joint.
    """
    root = next((skeleton.index(name) for name in ROOTS if name in skeleton.joints), 0)
    near: dict[int, list[int]] = {joint: [] for joint in range(skeleton.num_joints)}
    for a, b in skeleton.bones:
        near[a].append(b)
        near[b].append(a)
    found, edges = [root], []
    for joint in found:  # grows as it is walked through
        for child in near[joint]:
            if child not in found:
                found.append(child)
                edges.append((joint, child))
    if len(found) < skeleton.num_joints:
        lost = next(name for number, name in enumerate(skeleton.joints) if number not in found)
        raise TrainingError(
            f"layout {skeleton.name!r}: its bones do not reach {lost}, and a body needs a length of every bone: say "
            "the parents of all joints with data.layout = {joints = [...], parents = [...]}, or choose data.skeleton"
        )
    return root, tuple(edges)


def bone_lengths(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Mean length over time of each bone of `tree`, (N, B), of joints (N, T, V, C)."""
    _, edges = tree(skeleton)
    parents, children = ([edge[side] for edge in edges] for side in (0, 1))
    lengths: Tensor = torch.linalg.vector_norm(joints[:, :, children] - joints[:, :, parents], dim=-1).mean(1)
    return lengths


def on_body(joints: Tensor, factors: Tensor, skeleton: Skeleton) -> Tensor:
    """The same motion with other bone lengths.

    Args:
        joints: (N, T, V, C) in space.
        factors: (N, B) new length of each bone of `tree` divided by the old one.
        skeleton: the layout.

    Returns:
        (N, T, V, C). Directions of bones stay. The path of the root is scaled by the geometric mean of the legs'
        factors (of all bones in a layout without legs).
    """
    root, edges = tree(skeleton)
    legs = [number for number, (a, b) in enumerate(edges) if (skeleton.joints[a], skeleton.joints[b]) in LEGS]
    stride = factors[:, legs or list(range(len(edges)))].clamp(min=1e-6).log().mean(1).exp()
    begin = joints[:, :1, root]
    placed: dict[int, Tensor] = {root: begin + (joints[:, :, root] - begin) * stride[:, None, None]}
    for number, (parent, child) in enumerate(edges):
        bone = joints[:, :, child] - joints[:, :, parent]
        placed[child] = placed[parent] + bone * factors[:, number, None, None]
    return torch.stack([placed[joint] for joint in range(skeleton.num_joints)], 2)


def project(joints: Tensor, yaw: Tensor, pitch: Tensor, axes: int = 2) -> Tensor:
    """Joints in space as an orthographic camera sees them.

    Args:
        joints: (N, T, V, 3), x to the left of somebody who faces the camera, y up.
        yaw: (N,) radians that the body is turned by about the upright axis.
        pitch: (N,) radians that the camera looks down.
        axes: 2: the image; 3: with the depth.

    Returns:
        (N, T, V, axes): x to the right of the image, y down, and the distance towards the camera.
    """
    x, y, z = joints.unbind(-1)
    cos, sin = torch.cos(yaw)[:, None, None], torch.sin(yaw)[:, None, None]
    right, near = cos * x + sin * z, cos * z - sin * x
    cos, sin = torch.cos(pitch)[:, None, None], torch.sin(pitch)[:, None, None]
    down, depth = sin * near - cos * y, cos * near + sin * y
    return torch.stack([right, down, depth][:axes], -1)


def centre(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """What positions are relative to, (N, T, C): the middle of the hips, else the mean joint, of (N, T, V, C)."""
    root = next((skeleton.index(name) for name in ("mid_hip", "pelvis") if name in skeleton.joints), None)
    if root is not None:
        return joints[:, :, root]
    if {"left_hip", "right_hip"} <= set(skeleton.joints):
        return joints[:, :, skeleton.indices(("left_hip", "right_hip"))].mean(2)
    return joints.mean(2)


def size(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Root mean square of the coordinates relative to the middle of the hips, (N,), of (N, T, V, C); 1 where it is
    0."""
    rms = (joints - centre(joints, skeleton)[:, :, None]).square().mean((1, 2, 3)).sqrt()
    return torch.where(rms > 0, rms, torch.ones_like(rms))


def degrees(angle: float) -> float:
    """Radians of degrees."""
    return angle * math.pi / 180
