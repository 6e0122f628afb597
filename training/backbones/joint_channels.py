"""Skeleton sequences as the channels that autoencoders code, and back: what LAC's and ViA's generators share."""

from __future__ import annotations

import itertools
import math
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dataengine.core.skeletons import Skeleton
from training.data.types import Array
from training.transforms import bodies

Codes: TypeAlias = tuple[Tensor, Tensor]
"""Motion code (N, W, T') and static code (N, K)."""
UP_KERNEL = 7
"""Of the decoder's convolutions."""
SLOPE, DROPOUT = 0.2, 0.2
"""Of the leaky rectifiers; of the decoder's first convolutions."""


class Retargeter:
    """What carries motions to other bodies and views: a network that splits sequences into two codes, and back.

    Attributes:
        skeleton: of the joints.
        axes: coordinates of a joint.
    """

    skeleton: Skeleton
    axes: int

    def encode(self, joints: Tensor) -> Codes:
        """Motion and static code of joints (N, T, V, axes) of any size, as images have them: y down."""
        raise NotImplementedError

    def generate(self, motion: Tensor, static: Tensor, frames: int) -> Tensor:
        """Joints (N, frames, V, axes) of about unit size of a motion and a static code."""
        raise NotImplementedError


class JointChannels(nn.Module):
    """Joints relative to the middle of the hips, whose velocity is appended, standardised per channel.

    A joint that lies at the middle of the hips is left out. A class that derives from this one calls `set_channels` in
    its constructor.

    Attributes:
        skeleton: of the joints.
        axes: coordinates of a joint.
        kept: joints that are coded.
        mean, deviation: (inputs,) of each channel.
        measured: () bool, whether they were taken from data.
    """

    skeleton: Skeleton
    axes: int
    kept: list[int]
    mean: Tensor
    deviation: Tensor
    measured: Tensor

    def set_channels(self, skeleton: Skeleton, axes: int) -> int:
        """Sets everything up, and gives the number of channels."""
        root = next((skeleton.index(name) for name in ("mid_hip", "pelvis") if name in skeleton.joints), None)
        self.skeleton, self.axes = skeleton, axes
        self.kept = [joint for joint in range(skeleton.num_joints) if joint != root]
        inputs = len(self.kept) * axes + axes
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.register_buffer("measured", torch.zeros((), dtype=torch.bool))
        return inputs

    def channels_of(self, joints: Tensor) -> Tensor:
        """The channels (N, inputs, T) of joints (N, T, V, C): positions relative to the middle of the hips, then its
        velocity, as they are before standardisation."""
        origin = bodies.centre(joints, self.skeleton)
        relative = (joints - origin[:, :, None])[:, :, self.kept]
        velocity = torch.cat([torch.zeros_like(origin[:, :1]), origin[:, 1:] - origin[:, :-1]], 1)
        return torch.cat([relative.flatten(2), velocity], 2).transpose(1, 2)

    def standardised(self, joints: Tensor) -> Tensor:
        """`channels_of`, standardised, (N, inputs, T)."""
        return (self.channels_of(joints) - self.mean[:, None]) / self.deviation[:, None]

    def joints_of(self, values: Tensor) -> Tensor:
        """Joints (N, T, V, C) of standardised channels (N, inputs, T); the middle of the hips starts at 0."""
        plain = (values * self.deviation[:, None] + self.mean[:, None]).transpose(1, 2)
        origin = plain[:, :, -self.axes :].cumsum(1)
        joints = origin[:, :, None].expand(-1, -1, self.skeleton.num_joints, -1).clone()
        joints[:, :, self.kept] += plain[:, :, : -self.axes].unflatten(2, (len(self.kept), self.axes))
        return joints

    @torch.no_grad()
    def measure(self, values: Tensor) -> None:
        """Take the mean and deviation of each channel from values (N, inputs, T), once."""
        if not bool(self.measured):
            self.mean.copy_(values.mean((0, 2)))
            deviation = values.std((0, 2))
            self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))
            self.measured.fill_(True)


def decoder(widths: tuple[int, ...], dropout: float, stride: int) -> nn.Sequential:
    """Convolutions over time that make the length `stride` times as long (a power of 2, or more): each repeats time
    steps first, and all but the last are followed by dropout and a leaky rectifier."""
    layers: list[nn.Module] = []
    doublings, count = math.ceil(math.log2(stride)), len(widths) - 1
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        factor = 2.0 ** (doublings // count + (number < doublings % count))
        pad = nn.ReflectionPad1d((UP_KERNEL - 1) // 2)
        layers += [nn.Upsample(scale_factor=factor), pad, nn.Conv1d(inputs, outputs, UP_KERNEL)]
        if number < count - 1:
            layers += [nn.Dropout(dropout), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def orthonormal(directions: Tensor) -> Tensor:
    """Orthonormal columns (W, K) that span those of `directions` (W, K). The signs are such that the triangular factor
    has a positive diagonal."""
    # a constant of the exported file: formats of files have no such factorisation
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        return torch.from_numpy(_orthonormal(directions.detach().cpu().numpy())).to(directions)
    wide = directions.float() if directions.dtype in (torch.float16, torch.bfloat16) else directions
    with torch.autocast(wide.device.type, enabled=False):
        q, r = torch.linalg.qr(wide)
    sign = torch.where(torch.diagonal(r) < 0, -1.0, 1.0).to(q)
    basis: Tensor = q * sign
    return basis


def _orthonormal(directions: Array) -> Array:
    """`orthonormal` of arrays."""
    q, r = np.linalg.qr(directions)
    basis: Array = q * np.where(np.diagonal(r) < 0, -1, 1)
    return basis


def at_least(values: Tensor, frames: int) -> Tensor:
    """Values (N, C, T) with the last frame repeated up to a length that padding by reflection can work on."""
    short = frames - values.shape[-1]
    return functional.pad(values, (0, short), mode="replicate") if short > 0 else values
