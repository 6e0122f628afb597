"""Mixing of joints by attention, over time-major data (T, P, V, C): P people, V joints, channels last.

y_w = sum_h (sum_v M_(w,h,v) x_v) D_h, where M holds a share of each joint v for each joint w and head h. With
time first, the heads' sum and the 1x1 convolution D are one matrix product over all rows. On a CPU in full
precision the heads' mixed joints, several times the size of x, are computed in pieces that stay in the cache, and
computed again for the gradients. Elsewhere the same product is done in ordinary operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from training.backbones.temporal import plain_cpu

PIECE = 2**18
"""Values of mixed joints that are computed at a time: 1 MiB in float32."""


def _apart(both: Tensor, heads: int) -> Tensor:
    """(T, P, V, 2 H Ce) to (2, P H, V, T Ce): rows of joints, one matrix per person and head."""
    t, p, v, _ = both.shape
    split = both.view(t, p, v, 2, heads, -1)
    apart = both.new_empty(2, p, heads, v, t, split.shape[5])
    for side in range(2):
        for head in range(heads):
            apart[side, :, head].copy_(split[:, :, :, side, head].permute(1, 2, 0, 3))
    return apart.view(2, p * heads, v, -1)


def _together(apart: Tensor, frames: int, heads: int) -> Tensor:
    """(2, P H, V, T Ce) to (T, P, V, 2 H Ce)."""
    v, e = apart.shape[2], apart.shape[3] // frames
    split = apart.view(2, -1, heads, v, frames, e)
    both = apart.new_empty(frames, split.shape[1], v, 2, heads, e)
    for side in range(2):
        for head in range(heads):
            both[:, :, :, side, head].copy_(split[side, :, head].permute(2, 0, 1, 3))
    return both.view(*both.shape[:3], -1)


class Scores(torch.autograd.Function):
    """See `scores`; one copy each way between the layout of x and that of the product over time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
        x = x.contiguous()
        apart = _apart(functional.linear(x, weight, bias), heads)
        ctx.save_for_backward(x, weight, apart)
        ctx.heads = heads
        return (
            torch.bmm(apart[1], apart[0].transpose(1, 2)).div_(apart.shape[3]).view(x.shape[1], heads, x.shape[2], -1)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ds: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, apart = ctx.saved_tensors
        ds = ds.reshape(-1, *ds.shape[2:]) / apart.shape[3]
        back = torch.empty_like(apart)
        torch.bmm(ds.transpose(1, 2), apart[1], out=back[0])
        torch.bmm(ds, apart[0], out=back[1])
        rows = _together(back, len(x), ctx.heads).view(-1, len(weight))
        dx = (rows @ weight).view(x.shape) if ctx.needs_input_grad[0] else None
        return dx, rows.t() @ x.view(len(rows), -1), rows.sum(0), None


class Mixed(torch.autograd.Function):
    """See `mix`; as many frames at a time as fit into `PIECE`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mixing: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous()
        t, p, v, c = x.shape
        heads = mixing.shape[1] // v
        ctx.save_for_backward(x, mixing, weight)
        y = x.new_empty(t, p * v, len(weight))
        repeated, z = _pieces(x, mixing)
        size = len(repeated)
        shares = repeated.flatten(0, 1)
        for first in range(0, t, size):
            part = x[first : first + size].view(-1, v, c)
            n = len(part)
            torch.bmm(shares[:n], part, out=z[:n])
            torch.addmm(bias, z[:n].view(n * v, heads * c), weight.t(), out=y[first : first + size].view(n * v, -1))
        return y.view(t, p, v, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mixing, weight = ctx.saved_tensors
        t, p, v, c = x.shape
        dy = dy.contiguous()
        dx, dmixing, dweight = torch.empty_like(x), mixing.new_zeros(p, v, mixing.shape[1]), torch.zeros_like(weight)
        repeated, z = _pieces(x, mixing)
        size = len(repeated)
        shares, dz = repeated.flatten(0, 1), torch.empty_like(z)
        for first in range(0, t, size):
            part, above = x[first : first + size].view(-1, v, c), dy[first : first + size].view(-1, dy.shape[3])
            n = len(part)
            torch.bmm(shares[:n], part, out=z[:n])
            dweight.addmm_(above.t(), z[:n].view(n * v, -1))
            torch.mm(above, weight, out=dz[:n].view(n * v, -1))
            torch.bmm(shares[:n].transpose(1, 2), dz[:n], out=dx[first : first + size].view(n, v, c))
            dmixing += torch.bmm(part, dz[:n].transpose(1, 2)).view(-1, *dmixing.shape).sum(0)
        return dx, dmixing.transpose(1, 2), dweight, dy.view(-1, dy.shape[3]).sum(0)


def _pieces(x: Tensor, mixing: Tensor) -> tuple[Tensor, Tensor]:
    """Shares repeated for as many frames as are mixed at once (S, P, V H, V), and room for their result (S P, V H,
    C)."""
    t, p, _, c = x.shape
    size = min(t, max(1, PIECE // (p * mixing.shape[1] * c)))
    return mixing.expand(size, *mixing.shape).contiguous(), x.new_empty(size * p, mixing.shape[1], c)


def scores(x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Likeness of joints over the whole motion: mean over time and channels of phi_w theta_v.

    Args:
        x: (T, P, V, C) contiguous.
        weight: (2 H Ce, C): theta of every head, then phi of every head.
        bias: (2 H Ce).
        heads: H.

    Returns:
        (P, H, V, V): entry (w, v) is sum_(t, c) phi_w theta_v / (Ce T).
    """
    if plain_cpu(x):
        scores: Tensor = Scores.apply(x, weight, bias, heads)
        return scores
    t, p, v, _ = x.shape
    theta, phi = (
        functional.linear(x, weight, bias)
        .view(t, p, v, 2, heads, -1)
        .permute(3, 1, 4, 2, 0, 5)
        .reshape(2, p, heads, v, -1)
    )
    likeness: Tensor = phi @ theta.transpose(-1, -2) / theta.shape[-1]
    return likeness


def mix(x: Tensor, mixing: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Joints mixed by every head, their heads led to channels and summed.

    Args:
        x: (T, P, V, C) contiguous.
        mixing: (P, V H, V), row (w, h): the shares of joints v in joint w for head h.
        weight: (C', H C).
        bias: (C').

    Returns:
        (T, P, V, C').
    """
    if plain_cpu(x):
        mixed: Tensor = Mixed.apply(x, mixing.contiguous(), weight, bias)
        return mixed
    return functional.linear((mixing @ x).view(*x.shape[:3], -1), weight, bias)
