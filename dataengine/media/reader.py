"""Frames of one video stream in presentation order, with seeking that never changes what is read.

`Reader` is the layer over PyAV that `probe` and `decode` share. It knows files, packets, times
and errors; colours, spans in seconds and batches belong to `decode`.
"""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from dataengine.core.errors import MediaError
from dataengine.media.files import MAX_BYTES, check_file, check_storage
from dataengine.media.kinds import ADVICE, TEXT, is_mjpeg, kind_of_file, what_is_missing

MAX_PIXELS = 4096 * 2304
"""Largest picture that is decoded unless a caller says otherwise."""

DEFAULT_RATE = Fraction(25)
"""Frames a second of a stream that states none and holds too few frames to tell; libavformat's own default."""

# Containers of video and audio. Playlists, image lists and scripts (HLS, concat, ...) are left out: they
# would make libavformat open further files and addresses named inside an untrusted file.
_FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,vc1,ivf,obu,av1,flv,asf,ogg,mxf,nut,"
    "rm,dv,wtv,yuv4mpegpipe,gif,apng,mp3,aac,wav,flac,ac3,amr"
)
# These carry decode times only: frames are given the times of the packets in ascending order instead.
_WITHOUT_PRESENTATION_TIMES = {"avi", "h261", "h263", "h264", "hevc", "m4v", "mjpeg", "mpegvideo", "vc1", "vvc"}
# How far before the wanted time a seek aims, in seconds, when a nearer one landed too late.
_SEEK_BACK = (0, 2, 8, 32)
_MAX_READ_ERRORS = 16
_PICTURE_CODECS = {"bmp", "mjpeg", "png", "tiff", "webp"}


class Stopwatch:
    """The time spent inside of a decoder, apart from what its consumer does between frames."""

    def __init__(self, name: str, limit: float) -> None:
        self.name = name
        self.limit = limit
        self.spent = 0.0
        self._since = time.monotonic()

    def start(self) -> None:
        """Begin to count."""
        self._since = time.monotonic()

    def check(self) -> None:
        """Add the time since `start` or the last `check`.

        Raises:
            MediaError: media_timeout, when more than the limit has been spent.
        """
        now = time.monotonic()
        self.spent += now - self._since
        self._since = now
        if self.spent > self.limit:
            raise self.expired()

    def expired(self) -> MediaError:
        """The error for too much time spent."""
        detail = f"{self.name!r} took longer than {self.limit:g} s to read"
        return MediaError("media_timeout", detail, retryable=True, threshold=self.limit)


class Reader:
    """An open media file and its default video stream (cover pictures apart).

    Attributes:
        container, stream: PyAV's objects; `frames_from` may replace them.
        errors: presentation time in ticks, None where unknown, of every packet that could not be read or decoded.
        num_discarded: packets that an edit list hides.

    Raises:
        MediaError: the kinds of `check_file`; media_corrupt, no_video_stream, too_large, media_timeout.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
        timeout: float = 120.0,
    ) -> None:
        check_file(path, max_bytes)
        self.path = Path(path)
        self.max_pixels = max_pixels
        self.stopwatch = Stopwatch(self.path.name, timeout)
        self.errors: list[int | None] = []
        self.num_discarded = 0
        self._open()

    @property
    def time_base(self) -> Fraction:
        """Seconds of one tick of the stream's clock."""
        return Fraction(self.stream.time_base)

    @property
    def rate(self) -> Fraction:
        """Average frames a second, as far as the header and the first packets tell."""
        return Fraction(self.stream.average_rate or self.stream.guessed_rate or self.stream.base_rate or DEFAULT_RATE)

    @property
    def timed(self) -> bool:
        """True when the container stores presentation times."""
        return not _WITHOUT_PRESENTATION_TIMES & set(self.container.format.name.split(","))

    def frames(self) -> Iterator[tuple[int, Any]]:
        """Yield (presentation time in ticks, PyAV frame) from where the reader stands, times strictly ascending.

        A packet that cannot be read or decoded is counted and skipped.

        Raises:
            MediaError: media_timeout, too_large (the picture grows within the stream).
        """
        step = max(1, round(1 / (self.rate * self.time_base)))
        pending: list[int] = []
        timed, last = self.timed, None
        self.stopwatch.start()
        for packet in self._packets():
            if not timed and packet is not None and packet.dts is not None:
                heapq.heappush(pending, packet.dts)
            for frame in self._decoded(packet, pending):
                stated = frame.pts if timed else (heapq.heappop(pending) if pending else None)
                last = _ascending(last, stated, step)
                if frame.width * frame.height > self.max_pixels:
                    raise self._too_large(frame.width, frame.height)
                self.stopwatch.check()
                yield last, frame
                self.stopwatch.start()
            self.stopwatch.check()

    def frames_from(self, start: int, first: int) -> Iterator[tuple[int, Any]]:
        """As `frames`, from a key frame at or before tick `start`; `first` is the tick of the file's first frame.

        A seek is only trusted when a key frame presented at or before `start` comes out: pictures
        presented before the key frame of an open group lack their references after a seek, and some
        containers land too late. Without such a frame the file is read from its beginning.
        """
        for back in _SEEK_BACK if self.timed else ():
            target = start - round(back / self.time_base)
            if target <= first:
                break
            try:
                self.container.seek(target, stream=self.stream, backward=True)
            except av.FFmpegError:
                break
            self.errors, self.num_discarded = [], 0
            frames = self.frames()
            for pts, frame in frames:
                if pts > start:
                    break
                if frame.key_frame:
                    return itertools.chain([(pts, frame)], frames)
        self.close()
        self._open()
        return self.frames()

    def packet_times(self) -> list[int]:
        """Presentation times in ticks of all frames that the file holds, ascending; nothing is decoded.

        Raises:
            MediaError: media_timeout.
        """
        self.close()
        self._open()
        times = []
        for packet in self._packets():
            if packet is not None and not packet.is_discard:
                times.append(packet.pts if self.timed else packet.dts)
            self.stopwatch.check()
        known = sorted(pts for pts in times if pts is not None)
        return (
            known if len(known) == len(times) else [round(k / (self.rate * self.time_base)) for k in range(len(times))]
        )

    def close(self) -> None:
        """Close the file. Idempotent."""
        self.container.close()

    def _open(self) -> None:
        self.errors, self.num_discarded = [], 0
        self.stopwatch.start()
        # A single JPEG picture is no video, and several in a file are one that libavformat takes for pictures.
        form = "mjpeg" if is_mjpeg(self.path) else None
        options = {
            "format_whitelist": form or _FORMATS,
            "protocol_whitelist": "file",
            "max_pixels": str(self.max_pixels),
        }
        try:
            # 'file:' keeps a name that looks like an address from being taken for one.
            self.container = av.open(
                f"file:{self.path}",
                format=form,
                options=options,
                timeout=(self.stopwatch.limit, self.stopwatch.limit),
                metadata_errors="replace",
            )
        except av.ExitError as error:
            raise self.stopwatch.expired() from error
        except (av.FFmpegError, UnicodeDecodeError, ValueError) as error:
            check_storage(self.path, error)
            raise self.useless("media_corrupt", f"cannot be opened: {_text(error)}") from error
        try:
            self.stopwatch.check()
            self._pick_stream()
        except MediaError:
            self.container.close()
            raise

    def _pick_stream(self) -> None:
        if not len(self.container.streams):
            raise self.useless("media_corrupt", "has a header that announces no stream")
        streams = [s for s in self.container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            others = sorted({"pictures" if s.type == "video" else s.type for s in self.container.streams})
            raise self.useless("no_video_stream", f"holds no video, only {', '.join(others)}")
        # As players do: no cover, then what the file marks as its default, then the one with the largest pictures.
        self.stream = max(streams, key=_preference)
        codec = self.stream.codec_context
        if codec is None:
            raise MediaError("media_corrupt", f"{self.path.name!r} is coded in a way that no decoder here reads")
        if codec.width * codec.height > self.max_pixels:
            raise self._too_large(codec.width, codec.height)
        # One thread: frame threads were measured to cost a third more processor time at 340 x 256.
        codec.thread_count = 1
        codec.options = {"max_pixels": str(self.max_pixels)}

    def useless(self, kind: str, detail: str) -> MediaError:
        """The error for a file that gives no video: what it is instead or lacks, where its first bytes tell that."""
        what = kind_of_file(self.path)
        if what is not None:
            advice = f": {ADVICE[what]}" if what in ADVICE else ""
            damaged = "media_corrupt" if what == TEXT else "no_video_stream"
            return MediaError(damaged, f"{self.path.name!r} is {what}, not a video{advice}")
        missing = what_is_missing(self.path)
        return MediaError(kind if missing is None else "media_corrupt", f"{self.path.name!r} {missing or detail}")

    def _packets(self) -> Iterator[Any]:
        """Packets of the stream, then None once; reading errors are counted, and reading goes on behind them."""
        for _ in range(_MAX_READ_ERRORS):
            try:
                for packet in self.container.demux(self.stream):
                    if packet.size:
                        self.num_discarded += packet.is_discard
                        yield packet
                break
            except av.ExitError as error:
                raise self.stopwatch.expired() from error
            except av.FFmpegError as error:
                check_storage(self.path, error)
                self.errors.append(None)
        yield None

    def _decoded(self, packet: Any | None, pending: list[int]) -> list[Any]:
        try:
            return list(self.stream.codec_context.decode(packet))
        except EOFError:
            return []
        except av.FFmpegError:
            self.errors.append(None if packet is None else packet.pts)
            if packet is not None and packet.dts in pending:
                pending.remove(packet.dts)
                heapq.heapify(pending)
            return []

    def _too_large(self, width: int, height: int) -> MediaError:
        detail = f"{self.path.name!r} has pictures of {width} x {height}, at most {self.max_pixels} pixels are allowed"
        return MediaError("too_large", detail, value=float(width * height), threshold=float(self.max_pixels))


def _preference(stream: Any) -> tuple[bool, bool, bool, int, int]:
    codec = stream.codec_context
    size = 0 if codec is None else codec.width * codec.height
    still = bool(stream.disposition & (Disposition.still_image | Disposition.timed_thumbnails))
    # A cover that is not marked as one is coded as pictures are, and nobody tells of a second picture.
    still = still or (stream.frames <= 1 and codec is not None and codec.name in _PICTURE_CODECS)
    return codec is not None, not still, bool(stream.disposition & Disposition.default), size, -stream.index


def _ascending(last: int | None, stated: int | None, step: int) -> int:
    """The stated time if it comes after the `last` one, else the next one that can be expected."""
    if stated is not None and (last is None or stated > last):
        return stated
    return 0 if last is None else last + step


def _text(error: Exception) -> str:
    if isinstance(error, av.error.ArgumentError):  # what libavformat says of a kind that it may not read
        return "it is of a kind that is not read here; convert it to .mp4"
    # libav's own message ends in the whole path, which must not reach a dataset.
    return getattr(error, "strerror", None) or type(error).__name__
