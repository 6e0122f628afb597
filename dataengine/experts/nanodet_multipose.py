"""Detector `nanodet_multipose`: the boxes of two small networks together, each of which misses people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.component import Batcher, Detector, DetectorSession
from dataengine.core.types import Float, Frames
from dataengine.experts.movenet_multipose import MoveNetMultiPoseDetector
from dataengine.experts.nanodet import NanoDet
from dataengine.experts.onnx_decode import NonMaximumSuppression
from dataengine.experts.onnx_graphs import Provider
from dataengine.experts.options import check_ranges


@dataclass(frozen=True)
class NanoDetMultiPose(Detector):
    """Boxes of `nanodet` and of `movenet_multipose`, without those that overlap a better one.

    Both thresholds are low, so that few people are missed. Experts leave out the poses that they find in boxes without
    a person, by their `min_mean`.

    Attributes:
        threshold: people of `nanodet` with a lower score are left out.
        person_threshold: people of `movenet_multipose` with a lower score are left out.
        size: longer side of the image that `movenet_multipose` gets, in pixels, a multiple of 32.
        overlap: largest intersection over union with a better person.
        max_people: most people per frame. Each costs the time of every expert that looks inside boxes.
        batch: most images at once.
        nanodet, multipose: names of the manifest of weights, or paths of .onnx files.
        provider: auto takes the faster of TensorRT and CUDA that works on a GPU, and the CPU on the CPU.
    """

    threshold: float = 0.2
    person_threshold: float = 0.15
    size: int = 384
    overlap: float = 0.6
    max_people: int = 60
    batch: int = 8
    nanodet: str = "nanodet"
    multipose: str = "movenet_multipose"
    provider: Provider = "auto"

    title: ClassVar[str] = "[detectors.nanodet_multipose]"
    licence: ClassVar[str | None] = "Apache-2.0"

    def __post_init__(self) -> None:
        check_ranges(self)
        self.members()

    def members(self) -> tuple[NanoDet, MoveNetMultiPoseDetector]:
        """The two detectors."""
        most, shared = self.max_people, (self.batch, self.provider)
        return (
            NanoDet(self.nanodet, *shared, threshold=self.threshold, overlap=self.overlap, max_people=most),
            MoveNetMultiPoseDetector(self.multipose, *shared, self.size, self.person_threshold, most),
        )

    def needs(self) -> list[str]:
        """Names of the two files."""
        return [name for one in self.members() for name in one.needs()]

    def weights(self) -> dict[str, str]:
        """The two files with their sha256.

        Raises:
            WeightsError: one is not here, or is another one.
        """
        return {name: digest for one in self.members() for name, digest in one.weights().items()}

    def load(self, device: str = "cpu") -> DetectorSession:
        """Open both networks on a device; raises as `NanoDet.load`."""
        opened: list[DetectorSession] = []
        try:
            for one in self.members():
                opened.append(one.load(device))
        except BaseException:
            for session in opened:
                session.close()
            raise
        return JoinedSession(opened, NonMaximumSuppression(0.0, self.overlap, self.max_people))


class JoinedSession(DetectorSession):
    """Several open detectors whose boxes are joined.

    Args:
        sessions: the detectors; closed with this session.
        nms: which of all boxes are kept.
    """

    concurrent: ClassVar[bool] = True

    def __init__(self, sessions: Sequence[DetectorSession], nms: NonMaximumSuppression) -> None:
        self.sessions = tuple(sessions)
        self.nms = nms

    def detect(self, frames: Frames) -> list[Float]:
        """As `DetectorSession.detect`."""
        self.require_open()
        found = []
        for some in zip(*(session.detect(frames) for session in self.sessions), strict=True):
            boxes = np.concatenate(some)
            found.append(boxes[self.nms(boxes[:, :4], boxes[:, 4])])
        return found

    def use_batcher(self, batcher: Batcher) -> None:
        """Share batches with other sessions from now on."""
        for session in self.sessions:
            session.use_batcher(batcher)

    def release(self) -> None:
        """Close the detectors."""
        for session in self.sessions:
            session.close()
