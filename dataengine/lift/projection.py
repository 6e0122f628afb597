"""How well poses in space fit the picture they were lifted from."""

from __future__ import annotations

import numpy as np

from dataengine.core.types import Bool, Float


def fit_scaled_orthographic(points: Float, pixels: Float, seen: Bool) -> tuple[Float, Float]:
    """The scaled orthographic camera of each frame: pixels = scale * (x, y) + shift, in least squares.

    Args:
        points: (T, V, 3) metres.
        pixels: (T, V, 2) pixels.
        seen: (T, V) joints that count.

    Returns:
        scale (T,) pixels per metre, not below 0, and shift (T, 2) pixels; NaN in frames with fewer than two joints
        that count, or whose joints lie in one point.
    """
    count = seen.sum(1).astype(np.float64)
    weight = seen / np.maximum(count, 1)[:, None]
    flat = np.where(seen[..., None], np.asarray(points, np.float64)[..., :2], 0)
    image = np.where(seen[..., None], np.asarray(pixels, np.float64), 0)
    middle = (weight[..., None] * flat).sum(1)
    centre = (weight[..., None] * image).sum(1)
    from_middle, from_centre = flat - middle[:, None], image - centre[:, None]
    spread = (weight[..., None] * from_middle**2).sum((1, 2))
    possible = (count >= 2) & (spread > 1e-12)
    together = (weight[..., None] * from_middle * from_centre).sum((1, 2))
    scale = np.where(possible, np.maximum(together / np.where(possible, spread, 1), 0), np.nan)
    return scale, centre - scale[:, None] * middle


def reprojection_error(points: Float, pixels: Float, seen: Bool) -> Float:
    """(T,) float32 pixels: mean distance of seen joints to the joints in space under the scaled orthographic camera
    that fits the frame best (`fit_scaled_orthographic`); NaN where there is none.

    Args:
        points: (T, V, 3) metres, NaN where unknown.
        pixels: (T, V, 2) pixels, NaN where unseen.
        seen: (T, V) joints that count.
    """
    use = seen & np.isfinite(points).all(-1) & np.isfinite(pixels).all(-1)
    scale, shift = fit_scaled_orthographic(points, pixels, use)
    made = scale[:, None, None] * np.where(use[..., None], points, 0)[..., :2] + shift[:, None]
    apart = np.linalg.norm(np.where(use[..., None], pixels - made, 0), axis=-1)
    with np.errstate(invalid="ignore"):
        error = np.where(use, apart, 0).sum(1) / np.where(use.any(1), use.sum(1), np.nan)
    return np.asarray(error, np.float32)
