"""Memory that a process has freed goes back to the system.

The C library and Arrow keep freed memory for the next need. A driver that works through steps of very different needs
would hold the sum of what each step left behind.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

import pyarrow as pa


def give_back() -> None:
    """Give memory that is free in this process back to the system, where the system's C library knows how."""
    pa.default_memory_pool().release_unused()
    _trim()()


@functools.cache
def _trim() -> Callable[[], object]:
    """`malloc_trim` of glibc; elsewhere nothing."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library, such as musl
        return lambda: None
    return lambda: trim(0)
