"""Batches made of the images of several clips, for accelerators."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dataengine.core.component import Session
from dataengine.core.errors import ExpertError
from dataengine.core.failures import environment_kind
from dataengine.experts.batching import AdaptiveBatchSize
from dataengine.experts.device_images import Images, joined

SWITCH_SECONDS = 1e-4
"""After how long a thread that computes in Python lets others in, while batches run."""


@dataclass(eq=False)
class _Request:
    """Images of one clip that wait for a network.

    Attributes:
        pixels: the images. future: their answers. since: when they came, monotonic seconds.
        taken: how many of them are in batches by now. parts: answers of those that are done, by their first image.
    """

    pixels: Images
    future: Future[list[Any]]
    since: float
    taken: int = 0
    parts: dict[int, list[Any]] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return len(self.pixels) - self.taken

    def take(self, most: int) -> _Part:
        """The next images, at most so many."""
        start, self.taken = self.taken, min(len(self.pixels), self.taken + most)
        return _Part(self, start, self.taken)


@dataclass(frozen=True)
class _Part:
    """Images of one request that are in one batch."""

    request: _Request
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def pixels(self) -> Images:
        return self.request.pixels[self.start : self.stop]


@dataclass
class _Queue:
    """The requests that wait for one network."""

    network: Any
    size: AdaptiveBatchSize
    waiting: deque[_Request] = field(default_factory=deque)

    @property
    def count(self) -> int:
        return sum(request.left for request in self.waiting)

    def take(self) -> list[_Part]:
        """The parts of requests that fill one batch, oldest first."""
        room, parts = self.size.batch, []
        while room and self.waiting:
            request = self.waiting[0]
            if not request.future.done():  # an earlier part of it may have failed
                parts.append(request.take(room))
                room -= len(parts[-1])
            if request.future.done() or not request.left:
                self.waiting.popleft()
        return parts


class DynamicBatcher(Session):
    """Runs networks on batches made of the images of several clips.

    A batch runs when a full one waits for its network, or when its oldest image has waited `max_wait`
    seconds. A request that does not fit into what is left of a batch is split. Several threads run batches, so that
    one prepares a batch while that of another is computed. How many images fit into memory is remembered per network
    for as long as the batcher lives.

    Args:
        max_wait: most seconds that an image waits for others.
        threads: how many batches are in flight at once.

    Attributes:
        batches: sizes of the last thousand batches.
    """

    concurrent: ClassVar[bool] = True

    def __init__(self, max_wait: float = 0.01, threads: int = 2) -> None:
        # Every call of torch gives the interpreter away, and gets it back from a thread that computes in Python no
        # sooner than after this interval: with Python's five milliseconds, networks of hundreds of calls crawl.
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        self.max_wait = max_wait
        self.batches: deque[int] = deque(maxlen=1000)
        self._queues: dict[Any, _Queue] = {}
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._serve, name=f"batcher-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def run(self, network: Any, pixels: Images) -> list[Any]:
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
            queue = self._queues.setdefault(network, _Queue(network, AdaptiveBatchSize(network.batch)))
            queue.waiting.append(_Request(pixels, future, time.monotonic()))
            self._changed.notify_all()
        return future.result()

    def release(self) -> None:
        """End the threads once nothing waits."""
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        sys.setswitchinterval(self._interval)

    def _serve(self) -> None:
        while True:
            with self._changed:
                taken = self._take()
                while taken is None:
                    if self._closed and not any(queue.waiting for queue in self._queues.values()):
                        return
                    self._changed.wait(self._pause())
                    taken = self._take()
            queue, parts = taken
            self._run(queue, parts)

    def _pause(self) -> float | None:
        since = [queue.waiting[0].since for queue in self._queues.values() if queue.waiting]
        return max(0.0, min(since) + self.max_wait - time.monotonic()) if since else None

    def _take(self) -> tuple[_Queue, list[_Part]] | None:
        """The parts of the next batch; None while waiting is better."""
        now = time.monotonic()
        ready = [
            queue
            for queue in self._queues.values()
            if queue.waiting
            and (self._closed or queue.count >= queue.size.batch or now - queue.waiting[0].since >= self.max_wait)
        ]
        for queue in sorted(ready, key=lambda one: one.waiting[0].since):
            parts = queue.take()
            if parts:
                return queue, parts
        return None

    def _run(self, queue: _Queue, parts: list[_Part]) -> None:
        try:
            answers = queue.size.run(queue.network, joined([part.pixels for part in parts]))
        except BaseException as error:
            # the error of one clip is not that of the others, but a GPU that failed has failed for all
            if len(parts) > 1 and not (isinstance(error, Exception) and environment_kind(error)):
                for part in parts:
                    self._run(queue, [part])
                return
            for part in parts:
                self._finish(part, error)
            return
        self.batches.append(len(answers))
        start = 0
        for part in parts:
            self._finish(part, answers[start : start + len(part)])
            start += len(part)

    def _finish(self, part: _Part, found: list[Any] | BaseException) -> None:
        """Keep the answers of a part; the last one, or an error, ends its request."""
        request = part.request
        with self._changed:
            if request.future.done():
                return
            if isinstance(found, BaseException):
                request.future.set_exception(found)
                return
            request.parts[part.start] = found
            if sum(map(len, request.parts.values())) < len(request.pixels):
                return
        request.future.set_result([one for start in sorted(request.parts) for one in request.parts[start]])
