"""Functions that numba compiles on first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F, inline: str = "never") -> _F:
    """Compile on first use, and cache the machine code on disk where a folder can be written."""
    options = {"nogil": True, "error_model": "numpy", "inline": inline}
    try:
        jitted: _F = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder it may write to
        jitted = numba.njit(**options)(function)
    return jitted


def inlined(function: _F) -> _F:
    """Compile into the callers, as a call counts references of every array, which costs more than a short loop."""
    return compiled(function, inline="always")
