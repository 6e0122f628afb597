"""Face detector `blazeface`: MediaPipe's small one-stage face detector for the back camera, on any machine.

Network and weights: github.com/google-ai-edge/mediapipe (Apache-2.0), arXiv 1907.05047. No torch is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from dataengine.core.component import DetectorSession, FaceDetector
from dataengine.core.errors import ComponentError
from dataengine.core.types import Float, Frames
from dataengine.experts.heads import Heads, HeadsFile
from dataengine.experts.onnx_decode import NonMaximumSuppression

SIDE = 256
"""Pixels of the square that the network gets."""
LEVELS = ((16, 2), (32, 6))
"""Pixels a cell and anchors a cell of the two levels; an anchor is the middle of its cell."""
HEADS = tuple(f"{kind}_{stride}" for kind in ("scores", "boxes") for stride, _ in LEVELS)
"""Maps that the file gives: a logit per anchor, and 16 numbers per anchor, the first four of which are the box."""
SHARED = 0.25
"""Least share of its side that a square of a frame has in common with the next, so that no face is only ever cut."""


@dataclass(frozen=True)
class BlazeFace(HeadsFile, FaceDetector):
    """Faces by BlazeFace: about 8 ms of one core for each square that is looked at.

    Attributes:
        model: a name of the manifest of weights, or the path of an .onnx file.
        batch: most squares at once.
        provider: auto takes the faster of TensorRT and CUDA that works on a GPU, and the CPU on the CPU.
        zoom: besides the whole frame, squares of its longer side divided by this are looked at, for small faces;
            1 looks at the whole frame only.
        threshold: least score of a face.
        overlap: largest intersection over union with a better face.
    """

    model: str = "blazeface"
    zoom: int = 2
    threshold: float = 0.5
    overlap: float = 0.3

    title: ClassVar[str] = "[face_detectors.blazeface]"
    licence: ClassVar[str | None] = "Apache-2.0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.zoom <= 8:
            raise ComponentError(f"{self.title} zoom = {self.zoom}: from 1 to 8")

    def load(self, device: str = "cpu") -> DetectorSession:
        """Open the network on a device: 'cpu', 'cuda' or 'cuda:N'.

        Raises:
            WeightsError: the file is not here, is another one, or is no such network.
            ComponentError: the provider is not available.
        """
        heads = self.open_heads(device, HEADS, (SIDE, SIDE))
        return BlazeFaceSession(self, heads)


class BlazeFaceSession(DetectorSession):
    """The open network."""

    def __init__(self, detector: BlazeFace, heads: Heads) -> None:
        self.detector = detector
        self.heads = heads
        self.nms = NonMaximumSuppression(detector.threshold, detector.overlap, 1000)

    def detect(self, frames: Frames) -> list[Float]:
        """Faces of each frame (T, H, W, 3): (M, 5) float32 x0, y0, x1, y1, score, best first."""
        self.require_open()
        if not len(frames) or 0 in frames.shape:
            return [np.zeros((0, 5), np.float32) for _ in frames]
        places = squares(frames.shape[2], frames.shape[1], self.detector.zoom)
        found: list[list[Float]] = [[] for _ in frames]
        work = [(n, place) for n in range(len(frames)) for place in places]
        for start in range(0, len(work), self.detector.batch):
            some = work[start : start + self.detector.batch]
            pixels = np.stack([cut(frames[n], place) for n, place in some])
            maps = self.heads(pixels.astype(np.float32) / np.float32(127.5) - 1)
            for (n, place), faces in zip(some, decoded(maps, self.detector.threshold)):
                x, y, side = place
                faces[:, :4] = faces[:, :4] * (side / SIDE) + [x - 0.5, y - 0.5, x - 0.5, y - 0.5]
                found[n].append(faces)
        return [self._chosen(np.concatenate(faces)) for faces in found]

    def _chosen(self, faces: Float) -> Float:
        return faces[self.nms(faces[:, :4], faces[:, 4])].astype(np.float32)


def squares(width: int, height: int, zoom: int) -> list[tuple[int, int, int]]:
    """(left, top, side) of the squares of a frame that are looked at: the whole frame first."""
    longer = max(width, height)
    found = [(0, 0, longer)]
    side = math.ceil(longer / zoom)
    if zoom > 1:
        lefts, tops = (starts(length, side) for length in (width, height))
        found += [(left, top, side) for top in tops for left in lefts]
    return found


def starts(length: int, side: int) -> list[int]:
    """Where squares of this side begin on a length: as few as share a quarter with the next and cover it."""
    if length <= side:
        return [0]
    count = math.ceil((length - side) / (side * (1 - SHARED))) + 1
    return [round(n * (length - side) / (count - 1)) for n in range(count)]


def cut(frame: Frames, place: tuple[int, int, int]) -> Frames:
    """A square of a frame, black beyond its edges, as (256, 256, 3) uint8."""
    left, top, side = place
    part = frame[top : top + side, left : left + side]
    square = np.zeros((side, side, 3), np.uint8)
    square[: part.shape[0], : part.shape[1]] = part
    how = cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (SIDE, SIDE), interpolation=how), np.uint8)


def decoded(maps: dict[str, Float], threshold: float) -> list[Float]:
    """Faces (M, 5) of each picture in its own pixels from its edge: x0, y0, x1, y1, score; none is suppressed.

    A box is the offset of its middle from the anchor, its width and its height, in pixels of the picture.
    """
    found: list[list[Float]] = [[] for _ in maps[HEADS[0]]]
    for stride, anchors in LEVELS:
        logits, boxes = maps[f"scores_{stride}"], maps[f"boxes_{stride}"]
        count, rows, columns = logits.shape[:3]
        scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -100, 100)))
        y, x = np.indices((rows, columns)) + 0.5
        middles = np.repeat(np.stack([x, y], -1)[:, :, None] * stride, anchors, 2)
        four = boxes.reshape(count, rows, columns, anchors, 16)[..., :4].astype(np.float64)
        for n in range(count):
            seen = (scores[n] >= threshold) & (four[n, ..., 2:] > 0).all(-1)
            middle, half = middles[seen] + four[n][seen][:, :2], four[n][seen][:, 2:] / 2
            found[n].append(np.concatenate([middle - half, middle + half, scores[n][seen][:, None]], 1))
    return [np.concatenate(faces) for faces in found]
