"""Decoding ahead: the same frames, within the budget, and no thread or byte left behind."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dataengine.core.errors import MediaError
from dataengine.media.decode import PyAVDecoder
from dataengine.media.encode import write_video
from dataengine.media.prefetch import Budget, prefetch


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ahead") / "clip.mp4"
    rng = np.random.default_rng(0)
    write_video(path, (rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(50)), 25)
    return path


def threads() -> int:
    return sum(t.name == "prefetch" for t in threading.enumerate())


def test_the_same_frames_as_without(video: Path) -> None:
    decoder, budget = PyAVDecoder(batch=8), Budget(1 << 20)
    with decoder.open(video) as stream:
        plain = [batch.frames for batch in stream]
    with decoder.open(video) as stream:
        got = [batch.frames for batch in prefetch(stream, budget)]
    np.testing.assert_array_equal(np.concatenate(plain), np.concatenate(got))
    assert (budget.used, threads()) == (0, 0)


def test_streams_share_a_budget(video: Path) -> None:
    batch = 8 * 48 * 64 * 3
    decoder, budget = PyAVDecoder(batch=8), Budget(3 * batch)

    def count(_: int) -> int:
        with decoder.open(video) as stream:
            total = 0
            for some in prefetch(stream, budget):
                time.sleep(0.002)
                total += len(some)
            return total

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(count, range(6))) == [50] * 6
    assert batch < budget.peak <= 3 * batch
    assert (budget.used, threads()) == (0, 0)


def test_a_batch_larger_than_the_budget_passes_alone(video: Path) -> None:
    budget = Budget(10)
    with PyAVDecoder(batch=8).open(video) as stream:
        assert sum(len(batch) for batch in prefetch(stream, budget)) == 50
    assert budget.used == 0


def test_a_consumer_that_stops_early_leaves_nothing(video: Path) -> None:
    budget = Budget(1 << 20)
    with PyAVDecoder(batch=4).open(video) as stream:
        for _ in prefetch(stream, budget):
            break
    assert (budget.used, threads()) == (0, 0)


def test_errors_come_after_the_frames_before_them(video: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.mp4"
    content = bytearray(video.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 20_000] = bytes(20_000)
    torn.write_bytes(content)
    budget, count = Budget(1 << 20), 0
    with pytest.raises(MediaError), PyAVDecoder(batch=4, max_damaged=0.01).open(torn) as stream:
        for batch in prefetch(stream, budget):
            count += len(batch)
    assert 0 < count <= 50
    assert (budget.used, threads()) == (0, 0)
