"""Base class of all filters: inclusive thresholds around one measured number."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dataengine.core.component import Filter
from dataengine.core.reasons import REASONS


@dataclass(frozen=True)
class Between(Filter):
    """A filter that keeps a clip whose value lies in [min, max].

    A threshold of None is not applied. A value of NaN means that the clip gives nothing to measure, such as no person,
    or no bone in enough frames. Such a clip is kept: the filters `pose_coverage` and `body_visible` decide whether
    enough of a person is seen, and their values are never NaN for a clip with frames.

    Attributes:
        min: smallest value kept.
        max: largest value kept.
    """

    min: float | None = None
    max: float | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        reason = getattr(cls, "reason", None)
        if reason is not None and reason not in REASONS and not cls.meaning:
            raise TypeError(f"filter {cls.__name__} rejects with {reason!r}: say what that means in `meaning`")

    def __post_init__(self) -> None:
        given = [bound for bound in (self.min, self.max) if bound is not None]
        if not all(math.isfinite(bound) for bound in given):
            raise ValueError(
                f"min = {self.min}, max = {self.max}: a threshold is a finite number; leave it out to apply none"
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}, which would keep nothing; swap them")

    def keep(self, value: float) -> bool:
        """Whether `value` lies within the thresholds."""
        return self.missed(value) is None

    def missed(self, value: float) -> float | None:
        """The threshold that `value` misses, or None."""
        if self.min is not None and value < self.min:
            return self.min
        if self.max is not None and value > self.max:
            return self.max
        return None
