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

    The default belongs to the lifter `temporal` (`benchmarks/reprojection.py`). The largest value of 25 rendered clips
    is 0.032, and 0.065 where every fourth frame is taken: the lifter knows videos of about 25 frames per second. Joints
    guessed at random about the body give 0.057 to 0.101. Left and right exchanged every half second give 0.022 to
    0.105, legs of another person 0.015 to 0.045: these are mostly, or always, not noticed.
    """

    max: float | None = 0.06

    reason: ClassVar[str] = "reprojection"
    measured_in: ClassVar[str] = "body heights"
    needs_lift: ClassVar[bool] = True

    def measure(self, sample: Sample) -> float:
        found = sample.reprojection
        return float("nan") if found is None or len(found) == 0 else float(found[0])
