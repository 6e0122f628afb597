"""Ranking: the order of the people of a clip, the person that the clip is about first."""

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
    """Order tracks and number them from 0.

    The track that overlaps the key boxes of the actor most comes first. The overlap is the mean over the frames between
    the first and the last key box, with key boxes interpolated; a frame without the track counts 0. Without key boxes,
    or without any overlap, the order stays as it is.

    Args:
        tracks: in the order of the tracker.
        actor: key boxes [[seconds, x0, y0, x1, y1], ...] of the person that the clip is about.
        timestamps: (T,) seconds of the frames of the tracks, on the clock of the key boxes; needed with `actor`.

    Raises:
        ComponentError: `actor` without timestamps, or not rows of five numbers.
    """
    order = list(tracks)
    if order and actor is not None and len(actor):
        keys = np.asarray(sorted(map(tuple, actor)), np.float64)
        times = np.asarray(timestamps if timestamps is not None else [], np.float64)
        if keys.ndim != 2 or keys.shape[1] != 5 or times.shape != order[0].boxes.shape[:1]:
            raise ComponentError(
                "rank takes [seconds, x0, y0, x1, y1] rows and a timestamp per frame; "
                f"given {keys.shape} and timestamps {times.shape}"
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
    extent = np.clip(np.minimum(own[:, 2:], target[:, 2:]) - np.maximum(own[:, :2], target[:, :2]), 0, None)
    shared = extent[:, 0] * extent[:, 1]
    union = (
        (own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1])
        + (target[:, 2] - target[:, 0]) * (target[:, 3] - target[:, 1])
        - shared
    )
    return float(np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0).mean())
