"""A small corpus that the source renders itself: rendered people in real video files, some of them broken on purpose.

It is laid out once as Kinetics-700 and once as CAP and read by the code of those sources. Exact
joints lie beside it, so that a build can say how well its poses are.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from dataengine.core.component import Source
from dataengine.core.errors import SourceError
from dataengine.core.types import Clip
from dataengine.io.storage import PARTIAL, locked
from dataengine.sources.cap import Cap
from dataengine.sources.kinetics import Kinetics
from dataengine.sources.synthetic_clips import (
    CAP_ACTIONS,
    CAP_SHOTS,
    DEFECTS,
    KINETICS_ACTIONS,
    SHOTS,
    RenderedVideo,
    fake_id,
    joined,
)

VERSION = 2
"""Raise when the same seed gives other files, so that no old corpus is taken for a new one."""

LICENCE = "CC0-1.0"
CONSENT = "rendered; no person depicted"

_SECONDS = 4
_PART_SECONDS = 3.2
_FIRST_DEFECT = 5000
_FIRST_CAP = 7000


@dataclass(frozen=True)
class SyntheticCorpus(Source):
    """A small corpus of rendered people with exact joints and planted defects.

    Attributes:
        clips: how many ordinary clips; the planted defects come on top. From 12 on every ordinary clip of
            the first 12 shows an action of its own.
        seed: chooses people, places and cameras; up to 999, which keeps clear of the scenes that the
            built-in experts learned from.
    """

    makes_media: ClassVar[bool] = True
    own_ids: ClassVar[bool] = True

    name: str = "sample"
    clips: Annotated[int, Field(ge=12, le=2000)] = 24
    seed: Annotated[int, Field(ge=0, le=999)] = 0

    def prepare(self, cache: Path) -> Path:
        """Render the corpus into a folder of `cache` unless it is there; the folder to give to `discover`."""
        folder = cache / f"{self.name}-{self.clips}-{self.seed}-v{VERSION}"
        write_corpus(folder, self.clips, self.seed)
        return folder

    def discover(self, root: Path) -> Iterator[Clip]:
        """Yield the clips of both layouts.

        Raises:
            SourceError: `root` is not a corpus written by `write_corpus`.
        """
        if not (root / "corpus.json").is_file():
            raise SourceError(
                f"{self.name}: {root} holds no corpus.json; leave the path out and the sample corpus is rendered"
            )
        for part, source in (("kinetics", Kinetics(self.name)), ("cap", Cap(self.name))):
            for clip in source.discover(root / part):
                truth = f"truth/{Path(clip.media).stem}.npz"
                yield replace(
                    clip,
                    media=f"{part}/{clip.media}" if clip.media else "",
                    truth=truth if clip.media and (root / truth).is_file() else None,
                    licence=LICENCE,
                    consent=CONSENT,
                    url=None,
                )


def write_corpus(folder: Path, clips: int = 24, seed: int = 0) -> None:
    """Render the sample corpus at `folder`: two thirds as Kinetics-700, the rest as CAP, then the planted defects.

    ::

        kinetics/annotations/{train,validate}.csv    kinetics/<class>/<id>_<start>_<end>.mp4
        cap/annotations/{train,val}.json             cap/videos/<activity>/<id>.mp4
        truth/<file stem>.npz                        joints (T, P, 14, 2) float32 pixels in body14, head (T, P),
                                                     hidden, fps, condition
        defects.json                                 clip id -> reason expected for it, or keep
        corpus.json                                  clips, seed and version

    The same arguments give the same bytes. The corpus is made beside `folder` and renamed when it is
    complete; a complete one of the same arguments is left as it is. Other processes that want the same corpus
    wait for it, and what a killed one left is removed.

    Raises:
        SourceError: `folder` exists and is something else.
    """
    facts = {"clips": clips, "seed": seed, "version": VERSION}
    if _is_there(folder, facts):
        return
    with locked(folder.parent / ".corpus.lock"):
        if _is_there(folder, facts):
            return
        for left in folder.parent.glob(f".*{PARTIAL}"):  # of killed processes: nobody else is at work here
            shutil.rmtree(left, ignore_errors=True)  # leaves files alone
        partial = folder.parent / f".{folder.name}{PARTIAL}"
        try:
            expected = _write_kinetics(partial, clips - clips // 3, seed)
            _write_cap(partial, clips // 3, seed)
            _dump(partial / "corpus.json", facts)
            planted_ids = {
                clip.clip_id: clip.reason or expected[clip.video_id]
                for clip in SyntheticCorpus(clips=clips, seed=seed).discover(partial)
                if clip.reason or clip.video_id in expected
            }
            _dump(partial / "defects.json", planted_ids)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _is_there(folder: Path, facts: dict[str, int]) -> bool:
    """Whether the corpus of these facts lies at `folder`.

    Raises:
        SourceError: something else lies there.
    """
    if not folder.exists():
        return False
    try:
        found = json.loads((folder / "corpus.json").read_text())
    except (OSError, ValueError):
        found = None
    if found != facts:
        raise SourceError(f"{folder} is there and is no sample corpus of {facts}; remove it or give another folder")
    return True


def planted(folder: Path) -> dict[str, str]:
    """Clip id of every planted clip of a corpus -> the reason that a build must give, or 'keep'."""
    found: dict[str, str] = json.loads((folder / "defects.json").read_text())
    return found


def _write_kinetics(root: Path, clips: int, seed: int) -> dict[str, str]:
    """Write the Kinetics part; video id -> expected reason of the planted ones."""
    rows: dict[str, list[list[Any]]] = {"train": [], "validate": []}
    expected: dict[str, str] = {}

    def row(number: int, motion: str, split: str, seconds: int) -> tuple[Path, Path]:
        video, start = fake_id(seed, number), 7 * number % 300
        rows[split].append([KINETICS_ACTIONS[motion], video, start, start + seconds, split])
        stem = f"{video}_{start:06d}_{start + seconds:06d}"
        return root / "kinetics" / KINETICS_ACTIONS[motion] / f"{stem}.mp4", root / "truth" / f"{stem}.npz"

    motions = list(KINETICS_ACTIONS)
    for number in range(clips):
        motion = motions[number % len(motions)]
        video, truth = row(number, motion, "validate" if number % 4 == 3 else "train", _SECONDS)
        SHOTS[number % len(SHOTS)].render(_seed(seed, number), motion, _SECONDS).save(video, truth)
    last: tuple[Path, Path] | None = None
    for number, defect in enumerate(DEFECTS, _FIRST_DEFECT):
        video, truth = row(number, defect.motion, "train", _SECONDS)
        expected[fake_id(seed, number)] = defect.expected
        if defect.expected == "duplicate" and last is not None:
            shutil.copyfile(last[0], video)
            shutil.copyfile(last[1], truth)
        elif defect.write is not None:
            defect.write(_seed(seed, number), defect.motion, video, truth)
        last = video, truth
    rows["train"].insert(2, ["clapping", "#NAME?", "ten", 20, "train"])
    for split, lines in rows.items():
        path = root / "kinetics" / "annotations" / f"{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [["label", "youtube_id", "time_start", "time_end", "split"], *lines]
            )
    return expected


def _write_cap(root: Path, clips: int, seed: int) -> None:
    """Write the CAP part: videos of two activities and of one in turn."""
    motions = [motion for motion, _ in zip(_cycle(list(CAP_ACTIONS)), range(clips))]
    scenes: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    number = 0
    while motions:
        count = 2 if number % 2 == 0 else 1
        here, motions = motions[:count], motions[count:]
        shot, video = CAP_SHOTS[number % len(CAP_SHOTS)], f"rendered{seed}-{number:04d}"
        rendered = joined([shot.render(_seed(seed, _FIRST_CAP + number), motion, _PART_SECONDS) for motion in here])
        filename = f"videos/{CAP_ACTIONS[here[0]]}/{video}.mp4"
        rendered.save(root / "cap" / filename, root / "truth" / f"{video}.npz")
        old = number % 3 == 2
        scene = _scene(video, filename, here, rendered)
        scenes["val" if old else "train"].append({"<class 'vipy.video.Scene'>": _underscored(scene) if old else scene})
        number += 1
    for split, found in scenes.items():
        _dump(root / "cap" / "annotations" / f"{split}.json", found)


def _scene(video: str, filename: str, motions: list[str], rendered: RenderedVideo) -> dict[str, Any]:
    """A scene as vipy writes it; the activities lie a few frames within their parts of the video."""
    part, margin, fps = len(rendered.frames) // len(motions), 5, float(rendered.fps)
    boxes = {frame: box for frame in range(0, len(rendered.frames), 5) if (box := rendered.box(frame)) is not None}
    track = {
        "id": "track0",
        "label": "Person",
        "framerate": fps,
        "interpolation": "linear",
        "boundary": "strict",
        "attributes": {},
        "keyframes": list(boxes),
        "keyboxes": [dict(zip(("xmin", "ymin", "xmax", "ymax"), box)) | {"label": "Person"} for box in boxes.values()],
    }
    activities = {
        f"activity{i}": {
            "id": f"activity{i}",
            "startframe": i * part + margin,
            "endframe": (i + 1) * part - margin,
            "framerate": fps,
            "label": CAP_ACTIONS[motion],
            "trackid": ["track0"],
            "actorid": "track0",
            "attributes": {},
        }
        for i, motion in enumerate(motions)
    }
    return {
        "filename": filename,
        "url": None,
        "framerate": fps,
        "attributes": {"video_id": video, "subject_ids": [f"{video}-person0"]},
        "startframe": None,
        "endframe": None,
        "category": CAP_ACTIONS[motions[0]],
        "tracks": {"track0": track},
        "activities": activities,
    }


def _underscored(value: Any) -> Any:
    """A scene in the form of older vipy: fields have a leading underscore, keys of tracks and activities none."""
    if isinstance(value, list):
        return [_underscored(member) for member in value]
    if not isinstance(value, dict):
        return value
    named = ("tracks", "activities")
    return {
        f"_{key}": {name: _underscored(inner) for name, inner in member.items()}
        if key in named
        else member
        if key == "attributes"
        else _underscored(member)
        for key, member in value.items()
    }


def _cycle(values: list[str]) -> Iterator[str]:
    while True:
        yield from values


def _seed(seed: int, number: int) -> int:
    """Below 10,000,000, where the training material of the built-in experts begins."""
    return seed * 10_000 + number


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
