"""Exported networks: files run by their own runtime, and networks whose every layer matters to what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import onnxruntime
import torch

Network = TypeVar("Network", bound=torch.nn.Module)


def lively(model: Network) -> Network:
    """The network with weights that let the motion through to its end."""
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5, generator=drawn)
            elif name.endswith("weight"):
                weight.fill_(1)
    return model


def says(path: Path, format: str) -> Callable[[torch.Tensor], Any]:
    """The file as a function, run by its own runtime."""
    if format == "torchscript":
        return torch.jit.load(str(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda motion: torch.from_numpy(session.run(None, {"motion": motion.numpy()})[0])
