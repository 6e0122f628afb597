"""Temporal augmentation and sampling: functions from positions to positions.

A position is a frame index of the clip, an integer or a fraction between two frames; -1 stands for an empty frame.
`sample` reads a clip at positions. No function modifies its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.data.types import Array, Numbers

Positions: TypeAlias = NDArray[Any]
Random: TypeAlias = np.random.Generator | np.random.RandomState
"""RandomState reproduces the numbers of published code that uses the older generator of numpy."""

SEED = 255
"""Seed of published test sampling (pyskl, sampling.py)."""


def sample(array: Array, positions: Positions) -> Array:
    """The clip at these positions, with linear interpolation between two frames.

    Between two frames of whole numbers, such as pictures, the nearest frame is taken.

    Args:
        array: (M, T, V, C).
        positions: (T',) int, -1 for an empty frame, or float in [0, T-1].

    Returns:
        (M, T', V, C) of the dtype of `array`, a copy.
    """
    if array.dtype.kind == "u" and positions.dtype.kind != "i":
        positions = np.rint(positions).astype(np.int64)
    if positions.dtype.kind == "i":
        sampled: Array = array.take(positions, axis=1)
        if len(positions) and positions.min() < 0:
            sampled[:, positions < 0] = 0
        return sampled
    low = positions.astype(np.int64)
    np.minimum(low, max(array.shape[1] - 2, 0), out=low)
    out: Array = array.take(low, axis=1)
    difference = array.take(np.minimum(low + 1, array.shape[1] - 1), axis=1)
    difference -= out
    difference *= (positions - low).astype(array.dtype)[:, None, None]
    out += difference
    return out


def crop(
    positions: Positions, rng: np.random.Generator, min: float = 0.5, max: float = 1.0, at: float | None = None
) -> Positions:
    """A contiguous part; its fraction of the clip is uniform in [min, max].

    Args:
        positions: (T,).
        rng: samples the fraction and the start.
        min: smallest fraction.
        max: largest fraction.
        at: where the part lies, from 0 (the beginning) to 1 (the end). None: at random.

    Raises:
        ValueError: fractions that are not 0 < min <= max <= 1, or `at` outside [0, 1].
    """
    if not (0 < min <= max <= 1 and (at is None or 0 <= at <= 1)):
        raise ValueError(f"a crop needs 0 < min <= max <= 1 and at in [0, 1]; given min {min}, max {max}, at {at}")
    total = len(positions)
    count = _nearest(total * (min + (max - min) * rng.random()), total)
    free = total - count
    start = int(rng.random() * (free + 1)) if at is None else round(at * free)
    return positions[start : start + count]


def _nearest(count: float, total: int) -> int:
    """The count rounded to an integer in [1, total]."""
    return total if count >= total else int(count + 0.5) or 1


def resample(positions: Positions, rng: np.random.Generator | None, frames: int) -> Positions:
    """`frames` positions, evenly spaced from the first to the last; a single frame is repeated."""
    if len(positions) == frames:
        return positions
    spaced: Positions = np.linspace(positions[0], positions[-1], frames)
    return spaced


def pad(positions: Positions, rng: np.random.Generator | None, frames: int, how: str = "loop") -> Positions:
    """The first `frames` positions; a shorter clip is padded.

    Args:
        positions: (T,).
        rng: not used.
        frames: number of positions to return.
        how: "loop": the clip is repeated. "hold": the last frame is repeated. "zero": empty frames follow.

    Raises:
        ValueError: unknown `how`.
    """
    if how not in ("loop", "hold", "zero"):
        raise ValueError(f"how must be loop, hold or zero; given {how!r}")
    if len(positions) >= frames:
        return positions[:frames]
    indices = np.arange(frames)
    if how == "loop":
        return positions[indices % len(positions)]
    rest = np.full(frames - len(positions), positions[-1] if how == "hold" else -1)
    return np.concatenate([positions, rest])


def speed(
    positions: Positions,
    rng: np.random.Generator,
    frames: int,
    choices: Sequence[float] = (1, 2, 4, 8),
    at: float | None = None,
) -> Positions:
    """Plays the clip at one of several speeds s: every s-th frame from a random start. A short clip is looped.

    Source: the sampling of MCC (Su et al. 2021, section 3.1), clips of a fixed number of frames at speeds 1, 2, 4, 8.

    Args:
        positions: (T,).
        rng: samples the speed and the start.
        frames: number of positions to return.
        choices: speeds, in frames between two positions; a fraction falls between frames.
        at: where to start, from 0 (as early as possible) to 1 (as late as possible). None: at random.

    Raises:
        ValueError: no choices, or a choice that is not above 0.
    """
    if not len(choices) or not all(choice > 0 for choice in choices):
        raise ValueError(f"choices must be speeds above 0; given {choices!r}")
    chosen = choices[int(rng.random() * len(choices))]
    total = len(positions)
    free = max(total - 1 - chosen * (frames - 1), 0)
    start = int((rng.random() if at is None else at) * (int(free) + 1)) if at != 1 else int(free)
    indices = start + np.arange(frames) * chosen
    if indices.dtype.kind == "i":
        looped: Positions = positions[indices % total]
        return looped
    indices %= total
    np.minimum(indices, total - 1, out=indices)
    interpolated: Positions = np.interp(indices, np.arange(total), positions)
    return interpolated


def choose(positions: Positions, rng: np.random.Generator, frames: int) -> Positions:
    """`frames` successive frames from a random start; a shorter clip is put at random between empty frames.

    Source: the random choice of UNIK (feeders/tools.py @ bf39968).
    """
    return crop_or_pad(positions, frames, int(rng.random() * (abs(len(positions) - frames) + 1)))


def crop_or_pad(positions: Positions, frames: int, start: int) -> Positions:
    """`frames` positions from `start`; a shorter clip is put at `start` between empty frames."""
    if len(positions) >= frames:
        return positions[start : start + frames]
    padded = np.full(frames, -1)
    padded[start : start + len(positions)] = positions
    return padded


def uniform(
    total: int, frames: int, rng: Random, clips: int = 1, share: tuple[float, float] = (1.0, 1.0), test: bool = False
) -> Numbers:
    """Uniform sampling: one random frame from each of `frames` equal parts of the clip.

    Source: the sampling of PoseC3D (Duan et al. 2022, section 3.2; kennymckormick/pyskl @ 3f6795f, sampling.py). A
    RandomState gives the published indices. A clip shorter than `frames` is looped. A clip shorter than twice `frames`
    keeps its order and leaves out random frames.

    Args:
        total: number of frames T.
        frames: number of indices per clip.
        rng: random numbers; not used for tests.
        clips: number of clips.
        share: range of the fraction of the clip that is sampled; (1, 1) is the whole clip.
        test: whether the indices are the fixed ones of published tests.

    Returns:
        (clips * frames,) int64 in [0, T).
    """
    rng = np.random.RandomState(SEED) if test else rng
    return (
        np.concatenate(
            [_uniform(total, frames, rng, share, (clips, number) if test else None) for number in range(clips)]
        )
        % total
    )


def _uniform(total: int, frames: int, rng: Random, share: tuple[float, float], test: tuple[int, int] | None) -> Numbers:
    """Indices of one clip; `test` holds the number of clips and the number of this clip."""
    integers: Any = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    length = max(
        int((rng.random() * (share[1] - share[0]) + share[0]) * total), 1
    )  # a random number is consumed even for the whole clip, as published
    offset = integers(total - length + 1)
    if length < frames:
        start = integers(0, length) if test is None else test[1] if length < test[0] else test[1] * length // test[0]
        return np.arange(offset + start, offset + start + frames)
    if length < 2 * frames:
        skips = np.zeros(frames + 1, dtype=np.int64)
        skips[rng.choice(frames + 1, length - frames, replace=False)] = 1
        return np.arange(offset, offset + frames) + np.cumsum(skips)[:-1]
    edges = np.arange(frames + 1) * length // frames
    chosen: Numbers = offset + edges[:-1] + integers(np.diff(edges))
    return chosen


def spread(
    positions: Positions,
    rng: np.random.Generator,
    frames: int,
    share: tuple[float, float] = (1.0, 1.0),
    test: bool = False,
) -> Positions:
    """One clip of `uniform` frames of these positions.

    Args:
        positions: (T,).
        rng: random numbers.
        frames: number of positions to return.
        share: range of the fraction of the clip that is sampled.
        test: whether the frames are the fixed ones of published tests.
    """
    return positions[uniform(len(positions), frames, rng, share=share, test=test)]


def shuffle(positions: Positions, rng: np.random.Generator) -> Positions:
    """All frames in random order."""
    order: Positions = rng.permutation(positions)
    return order


def segments(positions: Positions, rng: np.random.Generator, number: int = 4, how: str = "shuffle") -> Positions:
    """Cuts the clip into equal segments and shuffles or reverses them.

    Args:
        positions: (T,).
        rng: random numbers.
        number: of segments.
        how: "shuffle": segments in random order. "reverse": each segment backwards.

    Raises:
        ValueError: fewer than two segments, or unknown `how`.
    """
    if number < 2 or how not in ("shuffle", "reverse"):
        raise ValueError(f"number must be at least 2 and how shuffle or reverse; given {number} and {how!r}")
    parts = np.array_split(positions, number)
    if how == "reverse":
        return np.concatenate([part[::-1] for part in parts])
    return np.concatenate([parts[n] for n in rng.permutation(number)])


def reverse(positions: Positions, rng: np.random.Generator | None = None) -> Positions:
    """The frames in reverse order."""
    return positions[::-1]


def disorder(positions: Positions, rng: np.random.Generator, share: float = 0.015) -> Positions:
    """Swaps each frame with another random frame, with probability `share`.

    Source: the disorder of Motion-R3, t_pb (1 - t_md) = 0.15 * 0.1 of the frames.

    Args:
        positions: (T,).
        rng: random numbers.
        share: probability per frame.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1]; given {share}")
    total = len(positions)
    out = positions.copy()
    for one in np.flatnonzero(rng.random(total) < share) if total > 1 else ():
        other = (one + 1 + int(rng.random() * (total - 1))) % total
        out[one], out[other] = out[other], out[one]
    return out
