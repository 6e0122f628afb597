"""Pose experts: each finds people and their joints in frames.

An expert is a configuration (see `dataengine.core.component.Expert`); `load(device)` opens a session. The session
runs in the caller's process or in a process and environment of its own (`dataengine.experts.isolation.isolated`).
Nothing heavy is imported until an expert is created.

    with experts.create("vitpose").load("cuda") as session:
        poses = session.predict(frames, boxes)
"""

from __future__ import annotations

from typing import Any

from dataengine.core import registry
from dataengine.core.component import Expert, ExpertSession

__all__ = ["Expert", "ExpertSession", "create"]


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
