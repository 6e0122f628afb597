"""Filter `reprojection`: whether the poses in space fit those of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dataengine.core.types import Sample
from dataengine.filters.base import Between


@dataclass(frozen=True)
class Reprojection(Between):
    """Mean distance of the first-ranked person's joints in space, projected, to those of the picture, in body heights.

    A lifter knows how bodies move. Poses of the picture that it cannot reach are seldom those of a body.

    The default belongs to the lifter `temporal`. The largest value of 25 rendered clips is 0.033, and 0.060 where every
    fourth frame is taken: the lifter knows videos of about 25 frames per second. Joints guessed at random about the
    body give 0.059 to 0.102. Left and right exchanged every half second give 0.022 to 0.089, legs of another person
    0.018 to 0.046: these are mostly not noticed.
    """

    max: float | None = 0.06

    reason: ClassVar[str] = "reprojection"
    measured_in: ClassVar[str] = "body heights"
    needs_lift: ClassVar[bool] = True

    def measure(self, sample: Sample) -> float:
        found = sample.reprojection
        return float("nan") if found is None or len(found) == 0 else float(found[0])
