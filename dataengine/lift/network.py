"""The dilated temporal convolution network of VideoPose3D, on torch, written from the paper.

Pavllo, Feichtenhofer, Grangier and Auli, "3D human pose estimation in video with temporal convolutions and
semi-supervised training" (CVPR 2019, arXiv 1811.11742), section 3 and figure 2. A convolution over `widths[0]` frames
widens each frame to `channels`; each following block is a dilated convolution and one of width 1 with a skip connection
around both; the last convolution gives the joints. Every convolution but the last is followed by batch normalisation,
a rectifier and dropout. The receptive field is the product of the widths: (3, 3, 3) 27, (3, 3, 3, 3) 81,
(3, 3, 3, 3, 3) 243 frames. Convolutions are not padded: sequences lose a receptive field less one frame.

Modules are named as the tensors of published checkpoints are, so that these load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from dataengine.core.errors import ComponentError

MOMENTUM = 0.1
"""Of batch normalisation at the start; the paper lets it fall to 0.001 during training."""


class TemporalNetwork(nn.Module):
    """Joints of the picture over time to joints in space.

    Args:
        num_in: numbers per frame that go in, for example 17 joints times 2.
        num_out: numbers per frame that come out, for example 17 joints times 3.
        widths: frames of each convolution over time, odd.
        channels: width of the layers.
        dropout: share of numbers that are left out in training.
        causal: a frame depends on earlier frames alone.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        widths: Sequence[int] = (3, 3, 3, 3, 3),
        channels: int = 1024,
        dropout: float = 0.25,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if not widths or any(width < 1 or width % 2 == 0 for width in widths):
            raise ComponentError(f"widths of the convolutions are {list(widths)}: give odd numbers")
        self.widths, self.causal = tuple(widths), causal
        self.expand_conv = nn.Conv1d(num_in, channels, widths[0], bias=False)
        self.expand_bn = nn.BatchNorm1d(channels, momentum=MOMENTUM)
        convs: list[nn.Conv1d] = []
        for width, dilation in zip(widths[1:], self.dilations):
            convs.append(nn.Conv1d(channels, channels, width, dilation=dilation, bias=False))
            convs.append(nn.Conv1d(channels, channels, 1, bias=False))
        self.layers_conv: Sequence[nn.Conv1d] = nn.ModuleList(convs)  # type: ignore[assignment]
        norms = [nn.BatchNorm1d(channels, momentum=MOMENTUM) for _ in convs]
        self.layers_bn: Sequence[nn.BatchNorm1d] = nn.ModuleList(norms)  # type: ignore[assignment]
        self.shrink = nn.Conv1d(channels, num_out, 1)
        self.drop = nn.Dropout(dropout)

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of each block: the frames that one number of its input stands for."""
        return tuple(math.prod(self.widths[: n + 1]) for n in range(len(self.widths) - 1))

    @property
    def receptive_field(self) -> int:
        """Frames that one frame of the output depends on."""
        return math.prod(self.widths)

    @property
    def padding(self) -> tuple[int, int]:
        """Frames to add before and after a sequence, so that as many come out as went in."""
        lost = self.receptive_field - 1
        return (lost, 0) if self.causal else (lost // 2, lost // 2)

    def set_momentum(self, momentum: float) -> None:
        """Let batch normalisation follow the batches by so much."""
        for module in (self.expand_bn, *self.layers_bn):
            module.momentum = momentum

    def _normalised(self, made: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        out: torch.Tensor = self.drop(torch.relu(norm(made)))
        return out

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """(N, T, num_in) -> (N, T - receptive field + 1, num_out)."""
        out: torch.Tensor = self.shrink(self.trunk(sequence)).transpose(1, 2)
        return out

    def trunk(self, sequence: torch.Tensor) -> torch.Tensor:
        """All layers but the last: (N, T, num_in) -> (N, channels, T - receptive field + 1)."""
        x = self._normalised(self.expand_conv(sequence.transpose(1, 2)), self.expand_bn)
        for n, (width, dilation) in enumerate(zip(self.widths[1:], self.dilations)):
            reach = (width - 1) * dilation
            first = reach if self.causal else reach // 2
            kept = x[:, :, first : x.shape[2] - (reach - first)]
            x = self._normalised(self.layers_conv[2 * n](x), self.layers_bn[2 * n])
            x = kept + self._normalised(self.layers_conv[2 * n + 1](x), self.layers_bn[2 * n + 1])
        return x

    def one_frame(self, window: torch.Tensor) -> torch.Tensor:
        """The same for windows of one receptive field each, with strides in place of dilations: a third of the work.

        Args:
            window: (N, receptive field, num_in).

        Returns:
            (N, 1, num_out), equal to `forward`; the form in which the network is trained on single frames.
        """
        x = self._flat(_strided(window, self.expand_conv.weight), self.expand_bn)
        for n, width in enumerate(self.widths[1:]):
            kept = x[:, width - 1 if self.causal else width // 2 :: width]
            x = self._flat(_strided(x, self.layers_conv[2 * n].weight), self.layers_bn[2 * n])
            x = kept + self._flat(_strided(x, self.layers_conv[2 * n + 1].weight), self.layers_bn[2 * n + 1])
        assert self.shrink.bias is not None
        return _strided(x, self.shrink.weight) + self.shrink.bias

    def _flat(self, made: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        """`_normalised` of (N, T, channels)."""
        return self._normalised(made.flatten(0, 1), norm).reshape(made.shape)


def _strided(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A convolution whose stride is its width, as one product of matrices: (N, T, C) -> (N, T / width, channels)."""
    width = weight.shape[2]
    parts = x.reshape(len(x), x.shape[1] // width, width * x.shape[2])
    return torch.nn.functional.linear(parts, weight.transpose(1, 2).flatten(1))
