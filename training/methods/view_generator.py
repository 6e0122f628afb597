"""What ViA learns beside its network: the static directions with the decoder, and the encoder of its contrast.

Source: Yang et al., View-invariant Skeleton Action Representation Learning via Motion Retargeting, IJCV 2024 (thesis,
4.4 and 4.6).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.backbones.base import Backbone
from training.backbones.joint_channels import Codes, JointChannels, at_least, decoder, orthonormal
from training.data.types import SkeletonSequence
from training.distributed import unit
from training.methods.base import View
from training.methods.lac_retarget import RandomCameras
from training.transforms.preprocess import Preprocess
from training.transforms.view import View as RandomView

HIDDEN = (128, 64)
"""Widths of the decoder between the code and the joints: those of LAC's (table 4.1)."""
SHORTEST = 4
"""Time steps that the decoder's padding by reflection needs."""


class ViewGenerator(JointChannels):
    """Codes of a network as motion and static code, and the decoder of both.

    The static code of a code (N, W, T') is the projection of its mean over time on `directions` orthonormal vectors.
    The motion is the residual, what is left of the code at every time step.

    Args:
        encoder: whose layout, channels and codes they are.
        directions: K.
        dropout: of the decoder.
    """

    def __init__(self, encoder: Backbone, directions: int, dropout: float) -> None:
        super().__init__()
        inputs = self.set_channels(encoder.skeleton, encoder.channels)
        self.static = nn.Parameter(nn.init.orthogonal_(torch.empty(encoder.width, directions)))
        self.decoder = decoder((encoder.width, *HIDDEN, inputs), dropout, encoder.stride)

    def split(self, code: Tensor) -> Codes:
        """Motion (N, W, T') and static (N, K) code of a code (N, W, T')."""
        basis = orthonormal(self.static).to(code)
        static = code.mean(-1) @ basis
        return code - (static @ basis.T)[:, :, None], static

    def without_static(self, features: Tensor) -> Tensor:
        """Features (N, W), means of codes over time, without what the static directions hold. No gradient reaches the
        directions: what is static is learnt from retargeting alone."""
        basis = orthonormal(self.static.detach()).to(features)
        rest: Tensor = features - (features @ basis) @ basis.T
        return rest

    def decode(self, motion: Tensor, static: Tensor, frames: int) -> Tensor:
        """Standardised channels (N, inputs, frames) of a motion (N, W, T') and a static code (N, K)."""
        code = motion + (static @ orthonormal(self.static).to(static).T)[:, :, None]
        values: Tensor = self.decoder(at_least(code, SHORTEST))
        return values[:, :, :frames]


class MotionEncoder(nn.Module):
    """A network and its projector: motions (N, C, T, V, M) to unit vectors (N, D) of their motion codes."""

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, motion: Tensor, generator: ViewGenerator) -> Tensor:
        """The static directions are those of the generator."""
        projected: Tensor = self.projector(generator.without_static(self.backbone.features(motion)))
        return unit(projected)


@dataclass(frozen=True)
class CleanViews:
    """A random view of a clip as `motion`, and as `clean` the same view without what its steps on single joints do (the
    view itself where it does not say that); with `second` another random view as `key`."""

    preprocess: Preprocess
    view: View
    second: bool

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        joints, entry = self.preprocess.joints(sequence), self.preprocess.entry
        if isinstance(self.view, RandomView):
            shown, clean = self.view.with_clean(joints, rng)
        else:
            shown = clean = self.view(joints, rng)
        sample = {"motion": entry(shown), "clean": entry(clean)}
        if self.second:
            sample["key"] = entry(self.view(joints, rng))
        return sample


@dataclass(frozen=True)
class TwoCameras:
    """A clip in space with its camera and bones; with `second` also another random view of it, `key`, with the entries
    `key_camera` and `key_bones`."""

    one: RandomCameras
    second: bool

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        sample = self.one(sequence, rng)
        if self.second:
            other = self.one(sequence, rng)
            sample |= {"key": other["motion"], "key_camera": other["camera"], "key_bones": other["bones"]}
        return sample


@dataclass(frozen=True)
class People:
    """The people of a batch, R = N M rows.

    Attributes:
        joints: (R, T, V, C) as the network takes them.
        clean: (R, T, V, C) what is asked of the decoder: the same view without noise and with all joints.
        present: (R,) bool.
        partner: (R,) int64, the row that each swaps bodies with.
        truth: (R, T, V, C) the motion of each on the body and from the view of its partner; None: nobody knows.
        people: M.
    """

    joints: Tensor
    clean: Tensor
    present: Tensor
    partner: Tensor
    truth: Tensor | None
    people: int

    @property
    def together(self) -> Tensor:
        """(R,) bool: whether somebody is there on both sides, each the partner of the other."""
        mutual = self.partner[self.partner] == torch.arange(len(self.partner), device=self.partner.device)
        return self.present & self.present[self.partner] & mutual

    def motions(self, joints: Tensor) -> Tensor:
        """Joints (R, T, V, C) as an input of the network (N, C, T, V, M); absent people are 0."""
        shown = joints * self.present[:, None, None, None]
        motions: Tensor = shown.unflatten(0, (-1, self.people)).permute(0, 4, 2, 3, 1)
        return motions


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Running statistics of batch normalisations stay those of real clips while generated ones pass."""
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    momenta = [one.momentum for one in norms]
    for one in norms:
        one.momentum = 0.0
    try:
        yield
    finally:
        for one, momentum in zip(norms, momenta):
            one.momentum = momentum
