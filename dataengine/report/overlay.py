"""Skeletons drawn on pictures: one frame, a grid of frames, or several experts next to each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dataengine.core.errors import DataEngineError
from dataengine.core.skeletons import Skeleton, skeleton
from dataengine.core.types import Bool, Float, Frames


class Hues(NamedTuple):
    """RGB colours of one person: joints of the left, joints of the right, and joints of the middle."""

    left: tuple[int, int, int]
    right: tuple[int, int, int]
    middle: tuple[int, int, int]


PEOPLE: tuple[Hues, ...] = (
    Hues((56, 189, 248), (251, 146, 60), (250, 250, 250)),
    Hues((74, 222, 128), (244, 114, 182), (254, 249, 195)),
    Hues((167, 139, 250), (250, 204, 21), (224, 231, 255)),
    Hues((45, 212, 191), (248, 113, 113), (255, 228, 230)),
)
"""Colours of the first-ranked person, the second, and so on, repeated for more people. Left is cool and right is warm,
so that swaps are seen at once."""

FAINT_BELOW = 0.3
"""Score below which joints are drawn faint."""
FAINT = 0.35
SUBPIXEL = 4
"""Bits after the binary point of drawn positions."""
FONT = cv2.FONT_HERSHEY_DUPLEX
BAR = (24, 26, 32)
INK = (244, 245, 248)


def hue(layout: Skeleton, joint: int, hues: Hues) -> tuple[int, int, int]:
    """The colour of a joint."""
    name = layout.joints[joint]
    return hues.left if name.startswith("left_") else hues.right if name.startswith("right_") else hues.middle


def stroke(coords: Float) -> float:
    """Line width in pixels for a body of this extent."""
    seen = coords[np.isfinite(coords).all(-1)]
    extent = math.hypot(*np.ptp(seen, axis=0)) if len(seen) > 1 else 60.0
    return min(max(extent / 70, 1.2), 9.0)


def _at(point: Float) -> tuple[int, int]:
    """A position in fixed point, within the limits of OpenCV."""
    x, y = np.clip(np.round(np.asarray(point, np.float64) * (1 << SUBPIXEL)), -(1 << 26), 1 << 26)
    return int(x), int(y)


def _bones(canvas: Frames, coords: Float, which: Sequence[int], layout: Skeleton, hues: Hues, width: float) -> None:
    """Draw bones in their colours on a dark outline, which stands out from any background."""
    thick = max(1, round(width))
    for outline in (True, False):
        for number in which:
            a, b = layout.bones[number]
            coloured = (
                a
                if layout.joints[a].startswith(("left_", "right_"))
                and not layout.joints[b].startswith(("left_", "right_"))
                else b
            )
            crossing = {layout.joints[a].split("_")[0], layout.joints[b].split("_")[0]} == {"left", "right"}
            colour = (12, 14, 18) if outline else hues.middle if crossing else hue(layout, coloured, hues)
            cv2.line(
                canvas, _at(coords[a]), _at(coords[b]), colour, thick + (2 if outline else 0), cv2.LINE_AA, SUBPIXEL
            )


def _dots(canvas: Frames, coords: Float, which: Sequence[int], layout: Skeleton, hues: Hues, width: float) -> None:
    radius = round(max(1.6, 1.15 * width) * (1 << SUBPIXEL))
    rim = round(max(0.8, 0.35 * width) * (1 << SUBPIXEL))
    for joint in which:
        cv2.circle(canvas, _at(coords[joint]), radius + rim, (12, 14, 18), -1, cv2.LINE_AA, SUBPIXEL)
        cv2.circle(canvas, _at(coords[joint]), radius, hue(layout, joint, hues), -1, cv2.LINE_AA, SUBPIXEL)


def _tag(canvas: Frames, text: str, coords: Float, hues: Hues, width: float) -> None:
    """A label above the highest joint, kept inside the picture."""
    size = min(max(0.16 * width, 0.38), 0.9)
    (across, up), down = cv2.getTextSize(text, FONT, size, 1)
    top = coords[int(np.nanargmin(coords[:, 1]))]
    left = int(np.clip(top[0] - across / 2, 4, max(4, canvas.shape[1] - across - 6)))
    base = int(np.clip(top[1] - 5 * width - down, up + 5, canvas.shape[0] - down - 4))
    cv2.rectangle(canvas, (left - 4, base - up - 4), (left + across + 4, base + down + 1), BAR, -1)
    cv2.rectangle(canvas, (left - 4, base + down + 1), (left + across + 4, base + down + 2), hues.left, -1)
    cv2.putText(canvas, text, (left, base), FONT, size, INK, 1, cv2.LINE_AA)


def draw(
    frame: Frames, coords: Float, scores: Float | None, layout: str, person: int = 0, label: str | None = None
) -> Frames:
    """Draw the skeleton of one person on a copy of a frame.

    Joints that are NaN are left out with their bones, and joints of a low score are drawn faint. The width of lines
    follows the size of the body.

    Args:
        frame: (H, W, 3) uint8 RGB.
        coords: (V, 2) float pixels, NaN where unseen. Joints may lie outside the picture.
        scores: (V,) float in [0, 1]; None draws all alike.
        layout: name of the joint layout.
        person: rank of the person, which chooses the colours.
        label: text above the head.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataEngineError: the arrays do not fit the layout.
    """
    joints = skeleton(layout)
    coords = np.asarray(coords, np.float64)
    if coords.shape != (joints.num_joints, 2):
        raise DataEngineError(
            f"layout {layout!r} is drawn from coords of shape ({joints.num_joints}, 2); given {coords.shape}"
        )
    present = np.asarray(np.isfinite(coords).all(-1))
    sure: Bool = present if scores is None else present & (np.asarray(scores, np.float64) >= FAINT_BELOW)
    canvas, hues, width = frame.copy(), PEOPLE[person % len(PEOPLE)], stroke(coords)
    bones = [n for n, (a, b) in enumerate(joints.bones) if present[a] and present[b]]
    firm = [n for n in bones if sure[joints.bones[n][0]] and sure[joints.bones[n][1]]]
    weak_bones, weak_joints = [n for n in bones if n not in firm], np.flatnonzero(present & ~sure).tolist()
    if weak_bones or weak_joints:
        ghost = canvas.copy()
        _bones(ghost, coords, weak_bones, joints, hues, width)
        _dots(ghost, coords, weak_joints, joints, hues, width)
        canvas = cv2.addWeighted(ghost, FAINT, canvas, 1 - FAINT, 0)
    _bones(canvas, coords, firm, joints, hues, width)
    _dots(canvas, coords, np.flatnonzero(sure).tolist(), joints, hues, width)
    if label and present.any():
        _tag(canvas, label, coords, hues, width)
    return canvas


def draw_people(
    frame: Frames,
    keypoints: Float,
    scores: Float | None,
    layout: str,
    labels: Sequence[str] | None = None,
    scale: float = 1.0,
) -> Frames:
    """Draw all people of a frame, the first-ranked on top, on a picture enlarged `scale` times.

    Args:
        frame: (H, W, 3) uint8 RGB.
        keypoints: (M, V, 2) float pixels of the given frame, NaN where unseen; M may be 0.
        scores: (M, V) float in [0, 1]; None draws all alike.
        layout: name of the joint layout.
        labels: one text per person.
        scale: factor of the size of the picture.

    Returns:
        (H * scale, W * scale, 3) uint8 RGB.
    """
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    canvas = frame if scale == 1 else cv2.resize(frame, None, fx=scale, fy=scale, interpolation=how)
    moved = np.asarray(keypoints, np.float64) * scale + (scale - 1) / 2  # pixel centres stay where they are
    for person in reversed(range(len(moved))):
        canvas = draw(
            canvas,
            moved[person],
            None if scores is None else scores[person],
            layout,
            person,
            labels[person] if labels else None,
        )
    return canvas.copy() if canvas is frame else canvas


def captioned(frame: Frames, text: str) -> Frames:
    """The frame below a bar with a line of text."""
    size = 0.5 if frame.shape[1] >= 240 else 0.38
    (_, up), down = cv2.getTextSize(text, FONT, size, 1)
    bar = np.full((up + down + 10, frame.shape[1], 3), BAR, np.uint8)
    cv2.putText(bar, text, (8, up + 6), FONT, size, INK, 1, cv2.LINE_AA)
    return np.vstack([bar, frame])


def sheet(
    frames: Sequence[Frames], columns: int | None = None, captions: Sequence[str] | None = None, gap: int = 6
) -> Frames:
    """Frames in a grid, row by row; smaller frames are centred in their cells.

    Args:
        frames: (H, W, 3) uint8 RGB each.
        columns: frames per row; None makes the grid about as wide as a screen.
        captions: one line of text above each frame.
        gap: pixels between frames.

    Raises:
        DataEngineError: no frame is given.
    """
    if not frames:
        raise DataEngineError("a sheet needs at least one frame")
    cells = list(frames) if captions is None else [captioned(f, c) for f, c in zip(frames, captions, strict=True)]
    height, width = max(c.shape[0] for c in cells), max(c.shape[1] for c in cells)
    columns = columns or max(1, min(len(cells), round(math.sqrt(len(cells) * 1.6 * height / width))))
    rows = -(-len(cells) // columns)
    grid = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), BAR, np.uint8)
    for number, cell in enumerate(cells):
        y = gap + number // columns * (height + gap) + (height - cell.shape[0]) // 2
        x = gap + number % columns * (width + gap) + (width - cell.shape[1]) // 2
        grid[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    return grid


def panels(
    frame: Frames,
    poses: Mapping[str, tuple[Float, Float | None]],
    layout: str,
    columns: int | None = None,
    scale: float = 1.0,
) -> Frames:
    """One frame several times, each with the poses and the name of another estimator.

    Args:
        frame: (H, W, 3) uint8 RGB.
        poses: name -> coords (V, 2) or (M, V, 2) and scores (V,) or (M, V) or None.
        layout: name of the joint layout of all of them.
        columns: panels per row; None gives up to four.
        scale: factor of every panel.
    """
    drawn = []
    for coords, scores in poses.values():
        people = np.asarray(coords).reshape(-1, *np.shape(coords)[-2:])
        drawn.append(
            draw_people(
                frame, people, None if scores is None else np.reshape(scores, people.shape[:2]), layout, scale=scale
            )
        )
    return sheet(drawn, columns or min(4, len(drawn)), list(poses))


def encode(frame: Frames, form: str = ".jpg", quality: int = 86) -> bytes:
    """The bytes of a picture file: '.jpg' or '.png'.

    Raises:
        DataEngineError: OpenCV cannot write that form.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if form in (".jpg", ".jpeg") else []
    if form not in (".jpg", ".jpeg", ".png"):
        raise DataEngineError(f"pictures are written as .jpg or .png; given {form!r}")
    done, data = cv2.imencode(form, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise DataEngineError(f"a picture of shape {frame.shape} cannot be written as {form}")
    return bytes(data)
