"""What a reader of saved poses gives: one clip, or an annotation that cannot be taken, with its reason."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.types import Float, Int

MAX_FRAMES = 216_000
"""Frames of the longest clip that is taken: two hours at 30 frames a second. A wrong frame number would otherwise cost
memory without bound."""


FAR = 10
"""Joints more than so many pictures away are taken for unseen: no person's joints lie there."""
MARGIN = 1.1
"""A picture of unknown size is taken so many times as large as the extent of the people in it."""
SPOOL_LOCK = ".imported.lock"
"""Lies in `work/media` of a build that poses are imported into, before anything else does."""


def files_below(path: Path) -> Iterator[Path]:
    """The files under a folder, folder by folder in order of name, without those of builds that lie in it."""
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in sorted(folders) if not _is_build(Path(folder, name))]
        yield from (Path(folder, name) for name in sorted(names))


def _is_build(folder: Path) -> bool:
    work = folder / "work"
    return work.is_dir() and ((folder / "recipe.lock.toml").is_file() or (work / "media" / SPOOL_LOCK).is_file())


@dataclass
class Detections:
    """The people of a clip that no program has linked over time yet, or linked by numbers.

    Attributes:
        frames: of each person.
        coords: (V, 2) float32 each, NaN where unseen. scores: (V,) float32 each.
        identities: number of the person over time, -1 where there is none.
    """

    frames: list[int] = field(default_factory=list)
    coords: list[Float] = field(default_factory=list)
    scores: list[Float] = field(default_factory=list)
    identities: list[int] = field(default_factory=list)

    def add(self, frame: int, coords: Float, scores: Float, identity: int = -1) -> None:
        """Add one person of one frame."""
        self.frames.append(frame)
        self.coords.append(coords)
        self.scores.append(scores)
        self.identities.append(identity)

    def __len__(self) -> int:
        return len(self.frames)


@dataclass
class SavedClip:
    """One clip as a file has it.

    Attributes:
        name: in the file.
        tracks: (M, T, V, 2) float32 keypoints of people that are linked over time, NaN where unseen, and (M, T, V)
            float32 scores; None where the clip has `people`, or cannot be taken.
        people: what the frames show, where nobody was linked.
        num_frames: T; 0 for up to the last frame with people.
        size: width and height of the picture, where the file tells them.
        fps: frames per second as the file tells them.
        label: of text; number: of a class, -1 for none.
        reason, detail: why the clip cannot be taken.
        left_out: people that cannot be taken, beside the others.
    """

    name: str
    tracks: tuple[Float, Float] | None = None
    people: Detections | None = None
    num_frames: int = 0
    size: tuple[int, int] | None = None
    fps: str | None = None
    label: str | None = None
    number: int = -1
    split: str | None = None
    subject: str | None = None
    licence: str | None = None
    reason: str | None = None
    detail: str = ""
    left_out: int = 0


def printable(text: str) -> str:
    r"""A text without surrogates, such as names of files that are not UTF-8 have: \udcff in their place."""
    return text.encode("utf-8", "backslashreplace").decode()


def person(coords: Any, scores: Any) -> tuple[Float, Float]:
    """One person of coords (V, 2) and scores (V,) with unseen joints as NaN and score 0.

    A joint of score 0, at (0, 0) or not finite was not seen: that is how programs write it. Scores above 1 stay:
    who takes the clip tells of them.
    """
    with np.errstate(over="ignore"):  # numbers beyond float32 are infinite
        at = np.asarray(coords, np.float32)
        likely = np.nan_to_num(np.asarray(scores, np.float32))
    seen = np.isfinite(at).all(-1) & (at != 0).any(-1) & (likely > 0)
    return np.where(seen[..., None], at, np.float32(np.nan)), np.where(seen, likely, np.float32(0))


def triplets(numbers: Any) -> tuple[Float, Float]:
    """x, y, score, x, y, score, ... as coords (V, 2) and scores (V,).

    Raises:
        ValueError: they are no numbers, or not in threes.
    """
    try:
        flat = np.asarray(numbers, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("keypoints are no list of numbers") from None
    if flat.ndim != 1 or len(flat) % 3 or not len(flat):
        raise ValueError(f"keypoints are {flat.shape} numbers; allowed: x, y, score of every joint")
    rows = flat.reshape(-1, 3)
    return rows[:, :2], rows[:, 2]


def stacked(people: Detections) -> dict[str, Float | Int]:
    """The arrays of `people` by name, in the order of frames.

    Raises:
        ValueError: people of several numbers of joints.
    """
    counts = sorted({len(one) for one in people.coords})
    if len(counts) > 1:
        raise ValueError(f"people of {' and '.join(map(str, counts))} joints")
    order = np.argsort(np.asarray(people.frames, np.int64), kind="stable")
    return {
        "keypoints": np.stack(people.coords)[order].astype(np.float32),
        "scores": np.stack(people.scores)[order].astype(np.float32),
        "frames": np.asarray(people.frames, np.int64)[order],
        "identities": np.asarray(people.identities, np.int64)[order],
    }


def one_number(values: Iterable[Any]) -> int | None:
    """The whole number in a value, or in lists around it; None where there is none."""
    for value in values:
        while isinstance(value, Sequence) and not isinstance(value, str) and len(value):
            value = value[0]
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) < 2**53:
            return int(value)
    return None


def drop_absurd(arrays: dict[str, Any], size: tuple[int, int] | None) -> int:
    """Take joints many pictures away for unseen, people without others out, and scores above 1 for 1; how many people
    were taken out.

    Raises:
        ValueError: no joint lies in the picture or near it; one below 0 is outside of every picture.
    """
    points, scores = arrays["keypoints"], arrays["scores"]
    far = np.asarray(size or (1 << 19, 1 << 19), np.float32) * FAR
    finite = np.isfinite(points).all(-1)
    with np.errstate(invalid="ignore"):
        near = (np.abs(points) <= far).all(-1)
        inside = near & (points >= 0).all(-1)
    if finite.any() and not inside.any():
        low, high = (float(limit(points[finite])) for limit in (np.min, np.max))
        shown = f"the picture of {size[0]}x{size[1]}" if size else "any picture"
        raise ValueError(f"its coordinates go from {low:g} to {high:g}: no joint lies in {shown} or near it")
    arrays["scores"] = np.minimum(scores, 1)
    if (near == finite).all():
        return 0
    arrays["keypoints"] = np.where(near[..., None], points, np.float32(np.nan))
    arrays["scores"] = np.where(near, arrays["scores"], np.float32(0))
    kept = near.reshape(len(near), -1).any(1)
    lost = int(near[~kept].size and finite[~kept].any(-1).sum())
    for name in arrays:
        arrays[name] = arrays[name][kept]
    return lost


def extent(points: Float) -> tuple[int, int]:
    """Width and height of a picture that holds all points, with a margin."""
    seen = points[np.isfinite(points).all(-1)]
    far = seen.max(0, initial=1.0) * MARGIN
    return max(2, math.ceil(min(far[0], 1 << 19))), max(2, math.ceil(min(far[1], 1 << 19)))
