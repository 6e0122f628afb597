"""CAP (Consented Activities of People, Visym Labs): annotations are vipy scenes in JSON, one clip an activity.

A file holds a list of `{"<class 'vipy.video.Scene'>": {...}}` or one such object; older versions of
vipy wrote every key with a leading underscore, and some wrote members as JSON text
inside JSON. Only the annotation is read, so vipy itself is not needed.
"""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dataengine.core.component import Source
from dataengine.core.errors import SourceError
from dataengine.core.types import Clip
from dataengine.sources import ids, tables
from dataengine.sources.listing import Listing, list_files

LICENCE = "CC BY 4.0"
CONSENT = "people shown gave consent (CAP collection, Visym Labs)"


class _Activity(NamedTuple):
    video: str
    filename: str
    start: float
    end: float
    label: str
    actor: str
    boxes: str | None
    subject: str | None
    url: str | None


@dataclass(frozen=True)
class Cap(Source):
    """CAP, or any other collection annotated in vipy JSON.

    Media are the files that the scenes name, looked for from the annotation file and else by name
    under the root (of namesakes the one whose folders agree best).
    The path of the annotation or of the media names the split.
    """

    name: str = "cap"

    def discover(self, root: Path) -> Iterator[Clip]:
        """Yield a clip for each activity, file by file, in the order they are written.

        An activity that another file repeats is dropped; two activities of one span keep both, the
        later with a hash in its id.

        Raises:
            SourceError: `root` is not a folder, or holds no vipy JSON.
        """
        listing = list_files(root)
        files = [f for f in listing.tables if f.lower().endswith(".json") and "vipy.video" in tables.head(root / f)]
        if not files:
            raise SourceError(
                f"{self.name}: {root} holds no vipy JSON (a list of {{\"<class 'vipy.video.Scene'>\": ...}}) among its "
                f"{len(listing.tables)} CSV and JSON files; give the folder that holds the annotations and videos"
            )
        taken: set[str] = set()
        splits: dict[tuple[object, ...], str] = {}
        for file in files:
            for place, found in _activities(root, file):
                if isinstance(found, str):
                    yield ids.refused_row(self.name, file, place, found)
                    continue
                clip = self._clip(found, file, listing)
                same = (clip.clip_id, found.label, found.actor, clip.media or found.filename)
                if same in splits:
                    if splits[same] != clip.split:
                        detail = f"{clip.clip_id} is already there in {splits[same]}, here in {clip.split}"
                        yield ids.refused_row(self.name, file, place, detail, "duplicate_id", clip.video_id)
                    continue
                splits[same] = clip.split
                if clip.clip_id in taken:
                    other = f"{ids.slug(found.video)}-{ids.digest(chr(10).join(map(str, same)))}"
                    clip = replace(
                        clip, clip_id=ids.clip_id(self.name, other, found.start, found.end, milliseconds=True)
                    )
                taken.add(clip.clip_id)
                yield clip

    def _clip(self, found: _Activity, file: str, listing: Listing) -> Clip:
        path = posixpath.join(posixpath.dirname(file), found.filename.replace("\\", "/"))
        files = listing.find(path)
        media = files[0] if len(files) == 1 else ""
        return Clip(
            clip_id=ids.clip_id(self.name, ids.slug(found.video), found.start, found.end, milliseconds=True),
            source=self.name,
            video_id=found.video,
            media=media,
            start=found.start,
            end=found.end,
            span_start=found.start,
            span_end=found.end,
            split=ids.split_in_path(file) or ids.split_in_path(posixpath.dirname(media)) or "train",
            label=found.label,
            licence=LICENCE,
            consent=CONSENT,
            url=found.url,
            subject=found.subject,
            actor=found.boxes,
            reason="bad_row" if len(files) > 1 else None,
            detail=f"{found.filename!r} may mean {len(files)} files ({files[0]}, {files[1]}, ...)"
            if len(files) > 1
            else None,
            file=found.filename or None,
        )


def _activities(root: Path, file: str) -> Iterator[tuple[str, _Activity | str]]:
    """Every activity of a file, or what is wrong with it, with its place in the file."""
    number = 0
    try:
        for number, (key, member) in enumerate(tables.entries(root / file), 1):
            place = f"entry {number}"
            try:
                scene = _plain({key: member} if key.startswith("<class") else member)
                activities = scene["activities"]
                if not activities:
                    raise ValueError("the scene has no activities")
                found = list(activities.values())
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                yield place, _wrong(error)
                continue
            for nth, activity in enumerate(found, 1):
                try:
                    yield f"{place} activity {nth}", _activity(scene, _plain(activity))
                except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                    yield f"{place} activity {nth}", _wrong(error)
    except ValueError as error:
        yield f"entry {number + 1}", f"the file cannot be read from here on: {error}"


def _wrong(error: Exception) -> str:
    if isinstance(error, ValueError):
        return str(error)
    return f"not a vipy scene: {'no ' if isinstance(error, KeyError) else ''}{error}"


def _plain(value: Any) -> dict[str, Any]:
    """The fields of a vipy object of any version: without class wrapper, JSON text and leading underscores."""
    if isinstance(value, str):
        value = json.loads(value)
    if len(value) == 1 and next(iter(value)).startswith("<class 'vipy."):
        return _plain(next(iter(value.values())))
    return {key.removeprefix("_"): member for key, member in value.items()}


def _activity(scene: dict[str, Any], activity: dict[str, Any]) -> _Activity:
    """Times are seconds within the media file: frames count from where the scene starts in it."""
    rate = _number(activity.get("framerate") or scene.get("framerate"), "framerate")
    offset = 0.0
    if scene.get("startsec") is not None:
        offset = _number(scene["startsec"], "startsec")
    elif scene.get("startframe") is not None:
        offset = _number(scene["startframe"], "startframe") / _number(scene.get("framerate") or rate, "framerate")
    if rate <= 0:
        raise ValueError(f"framerate {rate} is not positive")
    start = offset + _number(activity["startframe"], "startframe") / rate
    end = offset + _number(activity["endframe"], "endframe") / rate
    if not 0 <= start < end:
        raise ValueError(f"the activity spans {start:g} s to {end:g} s")
    attributes = scene.get("attributes") or {}
    filename, url, label = str(scene.get("filename") or ""), scene.get("url"), activity["label"]
    video = str(attributes.get("video_id") or posixpath.splitext(posixpath.basename(filename))[0])
    if not video:
        raise ValueError("the scene has neither a filename nor a video_id")
    if not isinstance(label, str) or not label:
        raise ValueError(f"the activity's label is {label!r}")
    subjects = attributes.get("subject_ids") or []
    actor = str(activity.get("actorid") or next(iter(activity.get("trackid") or []), ""))
    tracks = scene.get("tracks") or {}
    track = _plain(tracks[actor]) if actor in tracks else None
    return _Activity(
        video=video,
        filename=filename,
        start=start,
        end=end,
        label=label,
        actor=actor,
        boxes=None if track is None else _boxes(track, rate, offset, start, end),
        subject=",".join(map(str, [subjects] if isinstance(subjects, str) else subjects)) or None,
        url=url if isinstance(url, str) and url.startswith(("http://", "https://")) else None,
    )


def _boxes(track: dict[str, Any], rate: float, offset: float, start: float, end: float) -> str | None:
    """Key boxes from the last at or before `start` to the first at or after `end`, as `Clip.actor` has them."""
    frames, boxes = track["keyframes"], track["keyboxes"]
    if len(frames) != len(boxes):
        raise ValueError(f"the actor's track has {len(frames)} key frames and {len(boxes)} key boxes")
    own = _number(track.get("framerate") or rate, "framerate")
    keys: list[list[float]] = []
    for frame, box in zip(frames, boxes):
        corners = [
            _number(box[side] if side in box else box[f"_{side}"], side) for side in ("xmin", "ymin", "xmax", "ymax")
        ]
        if corners[0] < corners[2] and corners[1] < corners[3]:
            keys.append([round(offset + _number(frame, "keyframe") / own, 3), *(round(side, 1) for side in corners)])
    keys.sort()
    first = max((i for i, key in enumerate(keys) if key[0] <= start), default=0)
    last = min((i for i, key in enumerate(keys) if key[0] >= end), default=len(keys) - 1)
    return json.dumps(keys[first : last + 1], separators=(",", ":")) if keys else None


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}, not a number")
    return float(value)
