"""Published graph networks with weights drawn from their names, and how far the own ones are from what they gave."""

from __future__ import annotations

import numpy as np
import torch

from tests.support.drawn_networks import drawn, golden


def shape_of(sizes: str) -> tuple[int, ...]:
    return tuple(int(s) for s in str(sizes).split(",") if s)


def drawn_weights(arrays: dict) -> dict[str, torch.Tensor]:
    """The state dict that a golden names, graphs included; every drawn tensor checked against the golden."""
    state = {}
    for key, sizes, kind, first in zip(arrays["keys"], arrays["shapes"], arrays["kinds"], arrays["weight_first"]):
        key, shape = str(key), shape_of(sizes)
        if kind == "integer":
            state[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        if kind == "graph":
            weight = np.asarray(arrays["graph_A"], np.float32)
        else:
            weight = drawn(key, shape, arrays["graph_A"].astype(np.float32) if kind == "graph_plus_noise" else None)
        assert weight.flat[0] == first, (key, weight.flat[0], first)
        state[key] = torch.from_numpy(weight)
    return state


def golden_input(arrays: dict) -> torch.Tensor:
    if "input" in arrays:
        return torch.from_numpy(arrays["input"])
    numbers = np.random.Generator(np.random.PCG64(int(arrays["input_seed"]))).standard_normal(
        tuple(arrays["input_shape"])
    )
    found = numbers.astype(np.float32)
    np.testing.assert_array_equal(found.ravel()[:8], arrays["input_first8"])
    return torch.from_numpy(found)


def away(found: torch.Tensor, wanted: np.ndarray) -> float:
    """Largest difference relative to the golden's largest value."""
    assert tuple(found.shape) == wanted.shape
    return float(np.abs(found.detach().numpy() - wanted).max() / np.abs(wanted).max())


__all__ = ["away", "drawn_weights", "golden", "golden_input"]
