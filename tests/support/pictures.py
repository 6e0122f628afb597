"""Small videos: a square that crosses a picture to the right or to the left, in memory and as files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from dataengine.media.encode import write_video
from training.data.rgb import PICTURES, SECONDS, as_array
from training.data.types import SkeletonDataset, SkeletonSequence

CLASSES = ("left", "right")
FPS = 10


def crossing(number: int, frames: int = 12, size: tuple[int, int] = (20, 16)) -> np.ndarray:
    """Pictures (T, H, W, 3) uint8 of a square on a ground of its own colour; odd ones go to the right."""
    rng = np.random.default_rng(number)
    width, height = size
    out = np.empty((frames, height, width, 3), np.uint8)
    out[:] = rng.integers(30, 220, 3)
    colour, top = rng.integers(0, 255, 3), int(rng.integers(height // 2))
    for t, picture in enumerate(out):
        at = round(t / max(1, frames - 1) * (width - 5))
        picture[top : top + 5, at : at + 5] = colour
    return out if number % 2 else out[::-1]


class Pictures(SkeletonDataset):
    """Clips of pictures in memory; options as of `crossing`."""

    def __init__(self, clips: int = 16, seed: int = 0, frames: int = 12, size: tuple[int, int] = (20, 16)) -> None:
        self.name, self.skeleton, self.labels = f"pictures{seed}", PICTURES, CLASSES
        self.fingerprint = f"pictures {clips} {seed} {frames} {size}"
        self.keys: Sequence[str] = [f"{seed}-{number}" for number in range(clips)]
        self.label_ids = np.arange(clips, dtype=np.int64) % 2
        times = np.arange(frames, dtype=np.float32) / FPS
        self.clips = [
            SkeletonSequence(
                key,
                as_array(crossing(2 * (100 * seed + number // 2) + label, frames, size)),
                None,
                label,
                size,
                float(FPS),
                {SECONDS: times},
            )
            for number, (key, label) in enumerate(zip(self.keys, self.label_ids.tolist()))
        ]

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        return [self.clips[index] for index in indices]


def write_videos(folder: Path, clips: int = 4, val: int = 4, size: tuple[int, int] = (40, 32)) -> Path:
    """ROOT/SPLIT/CLASS/N.mp4, 12 frames each."""
    for split, first, count in (("train", 0, clips), ("val", 1000, val)):
        for number in range(first, first + count):
            place = folder / split / CLASSES[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            frames = np.ascontiguousarray(crossing(number, size=size))
            write_video(place / f"{number}.mp4", iter(frames), Fraction(FPS))
    return folder
