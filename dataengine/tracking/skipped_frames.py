"""Experts that look at every k-th frame: what they saw, carried to the frames between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dataengine.core.types import Float, Track

LONGEST_GAP = 0.1
"""Seconds from one look to the next in which a straight line still follows a limb. At six frames a second, every second
one of a real cartwheel makes bones that vary by 72 % where all frames give 30 %."""


def steps_at(fps: float, every: Sequence[int]) -> list[int]:
    """Of each expert, the frames from one look to the next at this frame rate: at most LONGEST_GAP seconds, at least 1.

    Args:
        fps: of the frames that are looked at; infinite where it is not known.
        every: of each expert, the frames that the recipe asks for.
    """
    return [int(max(1, min(step, fps * LONGEST_GAP + 1e-6))) for step in every]


def fill_skipped(track: Track, every: Sequence[int]) -> Track:
    """A track in which experts that look at every k-th frame have poses in the frames between.

    A joint that both neighbouring looks saw moves in a straight line from one to the other, and its score with it.
    Without this, a joint would be rated by more experts in one frame than in the next, so its score would flicker.
    Frames after the last look stay without a pose.

    Args:
        track: coords (E, T, V, 2) and scores (E, T, V) of E experts.
        every: of each expert, the frames from one look to the next; looks begin with frame 0.
    """
    if all(step == 1 for step in every):
        return track
    coords, scores = track.coords.copy(), track.scores.copy()
    for e, step in enumerate(every):
        if step > 1:
            coords[e], scores[e] = _between_looks(coords[e], scores[e], step)
    return replace(track, coords=coords, scores=scores)


def _between_looks(coords: Float, scores: Float, step: int) -> tuple[Float, Float]:
    """Fill the frames of coords (T, V, 2) and scores (T, V) that are no multiples of `step`."""
    frames = np.arange(len(coords))
    before = frames // step * step
    after = before + step
    skipped = (frames > before) & (after < len(coords))
    t, a, b = frames[skipped], before[skipped], after[skipped]
    far = ((t - a) / step).astype(np.float32)[:, None]
    both = np.asarray(np.isfinite(coords[a]).all(-1) & np.isfinite(coords[b]).all(-1))
    filled = (1 - far[..., None]) * coords[a] + far[..., None] * coords[b]
    coords[t] = np.where(both[..., None], filled, np.nan)
    scores[t] = np.where(both, (1 - far) * scores[a] + far * scores[b], 0)
    return coords, scores
