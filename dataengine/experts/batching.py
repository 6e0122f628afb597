"""Networks as experts: preprocess frames to images of one size, infer in batches, postprocess the answers.

A network's session is three pure steps. `preprocess` and `postprocess` belong to one clip and run in its
thread. `infer` knows nothing of clips, so that a `DynamicBatcher` may put images of several clips into one
batch. On a CPU larger batches gain nothing and would change the last bit of a sum, so there each clip's
images stay among themselves; the dynamic batcher is for accelerators.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from dataengine.core.component import Batcher, DetectorSession, ExpertSession, Session
from dataengine.core.errors import ExpertError
from dataengine.core.failures import is_out_of_memory
from dataengine.core.types import Float, Frames, Int, Poses

Infer: TypeAlias = Callable[[Frames], Any]
"""(N, h, w, 3) uint8 RGB -> a sequence of one answer per image; the answer of an image does not depend on the other
images."""


@dataclass(frozen=True)
class InputBatch:
    """Images of one size made of a clip's frames, and the way back.

    Attributes:
        pixels: (N, h, w, 3) uint8 RGB.
        frame: (N,) int64, the number of the frame that each image was made of.
        affines: (N, 2, 3) float64, affine maps from pixels of the frame to pixels of the image.
        boxes: (N, 5) float64, the person box that each crop was made for, xyxy and score in the frame; else the
            whole frame.
        num_frames, width, height: of the frames.
    """

    pixels: Frames
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
        """The images that the network gets of frames (T, H, W, 3)."""

    @abstractmethod
    def postprocess(self, answers: Sequence[Any], batch: InputBatch) -> list[Any]:
        """One result per frame: `Poses` of an expert, boxes (M, 5) of a detector."""


@dataclass
class AdaptiveBatchSize:
    """A batch size that is halved when a batch does not fit into memory, and never falls below one."""

    batch: int
    halvings: int = 0

    def run(self, network: Any, pixels: Frames) -> list[Any]:
        """Answers of `network.infer` for all images, in batches; a batch that ran out of memory is tried again in
        halves.

        Raises:
            ExpertError: `out_of_memory`, one image alone does not fit.
        """
        answers: list[Any] = []
        while len(answers) < len(pixels):
            part = pixels[len(answers) : len(answers) + self.batch]
            try:
                answers += list(network.infer(part))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise ExpertError(
                        "out_of_memory",
                        f"one image of {part.shape[2]} x {part.shape[1]} pixels does not fit: {error}",
                    ) from error
                self.batch, self.halvings = max(1, len(part) // 2), self.halvings + 1
                _free_memory()
        return answers


def _free_memory() -> None:
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass
class _Request:
    """Images of one clip that wait for a network."""

    pixels: Frames
    future: Future[list[Any]]
    since: float


@dataclass
class _Queue:
    """The requests that wait for one network."""

    network: Any
    size: AdaptiveBatchSize
    waiting: deque[_Request] = field(default_factory=deque)

    @property
    def count(self) -> int:
        return sum(len(w.pixels) for w in self.waiting)


class DynamicBatcher(Session):
    """Runs networks on batches made of the images of several clips.

    A batch runs when a full one waits for its network, or when its oldest image has waited `max_wait`
    seconds. Several threads run batches, so that one prepares a batch while that of another is computed.

    Args:
        max_wait: most seconds that an image waits for others.
        threads: how many batches are in flight at once.

    Attributes:
        batches: sizes of the last thousand batches.
    """

    concurrent: ClassVar[bool] = True

    def __init__(self, max_wait: float = 0.01, threads: int = 2) -> None:
        self.max_wait = max_wait
        self.batches: deque[int] = deque(maxlen=1000)
        self._queues: dict[int, _Queue] = {}
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._serve, name=f"batcher-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def run(self, network: Any, pixels: Frames) -> list[Any]:
        """Answers of `network.infer` for `pixels`, waiting for them; called from the threads of clips.

        Raises:
            ExpertError: see `AdaptiveBatchSize.run`; whatever else the network raises.
        """
        if not len(pixels):
            return []
        future: Future[list[Any]] = Future()
        with self._changed:
            if self._closed:
                raise ExpertError("expert_failed", "the batcher of networks is closed", retryable=True)
            queue = self._queues.setdefault(id(network), _Queue(network, AdaptiveBatchSize(network.batch)))
            queue.waiting.append(_Request(pixels, future, time.monotonic()))
            self._changed.notify_all()
        return future.result()

    def release(self) -> None:
        """End the threads once nothing waits."""
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            with self._changed:
                taken = self._take()
                while taken is None:
                    if self._closed and not any(queue.waiting for queue in self._queues.values()):
                        return
                    self._changed.wait(self._pause())
                    taken = self._take()
            queue, members = taken
            self._run(queue, members)

    def _pause(self) -> float | None:
        since = [queue.waiting[0].since for queue in self._queues.values() if queue.waiting]
        return max(0.0, min(since) + self.max_wait - time.monotonic()) if since else None

    def _take(self) -> tuple[_Queue, list[_Request]] | None:
        """The requests of the next batch, whole requests only; None while waiting is better."""
        now = time.monotonic()
        ready = [
            queue
            for queue in self._queues.values()
            if queue.waiting
            and (self._closed or queue.count >= queue.size.batch or now - queue.waiting[0].since >= self.max_wait)
        ]
        if not ready:
            return None
        queue = min(ready, key=lambda one: one.waiting[0].since)
        members = [queue.waiting.popleft()]
        while queue.waiting and sum(len(m.pixels) for m in members) + len(queue.waiting[0].pixels) <= queue.size.batch:
            members.append(queue.waiting.popleft())
        return queue, members

    def _run(self, queue: _Queue, members: list[_Request]) -> None:
        pixels = members[0].pixels if len(members) == 1 else np.concatenate([m.pixels for m in members])
        try:
            answers = queue.size.run(queue.network, pixels)
        except BaseException as error:
            if len(members) == 1:
                members[0].future.set_exception(error)
            else:  # the error of one clip is not that of the others
                for member in members:
                    self._run(queue, [member])
            return
        self.batches.append(len(pixels))
        start = 0
        for member in members:
            member.future.set_result(answers[start : start + len(member.pixels)])
            start += len(member.pixels)


class NetworkSession(Session):
    """A network that works on images of one size, with the steps around it. Any number of threads may use it.

    Args:
        processing: the steps before and after the network.
        network: the network itself, on its device.
        batch: most images per batch.
    """

    concurrent: ClassVar[bool] = True

    def __init__(self, processing: Processing, network: Infer, batch: int) -> None:
        self.processing = processing
        self.batch = batch
        self._network: Infer | None = network
        self._batcher: Batcher | None = None

    @property
    def network(self) -> Any:
        """The network; raises where the session is closed."""
        self.require_open()
        return self._network

    def preprocess(self, frames: Frames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """As `Processing.preprocess`."""
        return self.processing.preprocess(frames, boxes)

    def infer(self, pixels: Frames) -> Sequence[Any]:
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
