"""pyskl: the pickle of skeletons that pyskl and MMAction2 train on.

Format: {"split": {name: [frame_dir]}, "annotations": [{frame_dir, total_frames, img_shape, original_shape, keypoint
(M, T, V, 2), keypoint_score (M, T, V), label}]} (kennymckormick/pyskl, tools/data/README.md; open-mmlab/mmaction2,
docs on skeleton datasets). Both programs ignore further keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataengine.exports.base import ExportedClip, ExportJob, LayoutExport
from dataengine.exports.layouts import zeroed
from dataengine.exports.pickle_writer import BEGIN, PickledDict, text

KEY = "export"
"""The first key of the pickle: what the export says about itself."""


@dataclass(frozen=True)
class Pyskl(LayoutExport):
    """One pickle for pyskl and MMAction2: splits, keypoints, scores and labels of every clip.

    A joint that is not seen is (0, 0) with score 0. The names of the labels are in `label_names`. Each annotation also
    holds the clip's licence, consent, source, video, text and frame rate.

    Attributes:
        layout: layout of the joints: coco17, openpose18 or nturgbd25, which pyskl's graphs know, any other known one,
            or 'own' for that of the dataset.
        half: store keypoints in half precision, as pyskl's own files do: half the bytes, and positions to half a pixel
            beyond 1024.
    """

    suffix: ClassVar[str] = ".pkl"
    mark: ClassVar[bytes] = BEGIN + b"}" + text(KEY)

    layout: str = "coco17"
    half: bool = False

    def write(self, place: Path, job: ExportJob) -> None:
        def ids(split: str) -> Iterator[str]:
            for rows in job.index(("clip_id",), split):
                yield from rows["clip_id"].to_list()

        with place.open("wb") as file:
            pickled = PickledDict(file)
            pickled.put(KEY, dict(job.record))
            pickled.put("layout", job.skeleton.name)
            pickled.put("label_names", list(job.labels))
            pickled.put_list("annotations", map(self.annotation, job.clips()))
            pickled.put_lists("split", {split: ids(split) for split in job.splits})
            pickled.close()

    def annotation(self, clip: ExportedClip) -> dict[str, Any]:
        """What the pickle holds of one clip."""
        facts = clip.facts
        keypoints = zeroed(clip.keypoints)
        shape = (int(facts["height"]), int(facts["width"]))
        made: dict[str, Any] = {
            "frame_dir": clip.clip_id,
            "total_frames": keypoints.shape[1],
            "img_shape": shape,
            "original_shape": shape,
            "keypoint": keypoints.astype(np.float16) if self.half else keypoints,
            "keypoint_score": clip.scores.astype(np.float16) if self.half else clip.scores,
        }
        if facts["label_id"] is not None:
            made["label"] = int(facts["label_id"])
        more = ("fps", "source", "video_id", "text", "licence", "consent", "url", "subject")
        return made | {name: facts[name] for name in more if facts[name] is not None}
