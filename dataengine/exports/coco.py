"""coco: COCO's JSON of people's keypoints, one file a split.

Format: {"info", "licenses", "categories", "images", "annotations"} (cocodataset.org, "Keypoint Detection"). Beside it
"videos", video_id, frame_id and track_id, as data sets of tracked people in COCO's form have them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar

import numpy as np
from pydantic import Field

from dataengine.exports.base import FACTS, ExportedClip, ExportJob, LayoutExport
from dataengine.exports.layouts import zeroed

FOLDER = "annotations"
DIGITS = 2
"""Decimals of coordinates, pixels."""
SEEN = 2
"""COCO's mark of a joint that is labelled and visible; 0: not labelled."""


class ListsOfJson:
    """One JSON object whose last values are lists of any length, each collected in a temporary file.

    Args:
        names: keys of the lists, in the order in which they are written.
        folder: for the temporary files.
    """

    def __init__(self, names: tuple[str, ...], folder: Path) -> None:
        self._names, self._folder = names, folder
        self._files: dict[str, BinaryIO] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ListsOfJson:
        for name in self._names:
            self._files[name] = self._stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, name: str, value: Any) -> None:
        """Add a value to a list."""
        file = self._files[name]
        file.write((b",\n" if file.tell() else b"\n") + compact(value))

    def write(self, path: Path, head: dict[str, Any]) -> None:
        """Write the object: the entries of `head`, then the lists."""
        with path.open("wb") as target:
            target.write(b"{")
            for key, value in head.items():
                target.write(compact(key) + b":" + compact(value) + b",\n")
            for number, (name, file) in enumerate(self._files.items()):
                target.write((b"],\n" if number else b"") + compact(name) + b":[")
                file.seek(0)
                shutil.copyfileobj(file, target, 1 << 20)
            target.write(b"]}\n")


def compact(value: Any) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


@dataclass(frozen=True)
class Coco(LayoutExport):
    """COCO's keypoint annotations in `annotations/person_keypoints_SPLIT.json`; every frame is an image.

    Images are named `CLIP_ID/000000.jpg`; the export holds no pictures. A joint that is seen has v = 2; one that is not
    seen, or that the dataset's layout does not have, has v = 0. The box encloses the joints that are seen, and `area`
    is the box's. Scores of joints are in `keypoint_scores`, their mean in `score`. `track_id` is the rank of the
    person.

    Attributes:
        layout: layout of the joints; `categories` names them. 'own' is that of the dataset.
        every: export each so many frames of a clip, from the first one.
    """

    keeps_copies: ClassVar[bool] = False

    layout: str = "coco17"
    every: Annotated[int, Field(ge=1)] = 1

    def write(self, place: Path, job: ExportJob) -> None:
        (place / FOLDER).mkdir()
        licences = sorted(name for name in job.licences if name is not None)
        numbers = {name: number for number, name in enumerate(licences, 1)}
        bones = [[start + 1, end + 1] for start, end in job.skeleton.bones]
        head = {
            "info": {"description": "people's keypoints", **{k: job.record[k] for k in ("dataset", "choice")}},
            "licenses": [{"id": number, "name": name, "url": ""} for name, number in numbers.items()],
            "categories": [
                {
                    "id": 1,
                    "name": "person",
                    "supercategory": "person",
                    "keypoints": list(job.skeleton.joints),
                    "skeleton": bones,
                }
            ],
        }
        for split in job.splits:
            with ListsOfJson(("videos", "images", "annotations"), place) as lists:
                self._write_split(job.clips(split), numbers, lists)
                lists.write(place / FOLDER / f"person_keypoints_{split}.json", head)

    def _write_split(self, clips: Iterator[ExportedClip], licences: dict[str, int], lists: ListsOfJson) -> None:
        image_id = annotation_id = 0
        for video_id, clip in enumerate(clips, 1):
            named = {key: clip.facts[key] for key in FACTS if key not in ("clip_id", "video_id")}
            lists.add("videos", {"id": video_id, "name": clip.clip_id, "source_video": clip.facts["video_id"], **named})
            image = {"width": clip.facts["width"], "height": clip.facts["height"], "video_id": video_id}
            if clip.facts["licence"] is not None:
                image["license"] = licences[clip.facts["licence"]]
            people = list(poses(clip, self.every))
            for frame in range(0, clip.keypoints.shape[1], self.every):
                image_id += 1
                name = f"{clip.clip_id}/{frame:06d}.jpg"
                lists.add("images", {"id": image_id, "file_name": name, **image, "frame_id": frame})
                for rank, person in enumerate(people):
                    pose = person[frame // self.every]
                    if pose is not None:
                        annotation_id += 1
                        ids = {"id": annotation_id, "image_id": image_id, "category_id": 1, "iscrowd": 0}
                        lists.add("annotations", {**ids, "track_id": rank, **pose})


def poses(clip: ExportedClip, every: int) -> Iterator[list[dict[str, Any] | None]]:
    """Of each person the pose in every frame that is exported, as COCO writes it; None where nobody is seen."""
    for keypoints, scores in zip(clip.keypoints[:, ::every], clip.scores[:, ::every]):
        seen = np.isfinite(keypoints).all(-1)
        count = seen.sum(-1)
        lows = np.where(seen[..., None], keypoints, np.inf).min(1)
        highs = np.where(seen[..., None], keypoints, -np.inf).max(1)
        boxes = np.round(np.concatenate([lows, highs - lows], -1, dtype=np.float64), DIGITS)
        joints = np.round(zeroed(keypoints).astype(np.float64), DIGITS).tolist()
        marks = np.where(seen, SEEN, 0).tolist()
        means = np.round(scores.sum(-1, dtype=np.float64) / np.maximum(count, 1), 4).tolist()
        rounded = np.round(scores.astype(np.float64), 4).tolist()
        made: list[dict[str, Any] | None] = []
        for frame, number in enumerate(count.tolist()):
            if not number:
                made.append(None)
                continue
            box = boxes[frame].tolist()
            triplets = [value for (x, y), mark in zip(joints[frame], marks[frame]) for value in (x, y, mark)]
            made.append(
                {
                    "keypoints": triplets,
                    "num_keypoints": number,
                    "bbox": box,
                    "area": round(box[2] * box[3], DIGITS),
                    "score": means[frame],
                    "keypoint_scores": rounded[frame],
                }
            )
        yield made
