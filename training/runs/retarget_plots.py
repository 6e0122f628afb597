"""Pictures and videos of generated skeletons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from dataengine.core.skeletons import Skeleton
from dataengine.io.storage import staged
from dataengine.media.encode import write_video
from training.data.types import Array
from training.evaluate.plots import COLOURS, figure_of, write

COLUMNS = 8
"""Frames of a clip in a picture."""
SIDE, FPS = 240, 12
"""Pixels of a panel of a video, and its frames per second."""


def _colour(joint: str) -> str:
    """Blue for the left side, orange for the right, black for the middle."""
    return COLOURS[0] if joint.startswith("left_") else COLOURS[5] if joint.startswith("right_") else COLOURS[7]


def _draw(axes: Any, pose: Array, layout: Skeleton) -> None:
    for parent, child in layout.bones:
        x, y = pose[[parent, child], 0], pose[[parent, child], 1]
        axes.plot(x, y, color=_colour(layout.joints[child]), linewidth=1.4, solid_capstyle="round")


def _grid(rows: Mapping[str, Array], layout: Skeleton, path: Path, titles: Sequence[str] = ()) -> Path:
    """A row of poses (K, V, 2 or 3) under each name, all at one scale."""
    columns = max(len(poses) for poses in rows.values())
    figure, first = figure_of(1.25 * columns + 1.6, 1.7 * len(rows))
    first.remove()
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (name, poses), line in zip(rows.items(), grid):
        middle = (poses.min(1) + poses.max(1)) / 2
        reach = float(max(np.ptp(poses[..., axis], axis=1).max() for axis in (0, 1))) / 2 * 1.1
        for column, axes in enumerate(line):
            axes.set_axis_off()
            if column < len(poses):
                _draw(axes, poses[column], layout)
                axes.set_xlim(middle[column, 0] - reach, middle[column, 0] + reach)
                axes.set_ylim(middle[column, 1] + reach, middle[column, 1] - reach)  # y points down
                axes.set_aspect("equal")
        line[0].set_title(name, loc="left", fontsize=9)
    for axes, title in zip(grid[-1], titles):
        axes.text(0.5, -0.05, title, transform=axes.transAxes, ha="center", va="top", fontsize=8)
    return write(figure, path)


def _some(joints: Tensor) -> Array:
    """`COLUMNS` frames of joints (T, V, C), evenly spaced."""
    chosen = np.linspace(0, len(joints) - 1, COLUMNS).round().astype(int)
    poses: Array = joints.detach().cpu().numpy()[chosen]
    return poses


def composition_plot(rows: Mapping[str, Tensor], layout: Skeleton, path: Path) -> Path:
    """Clips (T, V, C) by name, a row each: two motions and what they make together."""
    return _grid({name: _some(joints) for name, joints in rows.items()}, layout, path)


def body_plot(rows: Mapping[str, Tensor], layout: Skeleton, path: Path) -> Path:
    """Clips (T, V, C) by name, a row each: one motion on several bodies and from several views."""
    return _grid({name: _some(joints) for name, joints in rows.items()}, layout, path)


def direction_plot(rows: Mapping[str, Tensor], layout: Skeleton, path: Path, titles: Sequence[str]) -> Path:
    """Poses (K, V, C) by direction, a row each: the magnitude grows from the left to the right, as the titles say."""
    return _grid({name: poses.detach().cpu().numpy() for name, poses in rows.items()}, layout, path, titles)


def video(clips: Mapping[str, Tensor], layout: Skeleton, path: Path) -> Path:
    """Clips (T, V, C) of one length side by side, each under its name, as a video."""
    arrays = {name: joints.detach().cpu().numpy() for name, joints in clips.items()}
    with staged(path) as partial:
        made = partial.with_name(partial.name + path.suffix)  # the ending chooses the container
        write_video(made, _frames(arrays, layout), FPS)
        made.replace(partial)
    return path


def _frames(clips: Mapping[str, Array], layout: Skeleton) -> Iterator[Any]:
    length = min(len(clip) for clip in clips.values())
    panels = []
    for clip in clips.values():
        low, high = clip[..., :2].min((0, 1)), clip[..., :2].max((0, 1))
        panels.append(((low + high) / 2, (SIDE - 40) / max(float((high - low).max()), 1e-6)))
    for frame in range(length):
        picture = np.full((SIDE, SIDE * len(clips), 3), 255, np.uint8)
        for number, ((name, clip), (middle, scale)) in enumerate(zip(clips.items(), panels)):
            place = (clip[frame, :, :2] - middle) * scale + (SIDE * number + SIDE / 2, SIDE / 2 + 8)
            for parent, child in layout.bones:
                colour = tuple(int(_colour(layout.joints[child])[k : k + 2], 16) for k in (1, 3, 5))
                ends = [tuple(int(v) for v in place[joint].round()) for joint in (parent, child)]
                cv2.line(picture, ends[0], ends[1], colour, 2, cv2.LINE_AA)
            at = (SIDE * number + 8, 18)
            cv2.putText(picture, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        yield picture
