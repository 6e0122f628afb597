"""Free motion captures as joints in space: files of the CMU Graphics Lab Motion Capture Database.

The database (mocap.cs.cmu.edu) is free for all uses; the data themselves may not be sold. Two forms are read: Acclaim
skeletons and motions (.asf, .amc), as the database gives them, and tables of exponential maps (.txt) of 38 joints, the
form in which a part of the database is used in motion prediction (Li et al. 2018, "Convolutional sequence to sequence
model for human dynamics", MIT licence). Both have 120 frames per second.

Points come in the order of `POINTS`, in metres, y up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataengine.core.errors import SourceError
from dataengine.core.skeletons import BODY12
from dataengine.core.types import Float
from dataengine.rendering.body import rotation

POINTS = ("nose", "head", *BODY12)
"""Points of every sequence of the material: the tip of the nose, the middle of the head, the body's twelve joints."""
UNIT = 0.0254 / 0.45
"""Metres per unit of length of the database's skeletons, whose files say `length 0.45` (of an inch per unit)."""
FPS = 120.0
NOSE = 0.105
"""Metres from the middle of the head to the tip of the nose."""
BONES = {
    "left_shoulder": "lclavicle", "right_shoulder": "rclavicle", "left_elbow": "lhumerus", "right_elbow": "rhumerus",
    "left_wrist": "lwrist", "right_wrist": "rwrist", "left_hip": "lhipjoint", "right_hip": "rhipjoint",
    "left_knee": "lfemur", "right_knee": "rfemur", "left_ankle": "ltibia", "right_ankle": "rtibia", "head": "head",
}  # fmt: skip
"""Joint -> bone of an Acclaim skeleton that ends in it (the forearm is `radius`, then `wrist`)."""


@dataclass
class Bone:
    """One bone of an Acclaim skeleton: its direction in space at rest, length, axes, and the angles that it has."""

    name: str
    direction: Float = field(default_factory=lambda: np.zeros(3))
    length: float = 0.0
    axis: Float = field(default_factory=lambda: np.eye(3))
    dof: tuple[str, ...] = ()
    parent: str | None = None


def _euler(degrees: Float) -> Float:
    """(T, 3) degrees about x, y and z -> (T, 3, 3): first about x, last about z, about fixed axes."""
    x, y, z = (rotation(name, np.radians(column)) for name, column in zip("xyz", np.atleast_2d(degrees).T))
    return np.asarray(z @ y @ x)


def read_asf(path: Path) -> dict[str, Bone]:
    """The bones of a skeleton by name, parents first; the first is `root`."""
    bones = {"root": Bone("root", dof=("tx", "ty", "tz", "rx", "ry", "rz"))}
    section, now = "", Bone("")
    for line in path.read_text(encoding="latin-1").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0].startswith(":"):
            section = words[0]
        elif section == ":bonedata":
            _bone_line(words, now)
            if words[0] == "begin":
                now = Bone("")
            elif words[0] == "end":
                bones[now.name] = now
        elif section == ":hierarchy" and words[0] not in ("begin", "end"):
            for child in words[1:]:
                bones[child].parent = words[0]
    ordered = {"root": bones.pop("root")}
    while bones:
        ready = [name for name, bone in bones.items() if bone.parent in ordered]
        if not ready:
            raise SourceError(f"{path} has bones without a parent: {', '.join(bones)}")
        for name in ready:
            ordered[name] = bones.pop(name)
    return ordered


def _bone_line(words: list[str], bone: Bone) -> None:
    if words[0] == "name":
        bone.name = words[1]
    elif words[0] == "direction":
        bone.direction = np.array([float(one) for one in words[1:4]])
    elif words[0] == "length":
        bone.length = float(words[1])
    elif words[0] == "axis":
        bone.axis = _euler(np.array([float(one) for one in words[1:4]]))[0]
    elif words[0] == "dof":
        bone.dof = tuple(words[1:])


def read_amc(path: Path, bones: dict[str, Bone], step: int) -> dict[str, Float]:
    """Numbers of every `step`-th frame by bone: (T, number of its angles), degrees."""
    found: dict[str, list[list[float]]] = {name: [] for name, bone in bones.items() if bone.dof}
    frame = -1
    for line in path.read_text(encoding="latin-1").splitlines():
        words = line.split()
        if len(words) == 1 and words[0].isdigit():
            frame += 1
        elif frame >= 0 and frame % step == 0 and words and words[0] in found:
            found[words[0]].append([float(one) for one in words[1:]])
    return {name: np.array(rows) for name, rows in found.items()}


def acclaim(skeleton: dict[str, Bone], angles: dict[str, Float]) -> Float:
    """Forward kinematics of an Acclaim motion: (T, 14, 3) metres in the order of `POINTS`."""
    total = len(angles["root"])
    turn: dict[str, Float] = {"root": _euler(angles["root"][:, 3:])}
    end: dict[str, Float] = {"root": angles["root"][:, :3]}
    for name, bone in skeleton.items():
        if bone.parent is None:
            continue
        degrees = np.zeros((total, 3))
        for column, axis in enumerate(bone.dof):
            degrees[:, ("rx", "ry", "rz").index(axis)] = angles[name][:, column]
        turn[name] = turn[bone.parent] @ bone.axis @ _euler(degrees) @ bone.axis.T
        end[name] = end[bone.parent] + bone.length * (turn[name] @ bone.direction)
    points = {joint: end[bone] * UNIT for joint, bone in BONES.items()}
    points["nose"] = points["head"] + NOSE * (turn["head"] @ np.array([0.0, 0.0, 1.0]))
    return np.stack([points[name] for name in POINTS], 1)


PARENTS = (-1, 0, 1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 11, 0, 13, 14, 15, 16, 17, 18, 15, 20, 21, 22, 23, 24, 25, 23, 27, 15,
           29, 30, 31, 32, 33, 34, 32, 36)  # fmt: skip
"""Parent of each of the 38 joints of the tables."""
OFFSETS = {
    2: (1.65674, -1.80282, 0.62477), 3: (2.5972, -7.13576, 0), 4: (2.49236, -6.8477, 0),
    8: (-1.6107, -1.80282, 0.62476), 9: (-2.59502, -7.12977, 0), 10: (-2.4678, -6.78024, 0),
    14: (0.01961, 2.0545, -0.14112), 15: (0.01021, 2.06436, -0.05921), 17: (0.00713, 1.56711, 0.14968),
    18: (0.03429, 1.56041, -0.10006), 19: (0.01305, 1.6256, -0.05265), 21: (3.54205, 0.90436, -0.17364),
    22: (4.86513, 0, 0), 23: (3.35554, 0, 0), 30: (-3.49802, 0.75994, -0.32616), 31: (-5.02649, 0, 0),
    32: (-3.36431, 0, 0),
}  # fmt: skip
"""Joint -> place at rest from its parent, in units of the database; other joints lie in their parents or are left
out."""
TABLE_JOINTS = {
    "left_hip": 2, "left_knee": 3, "left_ankle": 4, "right_hip": 8, "right_knee": 9, "right_ankle": 10, "head": 19,
    "left_shoulder": 21, "left_elbow": 22, "left_wrist": 23, "right_shoulder": 30, "right_elbow": 31, "right_wrist": 32,
}  # fmt: skip


def turns(maps: Float) -> Float:
    """(..., 3) exponential maps -> (..., 3, 3) rotations (Rodrigues)."""
    angle = np.linalg.norm(maps, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(maps / np.maximum(angle[..., 0], 1e-12), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def table(rows: Float) -> Float:
    """Forward kinematics of a table (T, 117): (T, 14, 3) metres in the order of `POINTS`.

    The place of the root, in the first three numbers, is left out: tables keep it in other units.
    """
    own = turns(rows[:, 3:].reshape(len(rows), 38, 3)).transpose(0, 1, 3, 2)
    turn, at = [own[:, 0]], [np.zeros((len(rows), 3))]
    for joint in range(1, 38):
        parent = PARENTS[joint]
        at.append(at[parent] + turn[parent] @ np.array(OFFSETS.get(joint, (0.0, 0.0, 0.0))))
        turn.append(turn[parent] @ own[:, joint])
    points = {name: at[joint] * UNIT for name, joint in TABLE_JOINTS.items()}
    points["nose"] = points["head"] + NOSE * (turn[18] @ np.array([0.0, 0.0, 1.0]))
    return np.stack([points[name] for name in POINTS], 1)


def upright(points: Float) -> Float:
    """A sequence turned so that the body is upright along y on average."""
    up = (points[:, [2, 3]].mean(1) - points[:, [8, 9]].mean(1)).mean(0)
    axis = int(np.argmax(np.abs(up)))
    if axis == 1 and up[1] > 0:
        return points
    turn = np.eye(3)[{0: [1, 0, 2], 1: [0, 1, 2], 2: [0, 2, 1]}[axis]]
    turn[1] *= math.copysign(1, up[axis])
    turn[2] *= np.linalg.det(turn)
    return np.asarray(points @ turn.T)


def read(folder: Path, fps: float = 60.0) -> Iterator[tuple[str, Float]]:
    """(name, (T, 14, 3)) of every motion below a folder, in the order of names.

    Raises:
        SourceError: there is none.
    """
    step = round(FPS / fps)
    motions = sorted([*folder.rglob("*.amc"), *folder.rglob("*.txt")])
    if not motions:
        raise SourceError(f"no .amc or .txt motions below {folder}: give a folder of the CMU database")
    for path in motions:
        if path.suffix == ".amc":
            skeleton = read_asf(path.parent / f"{path.stem.partition('_')[0]}.asf")
            yield path.stem, acclaim(skeleton, read_amc(path, skeleton, step))
        else:
            rows = np.loadtxt(path, delimiter=",", ndmin=2)[::step]
            yield f"{path.parent.parent.name}/{path.stem}", upright(table(rows))
