"""The decoder of the extra 'decord'; a file of its own, since builds that decode with PyAV do not depend on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from dataengine.core.errors import MissingExtraError
from dataengine.media.decode import Decoder
from dataengine.media.reader import Reader
from dataengine.media.stream import VideoStream


@dataclass(frozen=True)
class DecordDecoder(Decoder):
    """Decodes with decord (extra 'decord'), on one thread; the file is checked with libav first.

    Its options are those of `Decoder`.
    """

    extra: ClassVar[str] = "decord"

    def open(self, path: str | os.PathLike[str], start: float | None = None, end: float | None = None) -> VideoStream:
        """Open the frames with start <= t < end, as `PyAVDecoder.open`.

        Raises:
            MissingExtraError: decord is not installed.
            MediaError: as `PyAVDecoder.open`.
        """
        try:
            from dataengine.media.decord_stream import DecordStream
        except ImportError as error:
            raise MissingExtraError("the decoder 'decord'", "decord") from error
        reader = Reader(path, max_pixels=self.max_pixels, max_bytes=self.max_bytes, timeout=self.timeout)
        try:
            return DecordStream(reader, start, end, self.limits)
        finally:
            reader.close()
