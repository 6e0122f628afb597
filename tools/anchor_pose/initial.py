"""Weights to begin with: those of torchvision (ResNet, MobileNetV3, Keypoint R-CNN), and of a built-in expert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataengine.core.errors import WeightsError
from dataengine.experts.checkpoints import read_state

if TYPE_CHECKING:
    import torch


def read(path: Path) -> dict[str, torch.Tensor]:
    """Tensors under the names that they have in the network of anchor poses.

    Raises:
        WeightsError: the file cannot be read.
    """
    if path.suffix == ".onnx":
        return synthetic(path)
    return {_named(name): tensor for name, tensor in read_state(path).items()}


def _named(name: str) -> str:
    if name.startswith(("backbone.", "rpn.")):
        return name
    return f"backbone.body.{name.removeprefix('features.')}"


def synthetic(path: Path) -> dict[str, torch.Tensor]:
    """The trunk and the layer of joints of `synthetic_bottomup.onnx` for the backbone `tiny`.

    Its batch normalisation is part of its convolutions, so that of the backbone adds the bias and does nothing else.

    Raises:
        WeightsError: it is another network.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf has errors of its own
        raise WeightsError(f"weights {path} cannot be read as ONNX: {error}") from error
    held = {one.name.removesuffix("_half"): numpy_helper.to_array(one) for one in graph.initializer}
    state: dict[str, torch.Tensor] = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        name = _module(node.output[0].split("/")[2:-1])
        if name is None:
            continue
        weight, bias = (torch.from_numpy(np.array(held[key], np.float32)) for key in node.input[1:3])
        state[f"backbone.{name}.weight"] = weight
        if name.startswith("laterals"):
            state[f"backbone.{name}.bias"] = bias
            continue
        normal = f"backbone.{name.removesuffix('.0')}.1"
        state |= {
            f"{normal}.weight": torch.ones_like(bias),
            f"{normal}.bias": bias,
            f"{normal}.running_mean": torch.zeros_like(bias),
            f"{normal}.running_var": torch.ones_like(bias),
        }
    if not state:
        raise WeightsError(f"weights {path} are no bottom-up expert: it has no convolution of that name")
    return state


def _module(parts: list[str]) -> str | None:
    """The name of a convolution in the backbone `tiny`; None for those of heads that it lacks.

    Args:
        parts: of the path that its output has in the graph; "stem.0" after "stem" names the same module more exactly.
    """
    names: list[str] = []
    for part in parts:
        if names and part.startswith(f"{names[-1]}."):
            names[-1] = part
        elif part != "trunk":
            names.append(part)
    name = ".".join(names)
    return None if name.startswith("group_head") or name == "joint_head.1" else name
