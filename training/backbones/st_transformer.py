"""A transformer over joints and time for features of single frames.

Source: Motion-R3 (arXiv 2304.01672), section 3.2.1: dilated differences as input (equation 1), a two-layer
embedding, attention among the joints of a frame, attention of each joint over the frames. The paper
gives neither depth, heads, width, time window nor dilation: the defaults here are our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.backbones.attention import SelfAttention, check_sizes, feed_forward, initialise_weights, positions
from training.backbones.base import Backbone


def dilated_differences(x: Tensor, reach: int, dilation: int, mask: Tensor | None = None) -> Tensor:
    """Each frame with its differences to frames around it (equation 1).

    Frames before the first are the first, frames after the last are the last; with a mask those before the first and
    after the last frame that is there.

    Args:
        x: (N, C, T, V, M).
        reach: n, differences on each side.
        dilation: l, frames between them.
        mask: (N, T, M) bool, which frames of which people are there; None: all.

    Returns:
        (N, (2 n + 1) C, T, V, M): s_j - s_{j-nl}, ..., s_j - s_{j-l}, s_j, s_{j+l} - s_j, ..., s_{j+nl} - s_j.
    """
    t = x.shape[2]
    now = torch.arange(t, device=x.device)
    parts = []
    for step in range(-reach, reach + 1):
        if mask is None:
            other = x[:, :, (now + step * dilation).clamp(0, t - 1)]
        else:
            first = mask.int().argmax(1, keepdim=True)
            last = t - 1 - mask.flip(1).int().argmax(1, keepdim=True)
            place = torch.minimum(torch.maximum((now + step * dilation)[None, :, None], first), last)
            other = x.gather(2, place[:, None, :, None].expand_as(x))
        parts.append(x if step == 0 else other - x if step > 0 else x - other)
    return torch.cat(parts, 1)


class Layer(nn.Module):
    """Attention over joints, attention over time, two layers; each added to its normed input."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.spatial_norm, self.spatial = nn.LayerNorm(width), SelfAttention(width, heads, dropout)
        self.temporal_norm, self.temporal = nn.LayerNorm(width), SelfAttention(width, heads, dropout)
        self.norm, self.mlp = nn.LayerNorm(width), feed_forward(width, hidden, dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        p, t, v, d = x.shape
        x = x + self.spatial(self.spatial_norm(x).view(p * t, v, d)).view(p, t, v, d)
        over_time = self.temporal_norm(x).transpose(1, 2).reshape(p * v, t, d)
        rows = None if mask is None else mask.repeat_interleave(v, 0)
        x = x + self.temporal(over_time, rows).view(p, v, t, d).transpose(1, 2)
        y: Tensor = x + self.mlp(self.norm(x))
        return y


class STTransformer(Backbone):
    """Spatial and temporal attention over motions (N, C, T, V, M); `width` features, one step per frame.

    Args:
        num_classes: 0 leaves `fc` out.
        skeleton: name of a layout, or your own `Skeleton`.
        channels: coordinates of a joint.
        width: features; a multiple of twice the heads.
        depth: layers.
        heads: of each attention.
        hidden: width inside the two-layer parts; None: twice `width`.
        dropout: in attention and two-layer parts.
        reach: differences on each side of a frame.
        dilation: frames between them; reach * dilation frames at 120 a second are the paper's window.
        people: M at most.
    """

    def __init__(
        self,
        num_classes: int,
        skeleton: str | Skeleton,
        channels: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        hidden: int | None = None,
        dropout: float = 0.0,
        reach: int = 3,
        dilation: int = 4,
        people: int = 2,
    ) -> None:
        hidden = 2 * width if hidden is None else hidden
        check_sizes("STTransformer", width, depth, heads, hidden, dropout)
        if reach < 0 or dilation < 1:
            raise TrainingError(
                f"STTransformer: reach must be 0 or more and dilation 1 or more; given {reach} and {dilation}"
            )
        super().__init__(num_classes, skeleton, channels, width=width, stride=1, people=people)
        self.reach, self.dilation = reach, dilation
        first, second = nn.Linear(channels * (2 * reach + 1), width), nn.Linear(width, width)
        self.embed = nn.Sequential(first, nn.GELU(), second)
        self.joints = nn.Parameter(torch.empty(self.skeleton.num_joints, width))
        self.layers = nn.ModuleList(Layer(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        if num_classes:
            self.fc = nn.Linear(width, num_classes)
        initialise_weights(self, width)
        for layer in (first, second):  # coordinates are not of unit size, so the input keeps its scale
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.joints, 0, 0.02)

    def dense(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of each joint of each person (N, D, T, V, M); frames that are not there are not attended to."""
        self.check(x)
        n, _, t, v, m = x.shape
        y = dilated_differences(x, self.reach, self.dilation, mask).permute(0, 4, 2, 3, 1).reshape(n * m, t, v, -1)
        y = self.embed(y) + self.joints + positions(t, self.width, x)[:, None]
        rows = None if mask is None else mask.transpose(1, 2).reshape(n * m, t)
        for layer in self.layers:
            y = layer(y, rows)
        features: Tensor = self.norm(y)
        return features.view(n, m, t, v, self.width).permute(0, 4, 2, 3, 1)

    def people_sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of each person per frame (N, M, D, T), the mean over joints."""
        return self.dense(x, mask).mean(-2).permute(0, 3, 1, 2)

    def sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features per frame (N, D, T), the mean over joints and people."""
        return self.dense(x).mean((-1, -2)) if mask is None else super().sequence(x, mask)
