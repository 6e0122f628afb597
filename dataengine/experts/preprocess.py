"""What networks see: crops around people, and whole frames brought to one size; and the way back.

Coordinates: the middle of a picture's first pixel is (0, 0). Two experts' families of classes take
these as mixins: `TopDown` for those that look into a person's box, `Whole` for those that look at
whole frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np

from dataengine.core.errors import ExpertError
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Frames, Poses
from dataengine.experts.batching import Cuts, answer

GREY = (114, 114, 114)


def crop_move(box: Float, size: tuple[int, int], padding: float, shift: float = 0.5) -> Float:
    """The affine map (2, 3) that brings the middle of a box to that of a picture of `size`, its longer side padded.

    Args:
        box: x0, y0, x1, y1 in pixels.
        size: width and height of the picture.
        padding: side of the picture over side of the box, both measured in the frame.
        shift: 0.5 puts the box's middle between the two middle pixels of an even picture, as most training codes do
            (they map it to size / 2); 0 to the middle of the picture's pixels.
    """
    extent, middle = np.maximum(box[2:4] - box[:2], 1.0), (box[:2] + box[2:4]) / 2
    scale = size[1] / (max(extent[1], extent[0] * size[1] / size[0]) * padding)
    target = np.array(size) / 2 - 0.5 + shift
    return np.concatenate([scale * np.eye(2), (target - scale * middle)[:, None]], 1)


def fit_move(width: int, height: int, size: tuple[int, int], centred: bool) -> Float:
    """The affine map (2, 3) that fits a whole frame into a picture of `size` keeping its shape.

    Pixel areas map onto each other: frame pixel u lies at (u + 0.5) scale - 0.5. `centred` puts what is left over on
    both sides, otherwise to the right and below.
    """
    scale = min(size[0] / width, size[1] / height)
    left = np.array([size[0] - scale * width, size[1] - scale * height]) / 2 if centred else np.zeros(2)
    return np.concatenate([scale * np.eye(2), (np.floor(left) + 0.5 * scale - 0.5)[:, None]], 1)


def warped(frame: Frames, move: Float, size: tuple[int, int], fill: tuple[int, int, int]) -> Frames:
    """A frame (H, W, 3) under an affine map, bilinear, `fill` around it, as a picture (h, w, 3)."""
    return np.asarray(
        cv2.warpAffine(frame, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)
    )


def whole_cuts(frames: Frames, size: tuple[int, int], centred: bool, fill: tuple[int, int, int]) -> Cuts:
    """Every frame as one picture of `size`, scaled by areas where it shrinks to less than half."""
    num, height, width = frames.shape[:3]
    move = fit_move(width, height, size, centred)
    pixels = np.empty((num, size[1], size[0], 3), np.uint8)
    pixels[:] = np.array(fill, np.uint8)
    scale = move[0, 0]
    wide, tall = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = ((size[0] - wide) // 2, (size[1] - tall) // 2) if centred else (0, 0)
    way = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    for n, frame in enumerate(frames):
        pixels[n, top : top + tall, left : left + wide] = cv2.resize(
            np.ascontiguousarray(frame), (wide, tall), interpolation=way
        )
    # the exact ratios after rounding to whole pixels
    sx, sy = wide / width, tall / height
    exact = np.array([[sx, 0, left + 0.5 * sx - 0.5], [0, sy, top + 0.5 * sy - 0.5]])
    boxes = np.tile(np.array([0.0, 0.0, width, height, 1.0]), (num, 1))
    return Cuts(pixels, np.arange(num), np.tile(exact, (num, 1, 1)), boxes, num, width, height)


def stretched_cuts(frames: Frames, size: tuple[int, int]) -> Cuts:
    """Every frame as one picture of `size`, each side brought to its length by itself."""
    num, height, width = frames.shape[:3]
    sx, sy = size[0] / width, size[1] / height
    way = cv2.INTER_AREA if max(sx, sy) < 0.5 else cv2.INTER_LINEAR
    pixels = np.empty((num, size[1], size[0], 3), np.uint8)
    for n, frame in enumerate(frames):
        cv2.resize(np.ascontiguousarray(frame), size, dst=pixels[n], interpolation=way)
    move = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5]])
    boxes = np.tile(np.array([0.0, 0.0, width, height, 1.0]), (num, 1))
    return Cuts(pixels, np.arange(num), np.tile(move, (num, 1, 1)), boxes, num, width, height)


def box_cuts(
    frames: Frames,
    boxes: Sequence[Float] | None,
    who: str,
    size: tuple[int, int],
    cut: Callable[[Frames, Float], tuple[Frames, Float]],
) -> Cuts:
    """A picture of every box, cut by `cut(frame, box) -> picture, move`; boxes without an inside in the frame are left out.

    Raises:
        ExpertError: no boxes, or not one array of them a frame; `who` wants them.
    """
    num, height, width = frames.shape[:3]
    if boxes is None or len(boxes) != num:
        given = "none" if boxes is None else str(len(boxes))
        raise ExpertError(
            "expert_failed",
            f"{who} wants one array of person boxes a frame: given {given} for {num} frames",
            retryable=False,
        )
    where, kept = [], []
    for t, some in enumerate(boxes):
        for box in np.asarray(some, np.float64):
            if not np.isfinite(box).all():
                continue
            inside = np.clip(box[:4], 0, [width, height, width, height])
            if (inside[2:] - inside[:2] > 1).all():
                where.append(t)
                kept.append(np.append(inside, box[4] if len(box) > 4 else 1.0))
    pixels, moves = np.empty((len(kept), size[1], size[0], 3), np.uint8), np.empty((len(kept), 2, 3))
    for n, (t, box) in enumerate(zip(where, kept)):
        pixels[n], moves[n] = cut(np.ascontiguousarray(frames[t]), box)
    return Cuts(
        pixels, np.array(where, np.int64), moves, np.reshape(kept, (-1, 5)).astype(np.float64), num, width, height
    )


def poses_of(
    coords: Float, scores: Float, boxes: Float, width: int, height: int, min_score: float, min_mean: float
) -> Poses:
    """People of one frame as `Poses`: joints below `min_score` or far outside the frame are not given, nor people below `min_mean`.

    Args:
        coords: (M, V, 2) pixels. scores: (M, V), clipped to [0, 1]. boxes: (M, 5).
    """
    reach = 0.1 * np.array([width, height])
    near = np.isfinite(coords).all(-1) & ((coords > -reach) & (coords < np.array([width, height]) + reach)).all(-1)
    likely = np.clip(np.nan_to_num(scores), 0, 1)
    seen = near & (likely >= max(min_score, 1e-6))
    keep = (seen.sum(-1) >= 3) & (likely.mean(-1) >= min_mean) & np.isfinite(boxes).all(-1)
    return Poses(
        np.where(seen[..., None], coords, np.nan)[keep].astype(np.float32),
        np.where(seen, likely, 0)[keep].astype(np.float32),
        boxes[keep].astype(np.float32),
    )


class TopDown:
    """Cut and read of experts that look into person boxes; answers are (V, 3): x, y in pixels of the picture, score.

    Subclasses are frozen dataclasses with `batch`, `min_score`, `min_mean`, and give `skeleton`, `size` and `infer`.
    """

    padding: ClassVar[float] = 1.25
    shift: ClassVar[float] = 0.5
    fill: ClassVar[tuple[int, int, int]] = (0, 0, 0)
    needs_boxes = True

    @property
    def picture(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        raise NotImplementedError

    def move(self, box: Float) -> Float:
        """The affine map (2, 3) from pixels of the frame to those of the picture around a box."""
        return crop_move(box, self.picture, self.padding, self.shift)

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        """A picture around every box.

        Raises:
            ExpertError: no boxes, or not one array of them a frame.
        """
        size = self.picture

        def around(frame: Frames, box: Float) -> tuple[Frames, Float]:
            move = self.move(box)
            return warped(frame, move, size, self.fill), move

        return box_cuts(frames, boxes, type(self).__name__, size, around)

    def read(self, answers: Sequence[Float], cuts: Cuts) -> list[Poses]:
        """One `Poses` a frame, in the order of the boxes."""
        me: Any = self
        people: list[list[int]] = [[] for _ in range(cuts.num_frames)]
        for n, t in enumerate(cuts.frame):
            people[t].append(n)
        joints = layout_of(me.skeleton).num_joints
        out = []
        for some in people:
            if not some:
                out.append(Poses.empty(joints))
                continue
            got = np.stack([answers[n] for n in some]).astype(np.float64)
            coords = np.stack([cuts.back(n, one[:, :2]) for n, one in zip(some, got)])
            out.append(
                poses_of(coords, got[..., 2], cuts.boxes[some], cuts.width, cuts.height, me.min_score, me.min_mean)
            )
        return out

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Poses inside `boxes`, (M, 4 or 5) xyxy a frame.

        Raises:
            ExpertError: no boxes, or not one array of them a frame; out of memory for a single picture.
        """
        return answer(self, frames, boxes)


class Whole:
    """Cut and read of experts that look at whole frames.

    Answers are (M, 5 + 3 V): box xyxy and score, then x, y, score of every joint, in pixels of the picture.
    """

    centred: ClassVar[bool] = True
    fill: ClassVar[tuple[int, int, int]] = GREY
    needs_boxes = False

    @property
    def picture(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        raise NotImplementedError

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        """Every frame as one picture."""
        return whole_cuts(frames, self.picture, self.centred, self.fill)

    def read(self, answers: Sequence[Float], cuts: Cuts) -> list[Poses]:
        """One `Poses` a frame, best person first."""
        me: Any = self
        joints = layout_of(me.skeleton).num_joints
        out = []
        for n, got in enumerate(answers):
            people = np.asarray(got, np.float64).reshape(-1, 5 + 3 * joints)
            corners = cuts.back(n, people[:, :4].reshape(-1, 2, 2)).reshape(-1, 4)
            points = people[:, 5:].reshape(-1, joints, 3)
            boxes = np.concatenate([corners, people[:, 4:5]], 1)
            out.append(
                poses_of(
                    cuts.back(n, points[..., :2]),
                    points[..., 2],
                    boxes,
                    cuts.width,
                    cuts.height,
                    me.min_score,
                    me.min_mean,
                )
            )
        return out

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Poses of everybody in whole frames; `boxes` are not looked at.

        Raises:
            ExpertError: out of memory for a single picture.
        """
        return answer(self, frames)


class Boxes:
    """Cut and read of person detectors; answers are (M, 5): xyxy in pixels of the picture and score, best first."""

    centred: ClassVar[bool] = True
    fill: ClassVar[tuple[int, int, int]] = GREY

    @property
    def picture(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        raise NotImplementedError

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        """Every frame as one picture."""
        return whole_cuts(frames, self.picture, self.centred, self.fill)

    def read(self, answers: Sequence[Float], cuts: Cuts) -> list[Float]:
        """One (M, 5) float32 array a frame, in pixels of the frame, clipped to it."""
        out = []
        for n, got in enumerate(answers):
            boxes = np.asarray(got, np.float64).reshape(-1, 5)
            corners = cuts.back(n, boxes[:, :4].reshape(-1, 2, 2)).reshape(-1, 4)
            corners = np.clip(corners, 0, [cuts.width - 1, cuts.height - 1] * 2)
            keep = (corners[:, 2:] - corners[:, :2] > 2).all(-1)
            out.append(np.concatenate([corners, boxes[:, 4:5]], 1)[keep].astype(np.float32))
        return out

    def detect(self, frames: Frames) -> list[Float]:
        """One (M, 5) float32 array of x0, y0, x1, y1, score a frame, best first.

        Raises:
            ExpertError: out of memory for a single picture.
        """
        return answer(self, frames)
