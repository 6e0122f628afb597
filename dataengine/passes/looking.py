"""How a clip's frames are looked at: which ones, where for people, and for what beside poses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from blake3 import blake3

from dataengine.duplicates import LONGEST, STEP, picture_hash
from dataengine.tracking import next_boxes
from dataengine.types import Detector, Float, Frames, Poses

THUMB = (64, 48)
"""Size of the grey thumbnails that frame changes are measured on: small enough to ignore noise and compression."""


class Thinner:
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


class Watcher:
    """What every frame is looked at for, poses apart: changes between frames, the pictures' digest, and their hashes."""

    def __init__(self) -> None:
        self.hasher = blake3()
        self.before: Frames | None = None
        self.change: list[float] = []
        self.hashes: list[int] = []
        self.hash_frames: list[int] = []
        self.begun = 0.0

    def look(self, frame: Frames, time: float) -> None:
        self.hasher.update(np.ascontiguousarray(frame).data)
        small = cv2.cvtColor(cv2.resize(frame, THUMB, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        self.change.append(0.0 if self.before is None else float(cv2.absdiff(small, self.before).mean()) / 255)
        if self.before is None:
            self.begun = time
        if len(self.hashes) < LONGEST and time - self.begun >= STEP * len(self.hashes) - 1e-6:
            self.hashes.append(picture_hash(small))
            self.hash_frames.append(len(self.change) - 1)
        self.before = small


class Gaze:
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

    def see(self, frames: Frames, experts: Sequence[Any]) -> list[list[Poses]]:
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
        answers: list[list[Poses]] = [[] if wanted else expert.predict(frames) for expert, wanted in zip(experts, boxed)]
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
