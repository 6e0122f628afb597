"""Extras: the optional parts of the package, and whether each is installed. Nothing is imported to find out."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

from dataengine.core.errors import MissingExtraError

EXTRAS: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "torchvision"),
    "vitpose": ("torch", "transformers"),
    "yolo": ("torch", "ultralytics"),
    "mmpose": ("torch", "mmpose", "mmengine", "mmcv", "pycocotools"),
    "clip": ("torch", "open_clip"),
    "crawl": ("yt_dlp",),
    "decord": ("decord",),
    "train": ("torch", "sklearn", "lightning_fabric", "matplotlib", "tokenizers"),
    "s3": ("s3fs",),
    "cluster": ("dask_jobqueue", "asyncssh"),
    "dev": ("pytest",),
}
"""Modules by which each extra is recognised."""


def installed(extra: str) -> bool:
    """Whether the modules of an extra can be found."""
    return all(importlib.util.find_spec(module) is not None for module in EXTRAS[extra])


def require(components: Iterable[tuple[str, Any]], hint: str = "") -> None:
    """Raise one error that names every missing extra of the (name, component) pairs; `component.extra` names it, and
    `hint` another way.

    Raises:
        MissingExtraError: an extra is not installed.
    """
    lacking: dict[str, list[str]] = {}
    for name, component in components:
        extra = component.extra
        if extra is not None and not installed(extra):
            lacking.setdefault(extra, []).append(name)
    if lacking:
        raise MissingExtraError(", ".join(name for names in lacking.values() for name in names), *lacking, hint=hint)
