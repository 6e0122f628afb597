"""ViCLIP with weights that anyone can draw again, as in tests/golden/viclip_*."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch

from dataengine.features import viclip_towers
from dataengine.features.viclip_sizes import SIZES, Architecture

SMALL = Architecture(64, 16, 128, 3, 4, 96, 3, 3, 64, vocabulary=1024)
ARCHITECTURES = {"small": SMALL, "b16": SIZES["B/16"], "l14": SIZES["L/14"]}


def drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of one tensor: normal numbers from the CRC-32 of its name, scaled by its kind."""
    n = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    if key.endswith("positional_embedding"):
        n = 0.02 * n
    elif len(shape) == 1 and key.endswith(".weight"):
        n = 1 + 0.1 * n
    elif len(shape) <= 1:
        n = 0.1 * n
    else:
        n = n / np.sqrt(np.prod(shape[1:]))
    return np.asarray(n, np.float32)


def shapes_of(golden) -> dict[str, tuple[int, ...]]:
    return {str(k): tuple(int(x) for x in str(s).split(",") if x) for k, s in zip(golden["keys"], golden["shapes"])}


def drawn_state(golden) -> dict[str, np.ndarray]:
    """All weights that a golden names, checked against what it says of them."""
    state = {key: drawn(key, shape) for key, shape in shapes_of(golden).items()}
    first = np.array([w.flat[0] for w in state.values()], np.float32)
    np.testing.assert_array_equal(first, golden["weight_first"])
    return state


def tower_pair(name: str, folder: Path, dtype: torch.dtype):
    """The towers of a golden in evaluation mode, and the goldens of video and text."""
    video, text = (np.load(folder / f"viclip_{name}_{kind}.npz", allow_pickle=False) for kind in ("video", "text"))
    model = viclip_towers.build(ARCHITECTURES[name], 8)
    viclip_towers.fill(model, drawn_state(video), name)
    return viclip_towers.fused_attention(model.to(dtype).eval().requires_grad_(False)), video, text


def video_input(golden) -> np.ndarray:
    numbers = np.random.Generator(np.random.PCG64(int(golden["input_seed"]))).standard_normal(
        tuple(golden["input_shape"])
    )
    found = numbers.astype(np.float32)
    np.testing.assert_array_equal(found.ravel()[:8], golden["input_first8"])
    return found


def away(found: torch.Tensor, golden: np.ndarray) -> float:
    """Largest difference relative to the golden's largest value."""
    return float(np.abs(found.numpy() - golden).max() / np.abs(golden).max())
