"""OpenPose's `--write_json`: one file a frame, NAME_000000000012_keypoints.json; a folder a clip, or one for all.

Format: CMU-Perceptual-Computing-Lab/openpose, doc/02_output.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataengine.core.errors import SourceError
from dataengine.sources.imported.saved_clip import (
    MAX_FRAMES,
    Detections,
    SavedClip,
    files_below,
    one_number,
    person,
    triplets,
)

ENDING = "_keypoints.json"
KEYS = ("pose_keypoints_2d", "pose_keypoints")
"""Of present versions, and of those before 1.3."""
_FILE = re.compile(r"^(?:(.*)_)?(\d+)_keypoints\.json$")


class OpenPoseFolder:
    """Files of OpenPose under a folder, at any depth.

    Raises:
        SourceError: there is none.
    """

    classes: tuple[str, ...] = ()
    layout = ""

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        self.path = path
        self._clips: dict[str, list[tuple[int, str]]] = {}
        self._odd: list[str] = []
        for file in files_below(path):
            if not file.name.endswith(ENDING):
                continue
            own = file.parent.relative_to(path).as_posix()
            match = _FILE.match(file.name)
            where = file.relative_to(path).as_posix()
            if match is None or len(match.group(2)) > 15:
                self._odd.append(where)
                continue
            clip = _clip_name("" if own == "." else own, match.group(1) or "") or path.name
            self._clips.setdefault(clip, []).append((int(match.group(2)), where))
        if not self._clips and not self._odd:
            raise SourceError(f"{path}: no *{ENDING} there; give the folder that OpenPose's --write_json wrote")

    def __len__(self) -> int:
        return len(self._clips) + len(self._odd)

    def clips(self) -> Iterator[SavedClip]:
        """The clips in order of name, then files whose names name no frame."""
        for name in sorted(self._clips):
            yield self._clip(name, sorted(self._clips[name]))
        for where in self._odd:
            yield SavedClip(where, reason="bad_row", detail=f"{where}: its name holds no number of a frame")

    def _clip(self, name: str, files: list[tuple[int, str]]) -> SavedClip:
        clip = SavedClip(name)
        low, high = files[0][0], files[-1][0]
        first = low if low else 0
        clip.num_frames = high - first + 1
        if clip.num_frames > MAX_FRAMES:
            clip.reason = "bad_row"
            clip.detail = f"its frames are numbered from {low} to {high}; at most {MAX_FRAMES} are allowed"
            return clip
        if len({frame for frame, _ in files}) < len(files):
            clip.reason, clip.detail = "bad_row", "two files are of one frame"
            return clip
        people = Detections()
        try:
            for frame, where in files:
                for coords, scores, identity in _people(self.path / where, where):
                    people.add(frame - first, coords, scores, identity)
        except ValueError as error:
            clip.reason, clip.detail = "bad_row", str(error)
            return clip
        if len(people):
            clip.people = people
        else:
            clip.reason, clip.detail = "no_person", f"nobody in {len(files)} frames"
        return clip


def _clip_name(folder: str, prefix: str) -> str:
    """A clip's name: its folder, and what stands before the number where that says more."""
    if not folder or not prefix:
        return folder or prefix
    return folder if folder.rpartition("/")[2] == prefix else f"{folder}/{prefix}"


def _people(path: Path, shown: str) -> Iterator[tuple[Any, Any, int]]:
    """Coords (V, 2), scores (V,) and number of each person of a frame.

    Raises:
        ValueError: the file is torn, or of another form; the message names it.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{shown} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{shown} is torn or no JSON") from None
    people = content.get("people") if isinstance(content, dict) else None
    if not isinstance(people, list) or not all(isinstance(one, dict) for one in people):
        raise ValueError(f"{shown} is no file of OpenPose: it has no list 'people'")
    for one in people:
        numbers = next((one[key] for key in KEYS if key in one), None)
        if numbers is None:
            raise ValueError(f"{shown}: a person has none of {', '.join(KEYS)}")
        if numbers:  # empty for people of whom only a hand or face was found
            try:
                coords, scores = person(*triplets(numbers))
            except ValueError as error:
                raise ValueError(f"{shown}: {error}") from None
            if scores.any():
                identity = one_number([one.get("person_id")])
                yield coords, scores, -1 if identity is None else identity
