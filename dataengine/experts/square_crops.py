"""Square crops around people for top-down networks that were trained on them, in whole pixels of the frame.

Coordinates inside of a crop are continuous: pixel i covers [i, i + 1). A crop of side S at (x, y) that is resized to
N x N pixels has its point u at (x, y) + u S / N of the frame, exactly. Poses keep this package's convention for frames,
where the centre of the first pixel is (0, 0). Shrinking takes the mean over areas, so that fine patterns of clothes and
backgrounds do not fold into the crop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import cv2
import numpy as np

from dataengine.core.component import Expert, ExpertSession
from dataengine.core.errors import WeightsError
from dataengine.core.skeletons import BODY12
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Frames, Int, Poses
from dataengine.experts.batching import Infer, InputBatch, NetworkExpertSession, Processing
from dataengine.experts.duplicates import distinct
from dataengine.experts.heads import Heads, HeadsFile
from dataengine.experts.preprocess import MIN_JOINTS, boxes_to_crop, visible_joints

LARGEST = 8192
"""Pixels of the largest side of a crop in the frame: bounds the memory for boxes around whole frames of any size."""


def squares_around(boxes: Float, padding: float) -> Int:
    """The squares around boxes, in whole pixels of the frame.

    Args:
        boxes: (N, 4 or 5) xyxy pixels.
        padding: side of the square over the longer side of the box.

    Returns:
        (N, 3) int64: left, top and side.
    """
    extent = (boxes[:, 2:4] - boxes[:, :2]).max(-1, initial=0.0)
    side = np.clip(np.rint(padding * extent), 2, LARGEST)
    corner = np.rint((boxes[:, :2] + boxes[:, 2:4] - side[:, None]) / 2)
    return np.concatenate([corner, side[:, None]], 1).astype(np.int64)


def crop_square(frame: Frames, left: int, top: int, side: int, out: Frames) -> None:
    """Resize a square of a frame (H, W, 3) into `out` (N, N, 3); black outside of the frame."""
    height, width = frame.shape[:2]
    x, y, right, bottom = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if right <= x or bottom <= y:
        out[:] = 0
        return
    part: Any = frame[y:bottom, x:right]
    missing = (y - top, top + side - bottom, x - left, left + side - right)
    if any(missing):
        part = cv2.copyMakeBorder(part, *missing, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    way = cv2.INTER_AREA if side > len(out) else cv2.INTER_LINEAR
    cv2.resize(part, (len(out), len(out)), dst=out, interpolation=way)


@dataclass(frozen=True)
class SquareCropProcessing(Processing):
    """Around a top-down network on squares. Its answers are (V, 3): x, y in continuous pixels of the crop, and score.

    Attributes:
        who: names the expert in messages.
        size: width and height of the crops.
        skeleton: layout of the joints.
        min_score: joints with a lower score are left out.
        min_mean: people are left out whose mean score over trunk and limbs is lower; the face does not count, which
            some layouts lack.
        padding: as in `squares_around`.
    """

    who: str
    size: int
    skeleton: str
    min_score: float
    min_mean: float
    padding: float

    def preprocess(self, frames: Frames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """A square crop of every box.

        Raises:
            ExpertError: no boxes, or not one array of boxes per frame.
        """
        num, height, width = frames.shape[:3]
        where, kept = boxes_to_crop(frames.shape, boxes, self.who)
        rows = np.reshape(kept, (-1, 5)).astype(np.float64)
        squares = squares_around(rows, self.padding)
        pixels = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        last, frame = -1, frames[:0]
        for n, (t, (left, top, side)) in enumerate(zip(where, squares.tolist(), strict=True)):
            if t != last:
                last, frame = t, np.ascontiguousarray(frames[t])
            crop_square(frame, left, top, side, pixels[n])
        scale = self.size / squares[:, 2]
        affines = np.zeros((len(rows), 2, 3))
        affines[:, 0, 0] = affines[:, 1, 1] = scale
        affines[:, :, 2] = (0.5 - squares[:, :2]) * scale[:, None] - 0.5
        return InputBatch(pixels, np.array(where, np.int64), affines, rows, num, width, height)

    def postprocess(self, answers: Sequence[Any], batch: InputBatch) -> list[Poses]:
        """One `Poses` per frame, in the order of the boxes; of two poses of the same person the first stays."""
        layout = layout_of(self.skeleton)
        got = np.asarray(answers, np.float64).reshape(-1, layout.num_joints, 3)
        scale, shift = batch.affines[:, None, :1, 0], batch.affines[:, None, :, 2]
        coords = (got[..., :2] - 0.5 - shift) / scale
        seen, likely = visible_joints(coords, got[..., 2], batch.width, batch.height, self.min_score)
        keep = (seen.sum(-1) >= MIN_JOINTS) & (likely[:, layout.indices(BODY12)].mean(-1) >= self.min_mean)
        frame = batch.frame[keep]
        coords = np.where(seen[..., None], coords, np.nan)[keep].astype(np.float32)
        scores = np.where(seen, likely, 0)[keep].astype(np.float32)
        boxes = batch.boxes[keep].astype(np.float32)
        ends = np.searchsorted(frame, np.arange(batch.num_frames + 1))
        return [_people(coords[a:b], scores[a:b], boxes[a:b]) for a, b in pairwise(ends)]


def _people(coords: Float, scores: Float, boxes: Float) -> Poses:
    if len(coords) > 1:
        kept = distinct(coords, scores, boxes)
        coords, scores, boxes = coords[kept], scores[kept], boxes[kept]
    return Poses(coords, scores, boxes)


@dataclass(frozen=True)
class SquareCropExpert(HeadsFile, Expert, ABC):
    """What top-down experts on ONNX files that end at their heads have in common.

    Attributes:
        model: a name of the manifest of weights, or the path of an .onnx file; '' takes the published weights.
        min_score: joints with a lower score are left out.
        min_mean: people whose mean score over trunk and limbs is lower are left out.
    """

    model: str = ""
    min_score: float = 0.05
    min_mean: float = 0.2

    needs_boxes: ClassVar[bool] = True
    outputs: ClassVar[dict[str, int]]
    """Names of the heads that the decoding needs, with their numbers of channels."""

    @property
    @abstractmethod
    def published(self) -> str:
        """Name of the published weights in the manifest of weights."""

    @property
    @abstractmethod
    def processing(self) -> SquareCropProcessing:
        """The steps before and after the network."""

    @abstractmethod
    def network(self, heads: Heads) -> Infer:
        """What answers crops (N, h, w, 3) uint8 RGB with joints (N, V, 3), given the open file."""

    @property
    def file(self) -> str:
        """Name or path of the weights in use."""
        return self.model or self.published

    def load(self, device: str = "cpu") -> ExpertSession:
        """Open the file on a device: 'cpu', 'cuda' or 'cuda:N'.

        Raises:
            WeightsError: it is not here, is another one, or is no network of this kind.
            ComponentError: the provider is not available.
        """
        processing = self.processing
        heads = self.open_heads(device, self.outputs, (processing.size, processing.size))
        for name, channels in self.outputs.items():
            shape = heads.outputs[name]
            if shape[-1] not in (None, channels):
                raise WeightsError(
                    f"{heads.file}: output {name} is {list(shape)}, wanted {channels} channels at the end"
                )
        return NetworkExpertSession(processing, self.network(heads), self.batch)
