"""Four small networks: a person detector and three pose estimators that go about it differently.

All share the manner of their trunk (residual blocks, strides 4 to 32) and of the path back up to
stride 8, where they answer. A joint lies right when it is within half a head, about six pixels of
a 128-pixel crop, so cells of eight pixels with an offset or an expectation over them suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

JOINTS = 14
STRIDE = 8
MEAN, SPREAD = 127.5, 64.0
"""Pixels enter a network as (value - MEAN) / SPREAD."""


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        same = stride == 1 and inputs == outputs
        self.short = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.short(x), inplace=True)


class Trunk(nn.Module):
    """Picture (N, 3, h, w) -> features (N, neck, h / 8, w / 8) that have seen the whole picture.

    Args:
        widths: channels at strides 2, 4, 8, 16, 32.
        depths: residual blocks at strides 4, 8, 16, 32.
        neck: channels given out.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], neck: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(3, widths[0], 2),
            _conv(widths[0], widths[1], 2),
            *(Residual(widths[1], widths[1]) for _ in range(depths[0])),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                Residual(widths[k], widths[k + 1], 2),
                *(Residual(widths[k + 1], widths[k + 1]) for _ in range(depths[k] - 1)),
            )
            for k in (1, 2, 3)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(w, neck, 1) for w in widths[2:])
        self.mixes = nn.ModuleList(_conv(neck, neck) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        y = cast(Tensor, self.laterals[2](levels[2]))
        for k in (1, 0):
            y = self.mixes[k](F.interpolate(y, scale_factor=2.0, mode="nearest") + self.laterals[k](levels[k]))
        return y


class Net(nn.Module):
    """A network with the size of the pictures it takes."""

    height: ClassVar[int]
    width: ClassVar[int]


class TrunkShape(TypedDict):
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    neck: int


POSE_TRUNK: TrunkShape = {"widths": (16, 24, 48, 88, 128), "depths": (1, 2, 2, 2), "neck": 64}
"""Shared shape (not weights) of the two networks with maps; one may start from the other's trunk."""


class TopDown(Net):
    """Crop 128x96 -> one map a joint (N, 14, 16, 12), logits whose softmax says where the joint is."""

    height, width = 128, 96

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk(**POSE_TRUNK)
        self.head = nn.Conv2d(POSE_TRUNK["neck"], JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.trunk(x)))


class Regression(Net):
    """Crop 128x128 -> (N, 14, 3): x and y in half crop sizes from its middle, and the log of the error to expect.

    The coordinate is the expectation under a map (integral regression), trained by the likelihood
    of the coordinate alone.
    """

    height, width = 128, 128

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk((16, 24, 40, 88, 128), (1, 1, 2, 2), 48)
        self.head = nn.Conv2d(48, JOINTS, 1)
        self.spread = nn.Sequential(nn.Linear(48 + 4, 64), nn.ReLU(), nn.Linear(64, 1))
        grid = (torch.arange(self.width // STRIDE) + 0.5) * STRIDE / (self.width / 2) - 1
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.trunk(x)
        logits = self.head(features).float().flatten(2)
        p = torch.softmax(logits, -1).view(-1, JOINTS, self.height // STRIDE, self.width // STRIDE)
        grid = cast(Tensor, self.grid)
        px, py = p.sum(2), p.sum(3)
        at = torch.stack([(px * grid).sum(-1), (py * grid).sum(-1)], -1)
        wide = torch.stack([(px * grid**2).sum(-1), (py * grid**2).sum(-1)], -1) - at**2
        # what the joint's neighbourhood looks like tells how far off the expectation may be
        local = torch.einsum("njk,nck->njc", p.flatten(2), features.float().flatten(2))
        clue = torch.cat([local, at, torch.sqrt(wide.clamp(min=1e-6))], -1)
        return torch.cat([at, self.spread(clue)], -1)


class BottomUp(Net):
    """Frame 192x144 -> (N, 99, 18, 24): maps of all people's joints and what groups them.

    Channels: 14 joint logits, 1 body-centre logit, 14 (x, y) offsets of the joint from the cell's
    middle in cells, 14 (x, y) from the joint to its body's centre, 14 (x, y) from a body's centre
    to its joints, the last two in units of 8 cells.
    """

    height, width = 144, 192

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk(**POSE_TRUNK)
        self.joint_head = nn.Sequential(_conv(64, 64), nn.Conv2d(64, 3 * JOINTS + 1, 1))
        self.group_head = nn.Sequential(_conv(64, 64), nn.Conv2d(64, 4 * JOINTS, 1))
        final = cast(nn.Conv2d, self.joint_head[1])
        nn.init.constant_(cast(Tensor, final.bias)[: JOINTS + 1], -3.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.trunk(_padded(x))
        return torch.cat([self.joint_head(y), self.group_head(y)], 1)[:, :, : x.shape[2] // STRIDE]


class Detector(Net):
    """Frame 192x144 -> (N, 5, 18, 24): logit of a person's middle, its offset (x, y) in cells, log of the box's width
    and height in cells."""

    height, width = 144, 192

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk((12, 16, 24, 48, 80), (1, 1, 1, 2), 32)
        self.head = nn.Conv2d(32, 5, 1)
        nn.init.constant_(cast(Tensor, self.head.bias)[0], -3.0)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.trunk(_padded(x))))[:, :, : x.shape[2] // STRIDE]


def _padded(x: Tensor) -> Tensor:
    """Rows added below until the height divides by the trunk's last stride."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % 32))


NETS: dict[str, type[Net]] = {"detector": Detector, "topdown": TopDown, "bottomup": BottomUp, "regression": Regression}


class Shipped(nn.Module):
    """A network as it is exported: uint8 pictures (N, h, w, 3) in, the normalisation inside."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        return cast(Tensor, self.net((image.permute(0, 3, 1, 2).float() - MEAN) / SPREAD))
