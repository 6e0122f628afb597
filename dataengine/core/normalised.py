"""Coordinates that programs write relative to the picture in place of pixels: told apart, and scaled."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from dataengine.core.types import Float

Scale: TypeAlias = Literal["pixels", "unit", "signed", "centred", "screen"]
"""pixels; 0 to 1 (OpenPose's `--keypoint_scale 3`, MediaPipe); -1 to 1 (`--keypoint_scale 4`); -0.5 to 0.5 (ST-GCN);
x / width * 2 - 1 and y / width * 2 - height / width (UNIK, VideoPose3D)."""

BEYOND = 2.0
"""No pose in pixels is so small; relative coordinates of joints outside the picture stay below."""
INSIDE = 0.9
"""Least share of relative coordinates that lie within the picture."""
FAR, MANY = -0.25, 0.1
"""From this coordinate, or from this share of negative ones, the range begins below 0; a few joints just outside the
left or upper edge are negative in coordinates from 0 to 1, too."""


def scale_of(points: Float) -> Scale:
    """What coordinates (..., 2) are: pixels, or relative to the picture from 0 to 1 or from -1 to 1; NaN are left
    out."""
    flat = np.asarray(points, np.float64).reshape(-1, 2)
    flat = flat[np.isfinite(flat).all(-1)]
    if not len(flat):
        return "pixels"
    size = np.abs(flat)
    if size.max() > BEYOND or (size <= 1).mean() < INSIDE:
        return "pixels"
    return "signed" if flat.min() < FAR or (flat < 0).mean() > MANY else "unit"


def to_pixels(points: Float, scale: Scale, width: int, height: int) -> Float:
    """Coordinates (..., 2) of a scale in pixels of a picture."""
    if scale == "pixels":
        return points
    if scale == "screen":
        return np.asarray((points + np.array([1.0, height / width], np.float32)) * np.float32(width / 2), np.float32)
    low, high = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "centred": (-0.5, 0.5)}[scale]
    size = np.array([width, height], np.float32) / (high - low)
    return np.asarray((points - low) * size, np.float32)
