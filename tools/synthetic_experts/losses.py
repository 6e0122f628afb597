"""What each of the small networks is trained to minimise.

Joints are pixels of the network's input; the middle of cell c lies at pixel 8 c + 3.5 (OpenCV's
convention: the middle of the first pixel is 0).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.synthetic_experts.nets import JOINTS, STRIDE

CENTRE = (1, 8, 9)
"""Neck and hips: their mean is the body's centre."""
GROUP_UNIT = 8.0
"""Cells in a unit of the grouping offsets."""


def cells(pixels: Tensor) -> Tensor:
    """Pixels to fractional cell indices."""
    return (pixels - (STRIDE - 1) / 2) / STRIDE


def _grid(height: int, width: int) -> Tensor:
    """(h, w, 2) x and y index of every cell."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32), torch.arange(width, dtype=torch.float32), indexing="ij"
    )
    return torch.stack([x, y], -1)


def topdown_loss(out: Tensor, joints: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of each joint's map (N, 14, h, w) against a small Gaussian at the joint."""
    return _map_loss(out, joints, mask, 0.7)


def _map_loss(out: Tensor, joints: Tensor, mask: Tensor, sigma: float) -> Tensor:
    h, w = out.shape[-2:]
    apart = _grid(h, w).to(out.device) - cells(joints)[:, :, None, None]
    goal = torch.exp(-apart.square().sum(-1) / (2 * sigma**2)).flatten(2)
    goal = goal / goal.sum(-1, keepdim=True).clamp(min=1e-6)
    loss = -(goal * F.log_softmax(out.flatten(2).float(), -1)).sum(-1)
    return (loss * mask).sum() / mask.sum().clamp(min=1)


def regression_loss(out: Tensor, joints: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of a Laplace distribution about the regressed coordinate, its scale the network's own.

    `out` is (N, 14, 3) as `Regression` gives it, for square inputs of 128 pixels.
    """
    half = 64.0
    goal = (joints + 0.5) / half - 1
    error = (out[..., :2] - goal).abs().sum(-1)
    log_scale = out[..., 2].clamp(-5, 2)
    loss = error * torch.exp(-log_scale) + 2 * log_scale + 4 * error
    return (loss * mask).sum() / mask.sum().clamp(min=1)


def _focal(logits: Tensor, goal: Tensor) -> Tensor:
    """Penalty-reduced focal loss on maps with Gaussian peaks (Zhou et al. 2019, Objects as Points, equation 1)."""
    positive = (goal >= 0.999).float()
    p = torch.sigmoid(logits.float()).clamp(1e-4, 1 - 1e-4)
    loss = -(positive * (1 - p) ** 2 * torch.log(p) + (1 - positive) * (1 - goal) ** 4 * p**2 * torch.log(1 - p))
    return loss.sum() / positive.sum().clamp(min=1)


def _peaks(at: Tensor, mask: Tensor, sigma: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps for points of several people.

    Args:
        at: (N, P, K, 2) cells. mask: (N, P, K). sigma: (N, P, 1 or K) cells.

    Returns:
        heat (N, K, h, w); the index of the person nearest to each cell (N, K, h, w); and the
        distance to that person's point (N, K, h, w) in cells, large where there is nobody.
    """
    grid = _grid(height, width).to(at.device)
    square = (grid - at[:, :, :, None, None]).square().sum(-1)
    square = torch.where(mask[..., None, None] > 0, square, torch.full_like(square, 1e6))
    heat = torch.exp(-square / (2 * sigma[..., None, None] ** 2)).amax(1)
    nearest, who = square.min(1)
    # the cell that holds the point is a full positive
    offset = (grid - at[:, :, :, None, None]).abs().amax(-1)
    holds = ((offset <= 0.5) & (mask[..., None, None] > 0)).any(1)
    return torch.where(holds, torch.ones_like(heat), heat), who, nearest.sqrt()


def bottomup_loss(out: Tensor, joints: Tensor, mask: Tensor) -> Tensor:
    """Focal loss of joint and centre maps, L1 of offsets and of the vectors that group joints into people."""
    n, people = joints.shape[:2]
    h, w = out.shape[-2:]
    at = cells(joints)
    centre = at[:, :, CENTRE].mean(2, keepdim=True)
    inside = (centre > -0.5).all(-1) & (centre[..., 0] < w - 0.5) & (centre[..., 1] < h - 0.5)
    present = (mask.sum(-1, keepdim=True) > 0).float() * inside.float()
    sigma = torch.full((n, people, 1), 0.7, device=out.device)
    heat, who, near = _peaks(at, mask, sigma, h, w)
    heat_c, who_c, near_c = _peaks(centre, present, sigma, h, w)
    loss = _focal(out[:, : JOINTS + 1], torch.cat([heat, heat_c], 1))

    grid = _grid(h, w).to(out.device)
    rows = torch.arange(n, device=out.device)[:, None, None, None]
    column = torch.arange(JOINTS, device=out.device)[None, :, None, None]
    close = (near < 1.3).float()[..., None]
    start = JOINTS + 1
    offsets, to_centre, to_joint = (
        out[:, start + 28 * k : start + 28 * (k + 1)].float().view(n, JOINTS, 2, h, w).permute(0, 1, 3, 4, 2)
        for k in range(3)
    )
    own = at[rows, who, column]
    loss = loss + _l1(offsets, own - grid, close)
    grouped = close * present[rows, who, 0][..., None]
    loss = loss + 2 * _l1(to_centre, (centre[rows, who, 0] - grid) / GROUP_UNIT, grouped)
    person = who_c[:, 0][:, None]
    wanted = at[rows, person, column]
    seen = (near_c < 1.6).float()[..., None] * mask[rows, person, column][..., None]
    return loss + 3 * _l1(to_joint, (wanted - grid) / GROUP_UNIT, seen)


def _l1(out: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
    return ((out - goal).abs() * weight).sum() / weight.sum().clamp(min=1)


def detector_loss(out: Tensor, joints: Tensor, mask: Tensor) -> Tensor:
    """Focal loss of the map of box middles, L1 of offset and log size."""
    h, w = out.shape[-2:]
    seen = mask[..., None] > 0
    low = torch.where(seen, joints, torch.full_like(joints, 1e6)).amin(2)
    high = torch.where(seen, joints, torch.full_like(joints, -1e6)).amax(2)
    margin = 0.08 * (high - low).amax(-1, keepdim=True) + 3
    limit = torch.tensor([w * STRIDE - 1.0, h * STRIDE - 1.0], device=out.device)
    low, high = (low - margin).clamp(min=0), torch.minimum(high + margin, limit)
    present = (mask.sum(-1, keepdim=True) > 0).float()
    extent = torch.where(present > 0, (high - low).clamp(min=1) / STRIDE, torch.ones_like(low))
    middle = torch.where(present[..., None] > 0, cells((low + high) / 2)[:, :, None], torch.zeros_like(low)[:, :, None])
    sigma = (0.07 * extent[..., 1:]).clamp(min=0.7)
    heat, who, near = _peaks(middle, present, sigma, h, w)
    rows = torch.arange(len(out), device=out.device)[:, None, None]
    goal = torch.cat([middle[rows, who[:, 0], 0] - _grid(h, w).to(out.device), torch.log(extent[rows, who[:, 0]])], -1)
    close = (near[:, 0] < 1.3).float()[..., None]
    return _focal(out[:, :1], heat) + _l1(out[:, 1:].float().permute(0, 2, 3, 1), goal, close)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "detector": detector_loss,
    "topdown": topdown_loss,
    "bottomup": bottomup_loss,
    "regression": regression_loss,
}
