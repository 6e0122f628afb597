"""Which frames of a video are used: all, or at most so many per second."""

from __future__ import annotations

from dataengine.core.types import Float


class FrameSampler:
    """Picks frames so that at most `max_fps` a second remain (None: all)."""

    def __init__(self, max_fps: float | None) -> None:
        self.step = None if max_fps is None else 1 / max_fps
        self.due = 0.0

    def pick(self, timestamps: Float) -> list[int]:
        if self.step is None:
            return list(range(len(timestamps)))
        picked = []
        for n, time in enumerate(timestamps):
            if time >= self.due - 0.25 * self.step:
                picked.append(n)
                self.due = max(self.due + self.step, float(time) + 0.5 * self.step)
        return picked
