"""Parts of graph networks: the norm of the input, widths and strides of blocks, graph and temporal convolutions.

The keys of `GraphUnit`, `TemporalUnit`, `ScaleUnit` and `Trunk` are those of kennymckormick/pyskl@3f6795f
(`pyskl/models/gcns`), where ST-GCN and ST-GCN++ are one network with different options.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.backbones.base import Backbone, all_rows, present_rows
from training.backbones.graph import PYSKL, adjacency

KERNEL = 9
"""Frames of the temporal convolutions of ST-GCN and its followers."""
SCALES = (1, 2, 3, 4)
"""Dilations of the kernel-3 branches of ST-GCN++ (section 3.2 of its paper)."""


def person_rows(norm: nn.BatchNorm1d, x: Tensor, present: Tensor | None = None) -> Tensor:
    """Motions (N, C, T, V, M), each person on its own row and normed over its V C channels: (N M, C, T, V); or the rows
    of `present` alone."""
    n, c, t, v, m = x.shape
    rows = x.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t)
    y: Tensor = norm(rows if present is None else rows[present])
    return y.view(-1, v, c, t).permute(0, 2, 3, 1).contiguous()


def people_apart(rows: Tensor, clips: int) -> Tensor:
    """The people of each clip on an axis of their own: (N M, ...) -> (N, M, ...)."""
    return rows.view(clips, -1, *rows.shape[1:])


def block_sizes(name: str, channels: int, base: int, blocks: Sequence[int]) -> list[tuple[int, int, int]]:
    """(inputs, outputs, stride) of each block. A level has twice the channels and half the frames of the level before.

    Raises:
        TrainingError: a level without blocks, or no width.
    """
    if base < 1 or not blocks or min(blocks) < 1:
        raise TrainingError(
            f"{name}: channels_base and each number of blocks must be 1 or more; given {base} and {tuple(blocks)}"
        )
    rows, before = [], channels
    for level, number in enumerate(blocks):
        for block in range(number):
            rows.append((before, base * 2**level, 2 if level and not block else 1))
            before = base * 2**level
    return rows


class TemporalUnit(nn.Module):
    """A convolution over time, then a norm unless `norm` is False."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = KERNEL, stride: int = 1, dilation: int = 1, norm: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, (kernel, 1), (stride, 1), (dilation * (kernel - 1) // 2, 0), (dilation, 1)
        )
        self.bn = nn.BatchNorm2d(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


def partitioned(x: Tensor, links: Tensor) -> Tensor:
    """Features summed over the neighbours of each joint: x (N, K C, T, V), links (K, V, V) -> (N, C, T, V)."""
    n, _, t, v = x.shape
    return torch.einsum("nkctv,kvw->nctw", x.reshape(n, len(links), -1, t, v), links)


class GraphUnit(nn.Module):
    """A convolution for each partition, summed over neighbours: relu(bn(sum_k A_k (W_k x)) + residual).

    Args:
        inputs, outputs: channels.
        links: (K, V, V) the adjacency stack.
        learnt: "importance": A is fixed and multiplied by a learnt PA; "init": A itself is learnt.
        residual: whether the input is added.
    """

    A: Tensor

    def __init__(
        self, inputs: int, outputs: int, links: Tensor, learnt: Literal["importance", "init"], residual: bool
    ) -> None:
        super().__init__()
        self.partitions = len(links)
        if learnt == "init":
            self.A = nn.Parameter(links.clone())
        else:
            self.PA = nn.Parameter(torch.ones_like(links))
            self.register_buffer("A", links.clone())
        self.learnt = learnt
        self.bn = nn.BatchNorm2d(outputs)
        self.conv = nn.Conv2d(inputs, outputs * self.partitions, 1)
        self.residual = residual
        if residual and inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        links = self.A if self.learnt == "init" else self.A * self.PA
        y = self.bn(partitioned(self.conv(x), links))
        if self.residual:
            y = y + (self.down(x) if hasattr(self, "down") else x)
        return torch.relu(y)


class ScaleUnit(nn.Module):
    """Six branches over time (four dilated convolutions, a maximum, one frame), joined by a 1x1 convolution and a
    norm."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        part = channels // (len(SCALES) + 2)
        first = channels - part * (len(SCALES) + 1)
        if part < 1:
            raise TrainingError(f"ST-GCN++: channels_base must be {len(SCALES) + 2} or more; given {channels}")

        def entry(width: int, *then: nn.Module) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(), *then)

        widths = (first,) + (part,) * (len(SCALES) - 1)
        self.branches = nn.ModuleList(
            entry(w, TemporalUnit(w, w, 3, stride, d, norm=False)) for w, d in zip(widths, SCALES, strict=True)
        )
        self.branches.append(entry(part, nn.MaxPool2d((3, 1), (stride, 1), (1, 0))))
        self.branches.append(nn.Conv2d(channels, part, 1, (stride, 1)))
        self.transform = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.transform(torch.cat([branch(x) for branch in self.branches], 1)))
        return y


class Block(nn.Module):
    """A graph unit, a temporal unit and a shortcut."""

    def __init__(self, gcn: GraphUnit, tcn: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.gcn, self.tcn = gcn, tcn
        if shortcut is not None:
            self.residual = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.tcn(self.gcn(x))
        return torch.relu(y + self.residual(x) if hasattr(self, "residual") else y)


class Head(nn.Module):
    """The classifier under its published key."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(width, num_classes)
        nn.init.normal_(self.fc_cls.weight, 0, 0.01)
        nn.init.zeros_(self.fc_cls.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc_cls(x)
        return y


class Trunk(Backbone):
    """The graph network of pyskl; `backbone.` of its published keys is taken off on loading."""

    classifier = "cls_head"

    def __init__(
        self,
        num_classes: int,
        skeleton: str | Skeleton,
        channels: int,
        channels_base: int,
        blocks: Sequence[int],
        people: int,
        strategy: str,
        hops: int,
        learnt: Literal["importance", "init"],
        scales: bool,
    ) -> None:
        rows = block_sizes(type(self).__name__, channels, channels_base, blocks)
        super().__init__(
            num_classes, skeleton, channels, width=rows[-1][1], stride=2 ** (len(blocks) - 1), people=people
        )
        self.level_ends = tuple(accumulate(blocks))
        links = torch.from_numpy(adjacency(self.skeleton, strategy, hops, PYSKL)).float()
        self.data_bn = nn.BatchNorm1d(channels * self.skeleton.num_joints)
        self.gcn = nn.ModuleList()
        for number, (inputs, outputs, stride) in enumerate(rows):
            unit = GraphUnit(inputs, outputs, links, learnt, residual=scales)
            tcn = ScaleUnit(outputs, stride) if scales else TemporalUnit(outputs, outputs, KERNEL, stride)
            same = (inputs, stride) == (outputs, 1)
            shortcut = None if number == 0 else nn.Identity() if same else TemporalUnit(inputs, outputs, 1, stride)
            self.gcn.append(Block(unit, tcn, shortcut))
        if num_classes:
            self.cls_head = Head(self.width, num_classes)

    def people_sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of each person per time step (N, M, D, T'), the mean over joints."""
        self.check(x)
        present = present_rows(mask, x.shape[4])
        y = person_rows(self.data_bn, x, present)
        for block in self.gcn:
            y = block(y)
        return people_apart(all_rows(y.mean(-1), present, x.shape[0] * x.shape[4]), x.shape[0])

    def people_blocks(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Outputs of the last block of each level, each (N, M, D, T', V)."""
        self.check(x)
        y, found = person_rows(self.data_bn, x), []
        for number, block in enumerate(self.gcn, start=1):
            y = block(y)
            if number in self.level_ends:
                found.append(people_apart(y, len(x)))
        return found
