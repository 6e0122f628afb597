"""Pose experts: each looks at frames and says where the joints of people are.

An expert is a frozen dataclass (see `dataengine.core.types.Expert`). It may run in the caller's process or
in a process and environment of its own (`dataengine.experts.isolation.isolated`). Nothing heavy is imported
until an expert is created.
"""

from __future__ import annotations

from typing import Any

from dataengine.core import registry
from dataengine.core.types import Expert


def create(name: str, **options: Any) -> Expert:
    """Make the expert called `name`.

    Args:
        name: one of `dataengine.core.registry.names("experts")`.
        options: its configuration; an unknown option is an error.

    Raises:
        ComponentError: unknown name or option, or a value of the wrong type or range.
    """
    expert: Expert = registry.create("experts", name, options)
    return expert
