"""People that another program found in a clip and saved, brought to one form, whatever the file's format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.errors import ExpertError
from dataengine.core.normalised import BEYOND, scale_of, to_pixels
from dataengine.core.types import Float

LAYOUTS = {
    13: "lcr13",
    14: "body14",
    16: "mpii16",
    17: "coco17",
    18: "openpose18",
    25: "openpose25",
    26: "halpe26",
    33: "blazepose33",
}
"""The layout that a number of joints stands for where nobody says otherwise."""


@dataclass(frozen=True)
class Person:
    """One person in one frame: coords (V, 2) pixels, NaN where unseen, scores (V,) in [0, 1], box xyxy or None."""

    coords: Float
    scores: Float
    box: Float | None = None


@dataclass
class Saved:
    """What is saved of one clip.

    Attributes:
        where: the file or folder, for messages.
        people: frame number as saved -> its people.
        last: number of the last frame the file speaks about, None where it only lists frames with people.
    """

    where: str
    people: dict[int, list[Person]] = field(default_factory=dict)
    last: int | None = None

    @property
    def num_joints(self) -> int | None:
        """How many joints its people have; None without people."""
        return next((len(p.coords) for some in self.people.values() for p in some), None)

    def in_pixels(self, width: int, height: int) -> Saved:
        """The same with coordinates in pixels, where they are relative to the picture, from 0 to 1 or from -1 to 1, as
        OpenPose's `--keypoint_scale 3` and `4` write them; itself where they are pixels."""
        seen = [p.coords for some in self.people.values() for p in some]
        scale = scale_of(np.concatenate(seen)) if seen else "pixels"
        if scale == "pixels":
            return self

        def scaled(one: Person) -> Person:
            box = one.box
            if box is not None and np.abs(box).max() <= BEYOND:  # some programs write boxes in pixels all the same
                box = to_pixels(box.reshape(2, 2), scale, width, height).reshape(4)
            return Person(to_pixels(one.coords, scale, width, height), one.scores, box)

        return Saved(self.where, {frame: [scaled(p) for p in some] for frame, some in self.people.items()}, self.last)

    def add(self, frame: int, person: Person) -> None:
        """Put a person into a frame.

        Raises:
            ExpertError: it has another number of joints than those before.
        """
        if self.num_joints not in (None, len(person.coords)):
            raise refused(self.where, f"holds people of {self.num_joints} and of {len(person.coords)} joints")
        self.people.setdefault(frame, []).append(person)


Reader = Callable[[Path], Saved]


def refused(where: str | Path, what: str) -> ExpertError:
    """The error for saved output that cannot be used."""
    return ExpertError("expert_failed", f"saved poses {where}: {what}", retryable=False)


def person(coords: Any, scores: Any = None, box: Any = None) -> Person:
    """One person of coords (V, 2) and scores (V,); without scores, joints that are there count 1.

    A joint of score 0, at (0, 0) or not finite was not seen: that is how programs write it.
    """
    at = np.asarray(coords, np.float32)
    likely = np.ones(len(at), np.float32) if scores is None else np.nan_to_num(np.asarray(scores, np.float32))
    seen = np.isfinite(at).all(-1) & (at != 0).any(-1) & (likely > 0)
    given = None if box is None or not np.isfinite(np.asarray(box, np.float64)).all() else np.asarray(box, np.float32)
    return Person(
        np.where(seen[:, None], at, np.nan).astype(np.float32),
        np.where(seen, np.clip(likely, 0, 1), 0).astype(np.float32),
        given,
    )


def triplets(numbers: Sequence[float], where: str | Path) -> tuple[Float, Float]:
    """x, y, score, x, y, score, ... -> coords (V, 2) and scores (V,).

    Raises:
        ExpertError: not numbers, or not in threes.
    """
    try:
        flat = np.asarray(numbers, np.float64)
    except (TypeError, ValueError) as error:
        raise refused(where, f"keypoints are no numbers ({error})") from error
    if flat.ndim != 1 or len(flat) % 3 or not len(flat):
        raise refused(where, f"keypoints are {flat.shape} numbers, wanted x, y, score of every joint")
    rows = flat.reshape(-1, 3)
    return rows[:, :2], rows[:, 2]


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ExpertError: it is absent, torn or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise refused(path, f"is torn or no JSON: {error}") from error


def number(name: str, where: str | Path) -> int:
    """The last number in a name such as 'walk_000012_keypoints.json' or '12.jpg': a frame's.

    Raises:
        ExpertError: there is none.
    """
    found = re.findall(r"\d+", Path(name).stem)
    if not found:
        raise refused(where, f"{name!r} names no frame: it holds no number")
    return int(found[-1])


def rows(content: Any, where: str | Path, wanted: str) -> list[dict[str, Any]]:
    """A list of JSON objects.

    Raises:
        ExpertError: it is something else; `wanted` says what it should be.
    """
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise refused(where, f"is not {wanted}")
    return content


def boxes_of(people: Iterable[Person]) -> Float:
    """(M, 5) boxes: those saved, else around the joints that were seen; the score is the joints' mean."""
    found = []
    for one in people:
        if one.box is not None:
            corners = one.box
        elif np.isfinite(one.coords).any():
            corners = np.concatenate([np.nanmin(one.coords, 0), np.nanmax(one.coords, 0)])
        else:
            corners = np.full(4, np.nan, np.float32)
        found.append(np.append(corners, one.scores.mean()))
    return np.array(found, np.float32).reshape(-1, 5)
