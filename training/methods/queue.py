"""The queue of keys of MoCo (He et al. 2020): negatives from earlier batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from training.distributed import gather


@dataclass(frozen=True)
class QueueOptions:
    """A queue of keys, and the momentum encoder that computes them.

    Attributes:
        size: Q, keys in the queue.
        momentum: of the momentum encoder, in [0, 1].
        anneal: whether the momentum rises to 1 over the run; "auto": in long runs, see `Method`.
    """

    size: int = 65536
    momentum: float = 0.994
    anneal: bool | Literal["auto"] = "auto"


class Queue(nn.Module):
    """The latest keys of all processes; the oldest are overwritten first. Part of the checkpoint.

    Attributes:
        keys: (Q, D) float, rows of unit length; or of another shape, such as (Q, D, T), a vector per frame.
        owners: (Q,) int64, index of the clip that each key came from; EMPTY where the queue is not filled yet.
        labels: (Q,) int64, label of that clip, -1 for none.
        pointer: () int64, where the next key goes.
    """

    EMPTY = -2
    keys: Tensor
    owners: Tensor
    labels: Tensor
    pointer: Tensor

    def __init__(self, size: int, *shape: int) -> None:
        super().__init__()
        if size < 1:
            raise TrainingError(f"a queue holds at least 1 key; given {size}")
        self.register_buffer("keys", torch.zeros(size, *shape))
        self.register_buffer("owners", torch.full((size,), self.EMPTY))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def not_negative_mask(self, owners: Tensor, labels: Tensor | None = None) -> Tensor:
        """Keys that are no negatives of a clip: empty ones, those of the same clip, and those of the same label.

        Args:
            owners: (N,) int64, indices of the clips.
            labels: (N,) int64 labels of the clips, -1 for none; None: labels do not count.

        Returns:
            (N, Q) bool.
        """
        same = (self.owners == self.EMPTY) | (self.owners == owners[:, None])
        return same if labels is None else same | ((self.labels == labels[:, None]) & (labels >= 0)[:, None])

    @property
    def mean(self) -> Tensor:
        """Mean of the filled keys, of the shape of one; zeros where none is filled."""
        filled = self.owners != self.EMPTY
        return self.keys[filled].sum(0) / filled.sum().clamp(min=1)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, owners: Tensor, labels: Tensor) -> None:
        """Puts the keys (N, ...) of all processes into the queue, in the order of ranks."""
        keys, owners, labels = (gather(values)[-len(self.keys) :] for values in (keys, owners, labels))
        positions = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.keys[positions] = keys.to(self.keys.dtype)
        self.owners[positions] = owners
        self.labels[positions] = labels
        self.pointer.copy_((self.pointer + len(keys)) % len(self.keys))
