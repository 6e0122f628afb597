"""A filter with a reason of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.types import Sample
from dataengine.filters.base import Between


@dataclass(frozen=True)
class Upright(Between):
    """Height of the body over its width, median over frames; people who lie are left out."""

    min: float | None = 1.0

    reason: ClassVar[str] = "lying"
    meaning: ClassVar[str] = "the body is wider than high"
    measured_in: ClassVar[str] = "height over width"

    def measure(self, sample: Sample) -> float:
        if len(sample.keypoints) == 0:
            return float("nan")
        pose = np.asarray(sample.keypoints)[0]
        width, height = (np.nanmax(pose, 1) - np.nanmin(pose, 1)).T
        return float(np.nanmedian(height / width))
