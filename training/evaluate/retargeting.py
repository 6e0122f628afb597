"""How well motions are carried to other bodies: errors against the truth, and what knows nothing of learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.transforms import bodies

Retarget: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Joints (N, T, V, C) of motions and of bodies -> joints (N, T, V, C)."""
YAWS = tuple(range(-90, 91, 15))
"""Degrees of the views of each training clip that the nearest neighbour is sought among."""


@dataclass(frozen=True)
class RetargetingTask:
    """Pairs of clips as cameras see them, and the motion of the first with the body and view of the second.

    Every clip is divided by its `bodies.size`; a truth by that of the clip whose body it has.

    Attributes:
        motion: (N, T, V, C) clips whose motion is asked for.
        static: (N, T, V, C) clips whose body and view are asked for.
        truth: (N, T, V, C).
        layout: of the joints.
    """

    motion: Tensor
    static: Tensor
    truth: Tensor
    layout: Skeleton


def make_task(joints: Tensor, other: Tensor, cameras: Tensor, layout: Skeleton, axes: int = 2) -> RetargetingTask:
    """A task of clips in space.

    Args:
        joints, other: (N, T, V, 3): clips whose motion, and clips whose body is asked for.
        cameras: (N, 2, 2) yaw and pitch in radians of the clip and of the other.
        layout: of the joints.
        axes: 2: images; 3: space.
    """
    factors = bodies.bone_lengths(other, layout) / bodies.bone_lengths(joints, layout).clamp(min=1e-6)
    moved = bodies.on_body(joints, factors, layout)
    yaw, pitch = cameras.unbind(2)
    seen = bodies.project(joints, yaw[:, 0], pitch[:, 0], axes)
    static = bodies.project(other, yaw[:, 1], pitch[:, 1], axes)
    scale = bodies.size(static, layout)[:, None, None, None]
    truth = bodies.project(moved, yaw[:, 1], pitch[:, 1], axes) / scale
    return RetargetingTask(seen / bodies.size(seen, layout)[:, None, None, None], static / scale, truth, layout)


def relative(joints: Tensor, layout: Skeleton) -> Tensor:
    """Joints (N, T, V, C) relative to the middle of the hips of each frame."""
    return joints - bodies.centre(joints, layout)[:, :, None]


def errors(made: Tensor, task: RetargetingTask) -> Tensor:
    """(N,) mean squared error of the coordinates relative to the middle of the hips, in squared sizes of the body."""
    return (relative(made, task.layout) - relative(task.truth, task.layout)).square().mean((1, 2, 3))


def as_it_is(motion: Tensor, static: Tensor) -> Tensor:
    """The motion on its own body, from its own view."""
    return motion


def stands_still(motion: Tensor, static: Tensor) -> Tensor:
    """The mean pose of the other clip."""
    return static.mean(1, keepdim=True).expand_as(motion)


@dataclass(frozen=True)
class Moments:
    """Every coordinate, relative to the middle of the hips, with the mean and deviation that it has in the other
    clip."""

    layout: Skeleton

    def __call__(self, motion: Tensor, static: Tensor) -> Tensor:
        """Joints (N, T, V, C); the middle of the hips does not move."""
        own, other = relative(motion, self.layout), relative(static, self.layout)
        deviation = own.std(1, keepdim=True).clamp(min=1e-6)
        return (own - own.mean(1, keepdim=True)) / deviation * other.std(1, keepdim=True) + other.mean(1, keepdim=True)


class NearestNeighbour:
    """What training clips would look like: the one that looks most like the motion, on the body and from the view of
    the one that looks most like the other clip.

    Each training clip is seen from the angles of `YAWS`.

    Args:
        joints: (N, T, V, 3) training clips in space.
        layout: of the joints.
        axes: 2: images; 3: space.
    """

    def __init__(self, joints: Tensor, layout: Skeleton, axes: int = 2) -> None:
        if not len(joints):
            raise TrainingError("a nearest neighbour needs clips to look among; given none")
        self.joints, self.layout, self.axes = joints, layout, axes
        self.yaws = torch.tensor([bodies.degrees(yaw) for yaw in YAWS])
        every = self.joints.repeat_interleave(len(YAWS), 0)
        self.seen = self._seen(every, self.yaws.repeat(len(joints)))
        self.rows = relative(self.seen, layout).flatten(1)

    def _seen(self, joints: Tensor, yaw: Tensor) -> Tensor:
        image = bodies.project(joints, yaw, torch.zeros_like(yaw), self.axes)
        return image / bodies.size(image, self.layout)[:, None, None, None]

    def nearest(self, clips: Tensor) -> Tensor:
        """(N,) rows of the views that look most like clips (N, T, V, C)."""
        return torch.cdist(relative(clips, self.layout).flatten(1), self.rows).argmin(1)

    def __call__(self, motion: Tensor, static: Tensor) -> Tensor:
        """Joints (N, T, V, C)."""
        moving, standing = self.nearest(motion), self.nearest(static)
        joints, other = self.joints[moving // len(YAWS)], self.joints[standing // len(YAWS)]
        yaw = self.yaws[standing % len(YAWS)]
        lengths = bodies.bone_lengths(joints, self.layout).clamp(min=1e-6)
        moved = bodies.on_body(joints, bodies.bone_lengths(other, self.layout) / lengths, self.layout)
        image = bodies.project(other, yaw, torch.zeros_like(yaw), self.axes)
        scale = bodies.size(image, self.layout)[:, None, None, None]
        return bodies.project(moved, yaw, torch.zeros_like(yaw), self.axes) / scale
