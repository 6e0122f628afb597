"""Joint layouts, bones, mirror pairs, and the maps between layouts.

A layout names its joints; joints of the same name are the same point in every layout, and joints
that a layout lacks are interpolated from those it has (see `DERIVED`). The order of `posetics17`
and its interpolated joints follow the published Posetics data (head point first, then
interpolated mouth, neck, chest and middle of the hips); `lcr13` the order of LCR-Net's files.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import numpy as np

from dataengine.core.errors import ComponentError, suggestion
from dataengine.core.types import Bool, Float, Int

BODY12 = (
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""The twelve joints of limbs and trunk that every layout for bodies has."""

_LIMBS = tuple(
    (f"{side}_{a}", f"{side}_{b}")
    for side in ("left", "right")
    for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
)
_TRUNK = (
    ("left_shoulder", "right_shoulder"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
    ("left_hip", "right_hip"),
)


@dataclass(frozen=True)
class Skeleton:
    """A joint layout. `bones` are (parent, child) index pairs, `flip` the joint indices of the mirrored body.

    A joint of one side without its counterpart on the other stays where it is in `flip`.
    """

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def flip(self) -> tuple[int, ...]:
        def mirrored(joint: str) -> str:
            if joint.startswith("left_"):
                return "right_" + joint[5:]
            return "left_" + joint[6:] if joint.startswith("right_") else joint

        numbers = {joint: number for number, joint in enumerate(self.joints)}
        return tuple(numbers.get(mirrored(joint), number) for number, joint in enumerate(self.joints))

    def index(self, joint: str) -> int:
        return self.joints.index(joint)

    def indices(self, joints: tuple[str, ...]) -> list[int]:
        return [self.joints.index(j) for j in joints]


def _make(name: str, joints: tuple[str, ...], bones: tuple[tuple[str, str], ...]) -> Skeleton:
    return Skeleton(name, joints, tuple((joints.index(a), joints.index(b)) for a, b in bones))


_FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_FACE_BONES = (("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear"))
_BLAZE = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "left_mouth", "right_mouth", *BODY12[:6], "left_pinky", "right_pinky",
    "left_index", "right_index", "left_thumb", "right_thumb", *BODY12[6:],
    "left_heel", "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip
_OPENPOSE = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
_OPENPOSE_LEGS = ("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle")
_OPENPOSE_HEAD = ("right_eye", "left_eye", "right_ear", "left_ear")

_HALPE_FEET = tuple(f"{side}_{part}" for part in ("big_toe", "small_toe", "heel") for side in ("left", "right"))
_KINECT = (
    "pelvis", "spine", "neck", "head",
    *(f"{side}_{part}" for side in ("left", "right") for part in ("shoulder", "elbow", "wrist", "hand")),
    *(f"{side}_{part}" for side in ("left", "right") for part in ("hip", "knee", "ankle", "foot")),
)  # fmt: skip
"""The first Kinect's 20 joints in its order; its centre of the hips lies above the middle of the hip joints and is the
pelvis here. NTU RGB+D's 25 (second Kinect; Shahroudy et al. 2016, figure 1) begin alike: the 21st, between the
shoulders, is the neck here, the third the upper neck."""
_KINECT_TRUNK = (("neck", "head"), ("neck", "spine"), ("spine", "pelvis"))
_KINECT_LIMBS = tuple(
    (f"{begin}" if begin in ("neck", "pelvis") else f"{side}_{begin}", f"{side}_{end}")
    for side in ("left", "right")
    for chain in (("neck", "shoulder", "elbow", "wrist", "hand"), ("pelvis", "hip", "knee", "ankle", "foot"))
    for begin, end in itertools.pairwise(chain)
)
_HDM = {
    "pelvis": "", "left_hip": "pelvis", "right_hip": "pelvis", "lower_back": "pelvis",
    "left_knee": "left_hip", "left_ankle": "left_knee", "left_foot": "left_ankle", "left_toes": "left_foot",
    "right_knee": "right_hip", "right_ankle": "right_knee", "right_foot": "right_ankle", "right_toes": "right_foot",
    "upper_back": "lower_back", "neck": "upper_back", "lower_neck": "neck",
    "left_shoulder": "neck", "right_shoulder": "neck",
    "upper_neck": "lower_neck", "head": "upper_neck",
    "left_elbow": "left_shoulder", "left_forearm": "left_elbow",
    "left_wrist": "left_forearm", "left_hand": "left_wrist",
    "left_thumb": "left_wrist", "left_fingers": "left_hand",
    "right_elbow": "right_shoulder", "right_forearm": "right_elbow",
    "right_wrist": "right_forearm", "right_hand": "right_wrist",
    "right_thumb": "right_wrist", "right_fingers": "right_hand",
}  # fmt: skip
"""Joint -> parent of HDM05's skeletons (Mueller et al. 2007) in the order of its ASF files. A point is the lower end of
the bone of the file: `lfemur` ends at the left knee, `thorax` at the base of the neck, `lradius` halfway down the
forearm, which `lwrist` ends."""

SKELETONS: dict[str, Skeleton] = {
    s.name: s
    for s in (
        _make(
            "posetics17",
            ("nose", "mouth", "neck", "chest", "mid_hip", *BODY12),
            (
                ("mid_hip", "chest"),
                ("chest", "neck"),
                ("neck", "mouth"),
                ("mouth", "nose"),
                ("neck", "left_shoulder"),
                ("neck", "right_shoulder"),
                ("mid_hip", "left_hip"),
                ("mid_hip", "right_hip"),
                *_LIMBS,
            ),
        ),
        _make("coco17", (*_FACE, *BODY12), (*_FACE_BONES, *_TRUNK, *_LIMBS)),
        _make("body13", ("nose", *BODY12), (("nose", "left_shoulder"), ("nose", "right_shoulder"), *_TRUNK, *_LIMBS)),
        _make(
            "lcr13",
            (
                "right_ankle",
                "left_ankle",
                "right_knee",
                "left_knee",
                "right_hip",
                "left_hip",
                "right_wrist",
                "left_wrist",
                "right_elbow",
                "left_elbow",
                "right_shoulder",
                "left_shoulder",
                "nose",
            ),
            (("nose", "left_shoulder"), ("nose", "right_shoulder"), *_TRUNK, *_LIMBS),
        ),
        _make(
            "body14",
            ("nose", "neck", *BODY12),
            (
                ("nose", "neck"),
                ("neck", "left_shoulder"),
                ("neck", "right_shoulder"),
                ("neck", "left_hip"),
                ("neck", "right_hip"),
                *_LIMBS,
            ),
        ),
        _make(
            "mpii16",
            (
                "right_ankle",
                "right_knee",
                "right_hip",
                "left_hip",
                "left_knee",
                "left_ankle",
                "mid_hip",
                "neck",
                "upper_neck",
                "head_top",
                "right_wrist",
                "right_elbow",
                "right_shoulder",
                "left_shoulder",
                "left_elbow",
                "left_wrist",
            ),
            (
                ("mid_hip", "neck"),
                ("neck", "upper_neck"),
                ("upper_neck", "head_top"),
                ("neck", "left_shoulder"),
                ("neck", "right_shoulder"),
                ("mid_hip", "left_hip"),
                ("mid_hip", "right_hip"),
                *_LIMBS,
            ),
        ),
        _make(
            "blazepose33",
            _BLAZE,
            (
                *_TRUNK,
                *_LIMBS,
                ("left_mouth", "right_mouth"),
                ("left_ankle", "left_heel"),
                ("right_ankle", "right_heel"),
                ("left_heel", "left_foot_index"),
                ("right_heel", "right_foot_index"),
            ),
        ),
        _make(
            "halpe26",
            (*_FACE, *BODY12, "head_top", "neck", "mid_hip", *_HALPE_FEET),
            (
                ("head_top", "neck"),
                ("neck", "mid_hip"),
                ("neck", "left_shoulder"),
                ("neck", "right_shoulder"),
                ("mid_hip", "left_hip"),
                ("mid_hip", "right_hip"),
                *_LIMBS,
                *((f"{side}_ankle", f"{side}_heel") for side in ("left", "right")),
                *((f"{side}_ankle", f"{side}_big_toe") for side in ("left", "right")),
            ),
        ),
        _make(
            "openpose18",
            (*_OPENPOSE, *_OPENPOSE_LEGS, *_OPENPOSE_HEAD),
            (
                ("neck", "nose"),
                ("neck", "left_shoulder"),
                ("neck", "right_shoulder"),
                ("neck", "left_hip"),
                ("neck", "right_hip"),
                *_LIMBS,
            ),
        ),
        _make(
            "openpose25",
            (
                *_OPENPOSE,
                "mid_hip",
                *_OPENPOSE_LEGS,
                *_OPENPOSE_HEAD,
                "left_big_toe",
                "left_small_toe",
                "left_heel",
                "right_big_toe",
                "right_small_toe",
                "right_heel",
            ),
            (
                ("neck", "nose"),
                ("neck", "left_shoulder"),
                ("neck", "right_shoulder"),
                ("neck", "mid_hip"),
                ("mid_hip", "left_hip"),
                ("mid_hip", "right_hip"),
                *_LIMBS,
            ),
        ),
        _make("kinect20", _KINECT, (*_KINECT_TRUNK, *_KINECT_LIMBS)),
        _make(
            "nturgbd25",
            (
                "mid_hip",
                "spine",
                "upper_neck",
                *_KINECT[3:],
                "neck",
                *(f"{s}_{p}" for s in ("left", "right") for p in ("hand_tip", "thumb")),
            ),
            (
                ("neck", "upper_neck"),
                ("upper_neck", "head"),
                ("neck", "spine"),
                ("spine", "mid_hip"),
                *((a.replace("pelvis", "mid_hip"), b) for a, b in _KINECT_LIMBS),
                *((f"{side}_hand", f"{side}_{part}") for side in ("left", "right") for part in ("hand_tip", "thumb")),
            ),
        ),
        _make(
            "h36m17",
            (
                "mid_hip",
                "right_hip",
                "right_knee",
                "right_ankle",
                "left_hip",
                "left_knee",
                "left_ankle",
                "chest",
                "neck",
                "nose",
                "head_top",
                *(f"{side}_{part}" for side in ("left", "right") for part in ("shoulder", "elbow", "wrist")),
            ),
            (
                ("mid_hip", "chest"),
                ("chest", "neck"),
                ("neck", "nose"),
                ("nose", "head_top"),
                ("neck", "left_shoulder"),
                ("neck", "right_shoulder"),
                ("mid_hip", "left_hip"),
                ("mid_hip", "right_hip"),
                *_LIMBS,
            ),
        ),
        _make(
            "mixamo15",
            (
                "head",
                "neck",
                *(f"right_{joint}" for joint in ("shoulder", "elbow", "wrist")),
                *(f"left_{joint}" for joint in ("shoulder", "elbow", "wrist")),
                "mid_hip",
                *(f"right_{joint}" for joint in ("hip", "knee", "ankle")),
                *(f"left_{joint}" for joint in ("hip", "knee", "ankle")),
            ),
            (
                ("mid_hip", "neck"),
                ("neck", "head"),
                ("neck", "left_shoulder"),
                ("neck", "right_shoulder"),
                ("mid_hip", "left_hip"),
                ("mid_hip", "right_hip"),
                *_LIMBS,
            ),
        ),
        _make("hdm31", tuple(_HDM), tuple((parent, joint) for joint, parent in _HDM.items() if parent)),
    )
}
"""Every known layout by name."""

DERIVED: dict[str, tuple[tuple[str, str], ...]] = {
    "neck": (("left_shoulder", "right_shoulder"),),
    "mid_hip": (("left_hip", "right_hip"),),
    "chest": (("mid_hip", "neck"),),
    "mouth": (("left_mouth", "right_mouth"), ("nose", "neck")),
    "left_eye": (("nose", "nose"),),
    "right_eye": (("nose", "nose"),),
    "left_ear": (("nose", "nose"),),
    "right_ear": (("nose", "nose"),),
    "nose": (("upper_neck", "head_top"), ("head", "head")),
}
"""Joints as the middle of two others, the first pair that the source can give; eyes and ears of a
layout with one head point are copies of it, as in LCR-Net's files."""

COMMON = "body13"
"""The layout experts are compared and fused in: head point and the twelve body joints."""


def skeleton(name: str) -> Skeleton:
    """The layout called `name`.

    Raises:
        ComponentError: no such layout.
    """
    if name not in SKELETONS:
        raise ComponentError(f"unknown skeleton {name!r}{suggestion(name, SKELETONS)}")
    return SKELETONS[name]


@cache
def _weights(source: str, joints: tuple[str, ...]) -> tuple[Float, tuple[bool, ...]]:
    """(joints, V_source) mixing weights, and which of the joints the source can give."""
    origin = skeleton(source)

    def row(joint: str, depth: int = 0) -> Float | None:
        if joint in origin.joints and not (joint == "mouth" and depth):
            one: Float = np.eye(origin.num_joints, dtype=np.float64)[origin.index(joint)]
            return one
        for a, b in DERIVED.get(joint, ()) if depth < 4 else ():
            ra, rb = row(a, depth + 1), row(b, depth + 1)
            if ra is not None and rb is not None:
                return (ra + rb) / 2
        return None

    rows = [row(j) for j in joints]
    return np.stack([np.zeros(origin.num_joints) if r is None else r for r in rows]), tuple(r is not None for r in rows)


@cache
def _mapping(source: str, joints: tuple[str, ...]) -> tuple[Int, Int, tuple[tuple[int, list[int], list[float]], ...]]:
    """How joints are made of those of a layout.

    Returns:
        Of every joint that is a copy the joint it is a copy of, 0 for others; the joints that the source cannot give;
        and of every other joint its number, the joints it is made of, and their weights.
    """
    weights, possible = _weights(source, joints)
    used = [np.flatnonzero(row) for row in weights]
    copied = [int(made_of[0]) if len(made_of) == 1 else 0 for made_of in used]
    missing = [number for number, known in enumerate(possible) if not known]
    mixed = [number for number, made_of in enumerate(used) if len(made_of) > 1]
    return (
        np.array(copied, np.int64),
        np.array(missing, np.int64),
        tuple((number, used[number].tolist(), weights[number][used[number]].tolist()) for number in mixed),
    )


def gives(source: str, joints: tuple[str, ...]) -> bool:
    """Whether a layout has all of the joints, or what they are interpolated from.

    Raises:
        ComponentError: no such layout.
    """
    return all(_weights(source, joints)[1])


def positions(coords: Float, source: str, joints: tuple[str, ...]) -> Float:
    """Joints by name, of poses of a layout.

    Args:
        coords: (..., V_source, 2 or 3) float, NaN where unseen.
        source: name of the layout given.
        joints: names; those that the layout lacks are made of others as in `convert`.

    Returns:
        (..., joints, C) of the given dtype, NaN where a joint is unseen.
    """
    return _positions(np.asarray(coords), all_finite(coords), *_mapping(source, joints))


def _positions(coords: Float, seen: Bool, copied: Int, missing: Int, mixed: Any) -> Float:
    """Mix joints; `seen` is (..., V_source), the rest comes from `_mapping`."""
    known = coords.copy()
    known[~seen] = np.nan
    found: Float = np.take(known, copied, axis=-2)
    if len(missing):
        found[..., missing, :] = np.nan
    for joint, used, weights in mixed:
        parts = [known[..., j, :] * coords.dtype.type(w) for j, w in zip(used, weights)]
        found[..., joint, :] = sum(parts[1:], parts[0])
    return found


def all_finite(coords: Float) -> Bool:
    """(..., C) -> (...) whether all coordinates are finite; quicker than `.all(-1)` for a short axis."""
    finite = np.isfinite(coords)
    return reduce(np.logical_and, (finite[..., axis] for axis in range(finite.shape[-1])))


def convert(
    coords: Float, scores: Float | None = None, source: str = "coco17", target: str = "posetics17"
) -> tuple[Float, Float]:
    """Bring poses from one layout into another.

    Args:
        coords: (..., V_source, 2 or 3) float, NaN where unseen.
        scores: (..., V_source); None gives 1 where seen.
        source: name of the layout given.
        target: name of the layout wanted.

    Returns:
        coords (..., V_target, C) and scores (..., V_target) of the given dtypes. An interpolated
        joint is seen when all joints it is made of are seen and has the lowest of their scores.

    Raises:
        ComponentError: an unknown layout, or arrays of another number of joints.
    """
    origin = skeleton(source)
    coords = np.asarray(coords)
    seen = all_finite(coords)
    given: Float = seen.astype(np.float32) if scores is None else np.asarray(scores)
    if coords.shape[-2] != origin.num_joints or given.shape != coords.shape[:-1]:
        raise ComponentError(
            f"layout {source!r} has {origin.num_joints} joints; given coords {coords.shape} and scores {given.shape}"
        )
    copied, missing, mixed = _mapping(source, skeleton(target).joints)
    out_scores: Float = np.take(np.where(seen, given, given.dtype.type(0)), copied, axis=-1)
    if len(missing):
        out_scores[..., missing] = 0
    for joint, used, _ in mixed:
        every = reduce(np.logical_and, (seen[..., j] for j in used))
        out_scores[..., joint] = np.where(every, reduce(np.minimum, (given[..., j] for j in used)), 0)
    return _positions(coords, seen, copied, missing, mixed), out_scores
