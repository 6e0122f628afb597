"""alphapose: the results of AlphaPose, one `alphapose-results.json` a clip.

Format: [{"image_id": "0.jpg", "category_id": 1, "keypoints": [x, y, score, ...], "score", "box": [x, y, width, height],
"idx"}] (MVIG-SJTU/AlphaPose, docs/output.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dataengine.exports.base import ExportJob, LayoutExport
from dataengine.exports.coco import compact, poses
from dataengine.exports.openpose import FOLDER, triplets

FILE = "alphapose-results.json"


@dataclass(frozen=True)
class AlphaPose(LayoutExport):
    """AlphaPose's results, one file a clip: `poses/CLIP_ID/alphapose-results.json`.

    `idx` is the rank of the person in the clip and `score` the mean score of the joints that are seen. A joint that is
    not seen, or that the dataset's layout does not have, is (0, 0) with score 0. `clips.csv` holds the facts of the
    clips.

    Attributes:
        layout: coco17 or halpe26.
    """

    facts_beside: ClassVar[bool] = True
    keeps_copies: ClassVar[bool] = False
    layouts: ClassVar[tuple[str, ...]] = ("coco17", "halpe26")

    layout: str = "coco17"

    def write(self, place: Path, job: ExportJob) -> None:
        (place / FOLDER).mkdir()
        for clip in job.clips():
            joints, people = triplets(clip), list(poses(clip, 1))
            rows = []
            for frame in range(joints.shape[1]):
                for rank, person in enumerate(people):
                    pose = person[frame]
                    if pose is not None:
                        rows.append(
                            {
                                "image_id": f"{frame}.jpg",
                                "category_id": 1,
                                "keypoints": joints[rank, frame].tolist(),
                                "score": pose["score"],
                                "box": pose["bbox"],
                                "idx": [rank],
                            }
                        )
            (place / FOLDER / clip.clip_id).mkdir()
            (place / FOLDER / clip.clip_id / FILE).write_bytes(compact(rows))
