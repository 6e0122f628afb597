"""Frames through decord (the extra 'decord'), used only in the one way that is exact and ends: front to back.

Measured with decord2 3.4: `seek_accurate` and `skip_frames` give wrong pictures on HEVC with
several key frames, times are missing for AVI, and `get_batch` can spin for ever on damaged
files. So the times come from libav's packets and the pictures before a span are read and dropped.
Rows of pictures are padded to 64 pixels, and where the padded row is a multiple of the width (16,
24, 32, 48, 96 and 144 pixels) decord takes the multiple for the number of channels: the pixels then
stand at the beginning of every row.
"""

from __future__ import annotations

from collections.abc import Iterator

import decord
import numpy as np

from dataengine.core.errors import MediaError
from dataengine.core.types import Frames
from dataengine.media.probe import describe
from dataengine.media.reader import Reader
from dataengine.media.stream import Limits, VideoStream, ticks


class DecordStream(VideoStream):
    """The frames of one span; `reader` has opened and checked the file and is used for its times only."""

    def __init__(self, reader: Reader, start: float | None, end: float | None, limits: Limits) -> None:
        first = next(reader.frames(), None)
        if first is None:
            raise reader.useless("decode_failed", "holds no picture that can be decoded")
        super().__init__(reader.path.name, describe(reader, first[1]), start, end, limits)
        if self.info.mirrored:
            raise MediaError("decode_failed", f"{reader.path.name!r} is to be mirrored, which decord does not do")
        self._stopwatch = reader.stopwatch
        self._path = str(reader.path.absolute())
        times = reader.packet_times()
        zero = times[0] if times else 0
        low = zero if not start else zero + ticks(start, reader.time_base, self.info.fps)
        high = times[-1] + 1 if end is None else zero + ticks(end, reader.time_base, self.info.fps)
        self._wanted = [
            (index, float((pts - zero) * reader.time_base)) for index, pts in enumerate(times) if low <= pts < high
        ]
        promised = self.info.num_frames if start is None and end is None else None
        self._num_promised = max(len(self._wanted), (promised or 0) - reader.num_discarded)
        self._video: decord.VideoReader | None = None

    def close(self) -> None:
        self._video = None

    def _pictures(self) -> Iterator[tuple[float, Frames]]:
        position, offset = 0, self.start or 0.0
        turned = self.info.rotation in (90, 270)
        for index, seconds in self._wanted:
            self._stopwatch.start()
            try:
                if self._video is None:
                    decord.logging.set_level(decord.logging.QUIET)
                    self._video = decord.VideoReader(self._path, num_threads=1)
                while position < index:
                    self._video.next()
                    position += 1
                    self._stopwatch.check()
                picture = self._video.next().asnumpy()
            except (decord.DECORDError, RuntimeError, StopIteration, AssertionError):
                # decord stops for good at the first packet it cannot read: the rest is lost.
                return
            position += 1
            self._stopwatch.check()
            height, width = self.info.height, self.info.width
            if picture.shape[:2] != (height, width) or picture.shape[2] < 3:
                shape = "turned by its tag" if turned else "of another size"
                raise MediaError("decode_failed", f"decord gives a picture {shape} in {self.name!r}: {picture.shape}")
            if picture.shape[2] > 3:
                picture = picture.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
            yield seconds - offset, np.asarray(picture)

    def _damage(self) -> tuple[int, int]:
        return max(0, self._num_promised - self.num_frames), 0
