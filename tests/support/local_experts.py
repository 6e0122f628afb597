"""Experts whose weights are not shipped, made with local weights so that they run here; see test_contract.py."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataengine.core import registry


@dataclass(frozen=True)
class Local:
    """How to make an expert here.

    Attributes:
        options: given a folder for its files, its options.
        trained: whether it finds people; random weights do not.
        modules: what must be installed.
    """

    options: Callable[[Path], dict[str, Any]]
    trained: bool = False
    modules: tuple[str, ...] = ()


def _onnx(folder: Path) -> dict[str, Any]:
    from tests.support.onnx_files import trained_heatmap

    return {
        "model": str(trained_heatmap(folder / "heatmap.onnx")),
        "skeleton": "body14",
        "padding": 1.15,
        "min_mean": 0.05,
    }


def _random(name: str, **options: Any) -> Callable[[Path], dict[str, Any]]:
    def given(folder: Path) -> dict[str, Any]:
        from tests.support.torch_setup import one_thread, random_weights

        one_thread()
        return registry.config(getattr(random_weights, name)(folder, min_score=0.0, min_mean=0.0, **options))

    return given


def _detector(name: str, **options: Any) -> Callable[[Path], dict[str, Any]]:
    def given(folder: Path) -> dict[str, Any]:
        from tests.support.torch_setup import one_thread, random_weights

        one_thread()
        return registry.config(getattr(random_weights, name)(folder, **options))

    return given


def _onnx_detector(folder: Path) -> dict[str, Any]:
    from tests.support.onnx_files import random_network

    return {"model": str(random_network(folder / "yolo.onnx", {"output0": [84, 420]}, (160, 128)))}


def _movenet(folder: Path) -> dict[str, Any]:
    from tests.support.onnx_files import random_network

    shapes = {"heatmap": [8, 8, 17], "center": [8, 8, 1], "regress": [8, 8, 34], "offset": [8, 8, 34]}
    file = random_network(folder / "movenet.onnx", shapes, (192, 192))
    return {"model": str(file), "variant": "lightning", "min_score": 0.0, "min_mean": 0.0}


def _efficientpose(folder: Path) -> dict[str, Any]:
    from tests.support.onnx_files import random_network

    file = random_network(folder / "efficientpose.onnx", {"heatmap": [16, 16, 16]}, (368, 368))
    return {"model": str(file), "min_score": 0.0, "min_mean": 0.0}


def _multipose(folder: Path) -> dict[str, Any]:
    from tests.support.head_files import multipose

    return {"model": str(multipose(folder / "multipose.onnx")), "size": 128, "threshold": 0.05, "max_people": 5}


def _nanodet(folder: Path) -> dict[str, Any]:
    from tests.support.head_files import detector

    return {"model": str(detector(folder / "nanodet.onnx")), "threshold": 0.1}


def _nanodet_multipose(folder: Path) -> dict[str, Any]:
    from tests.support.head_files import detector, multipose

    files = {"nanodet": str(detector(folder / "nanodet.onnx")), "multipose": str(multipose(folder / "multipose.onnx"))}
    return files | {"threshold": 0.1, "person_threshold": 0.05, "size": 128}


LOCAL: dict[str, Local] = {
    "movenet": Local(_movenet),
    "efficientpose": Local(_efficientpose),
    "movenet_multipose": Local(_multipose),
    "nanodet": Local(_nanodet),
    "nanodet_multipose": Local(_nanodet_multipose),
    "onnx": Local(_onnx, trained=True, modules=("onnx",)),
    "vitpose": Local(_random("vitpose", model="plus-small"), modules=("torch", "transformers")),
    "keypoint_rcnn": Local(
        _random("keypoint_rcnn", width=128, height=96, proposals=40, max_people=2), modules=("torch", "torchvision")
    ),
    "rtmpose": Local(_random("rtmpose", model="t"), modules=("torch",)),
    "mmpose": Local(
        _random("mmpose", model="rtmpose-t"), modules=("torch", "mmpose", "mmcv", "mmengine", "pycocotools")
    ),
    "onnx_detector": Local(_onnx_detector, modules=("onnx",)),
    "rtdetr": Local(_detector("rtdetr", threshold=0.0, max_people=3), modules=("torch", "transformers")),
    "ultralytics": Local(_random("ultralytics", side=320, threshold=0.02), modules=("torch", "ultralytics")),
}
"""Experts by name; those that are not here are made without options."""


def make(name: str, folder: Path, kind: str = "experts") -> Any:
    """The expert or detector, with weights of our own; skips where its library is not installed."""
    local = LOCAL.get(name)
    if local is None:
        return registry.create(kind, name)
    absent = [module for module in local.modules if importlib.util.find_spec(module) is None]
    if absent:
        pytest.skip(f"{name} needs {', '.join(absent)}")
    return registry.create(kind, name, local.options(folder))


def is_trained(name: str) -> bool:
    """Whether the expert that `make` makes finds people."""
    return name not in LOCAL or LOCAL[name].trained
