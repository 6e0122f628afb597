"""The first stage of LAC: an autoencoder that learns to carry motions to other bodies and views.

Source: Yang et al., LAC - Latent Action Composition for Skeleton-based Action Segmentation, ICCV 2023 (thesis, 4.3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone
from training.backbones.joint_channels import Retargeter
from training.backbones.skeleton_autoencoder import SkeletonAutoencoder
from training.data.entries import Motion
from training.data.types import SampleTransform, SkeletonSequence
from training.distributed import gather, gather_with_gradient
from training.methods.base import Batch, LossOutput, Method, View
from training.transforms import bodies
from training.transforms.preprocess import Preprocess

MARGIN = 1.0
"""Of the triplet losses."""


@dataclass(frozen=True)
class CameraOptions:
    """Where random cameras stand, and how large people are in their pictures.

    Attributes:
        yaw: the body is turned by up to so many degrees from facing the camera.
        pitch: cameras look up or down by up to so many degrees.
        scale: sizes are drawn from [1 - scale, 1 + scale] of the mean.
        resize: every bone, left and right alike, becomes up to this share longer or shorter, for more bodies than the
            data have.
    """

    yaw: float = 90.0
    pitch: float = 10.0
    scale: float = 0.5
    resize: float = 0.15

    def __post_init__(self) -> None:
        if not (0 <= self.yaw <= 180 and 0 <= self.pitch <= 90 and 0 <= self.scale < 1 and 0 <= self.resize < 1):
            raise TrainingError(
                f"camera yaw {self.yaw}, pitch {self.pitch}, scale {self.scale}, resize {self.resize}; allowed: 0 to "
                "180 and 0 to 90 degrees, and shares from 0 to below 1"
            )


CAMERA = CameraOptions()


@dataclass(frozen=True)
class RandomCameras:
    """A view of a sequence in space, and the camera and the bones that the network sees it with.

    `motion` are joints (M, T, V, 3). `camera` is (3,): yaw and pitch in radians, and the size. `bones` (B,) are factors
    of the lengths of the bones of `bodies.tree`.
    """

    preprocess: Preprocess
    view: View
    options: CameraOptions

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        joints = self.view(self.preprocess.joints(sequence), rng)
        options, layout = self.options, self.preprocess.layout
        _, edges = bodies.tree(layout)
        one_side = [layout.joints[child].removeprefix("left_").removeprefix("right_") for _, child in edges]
        drawn = {name: rng.uniform(1 - options.resize, 1 + options.resize) for name in dict.fromkeys(one_side)}
        yaw, pitch = rng.uniform(-options.yaw, options.yaw), rng.uniform(-options.pitch, options.pitch)
        scale = rng.uniform(1 - options.scale, 1 + options.scale)
        return {
            "motion": Motion(joints),
            "camera": np.array([bodies.degrees(yaw), bodies.degrees(pitch), scale], np.float32),
            "bones": np.array([drawn[name] for name in one_side], np.float32),
        }


@dataclass(frozen=True)
class Pairs:
    """What the network sees of a batch, and the truth of what it shall generate.

    Attributes:
        seen: (N, T, V, axes) joints of each clip with its own body and camera.
        truth: the motion of each clip with the body and the camera of its partner.
        partner: (N,) int64.
    """

    seen: Tensor
    truth: Tensor
    partner: Tensor


def partners(number: int, device: torch.device | str = "cpu") -> Tensor:
    """(N,) int64: clips of a batch in pairs, 0 with 1, 2 with 3; of an odd number the last with the one before."""
    index = torch.arange(number, device=device)
    partner = index ^ 1
    return torch.where(partner < number, partner, (index - 1).clamp(min=0))


def pairs(joints: Tensor, camera: Tensor, bones: Tensor, network: Retargeter, partner: Tensor | None = None) -> Pairs:
    """Each clip as its camera sees it, and its motion with the body and camera of its partner.

    Args:
        joints: (N, T, V, 3).
        camera: (N, 3), see `RandomCameras`.
        bones: (N, B), see `RandomCameras`.
        network: whose layout and axes count.
        partner: (N,) int64; default: `partners`.
    """
    layout = network.skeleton
    partner = partners(len(joints), joints.device) if partner is None else partner
    own = bodies.on_body(joints, bones, layout)
    lengths = bodies.bone_lengths(own, layout)
    other = bodies.on_body(own, lengths[partner] / lengths.clamp(min=1e-6), layout)
    seen = bodies.project(own, camera[:, 0], camera[:, 1], network.axes)
    truth = bodies.project(other, camera[partner, 0], camera[partner, 1], network.axes)
    factor = camera[:, 2] / bodies.size(seen, layout)
    return Pairs(seen * factor[:, None, None, None], truth * factor[partner][:, None, None, None], partner)


class LACRetarget(Method):
    """Retargeting as the pretext task of LAC's first stage, on joints in space.

    Two clips of a batch are partners. The network sees each with its own body and a random camera. It reconstructs
    both, and both with the body and camera of the other, whose truth follows from the bones (equation 4.4). Triplet
    losses of margin 1 on both codes come from the published program; the thesis names them nowhere. They stand still
    once codes are far apart, and leave body and view readable in the motion code. `consistency` is the weight of a loss
    of ours against that, off by default: the squared difference of the motion codes of a clip and of its truth, and of
    the static codes of the partner and of the truth, each divided by the variance of the code. `variant = "paper"`
    leaves out both.

    Args:
        backbone: a `skeleton_autoencoder` over 3 coordinates.
        variant: "standard", or "paper": reconstruction alone.
        triplet: weight of the triplet losses.
        consistency: weight of the loss that asks for equal codes; 0: none.
        camera: random cameras.

    Raises:
        TrainingError: another network, or one of joints in images.
    """

    def __init__(
        self,
        backbone: Backbone,
        variant: Literal["standard", "paper"] = "standard",
        triplet: float = 1.0,
        consistency: float = 0.0,
        camera: CameraOptions = CAMERA,
    ) -> None:
        if not isinstance(backbone, SkeletonAutoencoder):
            raise TrainingError(
                f"lac_retarget trains an autoencoder; given {type(backbone).__name__}: set backbone.name to "
                "skeleton_autoencoder"
            )
        if backbone.channels != 3:
            raise TrainingError(
                f"lac_retarget carries motions to other bodies in space; given joints of {backbone.channels} "
                "coordinates: give motion capture, or write bodies with `dataengine-train example --space`"
            )
        if triplet < 0 or consistency < 0:
            raise TrainingError(f"triplet {triplet}, consistency {consistency}; allowed: 0 and more")
        super().__init__(backbone)
        bodies.tree(backbone.skeleton)
        self.network = backbone
        self.triplet, self.consistency = (0.0, 0.0) if variant == "paper" else (triplet, consistency)
        self.camera = camera

    def sample_transform(self, preprocess: Preprocess, view: View) -> SampleTransform:
        """Joints in space, a camera, and factors of bones."""
        if preprocess.stream != "joint" or preprocess.score:
            raise TrainingError(
                "lac_retarget learns from joints: set preprocess.stream to joint and preprocess.score to false"
            )
        return RandomCameras(preprocess, view, self.camera)

    def loss(self, batch: Batch) -> LossOutput:
        """Mean squared errors of reconstruction and cross-reconstruction, in standardised channels, and the triplet
        losses."""
        network = self.network
        made = pairs(batch["motion"].permute(0, 4, 2, 3, 1)[:, 0], batch["camera"], batch["bones"], network)
        if not bool(network.measured):
            network.measure(gather(network.channels_of(made.seen)))
        seen, truth = network.standardised(made.seen), network.standardised(made.truth)
        motion, static = network.codes(seen)
        frames = seen.shape[-1]
        own = functional.mse_loss(network.decode(motion, static, frames), seen)
        cross = functional.mse_loss(network.decode(motion, static[made.partner], frames), truth)
        parts: dict[str, Tensor] = {"self": own, "cross": cross}
        loss = own + cross
        if self.triplet or self.consistency:
            moved, placed = network.codes(truth)
            wanted = static[made.partner]
            of_motion = functional.triplet_margin_loss(
                motion.flatten(1), moved.flatten(1), motion[made.partner].flatten(1), MARGIN
            )
            of_static = functional.triplet_margin_loss(wanted, placed, static, MARGIN)
            alike = _difference(moved, motion), _difference(placed, wanted)
            parts |= {"motion_triplet": of_motion, "static_triplet": of_static}
            parts |= {"motion_alike": alike[0], "static_alike": alike[1]}
            loss = loss + self.triplet * (of_motion + of_static) + self.consistency * (alike[0] + alike[1])
        return LossOutput(loss, parts, motion.mean(-1))


def _difference(code: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of codes (N, J) or (N, J, T'), in parts of their variance over the clips of all
    processes. Gradients flow through the variance: without them the codes would shrink together."""
    spread = gather_with_gradient(other).var(0, correction=0).mean()
    return functional.mse_loss(code, other) / spread.clamp(min=1e-6)
