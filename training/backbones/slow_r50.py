"""Slow R50: a residual network of 50 layers over frames that looks across time in its last two stages only.

Source: Feichtenhofer et al., SlowFast Networks for Video Recognition, ICCV 2019, table 1 (the slow pathway);
keys and constants of facebookresearch/pytorchvideo@f3142bb `pytorchvideo/models/resnet.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.backbones.base import Backbone

TEMPORAL = (1, 1, 3, 3)
"""Frames that the first convolution of a bottleneck sees, by stage."""
EXPANSION = 4
"""A bottleneck gives this many times its inner channels."""


class Bottleneck(nn.Module):
    """1x1 (over time in late stages), 3x3 with the stride, 1x1, each with a norm."""

    def __init__(self, inputs: int, inner: int, temporal: int, stride: int) -> None:
        super().__init__()
        self.conv_a = nn.Conv3d(inputs, inner, (temporal, 1, 1), padding=(temporal // 2, 0, 0), bias=False)
        self.norm_a = nn.BatchNorm3d(inner)
        self.conv_b = nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.norm_b = nn.BatchNorm3d(inner)
        self.conv_c = nn.Conv3d(inner, inner * EXPANSION, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(inner * EXPANSION)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm_a(self.conv_a(x)))
        x = torch.relu(self.norm_b(self.conv_b(x)))
        y: Tensor = self.norm_c(self.conv_c(x))
        return y


class ResBlock(nn.Module):
    """A bottleneck and a shortcut."""

    def __init__(self, inputs: int, inner: int, temporal: int, stride: int) -> None:
        super().__init__()
        if inputs != inner * EXPANSION or stride != 1:
            self.branch1_conv = nn.Conv3d(inputs, inner * EXPANSION, 1, (1, stride, stride), bias=False)
            self.branch1_norm = nn.BatchNorm3d(inner * EXPANSION)
        self.branch2 = Bottleneck(inputs, inner, temporal, stride)

    def forward(self, x: Tensor) -> Tensor:
        short = self.branch1_norm(self.branch1_conv(x)) if hasattr(self, "branch1_conv") else x
        return torch.relu(short + self.branch2(x))


class Stage(nn.Module):
    """Bottlenecks of one width; the first halves the picture."""

    def __init__(self, inputs: int, inner: int, depth: int, temporal: int, stride: int) -> None:
        super().__init__()
        rest = (ResBlock(inner * EXPANSION, inner, temporal, 1) for _ in range(depth - 1))
        self.res_blocks = nn.Sequential(ResBlock(inputs, inner, temporal, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.res_blocks(x)
        return y


class Stem(nn.Module):
    """7x7 convolution, norm and maximum, both of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.norm = nn.BatchNorm3d(outputs)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pool(torch.relu(self.norm(self.conv(x))))
        return y


class Head(nn.Module):
    """Dropout and the classifier."""

    def __init__(self, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(self.dropout(x))
        return y


class SlowR50(Backbone):
    """Slow R50 over images (N, 3, T, H, W), normalised as its weights expect; by default 2048 features, one step per
    frame.

    The published head averages windows of 8x7x7 and takes images of 224 pixels only; here the mean is
    over all of time and space, which is the same there and works for every size.

    Args:
        num_classes: 0 leaves the head out.
        skeleton: accepted as by all networks, and unused: images have no joints.
        channels: colours, 3.
        channels_base: channels of the stem. 64 published.
        depths: bottlenecks of the four stages.
        dropout: before the classifier.
    """

    takes_pictures = True
    classifier = "blocks.5"

    def __init__(
        self,
        num_classes: int,
        skeleton: str | Skeleton = "coco17",
        channels: int = 3,
        channels_base: int = 64,
        depths: Sequence[int] = (3, 4, 6, 3),
        dropout: float = 0.5,
    ) -> None:
        if channels_base < 1 or len(depths) != len(TEMPORAL) or min(depths) < 1:
            raise TrainingError(
                f"SlowR50: channels_base >= 1 and four depths >= 1; given {channels_base} and {tuple(depths)}"
            )
        width = channels_base * EXPANSION * 2 ** (len(depths) - 1)
        super().__init__(num_classes, skeleton, channels, width=width, stride=1, people=1)
        self.blocks = nn.ModuleList([Stem(channels, channels_base)])
        before = channels_base
        for number, (depth, temporal) in enumerate(zip(depths, TEMPORAL, strict=True)):
            inner = channels_base * 2**number
            self.blocks.append(Stage(before, inner, depth, temporal, 1 if number == 0 else 2))
            before = inner * EXPANSION
        if num_classes:
            self.blocks.append(Head(width, num_classes, dropout))
        for part in self.modules():
            if isinstance(part, nn.Conv3d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def check(self, x: Tensor) -> None:
        """Refuse what is not (N, channels, T, H, W).

        Raises:
            TrainingError: another number of axes or colours.
        """
        if x.ndim != 5 or x.shape[1] != self.channels or min(x.shape[2:]) < 1:
            raise TrainingError(f"SlowR50 takes images (N, {self.channels}, T, H, W); given {tuple(x.shape)}")

    def stages(self, x: Tensor) -> list[Tensor]:
        """What the stem and each stage give, each (N, D, T, h, w)."""
        self.check(x)
        outputs = []
        for block in list(self.blocks)[: len(TEMPORAL) + 1]:
            x = block(x)
            outputs.append(x)
        return outputs

    def sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features per frame (N, D, T), the mean over the image."""
        return self.stages(x)[-1].mean((-1, -2)) if mask is None else super().sequence(x, mask)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features (N, D); the features themselves where there is no classifier."""
        if not self.num_classes:
            return features
        logits: Tensor = self.blocks[-1](features)
        return logits
