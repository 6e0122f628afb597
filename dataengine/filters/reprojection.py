"""Filter `reprojection`: whether the poses in space fit those of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dataengine.core.types import Sample
from dataengine.filters.base import Between


@dataclass(frozen=True)
class Reprojection(Between):
    """Mean distance of the first-ranked person's joints in space, projected, to those of the picture, in body heights.

    A lifter knows bodies. What it cannot bring onto a pose of the picture is no pose of a body: sides exchanged in some
    frames, limbs of another person, joints that were guessed.
    """

    max: float | None = 0.1

    reason: ClassVar[str] = "reprojection"
    measured_in: ClassVar[str] = "body heights"
    needs_lift: ClassVar[bool] = True

    def measure(self, sample: Sample) -> float:
        found = sample.reprojection
        return float("nan") if found is None or len(found) == 0 else float(found[0])
