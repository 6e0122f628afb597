"""One pose sequence made of several experts' views of the same person."""

from __future__ import annotations

from typing import Any

import numpy as np

from dataengine.core import registry
from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Fused

MAX_EXPERTS = 127
"""`Fused.winner` is an int8."""


def check(coords: Any, scores: Any, skeleton: str | None, axes: str = "ETV") -> tuple[Float, Float | None]:
    """Bring the arrays given to a fusion into one form: float32, contiguous, NaN where unseen.

    Args:
        coords: (*axes, 2) real numbers, pixels, NaN = missing.
        scores: (*axes) in [0, 1], NaN counts as 0; or None.
        skeleton: name of a layout with V joints, or None.
        axes: letters of the leading axes.

    Raises:
        ComponentError: a wrong shape or type, an infinite coordinate, a score outside [0, 1], an unknown layout.
    """
    legend = f"({', '.join(axes)}, 2)"
    try:
        points = np.ascontiguousarray(coords, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ComponentError(
            f"fuse takes coords {legend} of real numbers with NaN for missing joints: {error}"
        ) from error
    if points.ndim != len(axes) + 1 or points.shape[-1] != 2:
        raise ComponentError(f"fuse takes coords {legend}, E experts, T frames, V joints; given shape {points.shape}")
    experts = points.shape[axes.index("E")]
    if not 1 <= experts <= MAX_EXPERTS:
        raise ComponentError(
            f"fuse takes 1 to {MAX_EXPERTS} experts on axis {axes.index('E')} of coords {legend}; given shape {points.shape}"
        )
    if np.isinf(points).any():
        raise ComponentError("fuse was given an infinite coordinate; a missing joint is NaN")
    if skeleton is not None and layout_of(skeleton).num_joints != points.shape[-2]:
        raise ComponentError(
            f"layout {skeleton!r} has {layout_of(skeleton).num_joints} joints, the coords given have {points.shape[-2]}; "
            "name their layout or convert them first"
        )
    if scores is None:
        return points, None
    weights = np.ascontiguousarray(scores, dtype=np.float32)
    if weights.shape != points.shape[:-1]:
        raise ComponentError(f"fuse takes one score a joint, shape {points.shape[:-1]}; given {weights.shape}")
    if np.isnan(weights).any():
        weights = np.nan_to_num(weights, nan=0.0)
    if weights.size and (weights.min() < 0 or weights.max() > 1):
        raise ComponentError(
            f"scores lie in [0, 1]; given {weights.min():.4g} to {weights.max():.4g}: scale them first"
        )
    return points, weights


def fuse(coords: Any, scores: Any = None, method: str = "ssta", skeleton: str | None = None, **options: Any) -> Fused:
    """Fuse what several experts saw of one person.

    Args:
        coords: (E, T, V, 2) float, pixels, NaN where an expert did not see a joint. All experts in one layout.
        scores: (E, T, V) float in [0, 1]; None counts every present joint as 1.
        method: name of a fusion: "ssta" (selection over space and time), "consensus" (robust spline through what the
            experts agree on), "spline", "viterbi_path", "mean_shift", "median", "mean" or "best".
        skeleton: layout of the V joints. Without it the unit of the confidence C comes from the extent of the pose.
        options: fields of the method, for example `gamma=0.18`.

    Returns:
        Fused; `gamma` only sets `.kept`, coordinates are never blanked. One expert gives C = 1 with its small support.

    Raises:
        ComponentError: arrays of a wrong shape, an unknown method, option or layout.
    """
    fused: Fused = registry.create("fusion", method, options).fuse(coords, scores, skeleton)
    return fused
