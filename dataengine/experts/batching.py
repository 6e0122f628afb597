"""Networks as experts: preprocess frames to images of one size, infer in batches, postprocess the answers.

A network's session is three pure steps. `preprocess` and `postprocess` belong to one clip and run in its
thread. `infer` knows nothing of clips, so that a `DynamicBatcher` may put images of several clips into one
batch. On a CPU larger batches gain nothing and would change the last bit of a sum, so there each clip's
images stay among themselves; the dynamic batcher (`dataengine.experts.dynamic_batcher`) is for accelerators.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from dataengine.core.component import Batcher, DetectorSession, ExpertSession, Session
from dataengine.core.errors import ExpertError
from dataengine.core.failures import is_out_of_memory
from dataengine.core.types import Float, Frames, Int, Poses
from dataengine.experts.device_images import DeviceFrames, Images

Infer: TypeAlias = Callable[[Any], Any]
"""`Images` (N, h, w, 3) uint8 RGB -> a sequence of one answer per image; the answer of an image does not depend on the
other images."""


@dataclass(frozen=True)
class InputBatch:
    """Images of one size made of a clip's frames, and the way back.

    Attributes:
        pixels: (N, h, w, 3) uint8 RGB, on the device where the frames were there.
        frame: (N,) int64, the number of the frame that each image was made of.
        affines: (N, 2, 3) float64, affine maps from pixels of the frame to pixels of the image.
        boxes: (N, 5) float64, the person box that each crop was made for, xyxy and score in the frame; else the
            whole frame.
        num_frames, width, height: of the frames.
    """

    pixels: Images
    frame: Int
    affines: Float
    boxes: Float
    num_frames: int
    width: int
    height: int

    def to_frame(self, n: int, points: Float) -> Float:
        """Points (..., 2) of image n in pixels of its frame."""
        affine = self.affines[n]
        return np.asarray((points - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T)


class Processing(ABC):
    """The two steps around a network. Both are pure functions of what they are given."""

    @abstractmethod
    def preprocess(self, frames: Frames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """The images that the network gets of frames (T, H, W, 3).

        The steps around networks on torch also take `DeviceFrames`, and make the images on the device then.
        """

    @abstractmethod
    def postprocess(self, answers: Sequence[Any], batch: InputBatch) -> list[Any]:
        """One result per frame: `Poses` of an expert, boxes (M, 5) of a detector."""


def bucket(count: int, batch: int) -> int:
    """How many images a network gets on an accelerator for `count` of them: 1, 2, 4, 8, ... and at last `batch`.

    Few shapes are needed for all counts, and half as many images need half the memory.
    """
    return min(1 << (count - 1).bit_length(), batch) if 0 < count <= batch else count


@dataclass
class AdaptiveBatchSize:
    """A batch size that is halved when a batch does not fit into memory, and never falls below one.

    Several threads may use it.

    Attributes:
        batch: most images at once. halvings: how often it was halved.
    """

    batch: int
    halvings: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def run(self, network: Any, pixels: Images) -> list[Any]:
        """Answers of `network.infer` for all images, in batches; a batch that ran out of memory is tried again in
        halves.

        Raises:
            ExpertError: `out_of_memory`, one image alone does not fit.
        """
        answers: list[Any] = []
        while len(answers) < len(pixels):
            part = pixels[len(answers) : len(answers) + self.batch]
            some = self._infer(network, part)
            if some is None:
                # here and not while the error is handled, because its traceback holds what the network had made
                _free_memory()
            else:
                answers += some
        return answers

    def _infer(self, network: Any, part: Images) -> list[Any] | None:
        """Answers for one batch; None where it did not fit and the size was halved."""
        try:
            return list(network.infer(part))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise ExpertError(
                    "out_of_memory",
                    f"one image of {part.shape[2]} x {part.shape[1]} pixels does not fit: {error}",
                ) from error
            with self._lock:
                half = max(1, bucket(len(part), self.batch) // 2)
                if half < self.batch:  # unless another thread was here before
                    self.batch, self.halvings = half, self.halvings + 1
            return None


def _free_memory() -> None:
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class NetworkSession(Session):
    """A network that works on images of one size, with the steps around it. Any number of threads may use it.

    Args:
        processing: the steps before and after the network.
        network: the network itself, on its device.
        batch: most images per batch.
        upload: brings frames to the device of the network, where the steps before it run there.
    """

    concurrent: ClassVar[bool] = True

    def __init__(
        self,
        processing: Processing,
        network: Infer,
        batch: int,
        upload: Callable[[Frames], DeviceFrames] | None = None,
    ) -> None:
        self.processing = processing
        self.batch = batch
        self.upload = upload
        self._network: Infer | None = network
        self._batcher: Batcher | None = None
        if upload is not None:
            # what once did not fit on an accelerator is not tried again in this process
            self._batcher = AdaptiveBatchSize(batch)

    @property
    def network(self) -> Any:
        """The network; raises where the session is closed."""
        self.require_open()
        return self._network

    def preprocess(self, frames: Frames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """As `Processing.preprocess`; frames on the host are uploaded before, where the session has an `upload`."""
        if self.upload is not None and isinstance(frames, np.ndarray):
            return self.processing.preprocess(self.upload(frames), boxes)
        return self.processing.preprocess(frames, boxes)

    def infer(self, pixels: Images) -> Sequence[Any]:
        """(N, h, w, 3) uint8 -> one answer per image, in one batch."""
        answers: Sequence[Any] = self.network(pixels)
        return answers

    def postprocess(self, answers: Sequence[Any], batch: InputBatch) -> list[Any]:
        """As `Processing.postprocess`."""
        return self.processing.postprocess(answers, batch)

    def use_batcher(self, batcher: Batcher) -> None:
        """Share batches with the other sessions of a batcher."""
        self._batcher = batcher

    def run(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Any]:
        """The three steps: one result per frame.

        Raises:
            ExpertError: `out_of_memory`, one image alone does not fit.
        """
        self.require_open()
        batch = self.preprocess(frames, boxes)
        # without a shared batcher the size starts anew, so that a clip does not depend on those before it
        batcher: Batcher = AdaptiveBatchSize(self.batch) if self._batcher is None else self._batcher
        return self.postprocess(batcher.run(self, batch.pixels), batch)

    def release(self) -> None:
        """Let the network go."""
        self._network = None


class NetworkExpertSession(NetworkSession, ExpertSession):
    """A pose network that is ready to predict."""

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """As `ExpertSession.predict`.

        Raises:
            ExpertError: boxes are needed and missing; out of memory for a single image.
        """
        return self.run(frames, boxes)


class NetworkDetectorSession(NetworkSession, DetectorSession):
    """A detection network that is ready to detect."""

    def detect(self, frames: Frames) -> list[Float]:
        """As `DetectorSession.detect`.

        Raises:
            ExpertError: out of memory for a single image.
        """
        return self.run(frames)
