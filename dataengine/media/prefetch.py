"""Prefetch of decoded frames: one thread per stream, one budget of bytes for all streams of a process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from dataengine.media.stream import FrameBatch, VideoStream


class Budget:
    """Bytes of decoded frames that may wait or be in use; one batch that is larger than the budget passes alone."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.peak = 0
        self._changed = threading.Condition()

    def take(self, size: int, stopped: threading.Event) -> bool:
        """Wait until `size` bytes are free and take them; False once `stopped`."""
        with self._changed:
            while self.used and self.used + size > self.total and not stopped.is_set():
                self._changed.wait(0.1)
            if stopped.is_set():
                return False
            self.used += size
            self.peak = max(self.peak, self.used)
            return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._changed:
            self.used -= size
            self._changed.notify_all()


_END = object()


def prefetch(stream: VideoStream, budget: Budget) -> Iterator[FrameBatch]:
    """The batches of `stream`, decoded by a thread while the caller uses earlier ones.

    A batch counts against the budget from when it is decoded until the caller asks for the next.

    Raises:
        MediaError: as iterating the stream does, after the batches before the error.
    """
    ready: queue.SimpleQueue[FrameBatch | BaseException | object] = queue.SimpleQueue()
    stopped = threading.Event()

    def decode() -> None:
        try:
            for batch in stream:
                if not budget.take(batch.frames.nbytes, stopped):
                    return
                ready.put(batch)
            ready.put(_END)
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=decode, name="prefetch", daemon=True)
    thread.start()
    try:
        while isinstance(item := ready.get(), FrameBatch):
            size = item.frames.nbytes
            try:
                yield item
            finally:
                del item
                budget.give(size)
        if isinstance(item, BaseException):
            raise item
    finally:
        stopped.set()
        thread.join()
        while not ready.empty():
            left = ready.get()
            if isinstance(left, FrameBatch):
                budget.give(left.frames.nbytes)
