"""What the tests of experts on torch share: random weights, one thread, and a picture to look at."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from dataengine.rendering import render_clip

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import random_weights

__all__ = ["BOXES", "one_thread", "random_weights", "scene"]

BOXES = np.array([[60.0, 20.0, 180.0, 220.0], [10.0, 30.0, 90.0, 75.5], [0.0, 0.0, 320.0, 240.0]])
"""Tall, wide, and the whole of `scene`."""


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def scene(width: int = 320, height: int = 240) -> np.ndarray:
    """A rendered picture (height, width, 3) with two people and sharp edges, noise and colours."""
    frame = render_clip(5, 1, condition="clean", num_people=2, size=(width, height)).frames[0]
    noise = np.random.default_rng(1).integers(-20, 20, frame.shape)
    return np.clip(frame.astype(int) + noise, 0, 255).astype(np.uint8)
