"""Expert and detector `movenet_multipose`: all people of a frame at once, in one pass of a small network.

MoveNet MultiPose (Apache-2.0, github.com/tensorflow/tfjs-models): a MobileNetV2 with a feature pyramid that finds the
centre of every person, a box around it, and from there each joint. The decoding follows the published graph, and
differs in two places. Each person keeps the scores of its own joints: the published graph takes the best score of
all people at a joint, and so overlapping people get each other's. And any number of people is found, not six.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from dataengine.core.component import Detector, DetectorSession, Expert, ExpertSession
from dataengine.core.errors import ComponentError
from dataengine.core.types import Float, Frames
from dataengine.experts.batching import InputBatch, NetworkDetectorSession, NetworkExpertSession
from dataengine.experts.device_images import DeviceFrames
from dataengine.experts.duplicates import distinct
from dataengine.experts.heads import Heads, HeadsFile
from dataengine.experts.preprocess import FrameProcessing, LongerSideProcessing, fit_longer

JOINTS = 17
STRIDE = 4
"""Pixels a cell of every map."""
HEADS = {"center": 1, "heatmap": JOINTS, "regress": 2 * JOINTS, "offset": 2 * JOINTS, "box_offset": 2, "box_scale": 2}
"""Maps (N, h, w, numbers) that the file gives; pairs are (dy, dx) or (height, width) in cells."""
NEIGHBOURS = 5
"""Side of the square of cells in which a centre must be the largest."""
REACH = 0.3
"""How far a joint may lie from where its person expects it: twice the variance, over the shorter side, in cells."""
LEAST = 0.127
"""Joints with a higher score count for the score of a person."""
SIZES = range(128, 1025, 32)
BLACK = (0, 0, 0)


@dataclass(frozen=True)
class _MultiPoseFile(HeadsFile):
    """What expert and detector have in common.

    Attributes:
        size: longer side of the image in pixels.
        threshold: least score of a person.
        max_people: most people per frame.
    """

    model: str = "movenet_multipose"
    size: int = 256
    threshold: float = 0.127
    max_people: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size not in SIZES:
            raise ComponentError(
                f"{self.title} size = {self.size}: a multiple of 32 from {SIZES[0]} to {SIZES[-1]}; "
                "256 for large people, 384 to 512 for crowds"
            )

    def network(self, device: str) -> MultiPoseNetwork:
        """The open network; raises as `Expert.load`."""
        heads = self.open_heads(device, HEADS)
        if heads.size is not None:
            raise ComponentError(
                f"{self.title} {heads.file} takes images of {list(heads.size)} only: give another file"
            )
        return MultiPoseNetwork(heads, self.threshold, self.max_people)


@dataclass(frozen=True)
class MoveNetMultiPose(_MultiPoseFile, Expert):
    """Any number of people in whole frames: about 25 ms of one core per frame at 256 pixels, 60 ms at 384.

    Attributes:
        model: a name of the manifest of weights, or the path of an .onnx file.
        batch: most images at once.
        provider: auto takes the faster of TensorRT and CUDA that works on a GPU, and the CPU on the CPU.
        size: longer side of the image that the network gets, in pixels, a multiple of 32: 256 for large people, 384
            to 512 for crowds and small people.
        threshold: people with a lower score are left out; the score is that of the centre times the mean of the joints.
        max_people: most people per frame.
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
    """

    min_score: float = 0.05
    min_mean: float = 0.1

    title: ClassVar[str] = "[experts.movenet_multipose]"
    licence: ClassVar[str | None] = "Apache-2.0"
    skeleton: ClassVar[str] = "coco17"

    @property
    def score_calibration(self) -> str | None:
        return "movenet_multipose"

    def load(self, device: str = "cpu") -> ExpertSession:
        """Open the network on a device: 'cpu', 'cuda' or 'cuda:N'.

        Raises:
            WeightsError: the file is not here, is another one, or is no such network.
            ComponentError: the provider is not available.
        """
        processing = _PoseProcessing((self.size, self.size), self.skeleton, self.min_score, self.min_mean, False, BLACK)
        return NetworkExpertSession(processing, self.network(device), self.batch)


@dataclass(frozen=True)
class MoveNetMultiPoseDetector(_MultiPoseFile, Detector):
    """The boxes of the people that the expert `movenet_multipose` finds.

    Attributes:
        model: a name of the manifest of weights, or the path of an .onnx file.
        batch: most images at once.
        provider: auto takes the faster of TensorRT and CUDA that works on a GPU, and the CPU on the CPU.
        size: longer side of the image that the network gets, in pixels, a multiple of 32.
        threshold: people with a lower score are left out; the score is that of the centre times the mean of the joints.
        max_people: most people per frame.
    """

    size: int = 384
    threshold: float = 0.15

    title: ClassVar[str] = "[detectors.movenet_multipose]"
    licence: ClassVar[str | None] = "Apache-2.0"

    def load(self, device: str = "cpu") -> DetectorSession:
        """Open the network on a device; raises as `MoveNetMultiPose.load`."""
        return NetworkDetectorSession(
            LongerSideProcessing((self.size, self.size)), _Boxes(self.network(device)), self.batch
        )


@dataclass(frozen=True)
class _PoseProcessing(FrameProcessing):
    def preprocess(self, frames: Frames | DeviceFrames, boxes: object = None) -> InputBatch:
        """Every frame as one image; boxes are not needed."""
        return fit_longer(frames, self.size[0])


@dataclass(frozen=True)
class MultiPoseNetwork:
    """The open network and the decoding of its maps."""

    heads: Heads
    threshold: float
    max_people: int

    def __call__(self, pixels: Frames) -> list[Float]:
        """(N, h, w, 3) uint8 RGB -> people (M, 5 + 51) of each image: box xyxy, score, then x, y, score of joints."""
        if not len(pixels):
            return []
        maps = self.heads(pixels)
        return [
            decode({name: one[n] for name, one in maps.items()}, self.threshold, self.max_people)
            for n in range(len(pixels))
        ]


@dataclass(frozen=True)
class _Boxes:
    network: MultiPoseNetwork

    def __call__(self, pixels: Frames) -> list[Float]:
        return [people[:, :5] for people in self.network(pixels)]


def decode(maps: dict[str, Float], threshold: float, max_people: int) -> Float:
    """The people of one image, best first, in its pixels, the centre of the first one at (0, 0).

    Args:
        maps: `HEADS` of one image, each (h, w, numbers).
        threshold: people with a lower score are left out.
        max_people: most people.

    Returns:
        (M, 5 + 51) float64: box xyxy and score, then x, y and score of every joint, NaN where it has none.
    """
    center = np.ascontiguousarray(maps["center"][..., 0])
    largest = cv2.dilate(center, np.ones((NEIGHBOURS, NEIGHBOURS), np.uint8))
    rows, columns = np.nonzero((center == largest) & (center >= threshold))  # a person scores at most its centre
    order = np.argsort(-center[rows, columns], kind="stable")[: 2 * max_people]
    people = [_person(maps, int(rows[k]), int(columns[k]), float(center[rows[k], columns[k]])) for k in order]
    found = np.reshape(people, (-1, 5 + 3 * JOINTS))
    found = found[found[:, 4] >= threshold]
    found = found[np.argsort(-found[:, 4], kind="stable")]
    joints = found[:, 5:].reshape(-1, JOINTS, 3)
    return found[distinct(joints[..., :2], joints[..., 2], found[:, :4])][:max_people]


def _person(maps: dict[str, Float], row: int, column: int, sure: float) -> Float:
    """The person (5 + 51,) with its centre in a cell; joints are looked for inside its box, near where it expects
    them."""
    height, width = maps["center"].shape[:2]
    middle = np.array([row, column]) + maps["box_offset"][row, column].astype(np.float64)
    half = np.maximum(maps["box_scale"][row, column].astype(np.float64), 0) / 2
    low = np.clip(middle - half, 0, (height, width))
    high = np.clip(middle + half, 0, (height, width))
    first, last = np.ceil(low).astype(int), np.ceil(high).astype(int)  # cells c with low <= c < high
    joints = np.full((JOINTS, 3), np.nan)
    joints[:, 2] = 0
    if (last > first).all():
        inside = (slice(first[0], last[0]), slice(first[1], last[1]))
        expected = np.array([row, column]) + maps["regress"][row, column].reshape(JOINTS, 2)
        squared = [
            (np.arange(first[axis], last[axis])[:, None] - expected[:, axis]) ** 2 / (REACH * min(height, width))
            for axis in (0, 1)
        ]
        likely = maps["heatmap"][inside] * np.exp(-squared[0])[:, None] * np.exp(-squared[1])[None]
        best = likely.reshape(-1, JOINTS).argmax(0)
        y, x = np.divmod(best, last[1] - first[1])
        score = likely[y, x, np.arange(JOINTS)]
        y, x = y + first[0], x + first[1]
        shift = maps["offset"].reshape(height, width, JOINTS, 2)[y, x, np.arange(JOINTS)]
        at = (np.stack([x + shift[:, 1], y + shift[:, 0]], -1)) * STRIDE - 0.5
        joints = np.where(score[:, None] > 0, np.concatenate([at, score[:, None]], -1), joints)
    counted = joints[joints[:, 2] > LEAST, 2]
    person = sure * float(counted.mean()) if len(counted) else 0.0
    box = np.concatenate([low[::-1], high[::-1]]) * STRIDE - 0.5
    return np.concatenate([box, [person], joints.ravel()])
