"""Ranges of the options that several experts and detectors have."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from dataengine.core.component import Component
from dataengine.core.errors import ComponentError

SHARES = ("threshold", "person_threshold", "overlap", "min_score", "min_mean")
"""Options that lie in [0, 1]."""
COUNTS = ("batch", "max_people", "detect_every")
"""Options that are at least 1."""


def check_ranges(component: Component) -> None:
    """Check the common options of an expert or a detector.

    Raises:
        ComponentError: a share outside of [0, 1], or a count below 1.
    """
    given: dict[str, Any] = {f.name: getattr(component, f.name) for f in fields(component)}  # type: ignore[arg-type]
    for name in SHARES:
        if not 0 <= given.get(name, 0) <= 1:
            raise ComponentError(f"{component.title} {name} = {given[name]}: lies in [0, 1]")
    for name in COUNTS:
        if given.get(name) is not None and given[name] < 1:
            raise ComponentError(f"{component.title} {name} = {given[name]}: at least 1")
