"""Motion capture in BVH: the joints of a body in space, by forward kinematics of its hierarchy.

Format: https://research.cs.wisc.edu/graphics/Courses/cs-838-1999/Jeff/BVH.html. A joint's channels are applied in the
order in which the file names them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import SKELETONS
from training.data.formats.base import InMemoryDataset, choose, digest, frame_of
from training.data.formats.joints import Layout, layout_of
from training.data.types import Array, SkeletonSequence

MIXAMO15 = {
    "head": "Head", "neck": "Neck", "right_shoulder": "RightArm", "right_elbow": "RightForeArm",
    "right_wrist": "RightHand", "left_shoulder": "LeftArm", "left_elbow": "LeftForeArm", "left_wrist": "LeftHand",
    "mid_hip": "Hips", "right_hip": "RightUpLeg", "right_knee": "RightLeg", "right_ankle": "RightFoot",
    "left_hip": "LeftUpLeg", "left_knee": "LeftLeg", "left_ankle": "LeftFoot",
}  # fmt: skip
"""Joints of the layout `mixamo15` by their names in BVH files of Mixamo and of the CMU conversions."""
CHANNELS = {"Xposition": 0, "Yposition": 1, "Zposition": 2, "Xrotation": 0, "Yrotation": 1, "Zrotation": 2}
SPLITS = ("train", "val", "test")
MOST_JOINTS = 1000
"""Of a hierarchy; longer ones are taken for torn files."""


@dataclass
class _Body:
    """A hierarchy: names, parents (-1 for the root), offsets, and of each joint its channels."""

    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    offsets: list[tuple[float, ...]] = field(default_factory=list)
    channels: list[list[str]] = field(default_factory=list)


class BvhDataset(InMemoryDataset):
    """Clips of BVH files, one clip a file, in the unit of the file, y up.

    Bodies whose joints have the names of `MIXAMO15` become the layout `mixamo15`, all others keep their own joints. A
    folder holds bodies of one layout. `body` says which clips have the same bone lengths.

    Args:
        path: of a file, or of a folder with files, also in folders up to two levels below. Folders called train, val
            and test are splits, others classes.
        split: train, val or test.
        where: an SQL condition over key, label, label_id, body, split, num_frames and fps.
        layout: the joints' layout, by default found by their names.
        fps: frames per second to keep at most: every second, third or further frame of faster files.
        rotations: whether clips are rotations in place of positions: of each joint relative to its parent, of the root
            in space, as the first two columns of its matrix (Zhou et al. 2019, On the Continuity of Rotation
            Representations in Neural Networks), 6 numbers a joint. For `preprocess.normalise = "none"` and views
            that change time alone.

    Raises:
        TrainingError: a file is no BVH file, or bodies have different joints.
    """

    @classmethod
    def recognises(cls, path: str) -> bool:
        """A file *.bvh, or a folder that holds some."""
        place = Path(path)
        return (path.endswith(".bvh") and place.is_file()) or (place.is_dir() and bool(_files(place)))

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        where: str | None = None,
        layout: Layout = None,
        fps: float = 30.0,
        rotations: bool = False,
    ) -> None:
        place = Path(path)
        files = [place] if place.is_file() else _files(place)
        if not files or fps <= 0:
            raise TrainingError(f"{place}, fps {fps}: allowed: BVH files, and more than 0 frames per second")
        clips = [_read(file, fps) for file in files]
        joints = clips[0][1]
        for file, (_, own, *_rest) in zip(files, clips):
            if own != joints:
                raise TrainingError(
                    f"{file}: its joints are others than those of {files[0]}; keep each kind of body in a folder of "
                    "its own"
                )
        self._clips = [clip for clip, *_ in clips]
        self._turns = [turns for *_, turns in clips] if rotations else None
        self._rates = [rate for *_, rate, _ in clips]
        bodies = [_body_of(clip, joints[1]) for clip in self._clips]
        keys = [file.relative_to(place).with_suffix("").as_posix() if file != place else file.stem for file in files]
        folders = [key.split("/")[:-1] for key in keys]
        splits = [next((name for name in names if name in SPLITS), None) for names in folders]
        classes = [next((name for name in reversed(names) if name not in SPLITS), None) for names in folders]
        labels = tuple(sorted({name for name in classes if name is not None}))
        ids = np.array([-1 if name is None else labels.index(name) for name in classes])
        known: dict[str, Any] = {"split": pl.Series(splits, dtype=pl.String)} if any(splits) else {}
        known |= {"body": bodies, "num_frames": [len(clip) for clip in self._clips], "fps": self._rates}
        facts = frame_of(keys, ids, labels, known)
        known_layout = layout or ("mixamo15" if tuple(joints[0]) == SKELETONS["mixamo15"].joints else None)
        skeleton = layout_of(known_layout, len(joints[0]), str(place), *joints)
        super().__init__(
            str(place),
            skeleton,
            labels,
            facts,
            choose(str(place), facts, split, where),
            digest(*(self._turns or self._clips)),
            fps,
        )
        self.groups = [bodies[row] for row in self.rows]

    def clip_at(self, index: int, row: int) -> SkeletonSequence:
        """See `InMemoryDataset.clip_at`."""
        label = int(self.label_ids[index])
        joints = (self._turns or self._clips)[row][None].copy()
        return SkeletonSequence(self.keys[index], joints, None, label, None, self._rates[row])


def _files(folder: Path) -> list[Path]:
    """BVH files of a folder and of those up to two levels below."""
    return sorted(file for depth in ("", "*/", "*/*/") for file in folder.glob(f"{depth}*.bvh"))


def _body_of(joints: Array, parents: Sequence[int]) -> str:
    """A name for the bone lengths of a clip (T, V, 3): clips of one body have the same."""
    lengths = [np.linalg.norm(joints[:, k] - joints[:, p], axis=-1).mean() for k, p in enumerate(parents) if p >= 0]
    total = max(float(np.sum(lengths)), 1e-9)
    return digest(np.round(np.array([*np.array(lengths) / total, math.log(total)]), 2))[:8]


def _read(path: Path, fps: float) -> tuple[Array, tuple[list[str], list[int]], float, Array]:
    """Joints (T, V, 3) float32, names and parents, frames per second, and rotations (T, V, 6) float32, of a file.

    Raises:
        TrainingError: it is no BVH file.
    """
    try:
        words = path.read_text(encoding="utf-8", errors="strict").split()
        body, position = _hierarchy(words)
        frames, seconds = int(words[position + 2]), float(words[position + 5])
        numbers = np.array(words[position + 6 :], np.float64)
        width = sum(map(len, body.channels))
        if words[position : position + 2] != ["MOTION", "Frames:"] or seconds <= 0:
            raise ValueError("its part MOTION is torn")
        if frames < 1 or not width or numbers.size != frames * width or not np.isfinite(numbers).all():
            raise ValueError(f"{numbers.size} numbers for {frames} frames of {width} channels")
    except (OSError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else "torn"
        raise TrainingError(f"{path} is no BVH file, or a torn one: {reason}") from None
    stride = max(1, round(1 / seconds / fps))
    joints, turns = _forward(body, numbers.reshape(frames, width)[::stride])
    rate = 1 / seconds / stride
    if set(MIXAMO15.values()) <= set(body.names):
        chosen = [body.names.index(MIXAMO15[joint]) for joint in SKELETONS["mixamo15"].joints]
        layout = SKELETONS["mixamo15"]
        above = {child: parent for parent, child in layout.bones}
        parents = [above.get(k, -1) for k in range(layout.num_joints)]
        return joints[:, chosen], (list(layout.joints), parents), rate, _relative(turns[:, chosen], parents)
    return joints, (body.names, body.parents), rate, _relative(turns, body.parents)


def _hierarchy(words: list[str]) -> tuple[_Body, int]:
    """The bodies' hierarchy, end sites left out, and the position of the word MOTION.

    Raises:
        ValueError, IndexError: it is torn.
    """
    if words[:1] != ["HIERARCHY"]:
        raise ValueError("it does not begin with HIERARCHY")
    body, position = _Body(), 1
    stack: list[int] = []
    at = -1  # the joint that OFFSET and CHANNELS are of; -2 in an end site
    while words[position] != "MOTION":
        word = words[position]
        if word in ("ROOT", "JOINT"):
            if len(body.names) >= MOST_JOINTS:
                raise ValueError(f"it has more than {MOST_JOINTS} joints")
            body.names.append(words[position + 1])
            body.parents.append(stack[-1] if stack else -1)
            body.offsets.append((0.0, 0.0, 0.0))
            body.channels.append([])
            at, position = len(body.names) - 1, position + 2
        elif word == "End":
            at, position = -2, position + 2
        elif word == "{":
            stack.append(at)
            position += 1
        elif word == "}":
            stack.pop()
            position += 1
        elif word == "OFFSET":
            if at >= 0:
                body.offsets[at] = tuple(map(float, words[position + 1 : position + 4]))
            position += 4
        elif word == "CHANNELS":
            count = int(words[position + 1])
            body.channels[at] = words[position + 2 : position + 2 + count]
            if not 0 <= count <= 6 or not set(body.channels[at]) <= CHANNELS.keys():
                raise ValueError(f"channels {' '.join(body.channels[at])}")
            position += 2 + count
        else:
            raise ValueError(f"{word!r} in its hierarchy")
    if stack or len(set(body.names)) < len(body.names) or not body.names:
        raise ValueError("its hierarchy is torn")
    return body, position


def _turn(axis: int, degrees: Array) -> Array:
    """Matrices (T, 3, 3) that turn about an axis by degrees (T,)."""
    angle = np.deg2rad(degrees)
    first, second = [other for other in range(3) if other != axis]
    matrix = np.zeros((len(degrees), 3, 3))
    matrix[:, axis, axis] = 1
    matrix[:, first, first] = matrix[:, second, second] = np.cos(angle)
    sign = -1 if axis == 1 else 1
    matrix[:, second, first] = sign * np.sin(angle)
    matrix[:, first, second] = -sign * np.sin(angle)
    return matrix


def _relative(turns: Array, parents: Sequence[int]) -> Array:
    """(T, V, 6) float32 of rotations in space (T, V, 3, 3): two columns of the rotation relative to the parent."""
    own = np.stack(
        [
            turns[:, k] if parent < 0 else np.einsum("tji,tjk->tik", turns[:, parent], turns[:, k])
            for k, parent in enumerate(parents)
        ],
        1,
    )
    six: Array = own[..., :2].swapaxes(-1, -2).reshape(*own.shape[:2], 6).astype(np.float32)
    return six


def _forward(body: _Body, numbers: Array) -> tuple[Array, Array]:
    """Joints (T, V, 3) float32, and rotations in space (T, V, 3, 3), of a body's channels (T, channels)."""
    places: list[Array] = []
    turns: list[Array] = []
    column = 0
    for parent, offset, channels in zip(body.parents, body.offsets, body.channels):
        own = np.tile(np.eye(3), (len(numbers), 1, 1))
        move = np.tile(np.array(offset, np.float64), (len(numbers), 1))
        for channel in channels:
            values = numbers[:, column]
            column += 1
            if channel.endswith("position"):
                move[:, CHANNELS[channel]] = values
            else:
                own = own @ _turn(CHANNELS[channel], values)
        if parent < 0:
            places.append(move)
            turns.append(own)
        else:
            places.append(places[parent] + np.einsum("tij,tj->ti", turns[parent], move))
            turns.append(turns[parent] @ own)
    joints: Array = np.stack(places, 1).astype(np.float32)
    return joints, np.stack(turns, 1)
