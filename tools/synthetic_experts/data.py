"""Training material of the built-in experts: rendered frames on disk, and batches cut from them.

Nothing is ever flipped: renderings show as many left as right turns anyway, and what tells left
from right (a badge on the left chest, a watch on the left wrist) would lose its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.core.errors import DatasetError
from dataengine.rendering import render_clip

Array = NDArray[Any]
SIZE = (340, 256)
FRAMES_PER_CLIP = 6
MAX_PEOPLE = 3
BACKGROUND_SHARE = 0.06
"""Share of clips with nobody in them."""


def render_part(path: Path, first_seed: int, num_clips: int) -> None:
    """Render clips of the mixed condition into `path`.npy (frames) and `path`.npz (truth).

    Joints of absent people are NaN, (N, 3, 14, 2) float32; head (N, 3) float32 pixels.
    """
    cv2.setNumThreads(1)
    num = num_clips * FRAMES_PER_CLIP
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.uint8, (num, SIZE[1], SIZE[0], 3))
    joints = np.full((num, MAX_PEOPLE, 14, 2), np.nan, np.float32)
    head = np.full((num, MAX_PEOPLE), np.nan, np.float32)
    for k in range(num_clips):
        seed = first_seed + k
        nobody = np.random.default_rng(seed).random() < BACKGROUND_SHARE
        clip = render_clip(seed, FRAMES_PER_CLIP, size=SIZE, irregular=True, num_people=0 if nobody else None)
        at = slice(k * FRAMES_PER_CLIP, (k + 1) * FRAMES_PER_CLIP)
        frames[at] = clip.frames
        joints[at, : clip.joints.shape[1]] = clip.joints
        head[at, : clip.joints.shape[1]] = clip.head
    frames.flush()
    np.savez(path.with_suffix(".npz"), joints=joints, head=head)


class Material:
    """All rendered parts of a folder, as one long list of frames."""

    def __init__(self, folder: Path) -> None:
        truths = sorted(folder.glob("*.npz"))
        if not truths:
            raise DatasetError(
                f"no rendered parts (*.npz) in {folder}; make some with  python -m tools.synthetic_experts render "
                f"{folder}"
            )
        self._frames = [np.load(t.with_suffix(".npy"), mmap_mode="r") for t in truths]
        self._starts = np.cumsum([0, *(len(f) for f in self._frames)])
        self.joints: Array = np.concatenate([np.load(t)["joints"] for t in truths])
        self.inside = inside(self.joints, SIZE)
        self.people = np.argwhere(self.inside.sum(-1) >= 5)
        """(K, 2) frame and person of everybody with at least five joints in the picture."""

    def __len__(self) -> int:
        return len(self.joints)

    def frame(self, i: int) -> Array:
        part = int(np.searchsorted(self._starts, i, "right")) - 1
        return np.asarray(self._frames[part][i - self._starts[part]])


def inside(joints: Array, size: tuple[int, int], margin: float = 0.0) -> Array:
    """(..., 2) pixels -> (...) bool, within a picture of `size` (width, height). NaN is outside."""
    with np.errstate(invalid="ignore"):
        return np.asarray(
            (joints > -margin).all(-1) & (joints[..., 0] < size[0] + margin) & (joints[..., 1] < size[1] + margin)
        )


def person_box(joints: Array, seen: Array) -> tuple[Array, Array]:
    """Corners of the box around the joints (14, 2) in the picture, with a margin for flesh."""
    q = joints[seen]
    low, high = q.min(0), q.max(0)
    margin = 0.08 * (high - low).max() + 4
    return np.maximum(low - margin, 0), np.minimum(high + margin, SIZE)


@dataclass(frozen=True)
class Crops:
    """Batches for networks that look into a person's box: pictures (B, h, w, 3) uint8, joints (B, 14, 2) pixels, mask
    (B, 14)."""

    material: Material
    width: int
    height: int

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Array, ...]:
        pictures = np.empty((size, self.height, self.width, 3), np.uint8)
        joints, mask = np.empty((size, 14, 2), np.float32), np.empty((size, 14), np.float32)
        for k in range(size):
            i, p = self.material.people[rng.integers(len(self.material.people))]
            truth, seen = self.material.joints[i, p], self.material.inside[i, p]
            low, high = person_box(truth, seen)
            centre, extent = (low + high) / 2, high - low
            tall = max(extent[1], extent[0] * self.height / self.width) * 1.15 * np.exp(rng.normal(0, 0.1))
            centre = centre + rng.normal(0, 0.04, 2) * tall
            move = _similarity(
                centre,
                self.height / tall,
                rng.normal(0, 0.15) if rng.random() < 0.5 else 0.0,
                (self.width, self.height),
            )
            pictures[k] = degrade(_warp(self.material.frame(i), move, (self.width, self.height)), rng)
            joints[k] = truth @ move[:, :2].T + move[:, 2]
            mask[k] = seen & inside(joints[k], (self.width, self.height))
        return pictures, joints, mask


@dataclass(frozen=True)
class Wholes:
    """Batches for networks that look at whole frames, or at windows of them about people: pictures (B, h, w, 3) uint8,
    joints (B, 3, 14, 2) pixels, mask (B, 3, 14)."""

    material: Material
    width: int
    height: int
    whole: int
    """width in pixels that a whole frame is scaled to"""

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Array, ...]:
        pictures = np.empty((size, self.height, self.width, 3), np.uint8)
        joints, mask = np.empty((size, MAX_PEOPLE, 14, 2), np.float32), np.empty((size, MAX_PEOPLE, 14), np.float32)
        for k in range(size):
            i = int(rng.integers(len(self.material)))
            scale = self.whole / SIZE[0] * np.exp(rng.normal(0, 0.15))
            centre = np.array(SIZE) / 2 + rng.normal(0, 12, 2)
            if self.width < self.whole and self.material.inside[i].any() and rng.random() < 0.9:
                person = rng.choice(np.flatnonzero(self.material.inside[i].sum(-1)))
                centre = self.material.joints[i, person][self.material.inside[i, person]].mean(0) + rng.normal(0, 20, 2)
            move = _similarity(centre, scale, 0.0, (self.width, self.height))
            pictures[k] = degrade(_warp(self.material.frame(i), move, (self.width, self.height)), rng)
            moved = self.material.joints[i] @ move[:, :2].T + move[:, 2]
            seen = inside(moved, (self.width, self.height)) & self.material.inside[i]
            seen &= seen.sum(-1, keepdims=True) >= 5
            joints[k], mask[k] = np.nan_to_num(moved), seen
        return pictures, joints, mask


def _similarity(centre: Array, scale: float, angle: float, size: tuple[int, int]) -> Array:
    """(2, 3) map that turns and scales about `centre` and puts it in the middle of `size`."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([turn, (np.array(size) / 2 - turn @ centre)[:, None]], 1)


def _warp(frame: Array, move: Array, size: tuple[int, int]) -> Array:
    scale = float(np.hypot(move[0, 0], move[1, 0]))
    if scale < 0.6:
        # shrinking by interpolation alone would alias
        frame = cv2.blur(frame, (max(1, round(0.7 / scale)),) * 2)
    return np.asarray(
        cv2.warpAffine(
            frame, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(114, 114, 114)
        )
    )


def degrade(picture: Array, rng: np.random.Generator) -> Array:
    """Boxes in the way, fewer pixels, other light and colours, each with some probability."""
    h, w = picture.shape[:2]
    if rng.random() < 0.2:
        for _ in range(int(rng.integers(1, 3))):
            wide, high = int(rng.integers(w // 12, w // 4)), int(rng.integers(h // 12, h // 4))
            x, y = int(rng.integers(-wide // 2, w)), int(rng.integers(-high // 2, h))
            cv2.rectangle(picture, (x, y), (x + wide, y + high), rng.integers(0, 255, 3).tolist(), -1)
    if rng.random() < 0.12:
        small = cv2.resize(picture, None, fx=(f := rng.uniform(0.35, 0.8)), fy=f, interpolation=cv2.INTER_AREA)
        picture = np.asarray(cv2.resize(small, (w, h)))
    if rng.random() < 0.5:
        ramp = np.arange(256)[:, None] * rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3) + rng.uniform(-20, 20)
        picture = np.asarray(cv2.LUT(picture, np.clip(ramp, 0, 255).astype(np.uint8)[:, None]))
    return picture


def batches(
    make: Callable[[np.random.Generator, int], tuple[Array, ...]], size: int, seed: int, loaders: int = 1
) -> Iterator[tuple[Array, ...]]:
    """Batches without end, made ahead by `loaders` threads (OpenCV works outside Python's lock)."""
    queue: Queue[tuple[Array, ...]] = Queue(4)
    stop = Event()

    def work(number: int) -> None:
        rng = np.random.default_rng((seed, number))
        while not stop.is_set():
            made = make(rng, size)
            while not stop.is_set():
                try:
                    queue.put(made, timeout=1)
                    break
                except Full:
                    continue

    for number in range(loaders):
        Thread(target=work, args=(number,), daemon=True).start()
    try:
        while True:
            yield queue.get()
    finally:
        stop.set()
