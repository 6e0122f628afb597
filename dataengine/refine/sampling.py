"""Which frames a student learns from, and which videos are held out: functions of names and a seed alone.

Nothing depends on what else is in a build. So clips that are added later leave the frames and the split of all others
as they are.
"""

from __future__ import annotations

import numpy as np
from blake3 import blake3

from dataengine.core.types import Int


def drawn(*names: object) -> float:
    """A number in [0, 1) that is drawn by names and numbers."""
    return int.from_bytes(_digest(names)[:8], "big") / 2.0**64


def is_held_out(source: str, video_id: str, seed: int, share: float) -> bool:
    """Whether a video is held out for validation, with all its clips."""
    return drawn("held out", source, video_id, seed) < share


def sampled_frames(clip_id: str, count: int, share: float, seed: int) -> Int:
    """Numbers of the frames that are learned from: (K,) int64, ascending, K = max(1, round(share count)).

    A clip is cut into K parts of equal length, and a frame is drawn in each, so that frames are spread evenly and none
    has a better chance than another.

    Args:
        count: frames of the clip; 0 gives none.
    """
    if not count:
        return np.zeros(0, np.int64)
    parts = max(1, min(count, round(share * count)))
    bounds = np.linspace(0, count, parts + 1)
    rng = np.random.default_rng(int.from_bytes(_digest(("frames", clip_id, seed))[:8], "big"))
    found: Int = np.minimum((bounds[:-1] + rng.random(parts) * np.diff(bounds)).astype(np.int64), count - 1)
    return np.unique(found)


def _digest(names: tuple[object, ...]) -> bytes:
    return blake3("\0".join(map(str, names)).encode()).digest()
