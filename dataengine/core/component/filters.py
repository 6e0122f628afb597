"""Filters, which measure clips."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from dataengine.core.component.configuration import Component
from dataengine.core.errors import ComponentError
from dataengine.core.types import Sample


class Filter(Component, ABC):
    """Measures a clip; thresholds (its `min` and `max`) decide whether the clip is kept.

    Attributes:
        reason: what a clip is rejected with: a key of `dataengine.core.reasons.REASONS`, or a word of the filter's own.
        meaning: what the reason means, in a few words; needed for a reason that is not built in.
        measured_in: what the value counts, for tables and axes.
        needs_lift: whether it measures poses in space, which only recipes with a lifter make.
    """

    reason: ClassVar[str]
    meaning: ClassVar[str] = ""
    measured_in: ClassVar[str]
    needs_lift: ClassVar[bool] = False

    def check(self) -> None:
        super().check()
        for name in ("reason", "measured_in"):
            if not isinstance(getattr(type(self), name, None), str):
                raise ComponentError(f"filter {type(self).__name__} has no {name}: give it `{name}: ClassVar[str]`")

    @abstractmethod
    def measure(self, sample: Sample) -> float:
        """The value of a clip, NaN where it is undefined."""

    @abstractmethod
    def keep(self, value: float) -> bool:
        """Whether `value` misses no threshold."""

    @abstractmethod
    def missed(self, value: float) -> float | None:
        """The threshold that `value` misses, None when the clip is kept."""
