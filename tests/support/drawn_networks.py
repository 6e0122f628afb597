"""Weights that anyone can draw again from their names, and the goldens that published networks gave with them."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def drawn(key: str, shape: tuple[int, ...], graph: np.ndarray | None = None) -> np.ndarray:
    """The weight of one tensor: normal numbers from the CRC-32 of its published name, scaled by its kind."""
    n = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    fan = np.prod(shape[1:]) if len(shape) > 1 else 1
    if key.endswith("running_mean"):
        n = 0.1 * n
    elif key.endswith("running_var"):
        n = 0.5 + np.abs(n)
    elif graph is not None:
        n = graph + 0.05 * n
    elif "edge_importance" in key:
        n = 1 + 0.1 * n
    elif re.search(r"\.conv_[ab]\.\d+\.", key):
        n = 2 * n / np.sqrt(fan) if len(shape) > 1 else 0.5 * n
    elif key.endswith("weight") and len(shape) == 1:
        n = 1 + 0.1 * n
    elif len(shape) <= 1:
        n = 0.1 * n
    elif re.search(r"\.conv_d\.\d+\.", key):
        n = 0.3 * n / np.sqrt(fan)
    else:
        n = n / np.sqrt(fan)
    return np.asarray(n, np.float32)


def golden(name: str) -> tuple[dict, dict]:
    """(arrays, facts) of a golden."""
    arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    return {key: arrays[key] for key in arrays.files}, json.loads((GOLDEN / f"{name}.json").read_text())


def drawn_state(arrays: dict) -> dict[str, torch.Tensor]:
    """The state dict that a golden names, under its published keys; every float tensor checked against the golden."""
    state = {}
    for key, sizes, first in zip(arrays["keys"], arrays["shapes"], arrays["weight_first"]):
        shape = tuple(int(s) for s in str(sizes).split(",") if s)
        if str(key).endswith("num_batches_tracked"):
            state[str(key)] = torch.zeros((), dtype=torch.int64)
            continue
        weight = drawn(str(key), shape)
        assert weight.flat[0] == first, key
        state[str(key)] = torch.from_numpy(weight)
    return state
