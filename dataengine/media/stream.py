"""What a decoder hands out: batches of upright RGB frames, and at the end how much was damaged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Self

import numpy as np

from dataengine.core.errors import MediaError
from dataengine.core.types import Float, Frames, Int
from dataengine.media.probe import MediaInfo

BATCH_BYTES = 6 << 20
"""Largest batch unless a caller says otherwise. A loop holds two batches at a time: the one in use
and the one being filled; so a process that streams 1280 x 720 stays below 100 MB."""

TOLERANCE = Fraction(1, 1000)
"""Seconds by which a frame may lie before a bound of a span and still count as at it: annotations and some
containers round to the millisecond. Never more than half a frame."""


@dataclass(frozen=True)
class FrameBatch:
    """Consecutive frames.

    Attributes:
        frames: (B, H, W, 3) uint8 RGB, upright; the consumer may keep and change it.
        indices: (B,) int64, the frame's place within the span, from 0. Authoritative.
        timestamps: (B,) float64 seconds from the span's start, or from the file's first frame without one.
    """

    frames: Frames
    indices: Int
    timestamps: Float

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class Limits:
    """What may be spent on one clip: see the options of `Decoder`."""

    batch: int
    batch_bytes: int
    max_seconds: float
    max_damaged: float


class VideoStream(ABC):
    """The frames of one span of one file, to be iterated once, from front to end; a context manager.

    The span holds exactly the frames with start <= t < end, t in seconds from the file's first
    frame (both bounds may be missed by `TOLERANCE`), so adjoining spans share no frame and lose none.

    Attributes:
        info: what the file holds.
        num_frames: frames handed out so far.
        num_damaged: after the last batch, frames that are lost (announced by the header, or whose data
            could not be decoded) or damaged (decoded with errors concealed).
    """

    def __init__(self, name: str, info: MediaInfo, start: float | None, end: float | None, limits: Limits) -> None:
        self.info = info
        self.name = name
        self.start = start
        self.end = end
        self.limits = limits
        self.num_frames = 0
        self.num_damaged = 0
        self._times: tuple[float, float] = (0.0, 0.0)
        check_span(name, info, start, end, limits.max_seconds)

    @abstractmethod
    def _pictures(self) -> Iterator[tuple[float, Frames]]:
        """Yield (seconds, (H, W, 3) uint8 upright picture, only valid until the next one) of the span."""

    @abstractmethod
    def _damage(self) -> tuple[int, int]:
        """After the last picture: numbers of lost and of damaged but delivered frames."""

    @abstractmethod
    def close(self) -> None:
        """Close the file. Idempotent."""

    @property
    def fps(self) -> Fraction:
        """Average frames a second: the header's, or the measured one where the header's is off by more than 5 %."""
        first, last = self._times
        if self.num_frames > 2 and last > first:
            measured = (self.num_frames - 1) / (last - first)
            if abs(measured / float(self.info.fps) - 1) > 0.05:
                return Fraction(measured).limit_denominator(1001)
        return self.info.fps

    def __iter__(self) -> Iterator[FrameBatch]:
        """Yield the batches.

        Raises:
            MediaError: span_empty or decode_failed when there is no frame; stream_damaged after the last
                batch when more than the allowed share of frames is lost or damaged; too_long; media_timeout.
        """
        size = max(1, min(self.limits.batch, self.limits.batch_bytes // (self.info.height * self.info.width * 3)))
        frames, times = self._buffer(size), np.empty(size)
        filled = 0
        for seconds, picture in self._pictures():
            if seconds > self.limits.max_seconds:
                raise too_long(self.name, seconds, self.limits.max_seconds)
            frames[filled], times[filled] = picture, seconds
            self._times = (self._times[0] if self.num_frames else seconds, seconds)
            self.num_frames += 1
            filled += 1
            if filled == size:
                # Both are handed over: a buffer used again would change under a consumer that kept it.
                batch = FrameBatch(frames, np.arange(self.num_frames - size, self.num_frames), times)
                del frames
                yield batch
                del batch
                frames, times, filled = self._buffer(size), np.empty(size), 0
        if filled:
            yield FrameBatch(frames[:filled], np.arange(self.num_frames - filled, self.num_frames), times[:filled])
        self._judge()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _buffer(self, size: int) -> Frames:
        return np.empty((size, self.info.height, self.info.width, 3), np.uint8)

    def _judge(self) -> None:
        lost, damaged = self._damage()
        self.num_damaged = lost + damaged
        if not self.num_frames:
            if lost or (self.start is None and self.end is None):
                raise MediaError("decode_failed", f"no frame of {self.name!r} can be decoded")
            raise empty_span(self.name, self.info, self.start or 0.0, self.end)
        share, allowed = self.num_damaged / (self.num_frames + lost), self.limits.max_damaged
        if share > allowed:
            detail = f"{self.num_damaged} of {self.num_frames + lost} frames of {self.name!r} are lost or damaged"
            raise MediaError("stream_damaged", detail, value=share, threshold=allowed)


def check_span(name: str, info: MediaInfo, start: float | None, end: float | None, max_seconds: float) -> None:
    """Check a span against the header, before anything is read.

    Raises:
        MediaError: span_empty, too_long.
    """
    low, high = start or 0.0, end if end is not None else info.duration
    if end is not None and not low < end:
        raise MediaError("span_empty", f"the span of {name!r} ends at {end:g} s, before or where it starts ({low:g} s)")
    if high is not None and info.duration is not None:
        high = min(high, info.duration)
    if high is not None and high - low > max_seconds:
        raise too_long(name, high - low, max_seconds)


def too_long(name: str, seconds: float, allowed: float) -> MediaError:
    """The error for a span longer than allowed."""
    detail = f"the span of {name!r} is at least {seconds:g} s long, at most {allowed:g} s are allowed"
    return MediaError("too_long", detail, value=seconds, threshold=allowed)


def empty_span(name: str, info: MediaInfo, start: float, end: float | None) -> MediaError:
    """The error for a span without frames."""
    until = "the end" if end is None else f"{end:g} s"
    length = "" if info.duration is None else f", which lasts {info.duration:g} s"
    return MediaError("span_empty", f"no frame lies between {start:g} s and {until} of {name!r}{length}")


def ticks(seconds: float, time_base: Fraction, rate: Fraction) -> int:
    """The first tick that counts as at or after `seconds`, `TOLERANCE` included."""
    # Whole microseconds, so that 0.033 s is 33 ticks of a millisecond and not a little more.
    exact = Fraction(round(seconds * 1_000_000), 1_000_000)
    return math.ceil((exact - min(TOLERANCE, 1 / rate / 2)) / time_base)
