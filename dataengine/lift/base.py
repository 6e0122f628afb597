"""What lifters with a temporal network have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from dataengine.core.component import Lifter, LifterSession
from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Bool, Float, Lifted
from dataengine.lift.bones import constant_bones
from dataengine.lift.inputs import HIPS, check_arrays, distance_to
from dataengine.lift.projection import reprojection_error

FEWEST = 4
"""Joints of body13 that make a frame one that is seen."""


@dataclass(frozen=True)
class NetworkLifter(Lifter):
    """A lifter with a network over time.

    Attributes:
        flip: lift the mirrored sequence too and take the mean of both.
        constant_bones: give every bone its median length of the clip, the same on the left and on the right.
        max_gap: most frames to the nearest frame with at least four seen joints; frames beyond are not lifted.
        min_score: joints with a lower score count as unseen.
    """

    flip: bool = True
    constant_bones: bool = False
    max_gap: int = 12
    min_score: float = 0.05

    def __post_init__(self) -> None:
        if self.max_gap < 0:
            raise ComponentError(f"{self.title} max_gap = {self.max_gap}: give 0 or more frames")
        if not 0 <= self.min_score <= 1:
            raise ComponentError(f"{self.title} min_score = {self.min_score}: lies in [0, 1]")


class NetworkLifterSession(LifterSession):
    """The steps around a network: what it is given, and what becomes of its answer."""

    def __init__(self, options: NetworkLifter) -> None:
        self.options = options

    @abstractmethod
    def body(self, keypoints: Float, seen: Bool, skeleton: str, size: tuple[int, int]) -> Float:
        """Lift every frame.

        Args:
            keypoints: (T, V, 2) float32 pixels, NaN where unseen, T > 0, with at least one frame that is seen.
            seen: (T, V) whether the joint counts as seen.
            skeleton: layout of the joints.
            size: width and height of the picture in pixels.

        Returns:
            (T, 13, 3) float32 metres in the layout body13, x right, y down, z away from the camera.
        """

    def lift(self, keypoints: Float, scores: Float, skeleton: str, size: tuple[int, int]) -> Lifted:
        """As `LifterSession.lift`."""
        self.require_open()
        given = np.asarray(keypoints, np.float32)
        told = np.asarray(scores, np.float32)
        check_arrays(given, told, skeleton, size)
        if not self.options.serves(skeleton):
            raise ComponentError(f"{self.options.title} takes no layout {skeleton!r}: it lacks joints of {COMMON}")
        seen = np.isfinite(given).all(-1) & (told > 0) & (told >= self.options.min_score)
        kept = np.where(seen[..., None], given, np.float32(np.nan))
        common, scored = convert(kept, np.where(seen, told, 0), skeleton, COMMON)
        present = (scored > 0).sum(1) >= FEWEST
        lifted = distance_to(present) <= (self.options.max_gap if present.any() else -1)
        poses = np.full((len(given), layout_of(COMMON).num_joints, 3), np.nan, np.float32)
        if present.any():
            poses[lifted] = self.body(kept, seen, skeleton, size)[lifted]
        if self.options.constant_bones:
            poses = constant_bones(poses)
        poses = poses - poses[:, HIPS].mean(1, keepdims=True)
        error = reprojection_error(poses, common, scored > 0)
        return Lifted(convert(poses, None, COMMON, skeleton)[0], error)
