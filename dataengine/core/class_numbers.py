"""Labels that files give as numbers of classes: checked one by one, so that a wrong one is named."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LARGEST = 9_999
"""The largest class number that is taken for one in a file of few clips. Names and a classifier are made for all
numbers up to the largest, so a single absurd one would cost memory without bound."""


def class_number(value: Any, clips: int = 0) -> int:
    """A label as the number of a class, -1 for none.

    Args:
        value: as it stands in a file.
        clips: how many the file has; there are not more classes than clips, or than `LARGEST`.

    Raises:
        ValueError: it is none; the message says what it is and what is allowed.
    """
    allowed = "allowed: a whole number from 0, or -1 for no label"
    plain = value.item() if isinstance(value, np.generic | np.ndarray) and value.ndim == 0 else value
    if isinstance(plain, float) and math.isfinite(plain) and plain == int(plain):
        plain = int(plain)  # files that went through a table hold whole numbers so
    if not isinstance(plain, int):
        raise ValueError(f"{_shown(value)} ({type(value).__name__}); {allowed}")
    number = int(plain)
    if number < -1:
        raise ValueError(f"{number}; {allowed}")
    if number > max(LARGEST, clips):
        raise ValueError(
            f"{number}, too large for the number of a class; allowed: up to {max(LARGEST, clips)}, or -1 for no label: "
            "number the classes from 0"
        )
    return number


def _shown(value: Any) -> str:
    """A value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
