"""Skeletons in space, drawn from any side: what `view` shows beside the video, and the pictures of the report page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dataengine.core.errors import DataEngineError
from dataengine.core.skeletons import skeleton
from dataengine.core.types import Bool, Float, Frames
from dataengine.report.overlay import BAR, INK, PEOPLE, SUBPIXEL, hue

TURN = 60.0
"""Degrees per second by which a skeleton turns beside a video."""
SIDES = ((0.0, "as the camera sees it"), (90.0, "from the side"))
"""Angles from which a still picture shows a skeleton, and what they are called."""
PITCH = 12.0
"""Degrees by which one looks down on a skeleton, so that the floor shows."""
LEAST = 0.9
"""Metres from the middle of a picture to its edge, at least."""
STEP = 0.25
"""Metres between the lines of the floor."""
FLOOR = (58, 64, 76)
OUTLINE = (10, 12, 16)
ASPECT = 0.8
"""Width of the picture of one person, relative to its height."""


@dataclass(frozen=True)
class Stage:
    """What all pictures of one person in a clip have in common.

    Attributes:
        radius: metres from the middle of the picture to its edge.
        middle: metres from the middle of the hips down to the middle of the picture.
        floor: metres from the middle of the hips down to the floor, which lies at the lowest joints.
    """

    radius: float
    middle: float
    floor: float


def stage_of(keypoints3d: Float) -> Stage:
    """The stage of one person.

    Args:
        keypoints3d: (T, V, 3) metres from the middle of the hips, y down, NaN where unknown.
    """
    points = np.asarray(keypoints3d, np.float64).reshape(-1, 3)
    points = points[np.isfinite(points).all(-1)]
    if not len(points):
        return Stage(LEAST, 0.0, LEAST)
    top, floor = (float(v) for v in np.quantile(points[:, 1], [0.005, 0.995]))
    wide = float(np.quantile(np.hypot(points[:, 0], points[:, 2]), 0.995))
    radius = 1.15 * max(LEAST / 1.15, (floor - top) / 2 + 0.1, wide / ASPECT)
    return Stage(radius, (top + floor) / 2, floor)


def turned(points: Float, yaw: float, pitch: float = PITCH) -> Float:
    """Points (..., 3) of the camera's axes as they lie after a turn about the upright axis.

    Args:
        points: x right, y down, z away from the camera.
        yaw: degrees; at 90 the person's side that was away from the camera is on the right.
        pitch: degrees by which one looks down on them.
    """
    a, b = math.radians(yaw), math.radians(pitch)
    about_y = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    found: Float = np.asarray(points, np.float64) @ (about_x @ about_y).T
    return found


def draw_space(
    coords: Float, layout: str, stage: Stage, yaw: float, height: int, person: int = 0, caption: str = ""
) -> Frames:
    """One person in space, seen from one side, on a floor that turns along.

    Args:
        coords: (V, 3) metres from the middle of the hips, x right, y down, z away from the camera; NaN where unknown.
        layout: name of the joint layout.
        stage: of the clip.
        yaw: degrees; 0 is the side of the camera.
        height: of the picture in pixels.
        person: rank of the person, which chooses the colours.
        caption: text in the lower left corner.

    Returns:
        (height, about height * ASPECT, 3) uint8 RGB.

    Raises:
        DataEngineError: the joints do not fit the layout.
    """
    joints = skeleton(layout)
    coords = np.asarray(coords, np.float64)
    if coords.shape != (joints.num_joints, 3):
        raise DataEngineError(
            f"layout {layout!r} is drawn from joints in space of shape ({joints.num_joints}, 3); given {coords.shape}"
        )
    width = max(2, round(height * ASPECT))
    canvas = np.full((height, width, 3), BAR, np.uint8)
    scale = height / 2 / stage.radius

    def shown(points: Float) -> Float:
        """(..., 3) x and y in pixels, and the depth in metres."""
        moved = turned(np.asarray(points, np.float64) - [0, stage.middle, 0], yaw)
        moved[..., :2] = moved[..., :2] * scale + [width / 2, height / 2]
        return moved

    _floor(canvas, stage, shown)
    present: Bool = np.asarray(np.isfinite(coords).all(-1))
    points = shown(np.where(present[:, None], coords, 0.0))
    hues, thick = PEOPLE[person % len(PEOPLE)], max(1, round(height / 110))
    depths = points[:, 2]
    bones = [(a, b) for a, b in joints.bones if present[a] and present[b]]
    for a, b in sorted(bones, key=lambda bone: -float(depths[bone[0]] + depths[bone[1]])):
        sided = a if hue(joints, a, hues) != hues.middle and hue(joints, b, hues) == hues.middle else b
        crossing = {joints.joints[a].split("_")[0], joints.joints[b].split("_")[0]} == {"left", "right"}
        colour = hues.middle if crossing else hue(joints, sided, hues)
        ends = _fixed(points[a]), _fixed(points[b])
        cv2.line(canvas, *ends, OUTLINE, thick + 2, cv2.LINE_AA, SUBPIXEL)
        cv2.line(canvas, *ends, _dimmed(colour, (depths[a] + depths[b]) / 2, stage), thick, cv2.LINE_AA, SUBPIXEL)
    for joint in sorted(np.flatnonzero(present).tolist(), key=lambda j: -float(depths[j])):
        radius = round((thick * 0.9 + 0.5) * (1 << SUBPIXEL))
        colour = _dimmed(hue(joints, joint, hues), depths[joint], stage)
        cv2.circle(canvas, _fixed(points[joint]), radius, colour, -1, cv2.LINE_AA, SUBPIXEL)
    if caption:
        cv2.putText(canvas, caption, (8, height - 8), cv2.FONT_HERSHEY_DUPLEX, 0.4, INK, 1, cv2.LINE_AA)
    return canvas


def space_panel(
    keypoints3d: Float, layout: str, stages: Sequence[Stage], yaw: float, height: int, caption: str = ""
) -> Frames:
    """All people of a frame (M, V, 3) in space, next to each other, each about the middle of their own hips."""
    cells = [
        draw_space(coords, layout, stage, yaw, height, person, caption if person == 0 else "")
        for person, (coords, stage) in enumerate(zip(keypoints3d, stages))
    ]
    return np.hstack(cells) if cells else np.zeros((height, 0, 3), np.uint8)


def _floor(canvas: Frames, stage: Stage, shown: Callable[[Float], Float]) -> None:
    """A round floor of lines under the person."""
    reach = min(stage.radius * ASPECT * 0.95, 1.5)
    for offset in np.arange(-math.floor(reach / STEP), math.floor(reach / STEP) + 1) * STEP:
        half = math.sqrt(max(reach**2 - offset**2, 0.0))
        for ends in (
            [[offset, stage.floor, -half], [offset, stage.floor, half]],
            [[-half, stage.floor, offset], [half, stage.floor, offset]],
        ):
            a, b = shown(np.array(ends))
            cv2.line(canvas, _fixed(a), _fixed(b), FLOOR, 1, cv2.LINE_AA, SUBPIXEL)


def _fixed(point: Float) -> tuple[int, int]:
    """A position in the fixed point of OpenCV."""
    x, y = np.clip(np.round(point[:2] * (1 << SUBPIXEL)), -(1 << 26), 1 << 26)
    return int(x), int(y)


def _dimmed(colour: tuple[int, int, int], depth: float, stage: Stage) -> tuple[int, int, int]:
    """A colour, darker the farther away it is."""
    share = float(np.clip(0.8 - 0.45 * depth / stage.radius, 0.4, 1.0))
    red, green, blue = (round(share * value) for value in colour)
    return red, green, blue
