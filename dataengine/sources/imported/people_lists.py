"""Lists of people with keypoints: COCO's annotations and results, and AlphaPose's results.

COCO (cocodataset.org, format-data and format-results): {"images", "annotations"}, or a list of results. A clip is what
images have in common: `video_id`, else the folder in `file_name`, else the name before a running number; images that
belong to nothing are clips of one frame. AlphaPose (MVIG-SJTU/AlphaPose, docs/output.md): a list whose `image_id` names
the frame ('12.jpg'), or, in its other forms, an object by image. One file is one clip, unless images name folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dataengine.core.class_numbers import class_number
from dataengine.core.errors import SourceError
from dataengine.core.skeletons import SKELETONS
from dataengine.sources.ids import split_in_path, split_named
from dataengine.sources.imported.json_stream import members
from dataengine.sources.imported.saved_clip import MAX_FRAMES, Detections, SavedClip, one_number, person, triplets

ALPHAPOSE = "alphapose-results.json"
"""What AlphaPose calls its file; one folder a clip."""
SCORES = ("keypoint_scores", "keypoints_score", "keypoint_score", "scores")
"""Where some programs write the score of each joint beside COCO's flags."""
EMPTY = 30
"""Where only frames with people are listed, a clip may begin with so many, or as many as are listed, without people;
numbers that begin later are those of a part of a video."""
SPARSE = 3
"""Running numbers of images whose span is longer than so many times their count are no frames of one video."""


@dataclass
class _Image:
    """An image of a COCO file: the clip it belongs to, and its frame there."""

    clip: str
    frame: int
    size: tuple[int, int] | None
    fps: str | None


class PeopleFile:
    """One file of people.

    Args:
        path: of the JSON file.
        name: of the clip, where the file has only one.
        images: a file with the list of images, where it lies apart.

    Raises:
        SourceError: it cannot be read, or is of another form.
    """

    def __init__(self, path: Path, name: str, images: Path | None = None) -> None:
        self.path, self.name = path, name
        self.layout = ""
        self._split = split_in_path(path.name)
        self.notes: list[str] = []
        self._images: dict[Any, dict[str, Any]] = {}
        self._videos: dict[Any, dict[str, Any]] = {}
        self._people: dict[Any, Detections] = {}
        self._bad: list[SavedClip] = []
        self._without, self._other = 0, 0
        self._categories: dict[Any, str] = {}
        self._facts: dict[str, Mapping[str, Any]] = {}
        try:
            for place in (path, *((images,) if images else ())):
                for number, (key, value) in enumerate(members(place)):
                    self._take(key, value, number, place)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise SourceError(f"{path}: torn or no JSON: {' '.join(str(error).split())[:200]}") from None
        if not self._people and not self._images and not self._bad:
            raise SourceError(
                f"{path}: no people with keypoints there; allowed: COCO's annotations or results, AlphaPose's results"
            )
        if self._without:
            self.notes.append(f"{path.name}: {self._without} annotations have no keypoints and are passed over")
        if self._other:
            self.notes.append(f"{path.name}: {self._other} annotations are of other things than people")

    def _take(self, key: str, value: Any, number: int, place: Path) -> None:
        if key == "images" or (key == "" and place != self.path):
            if isinstance(value, Mapping):
                self._images[_hashable(value.get("id"))] = dict(value)
        elif key == "videos":
            if isinstance(value, Mapping):
                self._videos[_hashable(value.get("id"))] = dict(value)
                self._facts[str(value.get("name", value.get("file_name", value.get("id"))))] = value
        elif key == "categories":
            if isinstance(value, Mapping):
                self._categories[_hashable(value.get("id"))] = str(value.get("name"))
                joints = value.get("keypoints")
                named = tuple(joints) if isinstance(joints, list) and all(isinstance(j, str) for j in joints) else ()
                self.layout = next((s.name for s in SKELETONS.values() if s.joints == named), self.layout)
        elif key in ("", "annotations"):
            self._person(value, number)
        elif isinstance(value, Mapping) and isinstance(value.get("bodies", value.get("people")), list):
            for one in value.get("bodies", value.get("people")):  # AlphaPose's forms cmu and open: by image
                joints = one.get("joints", one.get("pose_keypoints_2d")) if isinstance(one, Mapping) else None
                self._person({"image_id": key, "keypoints": joints}, number)

    def _person(self, row: Any, number: int) -> None:
        if not isinstance(row, Mapping) or not isinstance(row.get("image_id"), str | int):
            self._refuse(number, "it has no image_id")
            return
        known = self._categories.get(_hashable(row.get("category_id")), "person")
        if known != "person" or (not self._categories and row.get("category_id", 1) != 1):
            self._other += 1
            return
        if not row.get("keypoints") or row.get("num_keypoints") == 0:
            self._without += 1
            return
        try:
            coords, scores = triplets(row["keypoints"])
        except ValueError as error:
            self._refuse(number, str(error))
            return
        if set(np.unique(scores).tolist()) <= {0.0, 1.0, 2.0}:
            scores = (scores > 0).astype(np.float64)  # COCO's flags: 1 labelled and hidden, 2 visible
        own = next((row[key] for key in SCORES if key in row), None)
        if isinstance(own, list) and len(own) == len(scores) and all(isinstance(one, int | float) for one in own):
            scores = np.asarray(own, np.float64)
        identity = one_number(row.get(key) for key in ("track_id", "idx", "instance_id"))
        at = self._people.setdefault(row["image_id"], Detections())
        at.add(0, *person(coords, scores), -1 if identity is None else identity)

    def _refuse(self, number: int, why: str) -> None:
        self._bad.append(
            SavedClip(f"{self.name} annotation {number}", reason="bad_row", detail=f"annotation {number}: {why}")
        )

    def clips(self) -> Iterator[SavedClip]:
        """The clips, in the order of the images, then what cannot be taken."""
        images = self._placed()
        groups: dict[str, list[Any]] = {}
        for given, image in images.items():
            groups.setdefault(image.clip, []).append(given)
        lost = [given for given in self._people if given not in images]
        for name, members_ in groups.items():
            yield self._clip(name, members_, images)
        for given in lost:
            detail = f"image_id {str(given)[:60]!r} of {len(self._people[given])} people is none of the images"
            yield SavedClip(f"{self.name} image {given}", reason="bad_row", detail=detail)
        yield from self._bad

    def _clip(self, name: str, given: list[Any], images: Mapping[Any, _Image]) -> SavedClip:
        frames = [images[one].frame for one in given]
        first = images[given[0]]
        clip = SavedClip(name, size=first.size, fps=first.fps, split=self._split)
        _take_facts(clip, self._facts.get(name, {}))
        if clip.reason is not None:
            return clip
        begin = min(frames)
        if not self._images and begin <= max(EMPTY, len(given)):
            begin = 0  # frames without people are not listed, so that the first ones may have been empty
        clip.num_frames = max(frames) - begin + 1
        if clip.num_frames > MAX_FRAMES:
            clip.reason = "bad_row"
            clip.detail = (
                f"its frames are numbered from {min(frames)} to {max(frames)}; at most {MAX_FRAMES} are allowed"
            )
            return clip
        people = Detections()
        for one in given:
            own = self._people.pop(one, Detections())
            for number in range(len(own)):
                people.add(
                    images[one].frame - begin,
                    own.coords[number],
                    own.scores[number],
                    own.identities[number],
                )
        if len(people):
            clip.people = people
        else:
            clip.reason, clip.detail = "no_person", f"nobody in {clip.num_frames} frames"
        return clip

    def _placed(self) -> dict[Any, _Image]:
        """image_id -> where the image belongs."""
        if not self._images:
            return self._by_name(dict.fromkeys(self._people))
        found: dict[Any, _Image] = {}
        loose: dict[Any, dict[str, Any]] = {}
        for given, image in self._images.items():
            clip = self._video(image)
            file = str(image.get("file_name", ""))
            frame = image.get("frame_id", image.get("frame_index"))
            if not isinstance(frame, int) or isinstance(frame, bool):
                frame = _last_number(file)
            if clip and frame is not None:
                found[given] = _Image(clip, frame, _size(image), _fps(image, self._videos.get(image.get("video_id"))))
            else:
                loose[given] = image
        return found | self._loose(loose)

    def _video(self, image: Mapping[str, Any]) -> str:
        video = image.get("video_id")
        if video is not None:
            known = self._videos.get(_hashable(video), {})
            return str(known.get("name", known.get("file_name", video)))
        parent = PurePosixPath(str(image.get("file_name", "")).replace("\\", "/")).parent
        return "" if str(parent) in (".", "/") else str(parent)

    def _loose(self, images: Mapping[Any, Mapping[str, Any]]) -> dict[Any, _Image]:
        """Images without a video: frames of one where their numbers run on, else clips of one frame each."""
        groups: dict[str, list[tuple[Any, int]]] = {}
        found: dict[Any, _Image] = {}
        for given, image in images.items():
            stem = PurePosixPath(str(image.get("file_name", given))).stem
            match = re.search(r"^(.*?)(\d+)$", stem)
            frame = image.get("frame_id", int(match.group(2)) if match else None)
            if isinstance(frame, int):
                groups.setdefault((match.group(1) if match else stem).rstrip("_-. "), []).append((given, frame))
            else:
                found[given] = _Image(stem or str(given), 0, _size(image), None)
        for prefix, rows in groups.items():
            numbers = [frame for _, frame in rows]
            one_video = len(rows) > 1 and max(numbers) - min(numbers) < SPARSE * len(rows)
            for given, frame in rows:
                image = images[given]
                name = (prefix or self.name) if one_video else PurePosixPath(str(image.get("file_name", given))).stem
                found[given] = _Image(name, frame if one_video else 0, _size(image), _fps(image, None))
        return found

    def _by_name(self, given: Mapping[Any, Any]) -> dict[Any, _Image]:
        """Results without a list of images: image_id names the frame of the one clip, or a folder and a frame."""
        found: dict[Any, _Image] = {}
        for one in given:
            path = PurePosixPath(str(one).replace("\\", "/"))
            frame = one if isinstance(one, int) else _last_number(path.name)
            parent = str(path.parent)
            name = self.name if isinstance(one, int) or parent in (".", "/") else parent
            if frame is not None:
                found[one] = _Image(name, frame, None, None)
        return dict(sorted(found.items(), key=lambda item: (item[1].clip, item[1].frame)))


def _take_facts(clip: SavedClip, video: Mapping[str, Any]) -> None:
    """What a file says of a video beside its images: label, split, subject, licence."""
    for name in ("label", "subject", "licence"):
        if isinstance(video.get(name), str):
            setattr(clip, name, video[name])
    try:
        if isinstance(video.get("split"), str):
            clip.split = split_named(video["split"])
        if video.get("label_id") is not None:
            clip.number = class_number(video["label_id"])
    except ValueError as error:
        clip.reason, clip.detail = "bad_row", f"video {clip.name!r}: {error}"


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int) else str(value)


def _last_number(name: str) -> int | None:
    found = re.findall(r"\d+", PurePosixPath(name).stem)
    return int(found[-1]) if found and len(found[-1]) < 16 else None


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    fits = all(isinstance(side, int) and 0 < side < 1 << 20 for side in (width, height))
    return (int(width), int(height)) if fits and width is not None and height is not None else None


def _fps(image: Mapping[str, Any], video: Mapping[str, Any] | None) -> str | None:
    value = image.get("fps", (video or {}).get("fps"))
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def files_of(path: Path, format_: str) -> list[tuple[Path, str, Path | None]]:
    """(file, name of its clip, file of images) of a file, or of a folder of files, in order of path.

    Raises:
        SourceError: there is none.
    """
    if path.is_file():
        return [(path, _name_of(path), None)]
    found = sorted(p for p in path.rglob("*.json") if p.is_file() and not p.is_symlink())
    images = {p.parent: p for p in found if p.name == "images.json"}
    found = [p for p in found if p.name != "images.json"]
    if not found:
        raise SourceError(f"{path}: no .json file there; give {format_}'s file, or a folder of them")
    return [(p, _name_of(p, path), images.get(p.parent) if p.name == "results.json" else None) for p in found]


def _name_of(path: Path, root: Path | None = None) -> str:
    own = path.parent if path.name == ALPHAPOSE and path.parent.name else path.with_suffix("")
    if root is None or own == root:
        return own.name
    return own.relative_to(root).as_posix()
