"""Embeddings of clips and of strings in one space: what a video shows, and what a label says.

A feature component is a configuration (see `dataengine.core.component.Features`); `load(device)` opens a session.
Nothing heavy is imported until a session is opened.

    with features.create("viclip").load("cuda") as session:
        video, text = session.encode_video([frames]), session.encode_text(["jumping jacks"])
"""

from __future__ import annotations

from typing import Any

from dataengine.core import registry
from dataengine.core.component import Features, FeaturesSession

__all__ = ["Features", "FeaturesSession", "create"]


def create(name: str, **options: Any) -> Features:
    """Make the features called `name`.

    Args:
        name: one of `dataengine.core.registry.names("features")`.
        options: their configuration; an unknown option is an error.

    Raises:
        ComponentError: unknown name or option, or a value of the wrong type or range.
    """
    features: Features = registry.create("features", name, options)
    return features
