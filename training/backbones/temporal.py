"""Convolution over time of time-major data (T, R, C): rows are all joints of all people, channels come last.

Convolutions with 9 taps are most of a skeleton network's cost. On a CPU they are computed in the frequency domain.
A real Fourier transform over time is one matrix product with a small constant matrix. The convolution becomes one
(R, C) x (C, C') product at each of about 1.5 T points: three real products per complex one, after Gauss. A second
small matrix transforms back. An output step thus costs 1.5 to 2 products in place of 9, all of them large matrix
products, and so do both gradients. The result equals the convolution up to rounding: about 1e-15 in float64, 1e-7 in
float32.

Elsewhere (GPU, autocast, export, few rows) the convolution is an ordinary one over an image of height T and width R.
The channels-last storage of that image is exactly (T, R, C), so that nothing is copied.
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
"""Values at frequency points that are computed at a time: 4 MiB in float32."""
MIN_GAIN = 1.2
"""Least ratio of multiplications, direct to spectral, at which the spectral convolution is used."""


@dataclass(frozen=True)
class Tile:
    """A range of output steps and the input frames in their receptive field.

    Attributes:
        first, last: output steps, last excluded.
        begin, end: input frames, end excluded.
        offset: frames of the receptive field that lie before the clip.
    """

    first: int
    last: int
    begin: int
    end: int
    offset: int


@dataclass(frozen=True)
class TransformMatrices:
    """The matrices of a spectral convolution, and the tiles that they are applied to.

    Attributes:
        tiles: ranges of output steps.
        analysis: (P, n) input frames to points, column 0 is the first frame of a tile's receptive field.
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
    """(tiles, period): output split evenly, and the shortest period whose wrap-around reaches no output step."""
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
    """Points of a transform: three per complex frequency, one per real one."""
    return 3 * ((period - 1) // 2) + 2 - period % 2


def _work(frames: int, taps: int, stride: int, dilation: int, rows: int, narrow: int, wide: int, count: int) -> float:
    """Multiplications of the spectral convolution with `count` tiles."""
    tiles, period = _tiles(frames, dilation * (taps - 1) // 2, stride, count)
    p = _points(period)
    inputs = sum(tile.end - tile.begin for tile in tiles)
    transforms = p * rows * (inputs * narrow + steps(frames, stride) * wide)
    return transforms + p * rows * len(tiles) * narrow * wide + p * taps * narrow * wide


@functools.lru_cache(maxsize=1024)
def best_tile_count(frames: int, taps: int, stride: int, dilation: int, rows: int, narrow: int, wide: int) -> int:
    """Number of tiles with the least work; 0 where the direct convolution is cheaper."""
    total = steps(frames, stride)
    counts = sorted({-(-total // size) for size in range(min(4, total), total + 1)})
    work, count = min((_work(frames, taps, stride, dilation, rows, narrow, wide, count), count) for count in counts)
    return count if taps * total * rows * narrow * wide >= MIN_GAIN * work else 0


@functools.lru_cache(maxsize=256)
def transform_matrices(
    frames: int, taps: int, stride: int, dilation: int, count: int, dtype: torch.dtype
) -> TransformMatrices:
    """The matrices of a convolution: y_t = sum_k w_k x_(t + (k - (K - 1) / 2) d) as products at each frequency.

    Let X_f = sum_j x_j e^(-i w_f j) and H_f = sum_k w_k e^(+i w_f s_k). Then y_t = 1/n sum_f X_f H_f e^(+i w_f t)
    wherever no wrapped frame reaches t. For 0 < f < n/2 the complex product is three real ones:
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
    to_points, taps_to_points, to_steps = (
        torch.tensor(np.array(rows), dtype=dtype) for rows in (analysis, kernel, np.array(synthesis).T)
    )
    return TransformMatrices(tiles, to_points, taps_to_points, to_steps, period)


def _filters(weight: Tensor, matrices: TransformMatrices) -> Tensor:
    """Taps (C', C, K) to points (P, C', C)."""
    wide, narrow, taps = weight.shape
    return (matrices.kernel @ weight.reshape(-1, taps).t()).view(-1, wide, narrow)


def _piece_size(x: Tensor, matrices: TransformMatrices, width: int) -> tuple[int, int]:
    """(rows at a time, values that their points take) for channels of `width`."""
    rows = x.shape[1]
    each = len(matrices.analysis) * len(matrices.tiles) * width
    size = min(rows, max(PIECE // each, 32))
    size = -(-rows // -(-rows // size))
    return size, size * each


def _analyse(x: Tensor, matrices: TransformMatrices, points: Tensor) -> Tensor:
    """Frames (T, R, C) to points (P, tiles R, C), written to the start of `points`."""
    rows, narrow = x.shape[1:]
    count, tiles = len(matrices.analysis), len(matrices.tiles)
    spectrum = points[: count * tiles * rows * narrow].view(count, tiles, -1)
    for i, tile in enumerate(matrices.tiles):
        columns = matrices.analysis[:, tile.offset : tile.offset + tile.end - tile.begin]
        torch.mm(columns, x[tile.begin : tile.end].flatten(1), out=spectrum[:, i])
    return spectrum.view(len(spectrum), -1, narrow)


class SpectralConvolution(torch.autograd.Function):
    """The convolution by `TransformMatrices`; x (T, R, C), weight (C', C, K), bias (C') -> (T', R, C').

    Points are computed for some rows at a time, so that they stay in the cache, and computed again for the gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, matrices: TransformMatrices, total: int) -> Tensor:
        (_, rows, narrow), wide, count = x.shape, len(weight), len(matrices.tiles)
        filters, shift = _filters(weight, matrices), matrices.length * bias
        size, numbers = _piece_size(x, matrices, max(narrow, wide))
        first, second = x.new_empty(numbers), x.new_empty(numbers)
        y = x.new_empty(total, rows, wide)
        for begin in range(0, rows, size):
            part, out = x[:, begin : begin + size], y[:, begin : begin + size].flatten(1)
            spectrum = _analyse(part, matrices, first)
            filtered = second[: spectrum.shape[0] * spectrum.shape[1] * wide].view(len(spectrum), -1, wide)
            torch.bmm(spectrum, filters.transpose(1, 2), out=filtered)
            filtered[0] += shift
            filtered = filtered.view(len(filtered), count, -1)
            for i, tile in enumerate(matrices.tiles):
                torch.mm(matrices.synthesis[: tile.last - tile.first], filtered[:, i], out=out[tile.first : tile.last])
        ctx.save_for_backward(x, weight)
        ctx.matrices = matrices
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        matrices: TransformMatrices = ctx.matrices
        (_, rows, narrow), wide, count = x.shape, len(weight), len(matrices.tiles)
        filters = _filters(weight, matrices)
        products, dbias, dx = torch.zeros_like(filters), torch.zeros_like(dy[0, 0]), torch.empty_like(x)
        size, numbers = _piece_size(x, matrices, max(narrow, wide))
        first, second = x.new_empty(numbers), x.new_empty(numbers)
        dy = dy.contiguous()
        for begin in range(0, rows, size):
            part, gradient = x[:, begin : begin + size], dy[:, begin : begin + size].flatten(1)
            spectrum = _analyse(part, matrices, first)
            filtered = second[: spectrum.shape[0] * spectrum.shape[1] * wide].view(len(spectrum), count, -1)
            for i, tile in enumerate(matrices.tiles):
                torch.mm(
                    matrices.synthesis[: tile.last - tile.first].t(),
                    gradient[tile.first : tile.last],
                    out=filtered[:, i],
                )
            filtered = filtered.view(len(spectrum), -1, wide)
            dbias += filtered[0].sum(0)
            products.baddbmm_(filtered.transpose(1, 2), spectrum)
            dspectrum = torch.bmm(filtered, filters, out=spectrum)
            _scatter_gradient(
                dspectrum.view(len(dspectrum), count, -1), matrices, dx[:, begin : begin + size].flatten(1)
            )
        dweight = (products.view(len(products), -1).t() @ matrices.kernel).view(weight.shape)
        return dx, dweight, matrices.length * dbias, None, None


def _scatter_gradient(dspectrum: Tensor, matrices: TransformMatrices, dx: Tensor) -> None:
    """Gradients of points (P, tiles, R C) to gradients of frames (T, R C), summed where tiles overlap."""
    written = 0
    for i, tile in enumerate(matrices.tiles):
        columns = matrices.analysis[:, tile.offset : tile.offset + tile.end - tile.begin].t()
        overlap = max(written - tile.begin, 0)
        if overlap:
            dx[tile.begin : written].addmm_(columns[:overlap], dspectrum[:, i])
        if tile.end > written:
            dx[written : tile.begin] = 0
            torch.mm(columns[overlap:], dspectrum[:, i], out=dx[tile.begin + overlap : tile.end])
            written = tile.end
    dx[written:] = 0


def plain_cpu(x: Tensor) -> bool:
    """Whether hand-written products may be used: full precision on a CPU, and no graph is recorded."""
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
        count = best_tile_count(len(x), taps, stride, dilation, x.shape[1], narrow, wide)
        if count:
            matrices = transform_matrices(len(x), taps, stride, dilation, count, x.dtype)
            output: Tensor = SpectralConvolution.apply(
                x.contiguous(), weight[..., 0], bias, matrices, steps(len(x), stride)
            )
            return output
    image = x.view(1, *x.shape).permute(0, 3, 1, 2)
    reach = dilation * (taps - 1) // 2
    kernel = weight.contiguous(memory_format=torch.channels_last)
    y = torch.nn.functional.conv2d(image, kernel, bias, (stride, 1), (reach, 0), (dilation, 1))
    return y.permute(0, 2, 3, 1).squeeze(0)
