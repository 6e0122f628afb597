"""Convolution over time of time-major data (T, R, C): rows are all joints of all people, channels come last.

On a CPU the work of a 9-tap convolution is most of a skeleton network's cost. Here it is done in the
frequency domain: a real Fourier transform over time is one matrix product with a small constant matrix,
the convolution becomes one (R, C) x (C, C') product for each of about 1.5 T points (three real products a
complex one, after Gauss), and another small matrix leads back. That is 1.5 to 2 products an output in place
of 9, all of them large matrix products, and the same holds for both gradients. The result is the convolution's
up to rounding (about 1e-15 in float64, 1e-7 in float32).

Elsewhere (GPU, autocast, export, few rows) it is one ordinary convolution over an image of height T and
width R, whose channels-last storage is exactly (T, R, C), so that nothing is copied.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 2**20
"""Numbers of points that are made at a time: 4 MiB in float32."""
MIN_GAIN = 1.2
"""Least ratio of multiplications, plain to spectral, at which the spectral way is taken."""


@dataclass(frozen=True)
class Tile:
    """A stretch of output steps and the input frames that they see."""

    first: int
    last: int
    begin: int
    end: int
    offset: int


@dataclass(frozen=True)
class Plan:
    """Matrices of one transform length, and the tiles that it is applied to.

    Attributes:
        tiles: stretches of the output.
        analysis: (P, n) input frames to points, column 0 is the first frame that a tile could see.
        kernel: (P, K) taps to points.
        synthesis: (S, P) points to output steps of a tile.
        length: n, the period of the transform.
    """

    tiles: tuple[Tile, ...]
    analysis: Tensor
    kernel: Tensor
    synthesis: Tensor
    length: int


def steps(frames: int, stride: int) -> int:
    """Output steps of a convolution padded by half its reach."""
    return -(-frames // stride)


def _tiles(frames: int, reach: int, stride: int, count: int) -> tuple[tuple[Tile, ...], int]:
    """(tiles, period): output split evenly, and the shortest period without wrap-around into a wanted output."""
    total = steps(frames, stride)
    size = -(-total // count)
    tiles, period = [], 1
    for first in range(0, total, size):
        last = min(first + size, total)
        origin = first * stride
        begin, end = max(origin - reach, 0), min((last - 1) * stride + reach + 1, frames)
        tiles.append(Tile(first, last, begin, end, begin - origin + reach))
        period = max(period, end - origin + reach, (last - 1) * stride + reach + 1 - begin)
    return tuple(tiles), period


def _points(period: int) -> int:
    return 3 * ((period - 1) // 2) + 2 - period % 2


def _work(frames: int, taps: int, stride: int, dilation: int, rows: int, narrow: int, wide: int, count: int) -> float:
    """Multiplications of the spectral way with `count` tiles."""
    tiles, period = _tiles(frames, dilation * (taps - 1) // 2, stride, count)
    p = _points(period)
    seen = sum(tile.end - tile.begin for tile in tiles)
    transforms = p * rows * (seen * narrow + steps(frames, stride) * wide)
    return transforms + p * rows * len(tiles) * narrow * wide + p * taps * narrow * wide


@functools.lru_cache(maxsize=1024)
def best_count(frames: int, taps: int, stride: int, dilation: int, rows: int, narrow: int, wide: int) -> int:
    """Number of tiles with the least work; 0 where the plain convolution is cheaper."""
    total = steps(frames, stride)
    counts = sorted({-(-total // size) for size in range(min(4, total), total + 1)})
    work, count = min((_work(frames, taps, stride, dilation, rows, narrow, wide, count), count) for count in counts)
    return count if taps * total * rows * narrow * wide >= MIN_GAIN * work else 0


@functools.lru_cache(maxsize=256)
def plan(frames: int, taps: int, stride: int, dilation: int, count: int, dtype: torch.dtype) -> Plan:
    """The matrices of a convolution: y_t = sum_k w_k x_(t + (k - (K - 1) / 2) d) as products at each frequency.

    With X_f = sum_j x_j e^(-i w_f j) and H_f = sum_k w_k e^(+i w_f s_k) it is y_t = 1/n sum_f X_f H_f e^(+i w_f t)
    wherever no wrapped frame reaches t. For 0 < f < n/2 the complex product is made of three real ones:
    a = H_r (X_r + X_i), b = X_r (H_i - H_r), c = X_i (H_r + H_i); real part a - c, imaginary part a + b.
    """
    reach = dilation * (taps - 1) // 2
    tiles, period = _tiles(frames, reach, stride, count)
    frame = np.arange(max(tile.end - tile.begin + tile.offset for tile in tiles)) - reach
    step = np.arange(max(tile.last - tile.first for tile in tiles)) * stride
    shift = np.arange(taps) * dilation - reach
    analysis, kernel, synthesis = [], [], []
    for f in range(period // 2 + 1):
        w = 2 * math.pi * f / period
        x_real, x_imag = np.cos(w * frame), -np.sin(w * frame)
        h_real, h_imag = np.cos(w * shift), np.sin(w * shift)
        cos, sin = np.cos(w * step) / period, np.sin(w * step) / period
        if f in (0, period / 2):
            analysis.append(x_real)
            kernel.append(h_real)
            synthesis.append(cos)
        else:
            analysis += [x_real + x_imag, x_real, x_imag]
            kernel += [h_real, h_imag - h_real, h_real + h_imag]
            synthesis += [2 * (cos - sin), -2 * sin, -2 * cos]
    inward, taps_in, outward = (
        torch.tensor(np.array(rows), dtype=dtype) for rows in (analysis, kernel, np.array(synthesis).T)
    )
    return Plan(tiles, inward, taps_in, outward, period)


def _filters(weight: Tensor, made: Plan) -> Tensor:
    """Taps (C', C, K) to points (P, C', C)."""
    wide, narrow, taps = weight.shape
    return (made.kernel @ weight.reshape(-1, taps).t()).view(-1, wide, narrow)


def _room(x: Tensor, made: Plan, width: int) -> tuple[int, int]:
    """(rows at a time, numbers of a piece of points) for channels of `width`."""
    rows = x.shape[1]
    each = len(made.analysis) * len(made.tiles) * width
    size = min(rows, max(PIECE // each, 32))
    size = -(-rows // -(-rows // size))
    return size, size * each


def _analyse(x: Tensor, made: Plan, points: Tensor) -> Tensor:
    """Frames (T, R, C) to points (P, tiles R, C), written to the start of `points`."""
    rows, narrow = x.shape[1:]
    seen = points[: len(made.analysis) * len(made.tiles) * rows * narrow].view(len(made.analysis), len(made.tiles), -1)
    for i, tile in enumerate(made.tiles):
        used = made.analysis[:, tile.offset : tile.offset + tile.end - tile.begin]
        torch.mm(used, x[tile.begin : tile.end].flatten(1), out=seen[:, i])
    return seen.view(len(seen), -1, narrow)


class Spectral(torch.autograd.Function):
    """The convolution through a `Plan`; x (T, R, C), weight (C', C, K), bias (C') -> (T', R, C').

    Points are made for some rows at a time, so that they stay in the cache, and made again for the gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, made: Plan, total: int) -> Tensor:
        (_, rows, narrow), wide, count = x.shape, len(weight), len(made.tiles)
        filters, shift = _filters(weight, made), made.length * bias
        size, numbers = _room(x, made, max(narrow, wide))
        first, second = x.new_empty(numbers), x.new_empty(numbers)
        y = x.new_empty(total, rows, wide)
        for begin in range(0, rows, size):
            part, out = x[:, begin : begin + size], y[:, begin : begin + size].flatten(1)
            seen = _analyse(part, made, first)
            mixed = second[: seen.shape[0] * seen.shape[1] * wide].view(len(seen), -1, wide)
            torch.bmm(seen, filters.transpose(1, 2), out=mixed)
            mixed[0] += shift
            mixed = mixed.view(len(mixed), count, -1)
            for i, tile in enumerate(made.tiles):
                torch.mm(made.synthesis[: tile.last - tile.first], mixed[:, i], out=out[tile.first : tile.last])
        ctx.save_for_backward(x, weight)
        ctx.made = made
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        made: Plan = ctx.made
        (_, rows, narrow), wide, count = x.shape, len(weight), len(made.tiles)
        filters = _filters(weight, made)
        products, dbias, dx = torch.zeros_like(filters), torch.zeros_like(dy[0, 0]), torch.empty_like(x)
        size, numbers = _room(x, made, max(narrow, wide))
        first, second = x.new_empty(numbers), x.new_empty(numbers)
        dy = dy.contiguous()
        for begin in range(0, rows, size):
            part, above = x[:, begin : begin + size], dy[:, begin : begin + size].flatten(1)
            seen = _analyse(part, made, first)
            mixed = second[: seen.shape[0] * seen.shape[1] * wide].view(len(seen), count, -1)
            for i, tile in enumerate(made.tiles):
                torch.mm(made.synthesis[: tile.last - tile.first].t(), above[tile.first : tile.last], out=mixed[:, i])
            mixed = mixed.view(len(seen), -1, wide)
            dbias += mixed[0].sum(0)
            products.baddbmm_(mixed.transpose(1, 2), seen)
            back = torch.bmm(mixed, filters, out=seen)
            _gather(back.view(len(back), count, -1), made, dx[:, begin : begin + size].flatten(1))
        dweight = (products.view(len(products), -1).t() @ made.kernel).view(weight.shape)
        return dx, dweight, made.length * dbias, None, None


def _gather(back: Tensor, made: Plan, dx: Tensor) -> None:
    """Lead gradients of tiles (P, tiles, R C) back to frames (T, R C), summed where tiles overlap."""
    done = 0
    for i, tile in enumerate(made.tiles):
        used = made.analysis[:, tile.offset : tile.offset + tile.end - tile.begin].t()
        again = max(done - tile.begin, 0)
        if again:
            dx[tile.begin : done].addmm_(used[:again], back[:, i])
        if tile.end > done:
            dx[done : tile.begin] = 0
            torch.mm(used[again:], back[:, i], out=dx[tile.begin + again : tile.end])
            done = tile.end
    dx[done:] = 0


def plain_cpu(x: Tensor) -> bool:
    """Whether products made by hand may be used: full precision on a CPU, and not while a graph is recorded."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not recorded
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolution over time, padded by half its reach.

    Args:
        x: (T, R, C) contiguous.
        weight: (C', C, K, 1), as of a `Conv2d` over (T, V); K odd.
        bias: (C').
        stride: input frames for each output step.
        dilation: frames between two taps.

    Returns:
        (ceil(T / stride), R, C').
    """
    wide, narrow, taps, _ = weight.shape
    if taps == 1:
        return torch.nn.functional.linear(x[::stride], weight[:, :, 0, 0], bias)
    if plain_cpu(x):
        count = best_count(len(x), taps, stride, dilation, x.shape[1], narrow, wide)
        if count:
            made = plan(len(x), taps, stride, dilation, count, x.dtype)
            y: Tensor = Spectral.apply(x.contiguous(), weight[..., 0], bias, made, steps(len(x), stride))
            return y
    image = x.view(1, *x.shape).permute(0, 3, 1, 2)
    reach = dilation * (taps - 1) // 2
    kernel = weight.contiguous(memory_format=torch.channels_last)
    done = torch.nn.functional.conv2d(image, kernel, bias, (stride, 1), (reach, 0), (dilation, 1))
    return done.permute(0, 2, 3, 1).squeeze(0)
