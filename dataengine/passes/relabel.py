"""Labels of the second round and later: the recipe's fusion asked again, with the last generation as one more expert.

The fusion gets the sampled frames of a clip as one sequence. They lie further apart in time than frames of a video do,
so rules over time hold less there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.component import Student
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import Float, Poses, Track
from dataengine.fusion.score_calibration import ScoreCalibration, built_in
from dataengine.passes.pose import fuse_track
from dataengine.passes.pose_session import PoseComponents, built_in_curves
from dataengine.pipeline.recipe import Recipe
from dataengine.refine.measures import aligned, taken
from dataengine.refine.pseudo_labels import SampledClip, boxes_around, stored_labels


class Relabeller:
    """Gives the fused poses of sampled clips anew.

    Args:
        weights: of the generation that takes part.
    """

    def __init__(self, recipe: Recipe, student: Student, weights: Path, device: str) -> None:
        self.expert = student.expert(weights)
        self.session = self.expert.load(device)
        tools, name = PoseComponents.of(recipe), f"student {recipe.refine.student}"
        calibration, curve = tools.calibration, built_in().curves.get(self.expert.score_calibration or "")
        if recipe.pose.calibration is None and curve is not None and not curve.is_identity:
            calibration = ScoreCalibration({**built_in_curves(recipe), name: curve})
        self.tools = replace(
            tools,
            names=(*tools.names, name),
            expert_weights=(*tools.expert_weights, float(np.mean(tools.expert_weights))),
            calibration=calibration,
        )

    def close(self) -> None:
        """Close the session of the generation."""
        self.session.close()

    def __call__(self, clip: SampledClip) -> tuple[Float, Float, Float]:
        """Keypoints (M, K, 13, 2), scores (M, K, 13) and confidence (M, K), float32."""
        fused, _, _ = stored_labels(clip)
        experts = clip.arrays["expert_keypoints"].astype(np.float32)
        scores = clip.arrays["expert_scores"].astype(np.float32)
        own, certain = self._student(clip, fused)
        found: list[list[Any]] = [[], [], []]
        for person in range(len(fused)):
            coords = np.concatenate([experts[person], own[person][None]])
            sure = np.concatenate([scores[person], certain[person][None]])
            one = fuse_track(Track(person, coords, sure, boxes_around(fused[person])), self.tools)
            for values, value in zip(found, (one.coords, one.scores, one.confidence)):
                values.append(value)
        if not len(fused):
            return stored_labels(clip)
        keypoints, joint_scores, confidence = (np.stack(values).astype(np.float32) for values in found)
        return keypoints, joint_scores, confidence

    def _student(self, clip: SampledClip, fused: Float) -> tuple[Float, Float]:
        """(M, K, 13, 2) and (M, K, 13) of the generation, in the order of the fused people."""
        coords = np.full_like(fused, np.nan)
        scores = np.zeros(fused.shape[:-1], np.float32)
        for k in range(fused.shape[1]):
            self.session.start_clip()
            boxes = boxes_around(fused[:, k])
            boxes = boxes[np.isfinite(boxes).all(-1)]
            given = [np.concatenate([boxes, np.ones((len(boxes), 1), np.float32)], 1)]
            (poses,) = self.session.predict(clip.image(k)[None], given if self.expert.needs_boxes else None)
            common, certain = _common(poses, self.expert.skeleton)
            numbers = aligned(fused[:, k : k + 1], common[:, None])
            coords[:, k] = taken(common[:, None], numbers)[:, 0]
            scores[:, k] = np.nan_to_num(taken(certain[:, None], numbers)[:, 0])
        return coords, scores


def _common(poses: Poses, layout: str) -> tuple[Float, Float]:
    coords, scores = convert(poses.coords, poses.scores, layout, COMMON)
    return coords, scores
