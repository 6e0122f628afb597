"""Networks as experts: cut pictures of one size out of frames, infer on any number of them, read the answers back.

A network expert is three pure steps. `cut` and `read` belong to one clip and run in its thread;
`infer` knows nothing of clips, so that a `Pool` may put pictures of several clips into one batch.
On a CPU, where large batches gain nothing and would change the last bit of a sum, a clip's pictures
stay among themselves; the pool is for accelerators.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dataengine.core.errors import ExpertError
from dataengine.core.types import Float, Frames, Int


@dataclass(frozen=True)
class Cuts:
    """Pictures of one size cut out of a clip's frames.

    Attributes:
        pixels: (N, h, w, 3) uint8 RGB.
        frame: (N,) int64, the frame each was cut from.
        moves: (N, 2, 3) float64, affine maps from pixels of the frame to pixels of the picture.
        boxes: (N, 5) float64, the person box each was cut for, xyxy and score in the frame; the whole frame otherwise.
        num_frames, width, height: of the frames.
    """

    pixels: Frames
    frame: Int
    moves: Float
    boxes: Float
    num_frames: int
    width: int
    height: int

    def back(self, n: int, points: Float) -> Float:
        """Points (..., 2) of picture n in pixels of its frame."""
        move = self.moves[n]
        return np.asarray((points - move[:, 2]) @ np.linalg.inv(move[:, :2]).T)


@runtime_checkable
class Batched(Protocol):
    """An expert or a detector that works on pictures of one size."""

    @property
    def batch(self) -> int:
        """Most pictures that go through the network at once."""
        ...

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        """The pictures to look at in frames (T, H, W, 3)."""
        ...

    def infer(self, pixels: Frames) -> Sequence[Any]:
        """(N, h, w, 3) uint8 -> one answer a picture. The answers of a picture do not depend on the others."""
        ...

    def read(self, answers: Sequence[Any], cuts: Cuts) -> list[Any]:
        """One result a frame: `Poses` of an expert, boxes (M, 5) of a detector."""
        ...


Infer = Callable[[Frames], Sequence[Any]]


@dataclass
class Limit:
    """How many pictures fit into memory at once: halved when they do not, never below one."""

    batch: int
    halvings: int = 0

    def run(self, infer: Infer, pixels: Frames) -> list[Any]:
        """Answers for all pictures, in batches; what ran out of memory is tried again in halves.

        Raises:
            ExpertError: `out_of_memory`, one picture alone does not fit.
        """
        answers: list[Any] = []
        while len(answers) < len(pixels):
            part = pixels[len(answers) : len(answers) + self.batch]
            try:
                answers += list(infer(part))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise ExpertError(
                        "out_of_memory",
                        f"one picture of {part.shape[2]} x {part.shape[1]} pixels does not fit: {error}",
                    ) from error
                self.batch, self.halvings = max(1, len(part) // 2), self.halvings + 1
                _free_memory()
        return answers


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or onnxruntime ran out of host or device memory; none of them is imported for asking."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "failed to allocate memory" in text or "can't allocate memory" in text
    )


def _free_memory() -> None:
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def answer(component: Any, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Any]:
    """Cut, infer and read without a pool: one result a frame."""
    cuts = component.cut(frames, boxes)
    return component.read(Limit(component.batch).run(component.infer, cuts.pixels), cuts)  # type: ignore[no-any-return]


@dataclass
class _Waiting:
    pixels: Frames
    future: Future[list[Any]]
    since: float


@dataclass
class _Line:
    """What waits for one network."""

    infer: Infer
    limit: Limit
    waiting: deque[_Waiting] = field(default_factory=deque)

    @property
    def count(self) -> int:
        return sum(len(w.pixels) for w in self.waiting)


class Pool:
    """Runs networks on batches made of the pictures of several clips.

    A batch goes when a network has a full one waiting, or when its oldest picture has waited `age`
    seconds. Several threads serve the pool, so that one prepares a batch while another's is computed.

    Args:
        age: most seconds a picture waits for company.
        threads: how many batches are under way at once.
    """

    def __init__(self, age: float = 0.01, threads: int = 2) -> None:
        self.age = age
        self.batches: list[int] = []
        self._lines: dict[int, _Line] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, name=f"pool-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def ask(self, component: Batched, pixels: Frames) -> list[Any]:
        """Answers for `pixels`, waiting for them; called from the threads of clips.

        Raises:
            ExpertError: see `Limit.run`; whatever else the network raises.
        """
        if not len(pixels):
            return []
        future: Future[list[Any]] = Future()
        with self._changed:
            if self._closed:
                raise ExpertError("expert_failed", "the pool of networks is closed", retryable=True)
            line = self._lines.setdefault(id(component), _Line(component.infer, Limit(component.batch)))
            line.waiting.append(_Waiting(pixels, future, time.monotonic()))
            self._changed.notify_all()
        return future.result()

    def close(self) -> None:
        """End the threads once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            with self._changed:
                taken = self._take()
                while taken is None:
                    if self._closed and not any(line.waiting for line in self._lines.values()):
                        return
                    self._changed.wait(self._pause())
                    taken = self._take()
            line, members = taken
            self._run(line, members)

    def _pause(self) -> float | None:
        since = [line.waiting[0].since for line in self._lines.values() if line.waiting]
        return max(0.0, min(since) + self.age - time.monotonic()) if since else None

    def _take(self) -> tuple[_Line, list[_Waiting]] | None:
        """The requests of the next batch, whole requests only; None while waiting is better."""
        now = time.monotonic()
        ready = [
            line
            for line in self._lines.values()
            if line.waiting
            and (self._closed or line.count >= line.limit.batch or now - line.waiting[0].since >= self.age)
        ]
        if not ready:
            return None
        line = min(ready, key=lambda one: one.waiting[0].since)
        members = [line.waiting.popleft()]
        while line.waiting and sum(len(m.pixels) for m in members) + len(line.waiting[0].pixels) <= line.limit.batch:
            members.append(line.waiting.popleft())
        return line, members

    def _run(self, line: _Line, members: list[_Waiting]) -> None:
        pixels = members[0].pixels if len(members) == 1 else np.concatenate([m.pixels for m in members])
        try:
            answers = line.limit.run(line.infer, pixels)
        except BaseException as error:
            if len(members) == 1:
                members[0].future.set_exception(error)
            else:  # one clip's trouble is not the others'
                for member in members:
                    self._run(line, [member])
            return
        self.batches.append(len(pixels))
        start = 0
        for member in members:
            member.future.set_result(answers[start : start + len(member.pixels)])
            start += len(member.pixels)


@dataclass(frozen=True)
class Pooled:
    """An expert or detector whose pictures go through a pool."""

    component: Any
    pool: Pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self.component, name)

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Any]:
        """As the component's `predict`."""
        cuts = self.component.cut(frames, boxes)
        return self.component.read(self.pool.ask(self.component, cuts.pixels), cuts)  # type: ignore[no-any-return]

    def detect(self, frames: Frames) -> list[Float]:
        """As the component's `detect`."""
        return self.predict(frames)
