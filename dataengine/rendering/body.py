"""Bodies of rendered people: proportions, clothes, and where every joint is in space.

World axes: metres, x to the left of somebody who faces +z, y up, z forward. Joints come in the
order of the layout `body14`, then the points that only drawing needs (`EXTRA`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dataengine.core.types import Float
from dataengine.rendering.motion import Angles

NUM_JOINTS = 14
EXTRA = (
    "head",
    "left_heel",
    "right_heel",
    "left_toe",
    "right_toe",
    "left_hand",
    "right_hand",
    "left_thumb",
    "right_thumb",
    "waist",
    "root",
)
HEAD, HEEL, TOE, HAND, THUMB, WAIST, ROOT = 14, 15, 17, 19, 21, 23, 24

_SKIN = np.array(((225, 182, 150), (210, 160, 122), (185, 130, 92), (140, 92, 62), (100, 66, 46)), float)
_HAIR = np.array(((28, 24, 24), (66, 44, 30), (112, 76, 46), (222, 190, 120), (165, 165, 165), (120, 46, 34)), float)


@dataclass(frozen=True)
class Body:
    """Lengths in metres of one person."""

    height: float
    trunk: float
    shoulder: float
    """half the width between the shoulders"""
    hip: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    neck: float
    """from the neck joint to the middle of the head"""
    skull: float
    foot: float
    hand: float
    arm_radius: float
    leg_radius: float
    depth: float
    """half the depth of the chest"""

    @staticmethod
    def draw(rng: np.random.Generator) -> Body:
        """A random adult or child; segment lengths follow the usual shares of body height."""
        h = rng.uniform(1.35, 1.95)

        def part(share: float, spread: float) -> float:
            return float(h * share * rng.uniform(1 - spread, 1 + spread))

        stout = rng.uniform(0.85, 1.3)
        return Body(
            height=h,
            trunk=part(0.29, 0.07),
            shoulder=part(0.113, 0.12),
            hip=part(0.056, 0.15),
            upper_arm=part(0.168, 0.08),
            forearm=part(0.148, 0.08),
            thigh=part(0.24, 0.07),
            shin=part(0.235, 0.07),
            neck=part(0.112, 0.08),
            skull=part(0.066, 0.1),
            foot=part(0.115, 0.1),
            hand=part(0.052, 0.1),
            arm_radius=0.026 * h * stout**0.7,
            leg_radius=0.043 * h * stout**0.7,
            depth=0.062 * h * stout,
        )


@dataclass(frozen=True)
class Appearance:
    """Colours (RGB floats) and dress of one person."""

    skin: Float
    hair: Float
    top: Float
    bottom: Float
    shoe: Float
    trim: Float
    """collar, placket, print and belt"""
    sleeve: int
    """0 bare arms, 1 to the elbow, 2 to the wrist"""
    trousers: int
    """1 to the knee, 2 to the ankle"""
    front: int
    """0 plain, 1 placket, 2 print, 3 open jacket"""
    long_hair: bool
    beard: bool
    watch: bool
    stripes: bool

    @staticmethod
    def draw(rng: np.random.Generator) -> Appearance:
        skin = _SKIN[rng.integers(len(_SKIN))] * rng.uniform(0.9, 1.1)
        top, bottom = random_color(rng), random_color(rng) * 0.85
        trim = np.where(top.mean() > 128, top * 0.35, 255 - (255 - top) * 0.3)
        return Appearance(
            skin=skin,
            hair=_HAIR[rng.integers(len(_HAIR))] * rng.uniform(0.8, 1.15),
            top=top,
            bottom=bottom,
            shoe=random_color(rng),
            trim=trim,
            sleeve=int(rng.choice(3, p=(0.12, 0.4, 0.48))),
            trousers=int(rng.choice((1, 2), p=(0.3, 0.7))),
            front=int(rng.integers(4)),
            long_hair=bool(rng.random() < 0.4),
            beard=bool(rng.random() < 0.2),
            watch=bool(rng.random() < 0.6),
            stripes=bool(rng.random() < 0.2),
        )


def random_color(rng: np.random.Generator) -> Float:
    """A colour of cloth, RGB floats; a quarter of them grey."""
    hue, grey = int(rng.integers(180)), rng.random() < 0.25
    hsv = np.array([[[hue, 0 if grey else rng.integers(30, 230), rng.integers(30, 245)]]], np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0], float)


def rotation(axis: str, angle: Float) -> Float:
    """Right-handed rotation matrices (T, 3, 3) about one axis by angles (T,)."""
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    out = np.zeros((*angle.shape, 3, 3))
    out[..., i, i] = 1
    out[..., j, j] = out[..., k, k] = np.cos(angle)
    out[..., k, j] = np.sin(angle)
    out[..., j, k] = -np.sin(angle)
    return out


@dataclass(frozen=True)
class Pose3D:
    """A body in space over time.

    Attributes:
        points: (T, 25, 3) metres: the joints of `body14`, then `EXTRA`.
        trunk, pelvis, head: (T, 3, 3) rotations of the parts; columns are left, up, forward.
        shins, forearms: (T, 2, 3, 3), left then right.
    """

    points: Float
    trunk: Float
    pelvis: Float
    head: Float
    shins: Float
    forearms: Float


def pose(body: Body, a: Angles, position: tuple[float, float], facing: float) -> Pose3D:
    """Forward kinematics: angles to points. `position` is (x, z) on the ground, `facing` the direction in radians."""
    n = len(a["lean"])

    def at(rot: Float, x: float, y: float, z: float) -> Float:
        return np.asarray(rot @ np.array((x, y, z)))

    pelvis = rotation("y", facing + a["yaw"]) @ rotation("x", a["pitch"])
    trunk = pelvis @ rotation("y", a["twist"]) @ rotation("x", a["lean"]) @ rotation("z", a["side"])
    head = trunk @ rotation("y", a["look"]) @ rotation("x", a["nod"] - 0.45 * np.clip(a["lean"], 0, 1.2))
    p = np.zeros((n, NUM_JOINTS + len(EXTRA), 3))
    p[:, 1] = at(trunk, 0, body.trunk, 0)
    p[:, WAIST] = at(trunk, 0, 0.25 * body.trunk, 0)
    p[:, HEAD] = p[:, 1] + at(head, 0, body.neck, 0.1 * body.skull)
    p[:, 0] = p[:, HEAD] + at(head, 0, -0.12 * body.skull, 1.12 * body.skull)
    shins, forearms = np.zeros((n, 2, 3, 3)), np.zeros((n, 2, 3, 3))
    for i, (s, out) in enumerate((("L", 1.0), ("R", -1.0))):
        arm = trunk @ rotation("z", out * a["sa" + s]) @ rotation("x", -a["sf" + s]) @ rotation("y", out * a["sx" + s])
        fore = arm @ rotation("x", -a["ef" + s])
        p[:, 2 + i] = p[:, 1] + at(trunk, out * body.shoulder, -0.022 * body.height, 0)
        p[:, 4 + i] = p[:, 2 + i] + at(arm, 0, -body.upper_arm, 0)
        p[:, 6 + i] = p[:, 4 + i] + at(fore, 0, -body.forearm, 0)
        p[:, HAND + i] = p[:, 6 + i] + at(fore, 0, -body.hand, 0)
        p[:, THUMB + i] = p[:, 6 + i] + at(fore, 0, -0.75 * body.hand, 0.75 * body.hand)
        leg = pelvis @ rotation("z", out * a["ha" + s]) @ rotation("x", -a["hf" + s])
        shin = leg @ rotation("x", a["kf" + s])
        p[:, 8 + i] = at(pelvis, out * body.hip, 0, 0)
        p[:, 10 + i] = p[:, 8 + i] + at(leg, 0, -body.thigh, 0)
        p[:, 12 + i] = p[:, 10 + i] + at(shin, 0, -body.shin, 0)
        p[:, HEEL + i] = p[:, 12 + i] + at(shin, 0, -0.03 * body.height, -0.015 * body.height)
        p[:, TOE + i] = p[:, 12 + i] + at(shin, 0, -0.036 * body.height, body.foot)
        shins[:, i], forearms[:, i] = shin, fore
    # the lowest point stands on the ground, unless the body is in the air
    p[..., 1] += (a["jump"] + 0.03 - p[..., 1].min(1))[:, None]
    p[..., 0] += position[0] + (np.sin(facing) * a["path"])[:, None]
    p[..., 2] += position[1] + (np.cos(facing) * a["path"])[:, None]
    return Pose3D(p, trunk, pelvis, head, shins, forearms)
