"""ST-GCN, under the keys of its own program and under those of pyskl.

Source: Yan et al., Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action Recognition, AAAI 2018;
keys and constants of yysijie/st-gcn@221c0e1 `net/st_gcn.py` and kennymckormick/pyskl@3f6795f `configs/stgcn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from dataengine.core.skeletons import Skeleton
from training.backbones.base import Backbone, all_rows, present_rows
from training.backbones.graph import adjacency
from training.backbones.graph_units import KERNEL, Trunk, block_sizes, partitioned, people_apart, person_rows


def temporal(channels: int, kernel: int, stride: int, dropout: float, padding: bool = True) -> nn.Sequential:
    """Norm, relu, convolution over time, norm, dropout, under the published keys 0 to 4."""
    around = ((kernel - 1) // 2, 0) if padding else (0, 0)
    convolution = nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), around)
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), convolution, nn.BatchNorm2d(channels), nn.Dropout(dropout)
    )


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The input itself, or brought to the output's channels and frames."""
    if (inputs, stride) == (outputs, 1):
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, (stride, 1)), nn.BatchNorm2d(outputs))


def initialise_weights(module: nn.Module) -> None:
    """Initial weights of the published program: convolutions N(0, 0.02), norms N(1, 0.02), biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(part.weight, float(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)), 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class GraphConv(nn.Module):
    """A 1x1 convolution for each partition, summed over neighbours (equation 10 of the paper)."""

    def __init__(self, inputs: int, outputs: int, partitions: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs * partitions, 1)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        return partitioned(self.conv(x), links)


class Block(nn.Module):
    """Graph convolution, temporal part and shortcut; the first block has no shortcut."""

    def __init__(self, inputs: int, outputs: int, partitions: int, stride: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.gcn = GraphConv(inputs, outputs, partitions)
        self.tcn = temporal(outputs, KERNEL, stride, 0.0 if first else dropout)
        if not first:
            self.residual = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        y = self.tcn(self.gcn(x, links))
        return torch.relu(y + self.residual(x) if hasattr(self, "residual") else y)


class STGCN(Backbone):
    """ST-GCN over motions (N, C, T, V, M); by default 256 features, one step every 4 frames.

    The networks of SkeletonCLR, CrosSCLR and AimCLR are `channels_base=16, feature_width=256`.

    Args:
        num_classes: 0 leaves `fcn` out.
        skeleton: name of a layout, or your own `Skeleton`.
        channels: coordinates of a joint.
        channels_base: channels of the first level; each further level doubles them. 64 published.
        blocks: blocks of each level; every level after the first halves the frames.
        feature_width: channels of the last block; None: those of its level.
        people: M at most.
        strategy: how links are divided, one of `graph.STRATEGIES`.
        hops: how many bones a link may span.
        dropout: after each temporal convolution but the first.
    """

    A: Tensor
    classifier = "fcn"

    def __init__(
        self,
        num_classes: int,
        skeleton: str | Skeleton,
        channels: int,
        channels_base: int = 64,
        blocks: Sequence[int] = (4, 3, 3),
        feature_width: int | None = None,
        people: int = 2,
        strategy: str = "spatial",
        hops: int = 1,
        dropout: float = 0.0,
    ) -> None:
        rows = block_sizes("STGCN", channels, channels_base, blocks)
        if feature_width is not None:
            rows[-1] = (rows[-1][0], feature_width, rows[-1][2])
        super().__init__(
            num_classes, skeleton, channels, width=rows[-1][1], stride=2 ** (len(blocks) - 1), people=people
        )
        self.level_ends = tuple(accumulate(blocks))
        links = torch.from_numpy(adjacency(self.skeleton, strategy, hops)).float()
        self.register_buffer("A", links)
        self.data_bn = nn.BatchNorm1d(channels * self.skeleton.num_joints)
        self.st_gcn_networks = nn.ModuleList(
            Block(i, o, len(links), s, dropout, n == 0) for n, (i, o, s) in enumerate(rows)
        )
        self.edge_importance = nn.ParameterList(nn.Parameter(torch.ones_like(links)) for _ in rows)
        if num_classes:
            self.fcn = nn.Conv2d(self.width, num_classes, 1)
        initialise_weights(self)

    def dense(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of each joint of each person (N, D, T', V, M); 0 of people whom the mask never has."""
        self.check(x)
        n, _, _, v, m = x.shape
        present = present_rows(mask, m)
        y = person_rows(self.data_bn, x, present)
        for block, importance in zip(self.st_gcn_networks, self.edge_importance, strict=True):
            y = block(y, self.A * importance)
        y = all_rows(y, present, n * m)
        return y.view(n, m, self.width, -1, v).permute(0, 2, 3, 4, 1)

    def people_sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of each person a time step (N, M, D, T'), the mean over joints."""
        return self.dense(x, mask).mean(-2).permute(0, 3, 1, 2)

    def sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features a time step (N, D, T'), the mean over joints and people."""
        return self.dense(x).mean((-1, -2)) if mask is None else super().sequence(x, mask)

    def people_blocks(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Outputs of the last block of each level, each (N, M, D, T', V)."""
        self.check(x)
        y, found = person_rows(self.data_bn, x), []
        for number, (block, importance) in enumerate(zip(self.st_gcn_networks, self.edge_importance), start=1):
            y = block(y, self.A * importance)
            if number in self.level_ends:
                found.append(people_apart(y, len(x)))
        return found

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features (N, D); the features themselves where there is no classifier."""
        return self.fcn(features[..., None, None]).flatten(1) if self.num_classes else features

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published weights under the own keys.

        Of a self-supervised checkpoint the query encoder is taken; its classifier `fc` becomes `fcn`, and
        a projection of several layers, which no classifier can use, is left out.
        """
        query = {key.removeprefix("encoder_q."): value for key, value in state.items() if key.startswith("encoder_q.")}
        state = query or state
        if "fc.weight" in state:
            state = state | {"fcn.weight": state["fc.weight"][:, :, None, None], "fcn.bias": state["fc.bias"]}
        return {key: value for key, value in state.items() if not key.startswith("fc.")}


class STGCNPyskl(Trunk):
    """ST-GCN as pyskl builds it, with its keys, over motions (N, C, T, V, M); by default 256 features, one step every 4
    frames.

    Args:
        num_classes: 0 leaves `cls_head` out.
        skeleton: name of a layout, or your own `Skeleton`.
        channels: coordinates of a joint.
        channels_base: channels of the first level; each further level doubles them. 64 published.
        blocks: blocks of each level; every level after the first halves the frames.
        people: M at most.
        strategy: how links are divided: "spatial" (`stgcn_spatial` in pyskl) or another of `graph.STRATEGIES`.
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
        strategy: str = "spatial",
        hops: int = 1,
    ) -> None:
        super().__init__(
            num_classes,
            skeleton,
            channels,
            channels_base,
            blocks,
            people,
            strategy,
            hops,
            learnt="importance",
            scales=False,
        )
