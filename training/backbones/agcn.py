"""2s-AGCN: graph convolutions whose links are the bones, a learnt part, and a part that the clip itself gives.

Source: Shi et al., Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based Action Recognition, CVPR 2019,
section 4; keys and constants as published (lshiwjx/2s-AGCN@953c14f). One stream is one network: joints
and bones are trained each with its own, and their softmax scores added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.backbones.base import Backbone, all_rows, present_rows
from training.backbones.graph import adjacency
from training.backbones.graph_units import KERNEL, TemporalUnit, block_sizes, people_apart

EMBEDDED = 4
"""Each attention has this fraction of the unit's channels."""
SMALL = 1e-6
"""First value of the learnt links and of the last norm's weight, so that a new unit starts as its shortcut."""


def _weights(units: Iterable[nn.Module], axis: int = 0) -> Tensor:
    return torch.cat([cast(nn.Conv2d, unit).weight for unit in units], axis)


def _biases(units: Iterable[nn.Module]) -> list[Tensor]:
    return [cast(Tensor, cast(nn.Conv2d, unit).bias) for unit in units]


class AdaptiveUnit(nn.Module):
    """relu(bn(sum_k W_k x (A_k + B_k + C_k)) + shortcut), equation 3 of the paper.

    A_k is the fixed partition, B_k (`PA`) is learnt, C_k is the softmax over the giving joint of
    theta_k(x)^T phi_k(x) / (C_e T), C_e a quarter of the output's channels.
    """

    A: Tensor

    def __init__(self, inputs: int, outputs: int, links: Tensor) -> None:
        super().__init__()
        self.partitions, self.embedded = len(links), outputs // EMBEDDED
        self.register_buffer("A", links.clone(), persistent=False)  # the published state dict does not hold it
        self.PA = nn.Parameter(torch.full_like(links, SMALL))
        self.conv_a = nn.ModuleList(nn.Conv2d(inputs, self.embedded, 1) for _ in links)
        self.conv_b = nn.ModuleList(nn.Conv2d(inputs, self.embedded, 1) for _ in links)
        self.conv_d = nn.ModuleList(nn.Conv2d(inputs, outputs, 1) for _ in links)
        if inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        self.bn = nn.BatchNorm2d(outputs)

    def links(self, x: Tensor) -> Tensor:
        """A + B + C of each clip (N, K, V, V)."""
        n, _, t, v = x.shape
        pairs = (*self.conv_a, *self.conv_b)
        both = nn.functional.conv2d(x, _weights(pairs), torch.cat(_biases(pairs))).view(
            n, 2, self.partitions, self.embedded * t, v
        )
        scores = both[:, 0].transpose(-1, -2) @ both[:, 1]
        return self.A + self.PA + torch.softmax(scores / (self.embedded * t), dim=-2)

    def forward(self, x: Tensor) -> Tensor:
        n, c, t, v = x.shape
        summed = (x.reshape(n, 1, c * t, v) @ self.links(x)).view(n, self.partitions * c, t, v)
        y = nn.functional.conv2d(summed, _weights(self.conv_d, 1), torch.stack(_biases(self.conv_d)).sum(0))
        return torch.relu(self.bn(y) + (self.down(x) if hasattr(self, "down") else x))


class Block(nn.Module):
    """Adaptive graph unit, temporal unit and shortcut; the first block has no shortcut."""

    def __init__(self, inputs: int, outputs: int, links: Tensor, stride: int, first: bool) -> None:
        super().__init__()
        self.gcn1 = AdaptiveUnit(inputs, outputs, links)
        self.tcn1 = TemporalUnit(outputs, outputs, KERNEL, stride)
        if not first:
            self.residual = (
                nn.Identity() if (inputs, stride) == (outputs, 1) else TemporalUnit(inputs, outputs, 1, stride)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.tcn1(self.gcn1(x))
        return torch.relu(y + self.residual(x) if hasattr(self, "residual") else y)


class AGCN(Backbone):
    """One stream of 2s-AGCN over motions (N, C, T, V, M); by default 256 features, one step every 4 frames.

    The first norm keeps the people apart, so M is part of the weights; people fewer than `people` are
    filled up with absent ones (zeros), which count in the mean, as published.

    Args:
        num_classes: 0 leaves `fc` out.
        skeleton: name of a layout, or your own `Skeleton`.
        channels: coordinates of a joint.
        channels_base: channels of the first level, 4 or more; each further level doubles them. 64 published.
        blocks: blocks of each level; every level after the first halves the frames.
        people: M, whose channels the first norm keeps apart.
        strategy: how links are divided: "directed" (published) or another of `graph.STRATEGIES`.
        hops: how many bones a link may span.
    """

    def __init__(
        self,
        num_classes: int,
        skeleton: str | Skeleton,
        channels: int,
        channels_base: int = 64,
        blocks: Sequence[int] = (4, 3, 3),
        people: int = 2,
        strategy: str = "directed",
        hops: int = 1,
    ) -> None:
        rows = block_sizes("AGCN", channels, channels_base, blocks)
        if channels_base < EMBEDDED:
            raise TrainingError(f"AGCN: channels_base must be {EMBEDDED} or more; given {channels_base}")
        super().__init__(
            num_classes, skeleton, channels, width=rows[-1][1], stride=2 ** (len(blocks) - 1), people=people
        )
        links = torch.from_numpy(adjacency(self.skeleton, strategy, hops)).float()
        self.data_bn = nn.BatchNorm1d(people * channels * self.skeleton.num_joints)
        self.num_blocks = len(rows)
        for number, (inputs, outputs, stride) in enumerate(rows, start=1):
            self.add_module(f"l{number}", Block(inputs, outputs, links, stride, number == 1))
        if num_classes:
            self.fc = nn.Linear(self.width, num_classes)
        self._initialise_weights()

    def _initialise_weights(self) -> None:
        """Initial weights as published: normal of fan-out, the summed convolutions by their number, the last norms near
        zero."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        for part in self.modules():
            if isinstance(part, AdaptiveUnit):
                nn.init.constant_(part.bn.weight, SMALL)
                for unit in part.conv_d:
                    weight = cast(nn.Conv2d, unit).weight
                    nn.init.normal_(weight, 0, math.sqrt(2 / (weight.numel() * part.partitions)))
        if self.num_classes:
            nn.init.normal_(self.fc.weight, 0, math.sqrt(2 / self.num_classes))

    def people_sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of each person a time step (N, `people`, D, T'), the mean over joints."""
        self.check(x)
        x = nn.functional.pad(x, (0, self.people - x.shape[4]))
        n, c, t, v, m = x.shape
        y: Tensor = self.data_bn(x.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t))
        y, present = y.view(n * m, v, c, t).permute(0, 2, 3, 1), present_rows(mask, m)
        y = (y if present is None else y[present]).contiguous()
        for number in range(1, self.num_blocks + 1):
            y = self.get_submodule(f"l{number}")(y)
        return people_apart(all_rows(y.mean(-1), present, n * m), n)
