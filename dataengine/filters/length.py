"""Filter `length`: number of frames of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dataengine.core.types import Sample
from dataengine.filters.base import Between


@dataclass(frozen=True)
class Length(Between):
    """Number of frames of the clip."""

    min: float | None = 16

    reason: ClassVar[str] = "length"
    measured_in: ClassVar[str] = "frames"

    def measure(self, sample: Sample) -> float:
        return float(sample.keypoints.shape[1])
