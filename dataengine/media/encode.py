"""Writing videos whose bytes depend on nothing but the pictures and the settings."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from dataengine.core.errors import DataEngineError
from dataengine.core.types import Frames

_CLOCK = 90_000
"""Ticks per second of videos with given timestamps; a multiple of 24, 25, 30 and 60 frames per second."""

_X264 = "cpu-independent=1"
"""Parameters of every x264 stream.

By default x264 plans the bits of each macroblock (mbtree) with approximate reciprocals, which differ between
vector units. Its AVX-512 version also reads behind the last macroblock of a row, so that the result depends
on what lay in memory. With `cpu-independent` x264 uses exact C code in these places.
"""


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[Frames],
    fps: Fraction | float,
    *,
    crf: int = 23,
    timestamps: Sequence[float] | None = None,
    rotation: int = 0,
    faststart: bool = True,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> int:
    """Write RGB pictures as a video, one by one as `frames` gives them, and return how many.

    The same pictures and settings give the same bytes with the same version of the encoder, whatever the
    processor and whatever lay in memory before: the encoder runs on one thread and avoids the algorithms
    that depend on the processor (see `_X264`), and the container holds no date and no library version.
    Pictures with an odd width or height are stored without sub-sampled colour (4:4:4), others as 4:2:0.

    Args:
        path: the file to write; its ending chooses the container (.mp4, .mkv, .webm, ...).
        frames: (H, W, 3) uint8 RGB, all of one size.
        fps: frames a second; with `timestamps` the nominal rate only.
        crf: quality of the encoder, smaller is better and larger.
        timestamps: seconds at which each picture is shown, ascending from 0 or later (variable rate).
        rotation: degrees clockwise (0, 90, 180, 270) by which a player shall turn the pictures.
        faststart: put the index of an .mp4 or .mov before the pictures.
        codec: an encoder of libav.
        options: further options of the encoder.

    Raises:
        DataEngineError: no picture, pictures of different sizes or of a wrong type, unsorted or missing
            timestamps, or an impossible setting. Nothing is left at `path` then.
    """
    if rotation not in (0, 90, 180, 270):
        raise DataEngineError(f"rotation = {rotation!r}: give 0, 90, 180 or 270 degrees clockwise")
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise DataEngineError(f"fps = {fps!r}: give a number above 0")
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise DataEngineError("a video needs at least one picture, none was given")
    target = Path(path)
    muxing = {"fflags": "+bitexact"}
    if faststart and target.suffix.lower() in (".mp4", ".mov"):
        muxing["movflags"] = "+faststart"
    try:
        with av.open(f"file:{target}", "w", options=muxing) as container:
            stream = _add_stream(container, codec, rate, _checked(first, first.shape), crf, rotation, options or {})
            if timestamps is not None:
                stream.codec_context.time_base = Fraction(1, _CLOCK)
            return _encode(container, stream, itertools.chain([first], pictures), timestamps)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _add_stream(
    container: Any, codec: str, rate: Fraction, first: Frames, crf: int, rotation: int, options: dict[str, str]
) -> Any:
    height, width = first.shape[:2]
    settings = {"crf": str(crf), "threads": "1", "flags": "+bitexact"}
    if codec == "libx264":
        settings["preset"] = "veryfast"
        options = options | {"x264-params": ":".join(filter(None, (_X264, options.get("x264-params"))))}
    settings |= options
    stream = container.add_stream(codec, rate=rate, options=settings)
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"
    stream.codec_context.thread_count = 1
    stream.codec_context.time_base = 1 / rate
    if rotation:
        # PyAV counts degrees counter-clockwise.
        stream.set_display_rotation(-rotation)
    return stream


def _encode(container: Any, stream: Any, pictures: Iterable[Frames], timestamps: Sequence[float] | None) -> int:
    convert, count, last = VideoReformatter(), 0, -1
    for picture in pictures:
        frame = av.VideoFrame.from_ndarray(_checked(picture, (stream.height, stream.width, 3)), format="rgb24")
        frame = convert.reformat(frame, format=stream.pix_fmt, threads=1)
        frame.time_base = stream.codec_context.time_base
        frame.pts = count if timestamps is None else _tick(timestamps, count, last)
        last = frame.pts
        container.mux(stream.encode(frame))
        count += 1
    container.mux(stream.encode(None))
    if timestamps is not None and len(timestamps) != count:
        raise DataEngineError(f"{len(timestamps)} timestamps were given for {count} pictures: give one for each")
    return count


def _tick(timestamps: Sequence[float], index: int, last: int) -> int:
    if index >= len(timestamps):
        raise DataEngineError(f"{len(timestamps)} timestamps were given for more pictures: give one for each")
    tick = round(timestamps[index] * _CLOCK)
    if tick <= last:
        raise DataEngineError(f"timestamp {index} is {timestamps[index]:g} s: give ascending times from 0 s on")
    return tick


def _checked(picture: Frames, shape: tuple[int, ...]) -> Frames:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise DataEngineError(
            f"a picture has shape {picture.shape} and type {picture.dtype}: give (height, width, 3) uint8"
        )
    if picture.shape != shape:
        raise DataEngineError(f"a picture has shape {picture.shape}, the first has {shape}: give pictures of one size")
    return np.ascontiguousarray(picture)
