"""What a media file holds, found out in this process and without reading it to the end."""

from __future__ import annotations

import math
import os
import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dataengine.media.files import MAX_BYTES, digest
from dataengine.media.reader import MAX_PIXELS, Reader

__all__ = ["MediaInfo", "describe", "digest", "probe", "stream_duration"]


@dataclass(frozen=True)
class MediaInfo:
    """One media file.

    Attributes:
        width, height: pixels of the picture as it is shown, after the rotation tag.
        fps: average frames a second.
        duration: seconds of the video stream, or of the whole file where only that is stated; None where nothing is.
        num_frames: frames announced by the header, None where it does not say.
        codec, pix_fmt: libav's names.
        rotation: degrees clockwise by which the stored picture is turned for showing: 0, 90, 180 or 270.
        mirrored: whether the stored picture is mirrored, left to right, before it is turned.
        has_audio: an audio stream is there.
        variable_rate: frames are unevenly spaced, as far as the header tells.
        stream: number of the video stream among all streams of the file, from 0.
    """

    width: int
    height: int
    fps: Fraction
    duration: float | None
    num_frames: int | None
    codec: str
    rotation: int
    pix_fmt: str
    has_audio: bool
    variable_rate: bool
    mirrored: bool = False
    stream: int = 0


def probe(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES, timeout: float = 10.0
) -> MediaInfo:
    """Open a media file, decode its first picture and tell what it holds.

    Raises:
        MediaError: media_missing, media_empty, not_a_file, media_unreadable, media_corrupt,
            no_video_stream, too_large, media_timeout, or decode_failed when no picture can be decoded.
    """
    reader = Reader(path, max_pixels=max_pixels, max_bytes=max_bytes, timeout=timeout)
    try:
        first = next(reader.frames(), None)
        if first is None:
            raise reader.useless("decode_failed", "holds no picture that can be decoded")
        return describe(reader, first[1])
    finally:
        reader.close()


def describe(reader: Reader, frame: Any | None) -> MediaInfo:
    """Tell what an open file holds; `frame` is its first picture (PyAV), which alone knows the rotation."""
    stream, codec = reader.stream, reader.stream.codec_context
    rotation, mirrored = (0, False) if frame is None else _orientation(frame)
    width, height = (codec.width, codec.height) if frame is None else (frame.width, frame.height)
    if rotation in (90, 270):
        width, height = height, width
    whole = reader.container.duration / 1_000_000 if reader.container.duration else None
    return MediaInfo(
        width=width,
        height=height,
        fps=reader.rate,
        duration=stream_duration(reader) or whole,
        num_frames=stream.frames or None,
        codec=codec.name,
        rotation=rotation,
        pix_fmt=codec.pix_fmt or "unknown",
        has_audio=bool(reader.container.streams.audio),
        variable_rate=bool(stream.average_rate and stream.base_rate and stream.average_rate != stream.base_rate),
        mirrored=mirrored,
        stream=stream.index,
    )


def _orientation(frame: Any) -> tuple[int, bool]:
    """Degrees clockwise in steps of 90, and whether the picture is mirrored before, as the display matrix says.

    The matrix (libavutil/display.h) takes a stored (x, y) to (a x + c y, b x + d y), y downwards; its determinant is
    negative where it mirrors.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        # PyAV gives degrees counter-clockwise in (-180, 180].
        return -90 * round(frame.rotation / 90) % 360, False
    a, b, _, c, d = struct.unpack("<5i", bytes(matrix)[:20])
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    if a == b == c == d == 0:
        return 0, False
    return 90 * round(math.degrees(math.atan2(b - c, a + d)) / 90) % 360, mirrored


def stream_duration(reader: Reader) -> float | None:
    """Seconds that the file states for the video stream itself (a container's duration may be that of longer sound)."""
    if reader.stream.duration:
        return float(reader.stream.duration * reader.time_base)
    # Matroska writes as a tag when a stream ends, from the file's zero: hours:minutes:seconds with decimals.
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)\0*", reader.stream.metadata.get("DURATION", ""))
    if tag:
        begun = float((reader.stream.start_time or 0) * reader.time_base)
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) - begun
    return None
