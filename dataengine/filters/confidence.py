"""Filter `confidence`: agreement of the experts on the first-ranked person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.types import Float, Int, Sample
from dataengine.filters.base import Between
from dataengine.filters.body import mean


def confidence(values: Float, support: Int) -> float:
    """Mean of the C of SST-A over the frames in which any expert gave a joint.

    Args:
        values: (T,) float C in [0, 1].
        support: (T,) int number of present (expert, joint) pairs.

    Returns:
        The mean in [0, 1]; NaN when no frame holds a pose.
    """
    return mean(np.where(np.asarray(support) > 0, np.asarray(values, np.float64), np.nan))


@dataclass(frozen=True)
class Confidence(Between):
    """Mean of the C of SST-A of the first-ranked person, in [0, 1].

    The default is the gamma below which SST-A discards a pose (the thesis behind SST-A, section on aggregation: 0.18).
    A single expert agrees with itself, so its C is 1.
    """

    min: float | None = 0.18

    reason: ClassVar[str] = "confidence"
    measured_in: ClassVar[str] = "mean C"

    def measure(self, sample: Sample) -> float:
        return confidence(sample.confidence[0], sample.support[0]) if len(sample.keypoints) else float("nan")
