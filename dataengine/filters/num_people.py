"""Filter `num_people`: number of people in a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.types import Sample
from dataengine.filters.base import Between


@dataclass(frozen=True)
class NumPeople(Between):
    """Median over frames of the number of tracked people, also of those beyond `pose.max_people`; NaN without
    frames."""

    min: float | None = 1

    reason: ClassVar[str] = "num_people"
    measured_in: ClassVar[str] = "people"

    def measure(self, sample: Sample) -> float:
        return float(np.median(sample.people)) if len(sample.people) else float("nan")
