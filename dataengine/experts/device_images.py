"""Frames and images on an accelerator: uploaded once as uint8, then resized and cut there, in torch.

Everything here runs on any device of torch. Results follow OpenCV's conventions: the centre of the first pixel is
(0, 0); `INTER_LINEAR` of `cv2.resize` with its fixed-point weights, `INTER_AREA` as the mean over an area,
`cv2.warpAffine` with bilinear interpolation between pixels and a constant colour around them. On a CPU the images
differ from OpenCV's by at most one grey level (tests/experts/test_device_images.py).

On CUDA each thread has a stream of its own, so that threads do not wait for each other. What is handed from thread to
thread carries an event; who uses it waits for the event on its own stream, not on the host.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dataengine.core.types import Float, Frames, Int

if TYPE_CHECKING:
    import torch

LINEAR_BITS = 11
"""Bits of the weights of `cv2.resize` with `INTER_LINEAR` on uint8."""
PIXELS_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 23}
"""Pixels of images that are computed at once, by the kind of device; bounds the memory of what lies between (about
100 bytes a pixel), not results."""


class _Streams(threading.local):
    """The streams of a thread, by the index of their device."""

    def __init__(self) -> None:
        self.by_device: dict[int, Any] = {}


_STREAMS = _Streams()


@contextmanager
def own_stream(device: Any) -> Iterator[None]:
    """Within this, work goes to this thread's stream of a CUDA device; on other devices nothing changes."""
    if device.type != "cuda":
        yield
        return
    import torch

    streams = _STREAMS.by_device
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in streams:
        streams[index] = torch.cuda.Stream(index)
    with torch.cuda.stream(streams[index]):
        yield


def upload(values: np.ndarray, device: Any) -> torch.Tensor:
    """An array on a device. To CUDA it goes through pinned memory on the current stream, and the host does not wait."""
    import torch

    given = torch.from_numpy(np.ascontiguousarray(values))
    return given.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else given.to(device)


def _event(device: Any) -> Any:
    """An event behind the work of the current stream; None where there are no streams."""
    if device.type != "cuda":
        return None
    import torch

    event = torch.cuda.Event()
    event.record()
    return event


def _wait(tensor: torch.Tensor, event: Any) -> None:
    """The current stream waits for an event of another stream before it uses a tensor of that one."""
    if event is not None:
        import torch

        torch.cuda.current_stream(tensor.device).wait_event(event)
        _used(tensor)


def _used(tensor: torch.Tensor) -> None:
    """The memory of a tensor is not given to others before the current stream is done with it."""
    if tensor.is_cuda:
        import torch

        tensor.record_stream(torch.cuda.current_stream(tensor.device))


@dataclass(frozen=True)
class DeviceImages:
    """Images (N, h, w, 3) uint8 RGB on a device, in pieces that may come from several threads.

    Attributes:
        pieces: tensors (n, h, w, 3), each with the event after which it is ready, or None.
    """

    pieces: tuple[tuple[torch.Tensor, Any], ...]

    def __len__(self) -> int:
        return sum(len(tensor) for tensor, _ in self.pieces)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, h, w, 3)."""
        return (len(self), *self.pieces[0][0].shape[1:])

    @property
    def device(self) -> Any:
        """Where the images lie."""
        return self.pieces[0][0].device

    def __getitem__(self, part: slice) -> DeviceImages:
        start, stop, _ = part.indices(len(self))
        kept, at = [], 0
        for tensor, event in self.pieces:
            low, high = max(start - at, 0), min(stop - at, len(tensor))
            if low < high:
                kept.append((tensor[low:high], event))
            at += len(tensor)
        return DeviceImages(tuple(kept) or ((self.pieces[0][0][:0], self.pieces[0][1]),))

    def gather(self, size: int | None = None) -> torch.Tensor:
        """One tensor (size, h, w, 3), for use on the current stream. The first image fills up what is missing."""
        import torch

        for tensor, event in self.pieces:
            _wait(tensor, event)
        tensors = [tensor for tensor, _ in self.pieces]
        missing = 0 if size is None else size - len(self)
        if missing > 0:
            tensors.append(tensors[0][:1].expand(missing, -1, -1, -1))
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


Images: TypeAlias = Frames | DeviceImages
"""(N, h, w, 3) uint8 RGB on the host or on a device."""


def joined(parts: Sequence[Images]) -> Images:
    """Images of several requests as one batch. On a device nothing is copied before the batch is used."""
    if len(parts) == 1:
        return parts[0]
    pieces: list[tuple[torch.Tensor, Any]] = []
    for part in parts:
        if not isinstance(part, DeviceImages):
            return np.concatenate([np.asarray(p) for p in parts])
        pieces += part.pieces
    return DeviceImages(tuple(pieces))


class DeviceFrames:
    """Frames of a clip on a device, uploaded once; the detector and all experts cut their images from them.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        device: a torch device.
    """

    def __init__(self, frames: Frames, device: Any) -> None:
        self._device = device
        self._rows = np.arange(len(frames))
        with own_stream(device):
            self._frames = upload(frames, device)
            self._ready = _event(device)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3)."""
        height, width = self._frames.shape[1:3]
        return len(self._rows), height, width, 3

    def __getitem__(self, part: slice | Sequence[int] | Int) -> DeviceFrames:
        """Some of the frames; nothing is copied."""
        some = object.__new__(DeviceFrames)
        some._device, some._frames, some._ready = self._device, self._frames, self._ready
        some._rows = self._rows[part if isinstance(part, slice) else np.asarray(part, np.int64)]
        return some

    def warp(self, which: Int, affines: Float, size: tuple[int, int], fill: tuple[int, int, int]) -> DeviceImages:
        """Images (N, h, w, 3): frame which[n] under affines[n] (2, 3), as `cv2.warpAffine` makes them."""
        rows, inverse = self._rows[which], _inverse(affines)
        with self._working():
            import torch

            out = torch.empty((len(rows), size[1], size[0], 3), dtype=torch.uint8, device=self._device)
            where, maps = upload(rows, self._device), upload(inverse, self._device)
            colour = constant(np.array(fill, np.float32), self._device)
            for part in _parts(len(rows), size[0] * size[1], self._device):
                out[part] = _warped(self._frames, where[part], maps[part], size, colour)
            return DeviceImages(((out, _event(self._device)),))

    def resize(
        self,
        inner: tuple[int, int],
        area: bool,
        size: tuple[int, int] | None = None,
        corner: tuple[int, int] = (0, 0),
        fill: tuple[int, int, int] = (0, 0, 0),
    ) -> DeviceImages:
        """All frames as images (T, h, w, 3), as `cv2.resize` makes them.

        Args:
            inner: width and height that a frame is resized to.
            area: `INTER_AREA`, for shrinking; else `INTER_LINEAR`.
            size: width and height of the images; None: `inner`.
            corner: x and y of the resized frame in its image.
            fill: colour around it.
        """
        (wide, tall), (left, top), whole = inner, corner, size or inner
        with self._working():
            import torch

            out = torch.empty((len(self._rows), whole[1], whole[0], 3), dtype=torch.uint8, device=self._device)
            if whole != inner:
                out[:] = constant(np.array(fill, np.uint8), self._device)
            rows = upload(self._rows, self._device)
            one = max(wide * tall, self._frames.shape[1] * self._frames.shape[2])
            for part in _parts(len(self._rows), one, self._device):
                frames = self._frames.index_select(0, rows[part])
                resized = _shrunk(frames, inner) if area else _interpolated(frames, inner)
                out[part, top : top + tall, left : left + wide] = resized
            return DeviceImages(((out, _event(self._device)),))

    @contextmanager
    def _working(self) -> Iterator[None]:
        import torch

        with own_stream(self._device), torch.inference_mode():
            _wait(self._frames, self._ready)
            yield


def _resident(values: np.ndarray, device: Any) -> torch.Tensor:
    import torch

    # a plain copy: the host waits once, so that any stream may use it afterwards
    with torch.inference_mode(False):
        return torch.from_numpy(values.copy()).to(device)


@cache
def _constant(content: bytes, dtype: str, shape: tuple[int, ...], device: Any) -> torch.Tensor:
    return _resident(np.frombuffer(content, dtype).reshape(shape), device)


def constant(values: np.ndarray, device: Any) -> torch.Tensor:
    """A small array on a device, uploaded once in the life of a process. Not to be written to."""
    return _constant(values.tobytes(), values.dtype.str, values.shape, device)


def _parts(num: int, pixels: int, device: Any) -> Iterator[slice]:
    step = max(1, PIXELS_AT_ONCE.get(device.type, 1 << 21) // pixels)
    return (slice(start, start + step) for start in range(0, num, step))


def _inverse(affines: Float) -> Float:
    """(N, 2, 3) float32 maps from pixels of images to those of frames."""
    linear = np.linalg.inv(np.asarray(affines, np.float64).reshape(-1, 2, 3)[:, :, :2])
    return np.concatenate([linear, -linear @ affines[:, :, 2:]], 2).astype(np.float32)


def _warped(
    frames: torch.Tensor, which: torch.Tensor, maps: torch.Tensor, size: tuple[int, int], fill: torch.Tensor
) -> torch.Tensor:
    import torch

    _, height, width, _ = frames.shape
    x = torch.arange(size[0], dtype=torch.float32, device=frames.device)
    y = torch.arange(size[1], dtype=torch.float32, device=frames.device)[:, None]
    m = maps[..., None, None]
    across = (m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]).clamp(-2, width + 1)
    down = (m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]).clamp(-2, height + 1)
    left, top = across.floor(), down.floor()
    fx, fy = (across - left)[..., None], (down - top)[..., None]
    left, top = left.long(), top.long()
    flat, base = frames.reshape(-1, 3), which[:, None, None] * (height * width)

    def at(dx: int, dy: int) -> torch.Tensor:
        i, j = left + dx, top + dy
        cell = base + j.clamp(0, height - 1) * width + i.clamp(0, width - 1)
        inside = ((i >= 0) & (i < width) & (j >= 0) & (j < height))[..., None]
        return torch.where(inside, flat.index_select(0, cell.flatten()).view(*cell.shape, 3).float(), fill)

    upper = torch.lerp(at(0, 0), at(1, 0), fx)
    lower = torch.lerp(at(0, 1), at(1, 1), fx)
    return torch.lerp(upper, lower, fy).round_().to(torch.uint8)


@cache
def _taps(given: int, wanted: int, device: Any) -> tuple[torch.Tensor, ...]:
    """The two pixels along an axis that each pixel of a resized image lies between, and their fixed-point weights."""
    at = ((np.arange(wanted) + 0.5) * (given / wanted) - 0.5).astype(np.float32)
    low = np.clip(np.floor(at).astype(np.int64), 0, given - 1)
    share = np.where((at < 0) | (low >= given - 1), 0, at - low)
    weights = (np.rint(one * (1 << LINEAR_BITS)).astype(np.int32) for one in (1 - share, share))
    return tuple(constant(one, device) for one in (low, np.minimum(low + 1, given - 1), *weights))


def _interpolated(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`INTER_LINEAR` in OpenCV's integers: 4 bits are dropped between the axes, 16 and 2 after."""
    import torch

    device, (_, height, width, _) = frames.device, frames.shape
    left, right, a, b = _taps(width, size[0], device)
    upper, lower, c, d = _taps(height, size[1], device)
    across = frames.index_select(2, left).int() * a[:, None] + frames.index_select(2, right).int() * b[:, None]
    across >>= 4
    c, d = c[:, None, None], d[:, None, None]
    mixed = (across.index_select(1, upper) * c >> 16) + (across.index_select(1, lower) * d >> 16)
    return (mixed + 2 >> 2).to(torch.uint8)


@lru_cache(maxsize=64)
def _means(given: int, wanted: int, device: Any) -> torch.Tensor:
    """(wanted, given) float32 share of each pixel along an axis in each pixel of a shrunk image."""
    edges, pixel = np.arange(wanted + 1) * (given / wanted), np.arange(given)
    covered = np.clip(np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel), 0, 1)
    return _resident(np.asarray(covered / covered.sum(1, keepdims=True), np.float32), device)


def _shrunk(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`INTER_AREA`: every pixel is the mean of the area that it covers."""
    import torch

    num, height, width, _ = frames.shape
    rows, cols = _means(height, size[1], frames.device), _means(width, size[0], frames.device)
    for kept in (rows, cols):  # they may leave the cache while this stream still reads them
        _used(kept)
    with torch.autocast(frames.device.type, enabled=False):
        tall = (rows @ frames.reshape(num, height, -1).float()).view(num, size[1], width, 3)
        mixed = torch.matmul(cols, tall)
    return mixed.round_().to(torch.uint8)
