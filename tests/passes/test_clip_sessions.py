"""Clips in several threads: batched experts beside experts that one thread alone may use."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from dataengine.core.accelerator import cpu_as_accelerator
from dataengine.core.component import ClipFrames, Expert, ExpertSession
from dataengine.core.errors import ExpertError
from dataengine.core.types import Clip, Float, Frames, Poses
from dataengine.experts.batching import NetworkExpertSession
from dataengine.experts.preprocess import FrameProcessing
from dataengine.passes.clip_sessions import SessionPerClip
from dataengine.passes.pose_estimation import PoseEstimator
from dataengine.passes.pose_session import PoseComponents, PoseSession


def one_person(values: Sequence[float]) -> list[Poses]:
    """A person per frame whose joints all lie at (value, value)."""
    boxes = np.array([[0, 0, 9, 9, 1.0]], np.float32)
    return [Poses(np.full((1, 13, 2), v, np.float32), np.ones((1, 13), np.float32), boxes) for v in values]


class Mean(NetworkExpertSession):
    """A batched network: the mean of an image is where all joints are."""

    def __init__(self) -> None:
        super().__init__(FrameProcessing((32, 32), "body13", 0.0, 0.0), self.mean, 16)

    def mean(self, pixels: Frames) -> list[Float]:
        time.sleep(0.002)
        values = pixels.astype(float).mean((1, 2, 3)) / 8
        return [np.array([[0, 0, 9, 9, 1.0, *([v, v, 1.0] * 13)]]) for v in values]


class Alone(ExpertSession):
    """Fails where two threads use it at once."""

    busy = False

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        if self.busy:
            raise AssertionError("two threads at once")
        self.busy = True
        time.sleep(0.002)
        self.busy = False
        return one_person(frames.astype(float).mean((1, 2, 3)))


class Counts(Alone):
    """Remembers how many frames of a clip it has had."""

    seen = 0

    def start_clip(self) -> None:
        self.seen = 0

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        first, self.seen = self.seen, self.seen + len(frames)
        super().predict(frames)
        return one_person(range(first, self.seen))


@dataclass(frozen=True)
class Given(Expert):
    """An expert whose session is of a given class."""

    of: type[ExpertSession]
    skeleton: ClassVar[str] = "body13"

    @property
    def remembers_frames(self) -> bool:  # type: ignore[override]
        return self.of is Counts

    def load(self, device: str = "cpu") -> ExpertSession:
        return self.of()


def clip(number: int) -> list[ClipFrames]:
    """Five batches of three frames of a clip."""
    rng = np.random.default_rng(number)
    frames = rng.integers(0, 255, (15, 1, 1, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    indices = np.arange(15)
    whole = ClipFrames(Clip(f"c{number}", "a", "b", "b.mp4"), frames, indices, indices / 25, Fraction(25))
    return [whole[k : k + 3] for k in range(0, 15, 3)]


def poses(session: PoseSession, number: int) -> np.ndarray:
    """(E, T) where each expert says that the joints are in each frame of a clip."""
    with session.for_clip() as (detector, experts):
        estimator = PoseEstimator(detector, [(expert, False) for expert in experts], 1)
        parts = [estimator.predict(batch) for batch in clip(number)]
    return np.array([[p.coords[0, 0, 0] for part in parts for p in part[e]] for e in range(len(experts))])


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    components: Any = SimpleNamespace(detector=None, experts=tuple(Given(of) for of in (Mean, Alone, Counts)))
    monkeypatch.setattr(PoseComponents, "of", staticmethod(lambda recipe: components))
    return SimpleNamespace(engine=SimpleNamespace(clips_in_flight=6, prefetch_mb=8, processes_per_gpu=1))


def test_one_unbatched_expert_does_not_end_batches_for_the_others(recipe: Any) -> None:
    """A batched expert, one that is not, and one that remembers frames: many clips under way give what one by one
    gives, and images of several clips are in one batch."""
    with PoseSession(recipe, "cpu") as serial:
        assert not serial.clips_in_flight
        expected = [poses(serial, n) for n in range(12)]
    with cpu_as_accelerator(), PoseSession(recipe, "cpu") as session:
        assert session.clips_in_flight
        assert session.budget is not None
        assert session.batcher is not None
        with ThreadPoolExecutor(6) as threads:
            found = list(threads.map(lambda n: poses(session, n), range(12)))
        assert max(session.batcher.batches) > 3  # a clip alone gives three
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_sessions_for_each_clip_are_bounded_and_closed() -> None:
    opened: list[ExpertSession] = []

    def load() -> ExpertSession:
        if len(opened) == 2:
            raise ExpertError("expert_failed", "no room for a third")
        opened.append(Counts())
        return opened[-1]

    pool, most, now = SessionPerClip(load(), load, 8), 0, 0
    lock = threading.Lock()

    def use(_: int) -> None:
        nonlocal most, now
        with pool.lease():
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.005)
            with lock:
                now -= 1

    with ThreadPoolExecutor(5) as threads:
        list(threads.map(use, range(20)))
    assert most == len(opened) == 2
    pool.close()
    assert all(session.closed for session in opened)


def test_frames_go_up_once_for_all_experts_of_a_batch() -> None:
    uploads = []

    class OnDevice(ExpertSession):
        def __init__(self) -> None:
            self.upload = self._upload

        def _upload(self, frames: Frames) -> Any:
            uploads.append(len(frames))
            return np.asarray(frames) + 0

        def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
            given.append(frames)
            return one_person([0.0] * len(frames))

    given: list[Frames] = []
    (first, *_) = clip(0)
    PoseEstimator(None, [(OnDevice(), False), (Alone(), False), (OnDevice(), False)], 1).predict(first)
    assert uploads == [3]
    assert given[0] is given[1]
