"""Memory of the device that does not suffice: batches are really halved, and a single image too large is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.core.errors import ExpertError
from dataengine.experts.batching import AdaptiveBatchSize

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

FULL, SMALL = 512, 128


@pytest.fixture
def session(cuda: str, tmp_path: Path) -> Iterator[Any]:
    """RTMPose with drawn weights on the device; the allocator has its bounds back afterwards."""
    import torch

    from tests.support.torch_setup import random_weights

    with random_weights.rtmpose(tmp_path, "m", batch=FULL).load(cuda) as opened:
        yield opened
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def crops(num: int) -> np.ndarray:
    """Noise, coarse enough that networks answer to it."""
    coarse = np.random.default_rng(0).integers(0, 255, (num, 16, 12, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(16, 1).repeat(16, 2))


def peak(session: Any, num: int) -> tuple[int, int]:
    """Most bytes (allocated, reserved) while a batch is computed."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    session.infer(crops(num))
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def test_a_batch_too_large_is_computed_in_real_halves(session: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    session.infer(crops(2))
    pixels = crops(FULL)
    expected = np.stack(session.infer(pixels))
    least, most = peak(session, SMALL)[1], peak(session, FULL)[0]
    assert least < most, "the larger batch needs more memory than the smaller one"
    sizes: list[int] = []
    hook = session.network.module.backbone.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((least + most) / 2 / total)
    try:
        adaptive = AdaptiveBatchSize(FULL)
        got = np.stack(adaptive.run(session, pixels))
    finally:
        hook.remove()
        torch.cuda.set_per_process_memory_fraction(1.0)
    with capsys.disabled():
        print(f"\n{FULL} crops with room for {(least + most) / 2 / 2**20:.0f} MiB: batches of {sizes} on the device")
    assert adaptive.halvings >= 1 and adaptive.batch <= FULL // 2
    assert sizes[0] == FULL and max(sizes[1:]) <= FULL // 2, "no half is filled up to the size that did not fit"
    apart = np.linalg.norm(got[..., :2] - expected[..., :2], axis=-1)
    assert np.nanmedian(apart) <= 0.5 and np.mean(apart[np.isfinite(apart)] <= 1.0) > 0.95


def test_one_image_that_does_not_fit_is_out_of_memory(session: Any) -> None:
    import torch

    from dataengine.experts.device_images import own_stream

    session.infer(crops(1))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(max(torch.cuda.memory_allocated() - (1 << 20), 1) / total)
    held, size = [], 1 << 24
    with own_stream(torch.device("cuda")):  # what lies free between blocks belongs to a stream
        while size >= 512:
            try:
                held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                size //= 2
    with pytest.raises(ExpertError, match=r"out_of_memory.*one image of 192 x 256 pixels does not fit"):
        AdaptiveBatchSize(64).run(session, crops(64))
    held.clear()
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(AdaptiveBatchSize(64).run(session, crops(64))) == 64, "the process goes on afterwards"
