"""Running an encoder batch by batch (imports torch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from dataengine.core.errors import ComponentError
from dataengine.core.types import Float

Item = TypeVar("Item")


def dtype(precision: str, device: str) -> torch.dtype:
    """The number format to compute in on a device; auto is half precision on CUDA and float32 elsewhere.

    Raises:
        ComponentError: a CUDA device where torch sees none.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ComponentError(f"device {device!r}, but torch sees no CUDA device; use 'cpu'")
    if precision == "auto":
        precision = "float16" if device.startswith("cuda") else "float32"
    found: torch.dtype = getattr(torch, precision)
    return found


def batched(
    run: Callable[[Sequence[Item]], torch.Tensor], items: Sequence[Item], batch: int, device: str, dim: int
) -> Float:
    """(N, D) float32 features of unit length of all items, in order.

    On CUDA `batch` items run at once, half as many after each time the memory did not suffice. On a CPU
    items run one by one: one clip fills it, and a feature then depends on nothing but its item, to the bit.

    Args:
        run: gives (n, D) features of n items.

    Raises:
        torch.OutOfMemoryError: a single item does not fit.
    """
    size = batch if device.startswith("cuda") else 1
    parts: list[Float] = [np.zeros((0, dim), np.float32)]
    start = 0
    while start < len(items):
        try:
            with torch.inference_mode():
                found = run(items[start : start + size]).double()
                parts.append(torch.nn.functional.normalize(found, dim=-1).float().cpu().numpy())
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = (size + 1) // 2
            torch.cuda.empty_cache()
            continue
        start += size
    return np.concatenate(parts)


class TextCache:
    """Features of strings, each computed once."""

    def __init__(self) -> None:
        self._known: dict[str, Float] = {}

    def encode(self, texts: Sequence[str], encode: Callable[[list[str]], Float], dim: int) -> Float:
        """(N, D) float32 for N strings; `encode` is called with those not met before.

        Raises:
            ComponentError: something else than strings.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ComponentError(f"encode_text takes a list of strings; given {texts!r:.80}")
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, encode(new)))
        return np.stack([self._known[text] for text in texts]) if len(texts) else np.zeros((0, dim), np.float32)


def ready(model: Any, wanted: torch.dtype, device: str) -> Any:
    """The model ready to encode: on its device, in its number format, without gradients."""
    return model.to(device=device, dtype=wanted).eval().requires_grad_(False)
