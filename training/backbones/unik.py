"""UNIK: a network that learns how joints depend on each other, without a drawn skeleton.

Source: Yang et al., UNIK: A Unified Framework for Real-world Skeleton-based Action Recognition, BMVC 2021;
equations are numbered as in chapter 3 of Yang's thesis. Where the published program
(github.com/YangDi666/UNIK@bf39968) differs from them, "released" is the program and "paper" the text.
Keys of the state dict are the published ones. Inside, motions are time-major: (T, P, V, C) for P people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.backbones.base import Backbone, all_rows, present_rows
from training.backbones.joints import mix, scores
from training.backbones.temporal import convolve

STRIDES = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)
WIDTHS = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4)
"""Channels of each block in units of `channels_base`."""
DILATIONS = {"released": (1,) * 10, "paper": (1, 3, 3, 3, 3, 1, 1, 1, 1, 1)}
LEVEL_ENDS = (4, 7, 10)
"""The last block of each width."""
KERNEL = 9
FIRST_HEADS = 3
"""Heads of the first block, whatever the others have: the published constructor does not pass them on."""


def norm(bn: nn.Module, y: Tensor, add: Tensor | None = None, rectified: bool = False) -> Tensor:
    """Batch norm of (T, P, V, C) over C, as of an image whose channels come last, then a sum and a ReLU."""

    def image(z: Tensor) -> Tensor:
        return z.reshape(1, z.shape[0], -1, z.shape[3]).permute(0, 3, 1, 2)

    normed: Tensor = bn(image(y))
    if add is not None:
        normed = normed.add_(image(add))
    if rectified:
        normed = functional.relu(normed, inplace=True)
    return normed.permute(0, 2, 3, 1).reshape(y.shape)


def _one(units: Iterable[nn.Module], axis: int = 0) -> Tensor:
    """Weights of 1x1 convolutions as one matrix: their outputs (axis 0) or their inputs (axis 1) side by side."""
    return torch.cat([unit.get_parameter("weight") for unit in units], axis).flatten(1)


def _biases(units: Iterable[nn.Module]) -> Tensor:
    return torch.stack([unit.get_parameter("bias") for unit in units])


class SpatialUnit(nn.Module):
    """S-LSU: each head mixes joints by a learnt matrix W plus an attention A of the clip (equation 3.11).

    A = softmax over the first joint axis of theta(x)^T phi(x) / (Ce T), Ce = C_out / 4. The division is
    in the published program, not in the equation.
    """

    def __init__(
        self, channels_in: int, channels: int, joints: int, heads: int, tau: int, bound: float, unused_bias: bool
    ) -> None:
        super().__init__()
        self.heads, self.tau, self.embedded = heads, tau, channels // 4
        size = tau * joints
        self.DepM = nn.Parameter(torch.empty(heads, size, size).uniform_(-bound, bound))
        if unused_bias:
            self.bias = nn.Parameter(torch.zeros(size), requires_grad=False)
        if tau > 1:
            self.out_conv = nn.Conv3d(channels, channels, (1, tau, 1))
            self.out_bn = nn.BatchNorm2d(channels)
        self.conv_a = nn.ModuleList(nn.Conv2d(channels_in, self.embedded, 1) for _ in range(heads))
        self.conv_b = nn.ModuleList(nn.Conv2d(channels_in, self.embedded, 1) for _ in range(heads))
        self.conv_d = nn.ModuleList(nn.Conv2d(channels_in, channels, 1) for _ in range(heads))
        self.down = (
            nn.Sequential(nn.Conv2d(channels_in, channels, 1), nn.BatchNorm2d(channels))
            if channels_in != channels
            else None
        )
        self.bn = nn.BatchNorm2d(channels)
        nn.init.constant_(self.bn.weight, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        if self.tau > 1:
            x = self._window(x)
        y = mix(x, self._mixing(x), _one(self.conv_d, 1), _biases(self.conv_d).sum(0))
        down = x
        if self.down is not None:
            down = norm(self.down[1], functional.linear(x, _one(self.down[:1]), self.down[0].get_parameter("bias")))
        y = norm(self.bn, y, down, rectified=True)
        return y if self.tau == 1 else self._unwindow(y)

    def _mixing(self, x: Tensor) -> Tensor:
        """W + A as (P, V H, V): row (w, h) holds the shares that head h takes of each joint for joint w."""
        units = (*self.conv_a, *self.conv_b)
        attention = torch.softmax(scores(x, _one(units), _biases(units).flatten(), self.heads), dim=-1)
        return (attention + self.DepM.transpose(1, 2)).transpose(1, 2).flatten(1, 2)

    def _window(self, x: Tensor) -> Tensor:
        """Joints of `tau` frames around each frame side by side: (T, P, V, C) -> (T, P, tau V, C)."""
        t, half = x.shape[0], self.tau // 2
        padded = functional.pad(x, (0, 0, 0, 0, 0, 0, half, half))
        return torch.cat([padded[k : k + t] for k in range(self.tau)], 2)

    def _unwindow(self, y: Tensor) -> Tensor:
        """One joint of the joints of `tau` frames: (T, P, tau V, C) -> (T, P, V, C)."""
        t, p, v, c = y.shape
        frames = y.view(t, p, self.tau, v // self.tau, c).transpose(2, 3).reshape(t, p, v // self.tau, self.tau * c)
        weight = self.out_conv.weight[:, :, 0, :, 0].transpose(1, 2).flatten(1)
        return norm(self.out_bn, functional.linear(frames, weight, self.out_conv.bias))


class TemporalUnit(nn.Module):
    """T-LSU: a convolution over time and a norm."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels, (kernel, 1), (stride, 1), (dilation * (kernel - 1) // 2, 0), (dilation, 1)
        )
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, add: Tensor | None = None, rectified: bool = False) -> Tensor:
        t, p, v, c = x.shape
        y = convolve(
            x.reshape(t, p * v, c),
            self.conv.weight,
            self.conv.get_parameter("bias"),
            self.conv.stride[0],
            self.conv.dilation[0],
        )
        return norm(self.bn, y.reshape(y.shape[0], p, v, -1), add, rectified)


class Block(nn.Module):
    """S-LSU, T-LSU and a residual."""

    def __init__(
        self, spatial: SpatialUnit, channels_in: int, channels: int, stride: int, dilation: int, first: bool
    ) -> None:
        super().__init__()
        self.s_unit = spatial
        self.t_unit = TemporalUnit(channels, channels, KERNEL, stride, dilation)
        self.first = first
        self.residual = (
            TemporalUnit(channels_in, channels, 1, stride, 1)
            if not first and (channels_in, 1) != (channels, stride)
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        add = None if self.first else x if self.residual is None else self.residual(x)
        y: Tensor = self.t_unit(self.s_unit(x), add, rectified=True)
        return y


class UNIK(Backbone):
    """UNIK over motions (N, C, T, V, M); features of 4 `channels_base`, one step every 4 frames.

    People that are given but absent (all zeros) count in the mean, as published, and people fewer than
    `people` are filled up with absent ones. For single people use people=1: half the cost.

    Args:
        num_classes: 0 leaves `fc` out.
        skeleton: name of a layout, or your own `Skeleton`.
        channels: coordinates of a joint.
        heads: heads of blocks 2 to 10; block 1 always has 3, as published.
        tau: frames that a spatial unit sees at once, odd.
        channels_base: width of the first four blocks, a multiple of 4; features have 4 times as many. 64 published.
        people: M, whose channels the first norm keeps apart.
        dilation: "released": 1 everywhere, as the published program; "paper": 1,3,3,3,3,1,1,1,1,1.
        w_init: W is drawn evenly in +-1/V ("released": its fan-in there is V V) or +-1/sqrt(V) ("paper", equation
            3.10).
        unused_bias: keep the `s_unit.bias` of the published state dict, which nothing uses; it is never trained.
        skip_empty: at inference compute an absent person once, not once per clip; the result is the same.
    """

    def __init__(
        self,
        num_classes: int,
        skeleton: str | Skeleton,
        channels: int,
        heads: int = 3,
        tau: int = 1,
        channels_base: int = 64,
        people: int = 2,
        dilation: Literal["released", "paper"] = "released",
        w_init: Literal["released", "paper"] = "released",
        unused_bias: bool = True,
        skip_empty: bool = True,
    ) -> None:
        super().__init__(num_classes, skeleton, channels, width=4 * channels_base, stride=4, people=people)
        if heads < 1 or tau < 1 or tau % 2 == 0 or channels_base < 4 or channels_base % 4:
            raise TrainingError(
                f"UNIK: heads >= 1, tau odd, channels_base a multiple of 4; given {heads}, {tau}, {channels_base}"
            )
        for what, given in (("dilation", dilation), ("w_init", w_init)):
            if given not in ("released", "paper"):
                raise TrainingError(f"UNIK: {what} is 'released' or 'paper'; given {given!r}")
        v = self.skeleton.num_joints
        self.skip_empty = skip_empty
        self.data_bn = nn.BatchNorm1d(people * v * channels)
        before = channels
        for number, (width, stride, gap) in enumerate(zip(WIDTHS, STRIDES, DILATIONS[dilation], strict=True), start=1):
            after = width * channels_base
            bound = 1 / (tau * v) if w_init == "released" else 1 / math.sqrt(tau * v)
            spatial = SpatialUnit(before, after, v, FIRST_HEADS if number == 1 else heads, tau, bound, unused_bias)
            self.add_module(f"l{number}", Block(spatial, before, after, stride, gap, number == 1))
            before = after
        if num_classes:
            self.fc = nn.Linear(before, num_classes)
        self._initialise_weights()

    def _initialise_weights(self) -> None:
        """Initial weights: normal of fan-out, heads' outputs and `fc` as published."""
        for conv in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
            nn.init.zeros_(conv.get_parameter("bias"))
        for spatial in (module for module in self.modules() if isinstance(module, SpatialUnit)):
            for weight in (unit.get_parameter("weight") for unit in spatial.conv_d):
                nn.init.normal_(weight, 0, math.sqrt(2 / (weight.numel() * spatial.heads)))
        if self.num_classes:
            nn.init.normal_(self.fc.weight, 0, math.sqrt(2 / self.num_classes))

    def blocks(self, x: Tensor) -> Tensor:
        """Features per step (P, D, T') of motions (T, P, V, C) after the first norm."""
        for number in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"l{number}")(x)
        return x.mean(2).permute(1, 2, 0)

    def people_sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of each person a time step (N, `people`, D, T'), the mean over joints."""
        self.check(x)
        x = functional.pad(x, (0, self.people - x.shape[4]))
        n, c, t, v, m = x.shape
        normed: Tensor = self.data_bn(x.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t))
        motion = normed.view(n * m, v, c, t).permute(3, 0, 1, 2)
        present = present_rows(mask, m)
        if present is not None:
            y = all_rows(self.blocks(motion[:, present].contiguous()), present, n * m)
        elif self.training or not self.skip_empty or torch.compiler.is_compiling():
            y = self.blocks(motion.contiguous())
        else:
            empty = (x == 0).flatten(1, 3).all(1)
            row = torch.arange(n * m, device=x.device).view(n, m)
            first = torch.where(empty.any(0), empty.int().argmax(0) * m + row[0], 0)
            kept, place = torch.unique(torch.where(empty, first, row), return_inverse=True)
            y = self.blocks(motion[:, kept].contiguous())[place.flatten()]
        return y.view(n, m, *y.shape[1:])

    def people_blocks(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Outputs of blocks 4, 7 and 10, each (N, `people`, D, T', V)."""
        self.check(x)
        x = functional.pad(x, (0, self.people - x.shape[4]))
        n, c, t, v, m = x.shape
        normed: Tensor = self.data_bn(x.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t))
        y = normed.view(n * m, v, c, t).permute(3, 0, 1, 2).contiguous()
        found = []
        for number in range(1, len(WIDTHS) + 1):
            y = self.get_submodule(f"l{number}")(y)
            if number in LEVEL_ENDS:
                found.append(y.unflatten(1, (n, m)).permute(1, 2, 4, 0, 3))
        return found

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same weights, with or without the unused `s_unit.bias`."""
        unused = {key: value for key, value in self.state_dict().items() if key.endswith(".s_unit.bias")}
        return unused | {
            key: value for key, value in state.items() if key in unused or not key.endswith(".s_unit.bias")
        }
