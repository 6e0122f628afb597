"""How the experts of one clip are asked: those that need boxes look inside the people that a detector finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataengine.core.types import Detector, Float, Frames, Poses
from dataengine.tracking import next_boxes


class PoseEstimator:
    """Asks experts of one clip, those that want boxes inside the people that a detector finds.

    The detector looks at every `every`-th frame. In between boxes follow the people whom the first expert that wants
    boxes found in them, so that those frames are looked at one by one.
    """

    def __init__(self, detector: Detector | None, every: int) -> None:
        self.detector = detector
        self.every = every
        self.count = 0
        self.boxes: Float = np.zeros((0, 5), np.float32)
        self.here: Poses | None = None
        self.before: Poses | None = None

    def predict(self, frames: Frames, experts: Sequence[Any]) -> list[list[Poses]]:
        """What each of the experts sees in the next frames (T, H, W, 3) of the clip: one list of poses an expert."""
        first, self.count = self.count, self.count + len(frames)
        boxed = [expert.needs_boxes for expert in experts]
        if not any(boxed) or self.detector is None:
            return [expert.predict(frames) for expert in experts]
        asked = [n for n in range(len(frames)) if (first + n) % self.every == 0]
        found = dict(zip(asked, self.detector.detect(frames[asked]))) if asked else {}
        if self.every == 1:
            boxes = [found[n] for n in range(len(frames))]
            return [expert.predict(frames, boxes if wanted else None) for expert, wanted in zip(experts, boxed)]
        answers: list[list[Poses]] = [
            [] if wanted else expert.predict(frames) for expert, wanted in zip(experts, boxed)
        ]
        leader = boxed.index(True)
        for n in range(len(frames)):
            if n in found:
                self.boxes = found[n]
            elif self.here is not None:
                self.boxes = next_boxes(self.here, self.boxes, self.before)
            for expert, wanted, seen in zip(experts, boxed, answers):
                if wanted:
                    seen += expert.predict(frames[n : n + 1], [self.boxes])
            self.before, self.here = self.here, answers[leader][-1]
        return answers
