"""Self-attention and positions of the transformers over motions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError


def check_sizes(name: str, width: int, depth: int, heads: int, hidden: int, dropout: float) -> None:
    """Refuse sizes that make no transformer.

    Raises:
        TrainingError: a size below 1, a width that the heads do not divide, or a dropout outside [0, 1).
    """
    if min(width, depth, heads, hidden) < 1 or width % (2 * heads) or not 0 <= dropout < 1:
        raise TrainingError(
            f"{name}: width must be a multiple of twice the heads, depth and hidden 1 or more, dropout in [0, 1); "
            f"given width {width}, depth {depth}, heads {heads}, hidden {hidden}, dropout {dropout}"
        )


def positions(length: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of positions 0 to length - 1 (Vaswani et al. 2017, section 3.5): (length, width), for any
    length."""
    place = torch.arange(length, device=like.device, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=torch.float64) * (-math.log(10_000.0) / width))
    return torch.stack([torch.sin(place * rate), torch.cos(place * rate)], -1).flatten(1).to(like.dtype)


class SelfAttention(nn.Module):
    """Several heads over the second axis of (B, L, D); memory grows with L, not with its square, where torch has such a
    kernel."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) of x (B, L, D).

        Args:
            x: tokens.
            mask: (B, L) bool, False for tokens that no other attends to; None: all are attended to. Rows without any
                attend to themselves alone.
        """
        b, length, d = x.shape
        query, key, value = self.qkv(x).view(b, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            None if mask is None else mask[:, None, None] | torch.eye(length, dtype=torch.bool, device=x.device),
            dropout_p=self.dropout if self.training else 0.0,
        )
        output: Tensor = self.out(y.transpose(1, 2).reshape(b, length, d))
        return output


def feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Two layers with gelu."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))


def initialise_weights(module: nn.Module, width: int) -> None:
    """Initial weights of transformers: N(0, 0.02) at a width of 768 (Devlin et al. 2019), the variance scaled by
    768 / width; biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, 0, 0.02 * math.sqrt(768 / width))
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
