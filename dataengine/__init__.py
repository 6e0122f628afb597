"""Builds human-motion datasets from video.

    import dataengine

    dataengine.build("posecap", sources="sample", out="builds/posecap")
    ds = dataengine.open("builds/posecap")
    ds.clips                                  # polars LazyFrame
    ds.sample(clip_id)["keypoints"]           # (M, T, 17, 2) float32 pixels

Importing this package loads neither torch nor a video library; rooms are imported when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dataengine.builder import BuildResult, build
    from dataengine.core.skeletons import convert
    from dataengine.core.types import Fused
    from dataengine.dataset.dataset import Dataset, open
    from dataengine.exports.run import ExportResult, export
    from dataengine.fusion import fuse

__all__ = [
    "BuildResult", "Dataset", "ExportResult", "Fused", "__version__", "build", "convert", "export", "fuse", "open",
]  # fmt: skip

_HOMES = {
    "export": "exports.run", "ExportResult": "exports.run",
    "build": "builder", "BuildResult": "builder", "open": "dataset.dataset", "Dataset": "dataset.dataset",
    "fuse": "fusion", "convert": "core.skeletons", "Fused": "core.types",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    return found
