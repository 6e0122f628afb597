import os
import platform
from pathlib import Path

import numpy as np
import pytest

from dataengine.core.memory import give_back


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide by themselves")
def test_freed_memory_goes_back_to_the_system() -> None:
    blocks = [np.ones(1 << 16, np.uint8) for _ in range(2000)]
    last = blocks[-1]
    del blocks  # the last block keeps the heap from shrinking by itself
    held = resident()
    give_back()
    give_back()  # at any time, also where nothing is free
    assert held - resident() > 64 << 20
    assert last.sum() == 1 << 16
