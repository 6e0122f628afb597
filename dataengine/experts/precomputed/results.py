"""Lists of people with keypoints: AlphaPose's results and COCO's, one file a clip or one for all clips.

A list of {"image_id", "keypoints": [x, y, score, ...], "score", "box" or "bbox": [x, y, width, height]}.
AlphaPose (MVIG-SJTU/AlphaPose, docs/output.md) names frames '12.jpg'; in COCO's results (cocodataset.org,
format-results) image_id is a number: the frame's, or that of an entry of "images", which may lie in the
same file ({"images": [...], "annotations": [...]}) or beside the results in images.json.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from dataengine.experts.precomputed.saved import Saved, number, person, read_json, refused, rows, triplets

ALPHAPOSE = "alphapose-results.json"
"""What AlphaPose calls its file; one folder a clip."""
IMAGES, ALL = "images.json", "results.json"
"""The images and the results of all clips, in the folder of saved poses."""


def read(path: Path) -> Saved:
    """One clip's list.

    Raises:
        ExpertError: torn, or of another form.
    """
    content = read_json(path)
    images: dict[Any, int] = {}
    saved = Saved(str(path))
    if isinstance(content, dict) and "annotations" in content:
        for image in rows(content.get("images"), path, "of COCO's form (it has no list 'images')"):
            images[image.get("id")] = _frame(image, path)
        saved.last = max(images.values(), default=None)
        content = content["annotations"]
    for row in rows(content, path, "a list of people with image_id and keypoints"):
        given = row.get("image_id")
        if images and given not in images:
            raise refused(path, f"image_id {given!r} is none of its images")
        if not isinstance(given, int | str):
            raise refused(path, "a person has no image_id")
        frame = images[given] if images else given if isinstance(given, int) else number(given, path)
        _add(saved, frame, row, path)
    return saved


def read_all(folder: Path) -> dict[str, Saved]:
    """The clips of one file of results, by name: the folder that an image's file_name lies in, else its video_id.

    Raises:
        ExpertError: torn, or of another form.
    """
    images, results = folder / IMAGES, folder / ALL
    content = read_json(images)
    listed = content.get("images") if isinstance(content, dict) else content
    where: dict[Any, tuple[str, int]] = {}
    clips: dict[str, Saved] = {}
    for image in rows(listed, images, "a list of images"):
        name = PurePosixPath(str(image.get("file_name", ""))).parent.name or str(image.get("video_id", ""))
        if not name:
            raise refused(
                images, f"image {image.get('id')!r} tells no clip: its file_name has no folder and it has no video_id"
            )
        frame = _frame(image, images)
        where[image.get("id")] = name, frame
        saved = clips.setdefault(name, Saved(f"{results} ({name})"))
        saved.last = max(frame, saved.last or 0)
    for row in rows(read_json(results), results, "a list of people with image_id and keypoints"):
        if row.get("image_id") not in where:
            raise refused(results, f"image_id {row.get('image_id')!r} is not in {IMAGES}")
        name, frame = where[row["image_id"]]
        _add(clips[name], frame, row, results)
    return clips


def _frame(image: dict[str, Any], where: Path) -> int:
    if isinstance(image.get("frame_id"), int):
        return int(image["frame_id"])
    return number(str(image.get("file_name", "")), where)


def _add(saved: Saved, frame: int, row: dict[str, Any], where: Path) -> None:
    if row.get("category_id", 1) != 1 or not row.get("keypoints"):  # other categories than people, and boxes alone
        return
    box = row.get("box", row.get("bbox"))
    corners = None if not isinstance(box, list) or len(box) != 4 else [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    saved.add(frame, person(*triplets(row["keypoints"], where), corners))
