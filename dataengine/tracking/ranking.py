"""Which track is the clip's: people ranked for use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dataengine.core.errors import ComponentError
from dataengine.core.types import Float, Track


def rank(
    tracks: Sequence[Track], actor: Sequence[Sequence[float]] | None = None, timestamps: Any = None
) -> list[Track]:
    """Order tracks for use and number them anew from 0.

    Args:
        tracks: in the tracker's order.
        actor: key boxes [[seconds, x0, y0, x1, y1], ...] of the person the clip is about: the track that overlaps
            them most (mean overlap over the frames between the first and the last key, boxes interpolated, a frame
            without the track counting 0) comes first. None, or no overlap at all, leaves the order as it is.
        timestamps: (T,) seconds of the tracks' frames on the clock of the keys; needed with `actor`.

    Raises:
        ComponentError: `actor` without timestamps, or not rows of five numbers.
    """
    order = list(tracks)
    if order and actor is not None and len(actor):
        keys = np.asarray(sorted(map(tuple, actor)), np.float64)
        times = np.asarray(timestamps if timestamps is not None else [], np.float64)
        if keys.ndim != 2 or keys.shape[1] != 5 or times.shape != order[0].boxes.shape[:1]:
            raise ComponentError(
                f"rank takes [seconds, x0, y0, x1, y1] rows and a timestamp a frame; given {keys.shape} and timestamps {times.shape}"
            )
        shares = [_overlap(track.boxes, times, keys) for track in order]
        best = int(np.argmax(shares))
        if shares[best] > 0:
            order.insert(0, order.pop(best))
    return [replace(track, track_id=i) for i, track in enumerate(order)]


def _overlap(boxes: Float, times: Float, keys: Float) -> float:
    """Mean overlap (intersection over union) of boxes (T, 4) with key boxes interpolated at `times`."""
    inside = (times >= keys[0, 0]) & (times <= keys[-1, 0])
    if not inside.any():
        inside = np.abs(times - keys[:, 0].mean()) == np.abs(times - keys[:, 0].mean()).min()
    target = np.stack([np.interp(times[inside], keys[:, 0], keys[:, c]) for c in range(1, 5)], axis=1)
    own = boxes[inside].astype(np.float64)
    sides = np.clip(np.minimum(own[:, 2:], target[:, 2:]) - np.maximum(own[:, :2], target[:, :2]), 0, None)
    shared = sides[:, 0] * sides[:, 1]
    union = (
        (own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1])
        + (target[:, 2] - target[:, 0]) * (target[:, 3] - target[:, 1])
        - shared
    )
    return float(np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0).mean())
