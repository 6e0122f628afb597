"""What is computed from every frame beside poses: changes between frames, the digest of the pictures, and their
hashes."""

from __future__ import annotations

import cv2
import numpy as np
from blake3 import blake3

from dataengine.core.types import Frames
from dataengine.dataset.signatures import LONGEST, STEP, picture_hash

THUMB = (64, 48)
"""Size of the grey thumbnails that frame changes are measured on: small enough to ignore noise and compression."""


class FrameStats:
    """What every frame is looked at for, poses apart: changes between frames, the pictures' digest, and their
    hashes."""

    def __init__(self) -> None:
        self.hasher = blake3()
        self.before: Frames | None = None
        self.change: list[float] = []
        self.hashes: list[int] = []
        self.hash_frames: list[int] = []
        self.begun = 0.0

    def add(self, frame: Frames, time: float) -> None:
        self.hasher.update(np.ascontiguousarray(frame).data)
        small = cv2.cvtColor(cv2.resize(frame, THUMB, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        self.change.append(0.0 if self.before is None else float(cv2.absdiff(small, self.before).mean()) / 255)
        if self.before is None:
            self.begun = time
        if len(self.hashes) < LONGEST and time - self.begun >= STEP * len(self.hashes) - 1e-6:
            self.hashes.append(picture_hash(small))
            self.hash_frames.append(len(self.change) - 1)
        self.before = small
