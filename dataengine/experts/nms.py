"""Choosing among the many people that a one-stage network offers: on the device, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def cells(sizes: Sequence[tuple[int, int]], strides: Sequence[float], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Middles (P, 2) of the cells of maps of these widths and heights, in pixels of the picture from its edge, and
    their strides (P, 1)."""
    import torch

    places, steps = [], []
    for (w, h), stride in zip(sizes, strides):
        y, x = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
        places.append((torch.stack([x, y], -1).flatten(0, 1) + 0.5) * stride)
        steps.append(torch.full((w * h, 1), float(stride), device=device))
    return torch.cat(places), torch.cat(steps)


def best(
    boxes: torch.Tensor, score: torch.Tensor, threshold: float, overlap: float, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Who stays: picture (K,) and cell (K,), by picture and best first.

    Args:
        boxes: (N, P, 4) xyxy. score: (N, P).
        threshold: least score. overlap: of two boxes that share more of their union, the better stays.
        most: of every picture.
    """
    import torch
    from torchvision.ops import batched_nms

    picture, cell = torch.nonzero(score > threshold, as_tuple=True)
    kept = batched_nms(boxes[picture, cell], score[picture, cell], picture, overlap)
    kept = kept[picture[kept].argsort(stable=True)]
    count = torch.bincount(picture[kept], minlength=len(score))
    rank = torch.arange(len(kept), device=kept.device) - (count.cumsum(0) - count)[picture[kept]]
    kept = kept[rank < most]
    return picture[kept], cell[kept]


def split(
    boxes: torch.Tensor,
    score: torch.Tensor,
    joints: torch.Tensor,
    picture: torch.Tensor,
    num: int,
    size: tuple[int, int],
) -> list[np.ndarray]:
    """People (K, 4), (K,), (K, V, 3) of `num` pictures of `size` -> per picture (M, 5 + 3 V), boxes clipped to it."""
    import torch

    inside = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([*size, *size]))
    rows = torch.cat([inside, score[:, None], joints.flatten(1)], 1).cpu().numpy()
    where = picture.cpu().numpy()
    return [rows[where == n] for n in range(num)]
