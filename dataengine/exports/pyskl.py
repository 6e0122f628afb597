"""pyskl: the pickle of skeletons that pyskl and MMAction2 train on.

Poses in space, (M, T, V, 3) metres, may stand in place of those of the picture, as in pyskl's files of NTU RGB+D.

Format: {"split": {name: [frame_dir]}, "annotations": [{frame_dir, total_frames, img_shape, original_shape, keypoint
(M, T, V, 2), keypoint_score (M, T, V), label}]} (kennymckormick/pyskl, tools/data/README.md; open-mmlab/mmaction2,
docs on skeleton datasets). Both programs ignore further keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataengine.core.errors import ComponentError
from dataengine.exports.base import SPANS, ExportedClip, ExportJob, LayoutExport
from dataengine.exports.layouts import zeroed
from dataengine.exports.pickle_writer import BEGIN, PickledDict, text
from dataengine.exports.space import ENTRY, in_space
from dataengine.labels.clip_table import ANNOTATOR, PEOPLE

ROUNDING = 1e-6
"""Frames by which seconds may miss the edge of a frame."""
KEY = "export"
"""The first key of the pickle: what the export says about itself."""


@dataclass(frozen=True)
class Pyskl(LayoutExport):
    """One pickle for pyskl and MMAction2: splits, keypoints, scores and labels of every clip.

    A joint that is not seen is (0, 0) with score 0. The names of the labels are in `label_names`. Each annotation also
    holds the clip's licence, consent, source, video, text and frame rate. Where the dataset says what happens when, the
    annotations of such clips have `spans`, (S, 3) whole numbers: a number of `span_names`, first frame, end frame
    (exclusive), and `spans_from`, people or annotator.

    Attributes:
        layout: layout of the joints: coco17, openpose18 or nturgbd25, which pyskl's graphs know, any other known one,
            or 'own' for that of the dataset.
        half: store keypoints in half precision, as pyskl's own files do: half the bytes, and positions to half a pixel
            beyond 1024.
        dimensions: 2 for joints of the picture in pixels; 3 for joints in space, metres from the middle of the hips, of
            datasets whose poses are lifted.
    """

    suffix: ClassVar[str] = ".pkl"
    mark: ClassVar[bytes] = BEGIN + b"}" + text(KEY)

    layout: str = "coco17"
    half: bool = False
    dimensions: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimensions not in (2, 3):
            raise ComponentError(f"dimensions = {self.dimensions}: give 2 (the picture) or 3 (space)")

    @property
    def wanted(self) -> tuple[str, ...] | None:
        return (ENTRY,) if self.dimensions == 3 else ()

    def write(self, place: Path, job: ExportJob) -> None:
        def ids(split: str) -> Iterator[str]:
            for rows in job.index(("clip_id",), split):
                yield from rows["clip_id"].to_list()

        with place.open("wb") as file:
            pickled = PickledDict(file)
            pickled.put(KEY, dict(job.record))
            pickled.put("layout", job.skeleton.name)
            pickled.put("label_names", list(job.labels))
            if job.span_labels:
                pickled.put("span_names", list(job.span_labels))
            own = job.record["dataset"]["skeleton"]
            numbers = {label: number for number, label in enumerate(job.span_labels)}
            notes = (self.annotation(clip, own, job.skeleton.name) | in_frames(clip, numbers) for clip in job.clips())
            pickled.put_list("annotations", notes)
            pickled.put_lists("split", {split: ids(split) for split in job.splits})
            pickled.close()

    def annotation(self, clip: ExportedClip, own: str, layout: str) -> dict[str, Any]:
        """What the pickle holds of one clip.

        Args:
            own: layout of the dataset.
            layout: of the export.

        Raises:
            DatasetError: joints in space were asked for, and the clip has none.
        """
        facts = clip.facts
        keypoints = zeroed(
            clip.keypoints if self.dimensions == 2 else in_space(clip, own, layout, "export dimensions = 2")
        )
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


def in_frames(clip: ExportedClip, numbers: Mapping[str, int]) -> dict[str, Any]:
    """`spans` and `spans_from` of an annotation; nothing where nobody spoke of the clip, or `numbers` is empty.

    Args:
        numbers: of the labels of spans.
    """
    said = clip.facts.get(SPANS)
    if said is None or not numbers:
        return {}
    fps, frames = float(Fraction(clip.facts["fps"])), clip.keypoints.shape[1]
    rows = []
    for span in said:
        first = min(int(span["start"] * fps + ROUNDING), frames - 1)
        end = min(max(first + 1, math.ceil(span["end"] * fps - ROUNDING)), frames)
        rows.append((numbers[span["label"]], first, end))
    given = ANNOTATOR if any(span["label_from"] == ANNOTATOR for span in said) else PEOPLE
    return {SPANS: np.array(rows, np.int64).reshape(-1, 3), f"{SPANS}_from": given}
