"""Frames of a video, span by span: the decoders behind one interface.

with PyAVDecoder().open(path, start=2.0, end=4.5) as video:
    for batch in video:
        ...
video.num_frames, video.num_damaged
"""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter

from dataengine.core.component import Component
from dataengine.core.errors import MediaError
from dataengine.core.types import Frames
from dataengine.media.files import MAX_BYTES
from dataengine.media.probe import describe, stream_duration
from dataengine.media.reader import MAX_PIXELS, Reader
from dataengine.media.stream import BATCH_BYTES, FrameBatch, Limits, VideoStream, ticks

__all__ = ["Decoder", "FrameBatch", "PyAVDecoder", "VideoStream", "read_frames"]


@dataclass(frozen=True)
class Decoder(Component, ABC):
    """Opens the frames of a span of a video file (frozen dataclass; its fields are its whole configuration).

    Attributes:
        batch: most frames per batch.
        batch_bytes: most bytes per batch, which large images reach first; a single image may exceed it.
        max_pixels: largest width x height.
        max_bytes: largest file.
        max_seconds: longest span.
        max_damaged: share of frames that may be lost or damaged.
        timeout: seconds that reading and decoding one span may take, without the consumer's own time.
    """

    batch: int = 16
    batch_bytes: int = BATCH_BYTES
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES
    max_seconds: float = 600.0
    max_damaged: float = 0.1
    timeout: float = 120.0

    def __post_init__(self) -> None:
        for name in ("batch", "batch_bytes", "max_pixels", "max_bytes", "max_seconds", "timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)!r}: give a number above 0")
        if not 0 <= self.max_damaged <= 1:
            raise ValueError(f"max_damaged = {self.max_damaged!r}: give a share from 0 to 1")

    @abstractmethod
    def open(self, path: str | os.PathLike[str], start: float | None = None, end: float | None = None) -> VideoStream:
        """Open the frames with start <= t < end, in seconds from the file's first frame.

        Raises:
            MediaError: the kinds of `probe`, span_empty, too_long. Iterating raises more, see `VideoStream`.
        """

    @property
    def limits(self) -> Limits:
        """What may be spent on one clip."""
        return Limits(self.batch, self.batch_bytes, self.max_seconds, self.max_damaged)


@dataclass(frozen=True)
class PyAVDecoder(Decoder):
    """Decodes with libav through PyAV, on one thread; for its options see `Decoder`."""

    def open(self, path: str | os.PathLike[str], start: float | None = None, end: float | None = None) -> VideoStream:
        """Open the frames with start <= t < end, in seconds from the file's first frame.

        Raises:
            MediaError: the kinds of `probe`, span_empty, too_long. Iterating raises more, see `VideoStream`.
        """
        reader = Reader(path, max_pixels=self.max_pixels, max_bytes=self.max_bytes, timeout=self.timeout)
        try:
            return _PyAVStream(reader, start, end, self.limits)
        except BaseException:
            reader.close()
            raise


def read_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int],
    start: float | None = None,
    end: float | None = None,
    decoder: Decoder | None = None,
) -> list[Frames]:
    """Read single frames of a span, (H, W, 3) uint8 RGB each, in the order of `indices` (places in the span, from 0).

    Raises:
        MediaError: as `PyAVDecoder.open`; decode_failed when the span has too few frames.
    """
    wanted, last = set(indices), max(indices, default=-1)
    found: dict[int, Frames] = {}
    with (decoder or PyAVDecoder()).open(path, start, end) as video:
        for batch in video if wanted else ():
            for index, frame in zip(batch.indices.tolist(), batch.frames):
                if index in wanted:
                    found[index] = frame.copy()
            if video.num_frames > last:
                break
        missing = sorted(wanted - found.keys())
        if missing:
            raise MediaError(
                "decode_failed", f"frame {missing[0]} was asked for, the span of {video.name!r} has {video.num_frames}"
            )
    return [found[index] for index in indices]


class _PyAVStream(VideoStream):
    def __init__(self, reader: Reader, start: float | None, end: float | None, limits: Limits) -> None:
        self._reader = reader
        self._frames = reader.frames()
        self._first = next(self._frames, None)
        info = describe(reader, None if self._first is None else self._first[1])
        if info.width * info.height == 0:
            raise MediaError("media_corrupt", f"{reader.path.name!r} does not tell the size of its pictures")
        super().__init__(reader.path.name, info, start, end, limits)
        self._zero = 0 if self._first is None else self._first[0]
        if reader.timed and reader.stream.start_time is not None:
            # A damaged beginning does not move the file's clock.
            self._zero = min(self._zero, reader.stream.start_time)
        self._low = None if not start else self._zero + ticks(start, reader.time_base, info.fps)
        self._high = None if end is None else self._zero + ticks(end, reader.time_base, info.fps)
        self._num_corrupt = 0
        self._finished = False

    def close(self) -> None:
        self._reader.close()

    def _pictures(self) -> Iterator[tuple[float, Frames]]:
        offset = self.start or 0.0
        time_base = self._reader.time_base
        # One converter for the stream: a fresh one a frame, PyAV's default, doubles the cost of a small picture.
        convert, turns = VideoReformatter(), -self.info.rotation // 90
        stored = (self.info.width, self.info.height) if turns % 2 == 0 else (self.info.height, self.info.width)
        for pts, frame in self._selected():
            self._num_corrupt += frame.is_corrupt
            picture = _rgb(convert, frame, *stored)
            if self.info.mirrored:
                picture = picture[:, ::-1]
            yield float((pts - self._zero) * time_base) - offset, np.rot90(picture, turns) if turns else picture

    def _selected(self) -> Iterator[tuple[int, Any]]:
        """The frames of the span, as the reader gives them."""
        if self._low is not None and self._first is not None and self._low > self._first[0]:
            frames = self._reader.frames_from(self._low, self._first[0])
        else:
            frames = self._frames if self._first is None else itertools.chain([self._first], self._frames)
        self._first = None
        for pts, frame in frames:
            if self._high is not None and pts >= self._high:
                return
            if self._low is None or pts >= self._low:
                yield pts, frame
        self._finished = True

    def _damage(self) -> tuple[int, int]:
        errors = sum(1 for pts in self._reader.errors if pts is None or self._within(pts))
        return max(errors, self._shortfall()), self._num_corrupt

    def _within(self, pts: int) -> bool:
        return (self._low is None or pts >= self._low) and (self._high is None or pts < self._high)

    def _shortfall(self) -> int:
        """Frames that the header announces for the span and that never came, as far as it announces any."""
        if not self._finished:
            return 0
        if self._low is None and self._high is None and self.info.num_frames is not None:
            return max(0, self.info.num_frames - self._reader.num_discarded - self.num_frames)
        seconds = stream_duration(self._reader) or (None if self.info.has_audio else self.info.duration)
        if seconds is None or self.info.variable_rate:
            return 0
        promised = (seconds if self.end is None else min(seconds, self.end)) - (self.start or 0.0)
        reached = self._times[1] + 1 / float(self.info.fps) if self.num_frames else 0.0
        lost = int((promised - reached) * float(self.info.fps))
        # Some containers round a duration up, or add the decoder's delay to it: one frame is no evidence.
        return lost if lost > 1 else 0


def _rgb(convert: VideoReformatter, frame: Any, width: int, height: int) -> Frames:
    """One decoded frame as (height, width, 3) uint8; a view that lives until the next conversion."""
    converted = convert.reformat(frame, width=width, height=height, format="rgb24", threads=1)
    plane = converted.planes[0]
    return np.ndarray((height, width, 3), np.uint8, buffer=memoryview(plane), strides=(plane.line_size, 3, 1))
