"""Importing mmpose 1.3.2 without what its wheel cannot bring: xtcocotools, mmdet and the compiled half of mmcv.

None of the three does anything for the networks used here, but mmpose imports them by name. xtcocotools is a fork
of pycocotools that does not build; mmdet asks for older versions of mmcv than exist for this Python, and only a type
and a function of training are taken from it; mmcv-lite lacks `mmcv.ops`. What is really installed is used.

Stand-ins are there while mmpose is imported and are taken away after, so that other libraries asking for mmdet or
mmcv.ops find what they would find without mmpose. One thread at a time.
"""

from __future__ import annotations

import importlib
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dataengine.core.errors import ComponentError, MissingExtraError

EXTRA = "mmpose"
_LOCK = threading.RLock()


@contextmanager
def mmpose_importable(what: str) -> Iterator[None]:
    """Within this, mmpose and its models can be imported.

    Raises:
        MissingExtraError: mmpose, mmengine, mmcv or pycocotools is not installed; `what` needs them.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        put: dict[str, types.ModuleType] = {}
        try:
            try:
                for stand_ins in (_coco, _mmdet, _ops):
                    put |= stand_ins()
                importlib.import_module("mmpose.models")
            except ImportError as error:
                raise MissingExtraError(what, EXTRA) from error
            yield
        finally:
            for name, module in put.items():
                if sys.modules.get(name) is module:
                    del sys.modules[name]


def _there(name: str) -> bool:
    """Whether a module can be imported; one that fails leaves nothing behind."""
    before = set(sys.modules)
    try:
        importlib.import_module(name)
    except Exception:  # an incompatible version raises what it likes
        root = name.partition(".")[0]
        for left in set(sys.modules) - before:
            if left == name or left.startswith(f"{name}.") or (root != "mmcv" and left.partition(".")[0] == root):
                del sys.modules[left]
        return False
    return True


def _put(modules: dict[str, types.ModuleType]) -> dict[str, types.ModuleType]:
    sys.modules.update(modules)
    return modules


def _coco() -> dict[str, types.ModuleType]:
    if _there("xtcocotools.coco"):
        return {}
    names = ("", ".coco", ".cocoeval", ".mask")
    return _put({f"xtcocotools{n}": importlib.import_module(f"pycocotools{n}") for n in names})


def _mmdet() -> dict[str, types.ModuleType]:
    if _there("mmdet.utils"):
        return {}
    root, part = types.ModuleType("mmdet"), types.ModuleType("mmdet.utils")
    part.ConfigType = dict  # type: ignore[attr-defined]
    part.reduce_mean = lambda value: value  # type: ignore[attr-defined]
    root.utils, root.__path__, root.__version__ = part, [], "0"  # type: ignore[attr-defined]
    return _put({"mmdet": root, "mmdet.utils": part})


def _ops() -> dict[str, types.ModuleType]:
    if _there("mmcv.ops"):
        return {}
    import torch

    part = types.ModuleType("mmcv.ops")

    def stand_in(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(self: Any, *given: Any, **named: Any) -> None:
            raise ComponentError(
                f"mmcv.ops.{name} is compiled code that mmcv-lite lacks; no network offered here uses it"
            )

        return type(name, (torch.nn.Module,), {"__init__": refuse})

    part.__getattr__ = stand_in  # type: ignore[method-assign]
    part.__path__ = []
    return _put({"mmcv.ops": part})
