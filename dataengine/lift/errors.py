"""Distances between poses in space: predicted against true ones, in the unit of the poses.

Formulas after Pavllo et al. 2019 (section 5.1) and Rhodin et al. 2018 (N-MPJPE), computed in float64.
"""

from __future__ import annotations

import numpy as np

from dataengine.core.types import Float


def joint_errors(predicted: Float, target: Float) -> Float:
    """(..., V) distance of every joint of poses (..., V, 3)."""
    return np.asarray(np.linalg.norm(predicted.astype(np.float64) - target.astype(np.float64), axis=-1))


def mpjpe(predicted: Float, target: Float) -> float:
    """Mean per-joint position error: mean distance of joints (..., V, 3)."""
    return float(joint_errors(predicted, target).mean())


def aligned(predicted: Float, target: Float, scale: bool = True) -> Float:
    """Poses (N, V, 3) moved, turned and, where `scale` says so, scaled to fit the targets best, pose by pose.

    The turn of least squares comes from a singular value decomposition and is never a mirroring (Umeyama 1991).
    """
    x, y = predicted.astype(np.float64), target.astype(np.float64)
    mean_x, mean_y = x.mean(-2, keepdims=True), y.mean(-2, keepdims=True)
    x, y = x - mean_x, y - mean_y
    u, strength, vt = np.linalg.svd(np.swapaxes(x, -1, -2) @ y)
    sign = np.sign(np.linalg.det(u @ vt))
    strength[..., -1] *= sign
    u[..., -1] *= sign[..., None]
    factor = strength.sum(-1) / np.maximum((x * x).sum((-1, -2)), 1e-30) if scale else np.ones(sign.shape)
    return np.asarray(factor[..., None, None] * (x @ (u @ vt)) + mean_y)


def p_mpjpe(predicted: Float, target: Float) -> float:
    """Mean distance of joints (N, V, 3) after the best turn, scale and shift of every pose (protocol 2)."""
    return mpjpe(aligned(predicted, target), target)


def n_mpjpe(predicted: Float, target: Float) -> float:
    """Mean distance of joints (..., V, 3) after the best scale of every pose; neither is moved nor turned."""
    x, y = predicted.astype(np.float64), target.astype(np.float64)
    scale = (x * y).sum((-1, -2), keepdims=True) / np.maximum((x * x).sum((-1, -2), keepdims=True), 1e-30)
    return mpjpe(scale * x, y)


def velocity_error(predicted: Float, target: Float) -> float:
    """Mean distance of the differences between consecutive frames of poses (T, V, 3), per frame."""
    x, y = predicted.astype(np.float64), target.astype(np.float64)
    return mpjpe(np.diff(x, axis=0), np.diff(y, axis=0))
