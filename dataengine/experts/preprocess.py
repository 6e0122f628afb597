"""Preprocessing of frames for networks, and postprocessing of the answers.

Top-down experts get crops around person boxes (`CropProcessing`); other experts (`FrameProcessing`) and
detectors (`BoxProcessing`) get whole frames brought to one size. Coordinates: the centre of the first
pixel of an image is (0, 0). On the host images are made by OpenCV; of `DeviceFrames` they are made on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dataengine.core.errors import ExpertError
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Bool, Float, Frames, Poses
from dataengine.experts.batching import InputBatch, Processing
from dataengine.experts.device_images import DeviceFrames, Images

GREY = (114, 114, 114)
MIN_JOINTS = 3
"""Least joints of a person."""


def crop_affine(box: Float, size: tuple[int, int], padding: float, shift: float = 0.5) -> Float:
    """The affine map (2, 3) from a frame to the crop around a box.

    The centre of the box comes to the centre of the crop, and the longer side of the box fits with its padding.

    Args:
        box: x0, y0, x1, y1 in pixels.
        size: width and height of the crop.
        padding: side of the crop over side of the box, both measured in the frame.
        shift: 0.5 puts the centre of the box between the two central pixels of an even crop, as most training code does
            (it maps the centre to size / 2); 0 puts it at the centre of the crop's pixels.
    """
    extent, middle = np.maximum(box[2:4] - box[:2], 1.0), (box[:2] + box[2:4]) / 2
    scale = size[1] / (max(extent[1], extent[0] * size[1] / size[0]) * padding)
    target = np.array(size) / 2 - 0.5 + shift
    return np.concatenate([scale * np.eye(2), (target - scale * middle)[:, None]], 1)


def letterbox_affine(width: int, height: int, size: tuple[int, int], centred: bool) -> Float:
    """The affine map (2, 3) that fits a whole frame into an image of `size` and keeps its aspect ratio.

    Pixel areas map onto each other: frame pixel u lies at (u + 0.5) scale - 0.5. The padding lies on both sides where
    `centred`, else on the right and below.
    """
    scale = min(size[0] / width, size[1] / height)
    left = np.array([size[0] - scale * width, size[1] - scale * height]) / 2 if centred else np.zeros(2)
    return np.concatenate([scale * np.eye(2), (np.floor(left) + 0.5 * scale - 0.5)[:, None]], 1)


def warp(frame: Frames, affine: Float, size: tuple[int, int], fill: tuple[int, int, int]) -> Frames:
    """A frame (H, W, 3) under an affine map as an image (h, w, 3): bilinear, with `fill` outside of the frame."""
    return np.asarray(
        cv2.warpAffine(frame, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)
    )


def letterbox(
    frames: Frames | DeviceFrames,
    size: tuple[int, int],
    centred: bool,
    fill: tuple[int, int, int],
    area_below: float = 0.5,
) -> InputBatch:
    """Every frame as one image of `size` that keeps its aspect ratio; area interpolation below a scale."""
    num, height, width = frames.shape[:3]
    scale = letterbox_affine(width, height, size, centred)[0, 0]
    wide, tall = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = ((size[0] - wide) // 2, (size[1] - tall) // 2) if centred else (0, 0)
    pixels: Images
    if isinstance(frames, DeviceFrames):
        pixels = frames.resize((wide, tall), bool(scale < area_below), size, (left, top), fill)
    else:
        pixels = np.empty((num, size[1], size[0], 3), np.uint8)
        pixels[:] = np.array(fill, np.uint8)
        way = cv2.INTER_AREA if scale < area_below else cv2.INTER_LINEAR
        for n, frame in enumerate(frames):
            pixels[n, top : top + tall, left : left + wide] = cv2.resize(
                np.ascontiguousarray(frame), (wide, tall), interpolation=way
            )
    # the exact ratios after rounding to whole pixels
    sx, sy = wide / width, tall / height
    exact = np.array([[sx, 0, left + 0.5 * sx - 0.5], [0, sy, top + 0.5 * sy - 0.5]])
    boxes = np.tile(np.array([0.0, 0.0, width, height, 1.0]), (num, 1))
    return InputBatch(pixels, np.arange(num), np.tile(exact, (num, 1, 1)), boxes, num, width, height)


def fit_longer(
    frames: Frames | DeviceFrames, size: int, multiple: int = 32, fill: tuple[int, int, int] = (0, 0, 0)
) -> InputBatch:
    """Every frame as one image whose longer side is `size`, area interpolation where it shrinks, filled on the right
    and below up to multiples of `multiple`; `size` is one."""
    height, width = frames.shape[1:3]
    canvas = [max(1, -(-round(side * size / max(height, width)) // multiple)) * multiple for side in (width, height)]
    return letterbox(frames, (canvas[0], canvas[1]), False, fill, area_below=1.0)


def stretch(frames: Frames | DeviceFrames, size: tuple[int, int]) -> InputBatch:
    """Every frame as one image of `size`; each side is scaled by itself."""
    num, height, width = frames.shape[:3]
    sx, sy = size[0] / width, size[1] / height
    area = max(sx, sy) < 0.5
    pixels: Images
    if isinstance(frames, DeviceFrames):
        pixels = frames.resize(size, area)
    else:
        pixels = np.empty((num, size[1], size[0], 3), np.uint8)
        for n, frame in enumerate(frames):
            way = cv2.INTER_AREA if area else cv2.INTER_LINEAR
            cv2.resize(np.ascontiguousarray(frame), size, dst=pixels[n], interpolation=way)
    affine = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5]])
    boxes = np.tile(np.array([0.0, 0.0, width, height, 1.0]), (num, 1))
    return InputBatch(pixels, np.arange(num), np.tile(affine, (num, 1, 1)), boxes, num, width, height)


def boxes_to_crop(shape: Sequence[int], boxes: Sequence[Float] | None, who: str) -> tuple[list[int], list[Float]]:
    """The frame and the box (5,) of every crop: boxes clipped to the frame; those outside of it are left out.

    Raises:
        ExpertError: no boxes, or not one array of boxes per frame; `who` needs them.
    """
    num, height, width = shape[:3]
    if boxes is None or len(boxes) != num:
        given = "none" if boxes is None else str(len(boxes))
        raise ExpertError(
            "expert_failed",
            f"{who} needs one array of person boxes per frame: given {given} for {num} frames",
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
    return where, kept


def crop_boxes(
    frames: Frames,
    boxes: Sequence[Float] | None,
    who: str,
    size: tuple[int, int],
    crop: Callable[[Frames, Float], tuple[Frames, Float]],
) -> InputBatch:
    """A crop of every box, made by `crop(frame, box) -> image, affine map`; boxes outside of the frame are left out.

    Raises:
        ExpertError: no boxes, or not one array of boxes per frame; `who` needs them.
    """
    num, height, width = frames.shape[:3]
    where, kept = boxes_to_crop(frames.shape, boxes, who)
    pixels, affines = np.empty((len(kept), size[1], size[0], 3), np.uint8), np.empty((len(kept), 2, 3))
    for n, (t, box) in enumerate(zip(where, kept)):
        pixels[n], affines[n] = crop(np.ascontiguousarray(frames[t]), box)
    return InputBatch(
        pixels, np.array(where, np.int64), affines, np.reshape(kept, (-1, 5)).astype(np.float64), num, width, height
    )


def poses_of(
    coords: Float, scores: Float, boxes: Float, width: int, height: int, min_score: float, min_mean: float
) -> Poses:
    """People of one frame as `Poses`.

    Joints below `min_score` or far outside of the frame are left out, and so are people whose mean score is below
    `min_mean`.

    Args:
        coords: (M, V, 2) pixels. scores: (M, V), clipped to [0, 1]. boxes: (M, 5).
    """
    seen, likely = visible_joints(coords, scores, width, height, min_score)
    keep = (seen.sum(-1) >= MIN_JOINTS) & (likely.mean(-1) >= min_mean) & np.isfinite(boxes).all(-1)
    return Poses(
        np.where(seen[..., None], coords, np.nan)[keep].astype(np.float32),
        np.where(seen, likely, 0)[keep].astype(np.float32),
        boxes[keep].astype(np.float32),
    )


def visible_joints(coords: Float, scores: Float, width: int, height: int, min_score: float) -> tuple[Bool, Float]:
    """Which joints (M, V) are sure enough and not far outside of the frame, and the scores clipped to [0, 1]."""
    reach = 0.1 * np.array([width, height])
    near = np.isfinite(coords).all(-1) & ((coords > -reach) & (coords < np.array([width, height]) + reach)).all(-1)
    likely: Float = np.clip(np.nan_to_num(scores), 0, 1)
    return near & (likely >= max(min_score, 1e-6)), likely


@dataclass(frozen=True)
class CropProcessing(Processing):
    """Around a top-down network. Its answers are (V, 3): x, y in pixels of the crop, and score.

    Attributes:
        who: names the expert in messages.
        size: width and height of the crops.
        skeleton: layout of the joints.
        min_score, min_mean: as in `poses_of`.
        padding, shift: as in `crop_affine`.
        fill: colour outside of the frame.
    """

    who: str
    size: tuple[int, int]
    skeleton: str
    min_score: float
    min_mean: float
    padding: float = 1.25
    shift: float = 0.5
    fill: tuple[int, int, int] = (0, 0, 0)

    def affine(self, box: Float) -> Float:
        """The affine map (2, 3) from pixels of the frame to those of the crop around a box."""
        return crop_affine(box, self.size, self.padding, self.shift)

    def preprocess(self, frames: Frames | DeviceFrames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """A crop around every box.

        Raises:
            ExpertError: no boxes, or not one array of boxes per frame.
        """
        if isinstance(frames, DeviceFrames):
            num, height, width = frames.shape[:3]
            where, kept = boxes_to_crop(frames.shape, boxes, self.who)
            affines, at = np.reshape([self.affine(box) for box in kept], (-1, 2, 3)), np.array(where, np.int64)
            pixels, rows = frames.warp(at, affines, self.size, self.fill), np.reshape(kept, (-1, 5))
            return InputBatch(pixels, at, affines, rows.astype(np.float64), num, width, height)

        def crop(frame: Frames, box: Float) -> tuple[Frames, Float]:
            affine = self.affine(box)
            return warp(frame, affine, self.size, self.fill), affine

        return crop_boxes(frames, boxes, self.who, self.size, crop)

    def postprocess(self, answers: Sequence[Any], batch: InputBatch) -> list[Poses]:
        """One `Poses` per frame, in the order of the boxes."""
        people: list[list[int]] = [[] for _ in range(batch.num_frames)]
        for n, t in enumerate(batch.frame):
            people[t].append(n)
        joints = layout_of(self.skeleton).num_joints
        out = []
        for some in people:
            if not some:
                out.append(Poses.empty(joints))
                continue
            got = np.stack([answers[n] for n in some]).astype(np.float64)
            coords = np.stack([batch.to_frame(n, one[:, :2]) for n, one in zip(some, got)])
            boxes, size = batch.boxes[some], (batch.width, batch.height)
            out.append(poses_of(coords, got[..., 2], boxes, *size, self.min_score, self.min_mean))
        return out


@dataclass(frozen=True)
class FrameProcessing(Processing):
    """Around a pose network for whole frames.

    Its answers are (M, 5 + 3 V): box xyxy and score, then x, y, score of every joint, in pixels of the image.

    Attributes:
        size: width and height of the images.
        skeleton: layout of the joints.
        min_score, min_mean: as in `poses_of`.
        centred, fill: as in `letterbox`.
    """

    size: tuple[int, int]
    skeleton: str
    min_score: float
    min_mean: float
    centred: bool = True
    fill: tuple[int, int, int] = GREY

    def preprocess(self, frames: Frames | DeviceFrames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """Every frame as one image; boxes are not needed."""
        return letterbox(frames, self.size, self.centred, self.fill)

    def postprocess(self, answers: Sequence[Any], batch: InputBatch) -> list[Poses]:
        """One `Poses` per frame, best person first."""
        joints = layout_of(self.skeleton).num_joints
        out = []
        for n, got in enumerate(answers):
            people = np.asarray(got, np.float64).reshape(-1, 5 + 3 * joints)
            corners = batch.to_frame(n, people[:, :4].reshape(-1, 2, 2)).reshape(-1, 4)
            points = people[:, 5:].reshape(-1, joints, 3)
            boxes, size = np.concatenate([corners, people[:, 4:5]], 1), (batch.width, batch.height)
            coords = batch.to_frame(n, points[..., :2])
            out.append(poses_of(coords, points[..., 2], boxes, *size, self.min_score, self.min_mean))
        return out


@dataclass(frozen=True)
class BoxProcessing(Processing):
    """Around a person detector. Its answers are (M, 5): xyxy in pixels of the image and score, best first.

    Attributes:
        size: width and height of the images.
        centred, fill: as in `letterbox`.
        keep_ratio: whether images keep the aspect ratio of frames; else each side is scaled by itself.
    """

    size: tuple[int, int]
    centred: bool = True
    fill: tuple[int, int, int] = GREY
    keep_ratio: bool = True

    def preprocess(self, frames: Frames | DeviceFrames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """Every frame as one image."""
        return letterbox(frames, self.size, self.centred, self.fill) if self.keep_ratio else stretch(frames, self.size)

    def postprocess(self, answers: Sequence[Any], batch: InputBatch) -> list[Float]:
        """One (M, 5) float32 array per frame, in pixels of the frame and clipped to it."""
        out = []
        for n, got in enumerate(answers):
            boxes = np.asarray(got, np.float64).reshape(-1, 5)
            corners = batch.to_frame(n, boxes[:, :4].reshape(-1, 2, 2)).reshape(-1, 4)
            corners = np.clip(corners, 0, [batch.width - 1, batch.height - 1] * 2)
            keep = (corners[:, 2:] - corners[:, :2] > 2).all(-1)
            out.append(np.concatenate([corners, boxes[:, 4:5]], 1)[keep].astype(np.float32))
        return out


@dataclass(frozen=True)
class LongerSideProcessing(BoxProcessing):
    """As `BoxProcessing`, for networks that take images of any size: see `fit_longer`."""

    def preprocess(self, frames: Frames | DeviceFrames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """Every frame as one image with a longer side of `size[0]` pixels."""
        return fit_longer(frames, self.size[0])
