"""A lifter: bodies as flat as paper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataengine.core.component import Lifter, LifterSession
from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import positions, skeleton
from dataengine.core.types import Float, Lifted


@dataclass(frozen=True)
class Paper(Lifter):
    """Takes the picture to be `height` metres high, and every joint to be as far from the camera as the hips.

    Attributes:
        height: metres that the height of the picture stands for.
        fold: metres by which left joints lie behind the paper and right joints before it.
    """

    height: float = 2.0
    fold: float = 0.0

    def load(self, device: str = "cpu") -> LifterSession:
        return PaperSession(self)


class PaperSession(LifterSession):
    """There is no network to own."""

    def __init__(self, options: Paper) -> None:
        self.options = options

    def lift(self, keypoints: Float, scores: Float, skeleton_name: str, size: tuple[int, int]) -> Lifted:
        self.require_open()
        joints = skeleton(skeleton_name)
        if keypoints.shape[1:] != (joints.num_joints, 2) or scores.shape != keypoints.shape[:2] or min(size) < 1:
            raise ComponentError(f"paper takes joints of {skeleton_name} in a picture; given {keypoints.shape}, {size}")
        seen = np.isfinite(keypoints).all(-1)
        points = np.array(keypoints, np.float64)
        for joint in range(joints.num_joints):
            known = np.flatnonzero(seen[:, joint])
            for axis in range(2 * bool(len(known))):
                points[:, joint, axis] = np.interp(np.arange(len(points)), known, points[known, joint, axis])
        found = np.zeros((*points.shape[:2], 3))
        found[..., :2] = (points - positions(points, skeleton_name, ("mid_hip",))) * self.options.height / size[1]
        sides = [name.startswith("left_") * 1.0 - name.startswith("right_") for name in joints.joints]
        found[..., 2] = np.array(sides) * self.options.fold
        found[~np.isfinite(found).all(-1)] = np.nan
        error = np.where(np.isfinite(found).any((1, 2)), (~seen).sum(1), np.nan)
        return Lifted(found.astype(np.float32), error.astype(np.float32))
