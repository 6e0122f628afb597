"""Which devices are accelerators: networks get large batches of fixed shapes there, and frames are uploaded once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_STATE = {"cpu": False}


def is_accelerator(device: str) -> bool:
    """Whether components on a device work as on an accelerator."""
    return device != "cpu" or _STATE["cpu"]


@contextmanager
def cpu_as_accelerator() -> Iterator[None]:
    """Within this, what is loaded on the CPU works as on an accelerator; for tests of that path without one."""
    before, _STATE["cpu"] = _STATE["cpu"], True
    try:
        yield
    finally:
        _STATE["cpu"] = before
