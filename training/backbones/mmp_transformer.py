"""A transformer over frames with a graph bottleneck, for masked motion prediction and language.

Source: MoLang, section 3.1 and table 4. The paper's bottleneck (equation 2) expects features per joint where
the tokens are frames: here a frame's token is projected to features per joint, mixed along the bones with
links of joints to themselves and normalised degrees (the paper has neither), and brought back.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.backbones.attention import SelfAttention, check_sizes, feed_forward, initialise_weights, positions
from training.backbones.base import Backbone, masked
from training.backbones.graph import adjacency


class Layer(nn.Module):
    """Attention over frames and two layers, the norm after each sum, as in BERT."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.attention_norm = SelfAttention(width, heads, dropout), nn.LayerNorm(width)
        self.mlp, self.mlp_norm = feed_forward(width, hidden, dropout), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        y: Tensor = self.mlp_norm(x + self.dropout(self.mlp(x)))
        return y


class GraphBottleneck(nn.Module):
    """x + out(gelu(A (in x) W)), A = D^-1/2 (bones + I) D^-1/2: (B, T, D) -> (B, T, D)."""

    links: Tensor

    def __init__(self, skeleton: Skeleton, width: int, joint_width: int) -> None:
        super().__init__()
        bones = np.minimum(adjacency(skeleton, "binary")[0] + np.eye(skeleton.num_joints), 1)
        root = 1 / np.sqrt(bones.sum(0))
        self.register_buffer("links", torch.from_numpy(root[:, None] * bones * root).float(), persistent=False)
        self.joint_width = joint_width
        self.inward = nn.Linear(width, skeleton.num_joints * joint_width)
        self.mix = nn.Linear(joint_width, joint_width, bias=False)
        self.outward = nn.Linear(skeleton.num_joints * joint_width, width)

    def forward(self, x: Tensor) -> Tensor:
        joints = self.inward(x).view(*x.shape[:2], -1, self.joint_width)
        mixed = nn.functional.gelu(self.links @ self.mix(joints))
        y: Tensor = x + self.outward(mixed.flatten(2))
        return y


class MMPTransformer(Backbone):
    """The motion encoder of MoLang over motions (N, C, T, V, M); by default 768 features, one step per frame.

    `features` is the token put before the frames, `sequence` the frames' own tokens. The paper's input
    are the six-number rotations of 22 joints at 30 frames a second (channels=6); any will do.

    Args:
        num_classes: 0 leaves `fc` out.
        skeleton: name of a layout, or your own `Skeleton`.
        channels: coordinates of a joint.
        width: features; a multiple of twice the heads.
        depth: layers.
        heads: of each attention.
        hidden: width inside the two-layer parts.
        dropout: in and after attention and two-layer parts.
        bottleneck_after: layers before the graph bottleneck; 0: none.
        joint_width: features per joint in the bottleneck.
        people: M at most; each is encoded on its own and the mean is taken.
    """

    def __init__(
        self,
        num_classes: int,
        skeleton: str | Skeleton,
        channels: int,
        width: int = 768,
        depth: int = 10,
        heads: int = 12,
        hidden: int = 1024,
        dropout: float = 0.1,
        bottleneck_after: int = 4,
        joint_width: int = 32,
        people: int = 2,
    ) -> None:
        check_sizes("MMPTransformer", width, depth, heads, hidden, dropout)
        if not 0 <= bottleneck_after <= depth or joint_width < 1:
            raise TrainingError(
                f"MMPTransformer: bottleneck_after must lie in 0 to depth {depth} and joint_width be 1 or more; "
                f"given {bottleneck_after} and {joint_width}"
            )
        super().__init__(num_classes, skeleton, channels, width=width, stride=1, people=people)
        self.embed = nn.Linear(channels * self.skeleton.num_joints, width)
        self.cls = nn.Parameter(torch.empty(width))
        self.segment = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, hidden, dropout) for _ in range(depth))
        self.bottleneck_after = bottleneck_after
        if bottleneck_after:
            self.bottleneck = GraphBottleneck(self.skeleton, width, joint_width)
        if num_classes:
            self.fc = nn.Linear(width, num_classes)
        initialise_weights(self, width)
        nn.init.xavier_uniform_(self.embed.weight)  # coordinates are not of unit size, so the input keeps its scale
        nn.init.normal_(self.cls, 0, 0.02)

    def tokens(self, x: Tensor, valid: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Tokens of the whole motion and of each frame.

        Args:
            x: (N, C, T, V, M); frames that are only filled up are zeros.
            valid: (N, T) bool, False where a frame is only filled up; None: all are frames. An embedding
                tells filled frames from others, as in the paper; attention includes them.
            mask: (N, T, M) bool, False where a frame of a person is not there: nothing attends to it.

        Returns:
            (N, M, 1 + T, D).

        Raises:
            TrainingError: `valid` of another shape.
        """
        self.check(x)
        n, _, t, _, m = x.shape
        if valid is not None and tuple(valid.shape) != (n, t):
            raise TrainingError(f"MMPTransformer: valid must be (N, T) = ({n}, {t}); given {tuple(valid.shape)}")
        frames = self.embed(x.permute(0, 4, 2, 3, 1).reshape(n * m, t, -1))
        y = torch.cat([self.cls.expand(n * m, 1, -1), frames], 1) + positions(1 + t, self.width, x)
        kind = torch.ones(n, 1 + t, dtype=torch.long, device=x.device)
        if valid is not None:
            kind[:, 1:] = valid.long()
        y = self.dropout(self.norm(y + self.segment(kind).repeat_interleave(m, 0)))
        rows = None if mask is None else nn.functional.pad(mask.transpose(1, 2).flatten(0, 1), (1, 0), value=True)
        for number, layer in enumerate(self.layers, start=1):
            y = layer(y, rows)
            if number == self.bottleneck_after:
                y = torch.cat([y[:, :1], self.bottleneck(y[:, 1:])], 1)
        features: Tensor = y
        return features.view(n, m, 1 + t, self.width)

    def people_sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of each person per frame (N, M, D, T)."""
        return self.tokens(x, mask=mask)[:, :, 1:].transpose(2, 3)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of the whole motion (N, D): its own token, the mean over the people who are there."""
        return self.features_and_people(x, mask)[0]

    def features_and_people(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`features` and `people_sequence` of one pass."""
        if mask is None:
            tokens = self.tokens(x)
            return tokens[:, :, 0].mean(1), tokens[:, :, 1:].transpose(2, 3)
        there = mask.any(1)[..., None]  # (N, M, 1)
        tokens = self.tokens(masked(x, mask), mask=mask)
        whole = tokens[:, :, 0].masked_fill(~there, 0)
        mean: Tensor = whole.sum(1) / there.sum(1).clamp(min=1)
        return mean, tokens[:, :, 1:].transpose(2, 3)
