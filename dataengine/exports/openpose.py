"""openpose: the JSON files of OpenPose's `--write_json`, one a frame.

Format: {"version": 1.3, "people": [{"person_id", "pose_keypoints_2d": [x, y, score, ...], ...}]}
(CMU-Perceptual-Computing-Lab/openpose, doc/02_output.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataengine.core.skeletons import all_finite
from dataengine.exports.base import ExportedClip, ExportJob, LayoutExport
from dataengine.exports.coco import compact
from dataengine.exports.layouts import zeroed

FOLDER = "poses"
"""Holds a folder for each clip."""
DIGITS = 4
ABSENT = (
    "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "pose_keypoints_3d", "face_keypoints_3d",
    "hand_left_keypoints_3d", "hand_right_keypoints_3d",
)  # fmt: skip
"""Lists of OpenPose that stay empty."""


def triplets(clip: ExportedClip) -> NDArray[np.float64]:
    """(M, T, V * 3): x, y, score of every joint, zeros where it is not seen."""
    joined = np.concatenate([zeroed(clip.keypoints), clip.scores[..., None]], -1, dtype=np.float64)
    rounded: NDArray[np.float64] = np.round(joined, DIGITS)
    return rounded.reshape(*joined.shape[:2], -1)


@dataclass(frozen=True)
class OpenPose(LayoutExport):
    """OpenPose's JSON, one file a frame: `poses/CLIP_ID/CLIP_ID_000000000000_keypoints.json`.

    `person_id` holds the rank of the person in the clip. A joint that is not seen, or that the dataset's layout does
    not have, is (0, 0) with score 0. `clips.csv` holds the facts of the clips.

    Attributes:
        layout: openpose25 (BODY_25) or openpose18 (COCO's model).
    """

    facts_beside: ClassVar[bool] = True
    keeps_copies: ClassVar[bool] = False
    layouts: ClassVar[tuple[str, ...]] = ("openpose25", "openpose18")

    layout: str = "openpose25"

    def write(self, place: Path, job: ExportJob) -> None:
        (place / FOLDER).mkdir()
        for clip in job.clips():
            folder = place / FOLDER / clip.clip_id
            folder.mkdir()
            joints = triplets(clip)
            seen = all_finite(clip.keypoints).any(-1)
            for frame in range(joints.shape[1]):
                people = [
                    _person(rank, joints[rank, frame]) for rank in np.flatnonzero(np.asarray(seen)[:, frame]).tolist()
                ]
                content = compact({"version": 1.3, "people": people})
                (folder / f"{clip.clip_id}_{frame:012d}_keypoints.json").write_bytes(content)


def _person(rank: int, joints: NDArray[np.float64]) -> dict[str, Any]:
    pose = {"person_id": [rank], "pose_keypoints_2d": joints.tolist()}
    return pose | {name: [] for name in ABSENT}
