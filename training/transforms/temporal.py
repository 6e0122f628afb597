"""Which frames of a clip are looked at: steps on time, as functions from positions to positions.

A position is a frame index of the clip, a whole number or between two frames; -1 stands for an
empty frame. `sample` reads a clip at positions. None of these functions modifies what it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.data.types import Array, Numbers

Positions: TypeAlias = NDArray[Any]
Random: TypeAlias = np.random.Generator | np.random.RandomState
"""A RandomState draws the numbers that published code on numpy's older generator drew."""

SEED = 255
"""What published test sampling is seeded with (pyskl, sampling.py)."""


def sample(array: Array, positions: Positions) -> Array:
    """The clip at these positions, linear between two frames.

    Args:
        array: (M, T, V, C).
        positions: (T',) int, -1 for an empty frame, or float in [0, T-1].

    Returns:
        (M, T', V, C) of the dtype given, a copy.
    """
    if positions.dtype.kind == "i":
        taken: Array = array.take(positions, axis=1)
        if len(positions) and positions.min() < 0:
            taken[:, positions < 0] = 0
        return taken
    low = positions.astype(np.int64)
    np.minimum(low, max(array.shape[1] - 2, 0), out=low)
    out: Array = array.take(low, axis=1)
    ahead = array.take(np.minimum(low + 1, array.shape[1] - 1), axis=1)
    ahead -= out
    ahead *= (positions - low).astype(array.dtype)[:, None, None]
    out += ahead
    return out


def crop(
    positions: Positions, rng: np.random.Generator, min: float = 0.5, max: float = 1.0, at: float | None = None
) -> Positions:
    """A contiguous part whose share of the clip is uniform in [min, max].

    Args:
        positions: (T,).
        rng: draws the share and the place.
        min: least share.
        max: greatest share.
        at: where the part lies, 0 the beginning, 1 the end; None anywhere.

    Raises:
        ValueError: shares that are not 0 < min <= max <= 1, or a place outside [0, 1].
    """
    if not (0 < min <= max <= 1 and (at is None or 0 <= at <= 1)):
        raise ValueError(
            f"a share must be 0 < min <= max <= 1 and its place in [0, 1]; given min {min}, max {max}, at {at}"
        )
    total = len(positions)
    count = _nearest(total * (min + (max - min) * rng.random()), total)
    free = total - count
    start = int(rng.random() * (free + 1)) if at is None else round(at * free)
    return positions[start : start + count]


def _nearest(wanted: float, total: int) -> int:
    """A number of frames between one and all."""
    return total if wanted >= total else int(wanted + 0.5) or 1


def resample(positions: Positions, rng: np.random.Generator | None, frames: int) -> Positions:
    """`frames` positions evenly from the first to the last, whatever lies between; a single frame is repeated."""
    if len(positions) == frames:
        return positions
    spaced: Positions = np.linspace(positions[0], positions[-1], frames)
    return spaced


def pad(positions: Positions, rng: np.random.Generator | None, frames: int, how: str = "loop") -> Positions:
    """The first `frames` positions; a shorter clip is played again ("loop"), stands still at its end ("hold") or is
    followed by empty frames ("zero").

    Args:
        how: "loop", "hold" or "zero".

    Raises:
        ValueError: another `how`.
    """
    if how not in ("loop", "hold", "zero"):
        raise ValueError(f"how must be loop, hold or zero; given {how!r}")
    if len(positions) >= frames:
        return positions[:frames]
    places = np.arange(frames)
    if how == "loop":
        return positions[places % len(positions)]
    rest = np.full(frames - len(positions), positions[-1] if how == "hold" else -1)
    return np.concatenate([positions, rest])


def speed(
    positions: Positions,
    rng: np.random.Generator,
    frames: int,
    choices: Sequence[float] = (1, 2, 4, 8),
    at: float | None = None,
) -> Positions:
    """Play at one of several speeds: every s-th frame from a start where the clip suffices; one too short is looped.

    The sampling of MCC (Su et al. 2021, section 3.1): clips of a fixed number of frames at speeds 1, 2, 4, 8.

    Args:
        positions: (T,).
        rng: draws the speed and the start.
        frames: how many positions to return.
        choices: dataset frames between two positions; a fraction falls between frames.
        at: where to start, 0 as early, 1 as late as possible; None anywhere.

    Raises:
        ValueError: no choices, or one that is not above 0.
    """
    if not len(choices) or not all(choice > 0 for choice in choices):
        raise ValueError(f"choices must be speeds above 0; given {choices!r}")
    chosen = choices[int(rng.random() * len(choices))]
    total = len(positions)
    free = max(total - 1 - chosen * (frames - 1), 0)
    start = int((rng.random() if at is None else at) * (int(free) + 1)) if at != 1 else int(free)
    places = start + np.arange(frames) * chosen
    if places.dtype.kind == "i":
        looped: Positions = positions[places % total]
        return looped
    places %= total
    np.minimum(places, total - 1, out=places)
    between: Positions = np.interp(places, np.arange(total), positions)
    return between


def choose(positions: Positions, rng: np.random.Generator, frames: int) -> Positions:
    """`frames` successive frames from anywhere; a shorter clip lies anywhere between empty frames.

    UNIK's random choice (feeders/tools.py @ bf39968).
    """
    return place(positions, frames, int(rng.random() * (abs(len(positions) - frames) + 1)))


def place(positions: Positions, frames: int, start: int) -> Positions:
    """`frames` positions from `start`, or a clip shorter than that put at `start` among empty frames."""
    if len(positions) >= frames:
        return positions[start : start + frames]
    out = np.full(frames, -1)
    out[start : start + len(positions)] = positions
    return out


def uniform(
    total: int, frames: int, rng: Random, clips: int = 1, share: tuple[float, float] = (1.0, 1.0), test: bool = False
) -> Numbers:
    """Indices of uniformly spread frames: one from each of `frames` equal parts of the clip.

    PoseC3D's sampling as published (Duan et al. 2022, section 3.2; kennymckormick/pyskl @ 3f6795f, sampling.py); with a
    RandomState the same indices. A clip shorter than `frames` is played in a loop; one shorter than twice that keeps
    its order and leaves out frames.

    Args:
        total: number of frames T.
        frames: indices a clip.
        rng: draws them; unused in a test.
        clips: how many clips.
        share: of the clip that is looked at, drawn between the two; (1, 1) is all.
        test: draw what the published tests drew, always the same.

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
    """Indices of one clip; `test` is the number of clips and which of them this is."""
    integers: Any = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    part = max(
        int((rng.random() * (share[1] - share[0]) + share[0]) * total), 1
    )  # drawn even where it is all, as published
    offset = integers(total - part + 1)
    if part < frames:
        start = integers(0, part) if test is None else test[1] if part < test[0] else test[1] * part // test[0]
        return np.arange(offset + start, offset + start + frames)
    if part < 2 * frames:
        later = np.zeros(frames + 1, dtype=np.int64)
        later[rng.choice(frames + 1, part - frames, replace=False)] = 1
        return np.arange(offset, offset + frames) + np.cumsum(later)[:-1]
    edges = np.arange(frames + 1) * part // frames
    found: Numbers = offset + edges[:-1] + integers(np.diff(edges))
    return found


def spread(
    positions: Positions,
    rng: np.random.Generator,
    frames: int,
    share: tuple[float, float] = (1.0, 1.0),
    test: bool = False,
) -> Positions:
    """One clip of `uniform` frames of these positions.

    Args:
        share: part of the clip that the frames are spread over, uniform between two shares.
        test: whether the frames are those of a test, without chance.
    """
    return positions[uniform(len(positions), frames, rng, share=share, test=test)]


def shuffle(positions: Positions, rng: np.random.Generator) -> Positions:
    """All frames in another order."""
    order: Positions = rng.permutation(positions)
    return order


def segments(positions: Positions, rng: np.random.Generator, number: int = 4, how: str = "shuffle") -> Positions:
    """Cut into equal parts and put them into another order ("shuffle"), or play each backwards ("reverse").

    Args:
        number: equal parts.
        how: "shuffle" or "reverse".

    Raises:
        ValueError: fewer than two parts, or another `how`.
    """
    if number < 2 or how not in ("shuffle", "reverse"):
        raise ValueError(f"number must be at least 2 and how shuffle or reverse; given {number} and {how!r}")
    parts = np.array_split(positions, number)
    if how == "reverse":
        return np.concatenate([part[::-1] for part in parts])
    return np.concatenate([parts[n] for n in rng.permutation(number)])


def reverse(positions: Positions, rng: np.random.Generator | None = None) -> Positions:
    """Play backwards."""
    return positions[::-1]


def disorder(positions: Positions, rng: np.random.Generator, share: float = 0.015) -> Positions:
    """Every frame changes places with another one by this chance.

    Motion-R3's disorder: t_pb (1 - t_md) = 0.15 * 0.1 of the frames.

    Args:
        share: chance of each frame.

    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1]; given {share}")
    total = len(positions)
    out = positions.copy()
    for one in np.flatnonzero(rng.random(total) < share) if total > 1 else ():
        other = (one + 1 + int(rng.random() * (total - 1))) % total
        out[one], out[other] = out[other], out[one]
    return out
