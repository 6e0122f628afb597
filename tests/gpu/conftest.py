"""Tests that need a CUDA device; elsewhere they are skipped.

    pytest tests/gpu -n 0 -m gpu -s

DATAENGINE_TEST_DEVICE=cpu rehearses on a CPU what runs on both. It proves that the tests run, and nothing of a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dataengine.core import devices
from dataengine.core.accelerator import cpu_as_accelerator

REHEARSED = os.environ.get("DATAENGINE_TEST_DEVICE", "cuda") == "cpu"


@pytest.fixture(scope="session")
def device() -> Iterator[str]:
    """'cuda', or 'cpu' where that is rehearsed."""
    torch = pytest.importorskip("torch")
    if REHEARSED:
        with cpu_as_accelerator():
            yield "cpu"
        return
    if not devices.able() or not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    threads = torch.get_num_threads()
    torch.set_num_threads(min(16, os.cpu_count() or 1))  # what the GPU is compared with need not take long
    yield "cuda"
    torch.set_num_threads(threads)


@pytest.fixture
def cuda(device: str) -> str:
    """'cuda'; a rehearsal skips."""
    if device != "cuda":
        pytest.skip("nothing of it can be rehearsed")
    return device
