"""Bones of constant length over a clip."""

from __future__ import annotations

import numpy as np

from dataengine.core.skeletons import BODY12, COMMON
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float

_PARENT = {
    "left_hip": "mid_hip",
    "right_hip": "mid_hip",
    "neck": "mid_hip",
    "nose": "neck",
    "left_shoulder": "neck",
    "right_shoulder": "neck",
    **{
        f"{side}_{child}": f"{side}_{parent}"
        for side in ("left", "right")
        for parent, child in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
    },
}
"""Joint -> parent, of the tree that starts at the middle of the hips; parents come before their children."""
_SIDES = tuple(sorted({(j, "right_" + j.removeprefix("left_")) for j in BODY12 if j.startswith("left_")}))


def constant_bones(poses: Float, symmetric: bool = True) -> Float:
    """Poses whose bones keep their median length of the clip, in the directions they have.

    The tree starts at the middle of the hips. Hips lie evenly on both sides of it, and shoulders of the neck.

    Args:
        poses: (T, 13, 3) metres in the layout body13, NaN in frames that are not lifted.
        symmetric: left and right bones get the same length.

    Returns:
        (T, 13, 3) of the given dtype.
    """
    body = layout_of(COMMON)
    given = {joint: poses[:, n].astype(np.float64) for n, joint in enumerate(body.joints)}
    given["mid_hip"] = (given["left_hip"] + given["right_hip"]) / 2
    given["neck"] = (given["left_shoulder"] + given["right_shoulder"]) / 2
    apart = {joint: given[joint] - given[parent] for joint, parent in _PARENT.items()}
    far = {joint: np.linalg.norm(bone, axis=-1) for joint, bone in apart.items()}
    if not np.isfinite(far["neck"]).any():
        return np.array(poses)
    length = {joint: float(np.nanmedian(each)) for joint, each in far.items()}
    if symmetric:
        for left, right in _SIDES:
            length[left] = length[right] = (length[left] + length[right]) / 2
    made = {"mid_hip": given["mid_hip"]}
    for joint, parent in _PARENT.items():
        direction = apart[joint] / np.maximum(far[joint], 1e-9)[:, None]
        made[joint] = made[parent] + length[joint] * direction
    return np.stack([made[joint] for joint in body.joints], 1).astype(poses.dtype)
