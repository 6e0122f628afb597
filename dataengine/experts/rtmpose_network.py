"""The network of RTMPose: the CSPNeXt backbone and the head that classifies coordinates.

Backbone: Lyu et al., "RTMDet" (arXiv 2212.07784, section 3.2): cross-stage partial layers whose blocks hold a 5 x 5
depthwise convolution, with attention over channels. Head: Jiang et al., "RTMPose" (arXiv 2303.07399, section 3.3): a
7 x 7 convolution makes one token per joint, one gated attention unit (Hua et al., "Transformer Quality in Linear
Time", ICML 2022, arXiv 2202.10447, section 3) relates the tokens, two linear layers give bins along x and y.

Modules are named as the tensors of the published checkpoints are, so that these load as they are. Linear layers of
the head and its attention have no bias, there is one group of queries and keys, and no position is added.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STAGES = ((64, 128, 3), (128, 256, 6), (256, 512, 6), (512, 1024, 3))
"""Channels in and out, and blocks, of each stage at size 1."""
POOLS = (5, 9, 13)
"""Widths of the pools before the last stage."""
TOKEN, KEY, EXPANSION = 256, 128, 2
"""Widths of a joint's token, of queries and keys, and of values over tokens (arXiv 2303.07399, section 3.3)."""
LEAST_NORM = 1e-5


class Size(NamedTuple):
    """Depth and width of a backbone over those of size 1."""

    depth: float
    width: float


class ConvBlock(nn.Module):
    """Convolution, batch normalisation and SiLU; keeps the size of its input at stride 1."""

    def __init__(self, given: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(given, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(self.bn(self.conv(x)), inplace=True)

    def fold(self) -> None:
        """Put the normalisation into the weights of the convolution."""
        assert isinstance(self.conv, nn.Conv2d) and isinstance(self.bn, nn.BatchNorm2d)
        self.conv, self.bn = fuse_conv_bn_eval(self.conv.eval(), self.bn.eval()), nn.Identity()


class DepthwiseSeparable(nn.Module):
    """A depthwise 5 x 5 convolution and a 1 x 1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise_conv = ConvBlock(channels, channels, 5, groups=channels)
        self.pointwise_conv = ConvBlock(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A 3 x 3 convolution and a separable 5 x 5 one, added to their input where `residual`."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = ConvBlock(channels, channels, 3)
        self.conv2 = DepthwiseSeparable(channels)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv2(self.conv1(x))
        return out + x if self.residual else out


class ChannelAttention(nn.Module):
    """Every channel scaled by what a linear layer makes of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * nn.functional.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class CrossStageLayer(nn.Module):
    """Half of the channels go through blocks, half around them; both are attended to and mixed."""

    def __init__(self, channels: int, blocks: int, residual: bool) -> None:
        super().__init__()
        half = channels // 2
        self.main_conv = ConvBlock(channels, half)
        self.short_conv = ConvBlock(channels, half)
        self.final_conv = ConvBlock(2 * half, channels)
        self.blocks = nn.Sequential(*(Block(half, residual) for _ in range(blocks)))
        self.attention = ChannelAttention(2 * half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = self.short_conv(x)
        both = torch.cat([self.blocks(self.main_conv(x)), short], 1)
        return self.final_conv(self.attention(both))  # type: ignore[no-any-return]


class PyramidPooling(nn.Module):
    """Maxima over neighbourhoods of several widths beside the values themselves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = ConvBlock(channels, half)
        self.conv2 = ConvBlock(half * (1 + len(POOLS)), channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        pooled = [nn.functional.max_pool2d(x, side, stride=1, padding=side // 2) for side in POOLS]
        return self.conv2(torch.cat([x, *pooled], 1))  # type: ignore[no-any-return]


class CspNext(nn.Module):
    """CSPNeXt: (N, 3, h, w) -> the last stage's (N, 1024 width, h / 32, w / 32)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        first = int(STAGES[0][0] * size.width)
        half = int(STAGES[0][0] * size.width // 2)
        self.stem = nn.Sequential(ConvBlock(3, half, 3, 2), ConvBlock(half, half, 3), ConvBlock(half, first, 3))
        for number, (given, out, blocks) in enumerate(STAGES, 1):
            given, out = int(given * size.width), int(out * size.width)
            last = number == len(STAGES)
            layers: list[nn.Module] = [ConvBlock(given, out, 3, 2)]
            if last:
                layers.append(PyramidPooling(out))
            layers.append(CrossStageLayer(out, max(round(blocks * size.depth), 1), residual=not last))
            self.add_module(f"stage{number}", nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.children():
            x = stage(x)
        return x


class ScaleNorm(nn.Module):
    """Vectors over their root mean square, times one number (Nguyen and Salazar, arXiv 1910.05895)."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        scaled: torch.Tensor = x / size.clamp(min=LEAST_NORM)
        return scaled * self.g


class Scale(nn.Module):
    """One number per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class GatedAttentionUnit(nn.Module):
    """Tokens (N, V, 256) -> (N, V, 256): gated values, mixed by squared positive products of queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        wide = EXPANSION * TOKEN
        self.ln = ScaleNorm()
        self.uv = nn.Linear(TOKEN, 2 * wide + KEY, bias=False)
        self.gamma = nn.Parameter(torch.rand(2, KEY))
        self.beta = nn.Parameter(torch.rand(2, KEY))
        self.o = nn.Linear(wide, TOKEN, bias=False)
        self.res_scale = Scale(TOKEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = EXPANSION * TOKEN
        gate, value, shared = nn.functional.silu(self.uv(self.ln(x))).split([wide, wide, KEY], -1)
        query, key = (shared[..., None, :] * self.gamma + self.beta).unbind(-2)
        weight = (query @ key.transpose(-2, -1) * KEY**-0.5).relu().square()
        return self.res_scale(x) + self.o(gate * (weight @ value))  # type: ignore[no-any-return]


class CoordinateHead(nn.Module):
    """Features (N, C, h, w) -> bins along x (N, V, Bx) and along y (N, V, By)."""

    def __init__(self, channels: int, joints: int, cells: int, bins: tuple[int, int]) -> None:
        super().__init__()
        self.final_layer = nn.Conv2d(channels, joints, 7, padding=3)
        self.mlp = nn.Sequential(ScaleNorm(), nn.Linear(cells, TOKEN, bias=False))
        self.gau = GatedAttentionUnit()
        self.cls_x = nn.Linear(TOKEN, bins[0], bias=False)
        self.cls_y = nn.Linear(TOKEN, bins[1], bias=False)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.gau(self.mlp(self.final_layer(features).flatten(2)))
        return self.cls_x(tokens), self.cls_y(tokens)


class RtmPoseNetwork(nn.Module):
    """RTMPose.

    Args:
        size: of the backbone. joints: number of joints V.
        picture: width and height of crops, multiples of 32. bins: per pixel.
    """

    def __init__(self, size: Size, joints: int, picture: tuple[int, int], bins: float) -> None:
        super().__init__()
        width, height = picture
        self.backbone = CspNext(size)
        self.head = CoordinateHead(
            int(STAGES[-1][1] * size.width),
            joints,
            (width // 32) * (height // 32),
            (int(width * bins), int(height * bins)),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops (N, 3, h, w) -> bins along x (N, V, Bx) and along y (N, V, By).

        The head is to be computed in float32: squares of products of tokens leave the range of float16.
        """
        bins: tuple[torch.Tensor, torch.Tensor] = self.head(self.backbone(x))
        return bins

    def fold(self) -> None:
        """Put every normalisation into the convolution before it."""
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.fold()
