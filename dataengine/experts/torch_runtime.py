"""Running torch networks: device, precision, fixed shapes, pinned memory, warm-up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dataengine.errors import ComponentError, MissingExtraError
from dataengine.types import Frames

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "float16", "bfloat16"]
"""auto: float16 on a GPU, float32 on a CPU."""


def import_torch(what: str, extra: str = "torch") -> Any:
    """The torch module.

    Raises:
        MissingExtraError: it is not installed; names `what` needs it and the extra to add.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(what, extra) from error
    return torch


@dataclass(frozen=True)
class Runtime:
    """Where and how precisely a network runs.

    Attributes:
        device: a torch device. dtype: what the network computes in.
    """

    device: Any
    dtype: Any

    @staticmethod
    def open(device: str, precision: Precision, what: str, extra: str = "torch") -> Runtime:
        """The runtime for a device name such as 'cpu', 'cuda' or 'cuda:1'.

        Raises:
            MissingExtraError: torch is not installed.
            ComponentError: a CUDA device where torch sees none.
        """
        torch = import_torch(what, extra)
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ComponentError(f"{what}: device {device!r}, but torch sees no CUDA device; use --device cpu")
        chosen = torch.device(device)
        name = ("float16" if chosen.type == "cuda" else "float32") if precision == "auto" else precision
        return Runtime(chosen, getattr(torch, name))

    def place(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network in evaluation mode on the device; weights stay float32, `autocast` computes in `dtype`."""
        if self.device.type == "cuda":
            network = network.to(self.device)
        return network.eval().requires_grad_(False)

    def pictures(self, pixels: Frames, mean: Any, std: Any, fixed: int | None = None) -> torch.Tensor:
        """(N, h, w, 3) uint8 -> (N or more, 3, h, w) float32 on the device, (x - mean) / std in units of 0 to 255.

        `fixed`: on a GPU the batch is filled up with its first picture to this many, so that shapes do not change.
        """
        import torch

        given = torch.from_numpy(np.ascontiguousarray(pixels))
        if self.device.type == "cuda":
            if fixed is not None and len(given) < fixed:
                given = torch.cat([given, given[:1].expand(fixed - len(given), -1, -1, -1)])
            given = given.pin_memory().to(self.device, non_blocking=True)
        x = given.permute(0, 3, 1, 2).float()
        middle = torch.as_tensor(mean, dtype=torch.float32, device=self.device).view(-1, 1, 1)
        width = torch.as_tensor(std, dtype=torch.float32, device=self.device).view(-1, 1, 1)
        return (x - middle) / width

    def run(self, call: Callable[[], Any]) -> Any:
        """`call()` without gradients, in this precision."""
        import torch

        lower = self.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype) if lower else nullcontext():
            return call()
