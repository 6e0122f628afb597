"""The poses of a student alone in clips that were posed before: decoded, tracked and fused as pass pose does.

A top-down student looks into boxes around the people that the experts found, frame by frame; another one looks at
whole frames. Its scores are corrected by the calibration of its expert, where the recipe names no calibration file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.component import DetectorSession
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import Clip, Float, Frames, Reject
from dataengine.fusion.score_calibration import ScoreCalibration, built_in
from dataengine.passes.pose import Watched, observe
from dataengine.passes.pose_session import PoseComponents, PoseSession
from dataengine.passes.unit_pass import Unit
from dataengine.pipeline.recipe import Recipe
from dataengine.refine.pseudo_labels import boxes_around


class PersonBoxes(DetectorSession):
    """Boxes around known people, in the place of a detector.

    Args:
        poses: (M, T, V, 2) pixels of every frame of the clip, NaN where unseen.
    """

    def __init__(self, poses: Float) -> None:
        self._poses, self._next = poses, 0

    def detect(self, frames: Frames) -> list[Float]:
        """The boxes of the next frames; the frames are not looked at."""
        first, self._next = self._next, self._next + len(frames)
        return [self._boxes(t) for t in range(first, self._next)]

    def _boxes(self, t: int) -> Float:
        if t >= self._poses.shape[1]:
            return np.zeros((0, 5), np.float32)
        boxes = boxes_around(self._poses[:, t])
        boxes = boxes[np.isfinite(boxes).all(-1)]
        return np.concatenate([boxes, np.ones((len(boxes), 1), np.float32)], 1)


def open_student(recipe: Recipe, device: str, weights: Path | None) -> PoseSession:
    """The session of a generation of the recipe's student; `weights` None: before learning."""
    name, expert = str(recipe.refine.student), recipe.student.expert(weights)
    curves = built_in().curves
    curve = curves.get(expert.score_calibration or "") if recipe.pose.calibration is None else None
    components = replace(
        PoseComponents.of(recipe),
        detector=None,
        experts=(expert,),
        names=(name,),
        expert_weights=(1.0,),
        calibration=None if curve is None or curve.is_identity else ScoreCalibration({name: curve}),
    )
    return PoseSession(recipe, device, components)


def student_poses(
    unit: Unit, session: PoseSession, clip: Clip, arrays: Mapping[str, Any], frames: int | None = None
) -> dict[str, Any] | Reject:
    """The entries of one clip as pass pose has them, of the student alone.

    Args:
        arrays: entries of the clip that the experts made.
        frames: most frames, from the first on; None: all.
    """
    boxes = None
    if session.needs_boxes[0]:
        common, _ = convert(arrays["keypoints"], None, arrays["json"]["skeleton"], COMMON)
        boxes = PersonBoxes(common)
    return observe(unit, session, clip, Watched(boxes, frames))
