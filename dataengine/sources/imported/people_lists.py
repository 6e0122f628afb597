"""Lists of people with keypoints: COCO's annotations and results, and AlphaPose's results.

COCO (cocodataset.org, format-data and format-results): {"images", "annotations"}, or a list of results. A clip is what
images have in common: `video_id`, else the folder in `file_name` and the name before a running number; images whose
numbers do not run on are clips of one frame. AlphaPose (MVIG-SJTU/AlphaPose, docs/output.md): a list whose `image_id`
names the frame ('12.jpg'), or, in its other forms, an object by image. One file is one clip, unless images name
folders.
"""

from __future__ import annotations

import re
from collections import Counter
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
from dataengine.sources.imported.saved_clip import (
    MAX_FRAMES,
    Detections,
    SavedClip,
    files_below,
    one_number,
    person,
    triplets,
)

ALPHAPOSE = "alphapose-results.json"
"""What AlphaPose calls its file; one folder a clip."""
SCORES = ("keypoint_scores", "keypoints_score", "keypoint_score", "scores")
"""Where some programs write the score of each joint beside COCO's flags."""
EMPTY = 30
"""Where only frames with people are listed, a clip may begin with so many, or as many as are listed, without people;
numbers that begin later are those of a part of a video."""
FURTHEST = 10**15
"""Numbers from here on are none of a frame."""
SPARSE = 3
"""Running numbers of images whose span is longer than so many times their count are no frames of one video."""


@dataclass
class _Image:
    """An image of a COCO file: the clip it belongs to, by name and by what its images share, and its frame there."""

    clip: str
    group: tuple[Any, ...]
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
            kind = " (it looks like a pickle: --format pyskl reads those)" if _is_pickle(path) else ""
            raise SourceError(f"{path}: torn or no JSON{kind}: {' '.join(str(error).split())[:200]}") from None
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
        groups: dict[tuple[Any, ...], list[Any]] = {}
        for given, image in images.items():
            groups.setdefault(image.group, []).append(given)
        lost = [given for given in self._people if given not in images]
        for members_ in groups.values():
            yield self._clip(images[members_[0]].clip, members_, images)
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
        if len(set(frames)) < len(frames):
            twice = min(frame for frame, count in Counter(frames).items() if count > 1)
            one, other = [self._shown(g) for g, frame in zip(given, frames) if frame == twice][:2]
            clip.reason, clip.detail = "bad_row", f"two images are of frame {twice}: {one} and {other}"
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
        loose: dict[Any, Mapping[str, Any]] = {}
        for given, image in self._images.items():
            video = image.get("video_id")
            frame = _frame(image)
            frame = _last_number(str(image.get("file_name", ""))) if frame is None else frame
            if video is None or frame is None:
                loose[given] = image
                continue
            known = self._videos.get(_hashable(video), {})
            name = str(known.get("name", known.get("file_name", video)))
            found[given] = _Image(name, ("video", _hashable(video)), frame, _size(image), _fps(image, known))
        return found | self._loose(loose)

    def _loose(self, images: Mapping[Any, Mapping[str, Any]]) -> dict[Any, _Image]:
        """Images without a video: frames of one where their numbers run on, else clips of one frame each."""
        groups: dict[tuple[str, str], list[tuple[Any, int]]] = {}
        found: dict[Any, _Image] = {}
        apart = 0
        for given, image in images.items():
            folder, stem = _place(image.get("file_name", given))
            prefix, number = _numbered(stem)
            frame = _frame(image)
            frame = number if frame is None else frame
            if frame is not None:
                prefix = prefix if number is not None or folder else stem
                groups.setdefault((folder, prefix), []).append((given, frame))
            else:
                found[given] = _Image(_joined(folder, stem), ("image", given), 0, _size(image), None)
        shared = Counter(folder for folder, _ in groups)
        for (folder, prefix), rows in groups.items():
            numbers = [frame for _, frame in rows]
            whole = bool(folder) and shared[folder] == 1
            told = bool(folder) and all(_frame(images[given]) is not None for given, _ in rows)
            dense = told or max(numbers) - min(numbers) < SPARSE * len(rows)
            one_video = dense and (len(rows) > 1 or whole)
            apart += 0 if one_video or len(rows) == 1 else len(rows)
            name = (folder if whole else _clip_name(folder, prefix)) or self.name
            for given, frame in rows:
                size, fps = _size(images[given]), _fps(images[given], None)
                if one_video:
                    found[given] = _Image(name, ("files", folder, prefix), frame, size, fps)
                else:
                    own = _joined(*_place(images[given].get("file_name", given)))
                    found[given] = _Image(own, ("image", given), 0, size, fps)
        if apart:
            self.notes.append(
                f"{self.path.name}: {apart} images have numbers too far apart for frames of one video and are clips of "
                "one frame; video_id and frame_id of an image tell otherwise"
            )
        return found

    def _by_name(self, given: Mapping[Any, Any]) -> dict[Any, _Image]:
        """Results without a list of images: image_id names the frame of the one clip, or a folder and a frame."""
        rows: dict[Any, tuple[str, str, int]] = {}
        for one in given:
            folder, stem = ("", "") if isinstance(one, int) else _place(one)
            prefix, frame = ("", one) if isinstance(one, int) else _numbered(stem)
            if frame is not None and abs(frame) < FURTHEST:
                rows[one] = (folder, prefix, frame)
        shared = Counter(folder for folder, _ in {row[:2] for row in rows.values()})
        found: dict[Any, _Image] = {}
        for one, (folder, prefix, frame) in rows.items():
            own = folder or self.name
            name = own if shared[folder] == 1 else _clip_name(own, prefix)
            found[one] = _Image(name, ("files", folder, prefix), frame, None, None)
        return dict(sorted(found.items(), key=lambda item: (item[1].clip, item[1].frame)))

    def _shown(self, given: Any) -> str:
        """An image as messages name it."""
        return repr(str(self._images.get(given, {}).get("file_name", given))[:60])


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


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as pickles of protocol 2 and later do."""
    with path.open("rb") as file:
        begin = file.read(2)
    return len(begin) == 2 and begin[0] == 0x80 and 2 <= begin[1] <= 5


def _place(file_name: Any) -> tuple[str, str]:
    """Folder and stem of an image; '' for no folder."""
    path = PurePosixPath(str(file_name).replace("\\", "/"))
    return "" if str(path.parent) in (".", "/") else str(path.parent), path.stem


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _clip_name(folder: str, prefix: str) -> str:
    """A clip's name: its folder, and what stands before the number where that says more."""
    return folder if folder and prefix in ("", folder.rpartition("/")[2]) else _joined(folder, prefix)


def _numbered(stem: str) -> tuple[str, int | None]:
    """What stands around the last number of a name, and that number; None where there is none."""
    match = re.search(r"^(.*?)(\d+)(\D*)$", stem)
    if match is None or len(match.group(2)) > 15:
        return "", None
    return (match.group(1) + match.group(3)).rstrip("_-. "), int(match.group(2))


def _frame(image: Mapping[str, Any]) -> int | None:
    """The frame that an image says it is."""
    frame = image.get("frame_id", image.get("frame_index"))
    fits = isinstance(frame, int) and not isinstance(frame, bool) and abs(frame) < FURTHEST
    return frame if fits else None


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int) else str(value)


def _last_number(name: str) -> int | None:
    return _numbered(PurePosixPath(name.replace("\\", "/")).stem)[1]


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
    found = sorted(p for p in files_below(path) if p.suffix == ".json" and p.is_file() and not p.is_symlink())
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
