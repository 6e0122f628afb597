"""UNIK as one would write it at first: every head by itself, a 9x1 convolution, (N, C, T, V) throughout.

It is what `unik_step.py` measures against and what tests compare with; options as published (3 heads, tau 1,
dilation 1). It takes the state dict of `training.backbones.unik.UNIK`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Spatial(nn.Module):
    """Heads one after another: attention of the clip, learnt matrix, convolution, sum."""

    def __init__(self, before: int, after: int, joints: int, heads: int) -> None:
        super().__init__()
        self.DepM = nn.Parameter(torch.zeros(heads, joints, joints))
        self.conv_a = nn.ModuleList(nn.Conv2d(before, after // 4, 1) for _ in range(heads))
        self.conv_b = nn.ModuleList(nn.Conv2d(before, after // 4, 1) for _ in range(heads))
        self.conv_d = nn.ModuleList(nn.Conv2d(before, after, 1) for _ in range(heads))
        self.down = (
            nn.Sequential(nn.Conv2d(before, after, 1), nn.BatchNorm2d(after)) if before != after else nn.Identity()
        )
        self.bn = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        n, c, t, v = x.shape
        total: Any = 0
        for head, learnt in enumerate(self.DepM):
            theta = self.conv_a[head](x).reshape(n, -1, v)
            phi = self.conv_b[head](x).reshape(n, -1, v)
            attention = torch.softmax(theta.transpose(1, 2) @ phi / theta.shape[1], dim=-2)
            total = total + self.conv_d[head]((x.reshape(n, c * t, v) @ (learnt + attention)).view(n, c, t, v))
        return torch.relu(self.bn(total) + self.down(x))


class Temporal(nn.Module):
    """A convolution over time and a norm."""

    def __init__(self, before: int, after: int, taps: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, (taps, 1), (stride, 1), (taps // 2, 0))
        self.bn = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


class Block(nn.Module):
    """Spatial and temporal unit with a residual."""

    def __init__(self, before: int, after: int, joints: int, heads: int, stride: int, first: bool) -> None:
        super().__init__()
        self.s_unit = Spatial(before, after, joints, heads)
        self.t_unit = Temporal(after, after, 9, stride)
        self.first = first
        if not first and (before != after or stride > 1):
            self.residual = Temporal(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.t_unit(self.s_unit(x))
        if self.first:
            return torch.relu(y)
        return torch.relu(y + (self.residual(x) if hasattr(self, "residual") else x))


class Plain(nn.Module):
    """The network; x (N, C, T, V, M) -> logits (N, K)."""

    def __init__(self, classes: int, joints: int, channels: int, people: int, base: int = 64, heads: int = 3) -> None:
        super().__init__()
        self.data_bn = nn.BatchNorm1d(people * joints * channels)
        before = channels
        for number in range(1, 11):
            after = base * (1 if number < 5 else 2 if number < 8 else 4)
            block = Block(before, after, joints, 3 if number == 1 else heads, 2 if number in (5, 8) else 1, number == 1)
            self.add_module(f"l{number}", block)
            before = after
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        n, c, t, v, m = x.shape
        x = self.data_bn(x.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t))
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        for number in range(1, 11):
            x = self.get_submodule(f"l{number}")(x)
        y: Tensor = self.fc(x.mean((2, 3)).view(n, m, -1).mean(1))
        return y
