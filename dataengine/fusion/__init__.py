"""Fusion: one pose sequence of a person, made from the sequences of several experts."""

from __future__ import annotations

from typing import Any

import numpy as np

from dataengine.core import registry
from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Fused

MAX_EXPERTS = 127
"""Most experts that a fusion takes: `Fused.winner` is an int8."""


def check(coords: Any, scores: Any, skeleton: str | None, axes: str = "ETV") -> tuple[Float, Float | None]:
    """Check the arrays given to a fusion and bring them into one form: float32, contiguous, NaN where unseen.

    Args:
        coords: (*axes, 2) real numbers, pixels, NaN for missing joints.
        scores: (*axes) in [0, 1], where NaN counts as 0, or None.
        skeleton: name of a layout with V joints, or None.
        axes: letters of the leading axes.

    Returns:
        coords (*axes, 2) float32, and scores (*axes) float32 or None.

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
            f"fuse takes 1 to {MAX_EXPERTS} experts on axis {axes.index('E')} of coords {legend}; "
            f"given shape {points.shape}"
        )
    if np.isinf(points).any():
        raise ComponentError("fuse was given an infinite coordinate; a missing joint is NaN")
    if skeleton is not None and layout_of(skeleton).num_joints != points.shape[-2]:
        raise ComponentError(
            f"layout {skeleton!r} has {layout_of(skeleton).num_joints} joints, the coords given have "
            f"{points.shape[-2]}; "
            "name their layout or convert them first"
        )
    if scores is None:
        return points, None
    weights = np.ascontiguousarray(scores, dtype=np.float32)
    if weights.shape != points.shape[:-1]:
        raise ComponentError(f"fuse takes one score per joint, shape {points.shape[:-1]}; given {weights.shape}")
    if np.isnan(weights).any():
        weights = np.nan_to_num(weights, nan=0.0)
    if weights.size and (weights.min() < 0 or weights.max() > 1):
        raise ComponentError(
            f"scores lie in [0, 1]; given {weights.min():.4g} to {weights.max():.4g}: scale them first"
        )
    return points, weights


def fuse(coords: Any, scores: Any = None, method: str = "ssta", skeleton: str | None = None, **options: Any) -> Fused:
    """Fuse the pose sequences of several experts of one person into one.

    Args:
        coords: (E, T, V, 2) float pixels, NaN where an expert did not see a joint. All experts use one layout.
        scores: (E, T, V) float in [0, 1]; None gives every present joint the score 1.
        method: name of a fusion: "ssta" (selection over space and time), "consensus" (robust spline through what the
            experts agree on), "spline", "viterbi_path", "mean_shift", "median", "mean" or "best".
        skeleton: layout of the V joints. Without a layout the extent of the pose scales the confidence C.
        options: fields of the method, for example `gamma=0.18`.

    Returns:
        The fused sequence. `gamma` sets `.kept` only: coordinates are never blanked. One expert gives C = 1 with a
        small support.

    Raises:
        ComponentError: arrays of a wrong shape, an unknown method, option or layout.
    """
    fused: Fused = registry.create("fusion", method, options).fuse(coords, scores, skeleton)
    return fused
