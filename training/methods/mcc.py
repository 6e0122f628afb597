"""MCC: motion consistency and continuity.

Source: Su, Lin and Wu, Self-supervised 3D Skeleton Action Representation Learning with Motion Consistency and
Continuity, ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone
from training.data.entries import Motion
from training.data.types import Array, SampleTransform, SkeletonSequence
from training.distributed import masked_mean, unit
from training.methods.base import Batch, Encoder, LossOutput, Method, Projector, ProjectorOptions, View, features_of
from training.methods.losses import in_full_precision, queue_info_nce, triplet
from training.methods.queue import Queue, QueueOptions
from training.transforms.preprocess import Preprocess
from training.transforms.view import View as RandomView

SPEEDS = (1, 2, 4, 8)
"""Playback speeds (section 3.1)."""
JITTER = 0.1
"""Standard deviation of the normal noise on joints of a jittered negative, in the unit of the preprocessed clip."""


def play(array: Array, start: float, step: float, frames: int) -> Array:
    """`frames` frames of a looped clip from `start`, `step` frames apart, linear between frames.

    Args:
        array: (M, T, V, C).
        start: first position, in frames.
        step: frames between two positions; a fraction falls between frames.
        frames: number of frames to return.

    Returns:
        (M, frames, V, C) of the dtype of `array`.
    """
    positions = (start + step * np.arange(frames)) % array.shape[1]
    before = positions.astype(np.int64)
    fraction = (positions - before).astype(np.float32)[:, None, None]
    if not fraction.any():
        return array[:, before]
    after = (before + 1) % array.shape[1]
    interpolated: Array = array[:, before] * (1 - fraction) + array[:, after] * fraction
    return interpolated


@dataclass(frozen=True)
class PlaybackOptions:
    """Sampling of the three clips of a sequence (section 3.1 and table 2).

    Attributes:
        frames: of each clip.
        rate: how many times more frames the interpolation targets have.
        loop_at_speed_1: whether the target at speed 1 is the clip `rate` times over, as printed; otherwise it has the
            frames between the frames of the clip.
        vary_speed: whether the positive has another speed than the anchor; False is the paper's ablation.
        negative: how the negative differs from the anchor: frames shuffled, joints jittered, or the view turned.
        spatial: whether each of the three clips is seen in a random view of its own, by the steps of [view] on joints
            (turned, scaled, mirrored ...); the target of the interpolation is seen as its clip is. The paper's clips
            differ in time alone, so what tells sequences apart may be the camera.
    """

    frames: int = 32
    rate: int = 2
    loop_at_speed_1: bool = True
    vary_speed: bool = True
    negative: Literal["shuffled", "jittered", "turned"] = "shuffled"
    spatial: bool = False


@dataclass(frozen=True)
class PlaybackSampling:
    """Three clips of a sequence at playback speeds, and the interpolation targets of two of them.

    `anchor` is S(r_i), `positive` is S(r_j) with r_j != r_i, and `negative` is S(r_i) changed. Each has `frames` frames
    from a random start of its own. `anchor_target` and `positive_target` are S(r / rate) with `rate` times as many
    frames.

    Attributes:
        preprocess: makes the input of the network of a sequence.
        options: sampling of the clips.
        view: whose steps on joints each clip is seen by, with `options.spatial`.
    """

    preprocess: Preprocess
    options: PlaybackOptions
    view: RandomView | None = None

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        joints, frames = self.preprocess.joints(sequence), self.options.frames
        plain = self.preprocess.finish(joints)
        array = self._seen(joints, plain, rng)
        first, second = rng.choice(len(SPEEDS), 2, replace=False)
        if not self.options.vary_speed:
            second = first
        sample: dict[str, Array] = {}
        for name, speed in (("anchor", SPEEDS[first]), ("positive", SPEEDS[second])):
            start = int(rng.integers(array.shape[1]))
            array = array if name == "anchor" else self._seen(joints, plain, rng)
            sample[name] = play(array, start, speed, frames)
            sample[f"{name}_target"] = self._target(array, sample[name], start, speed)
        array = self._seen(joints, plain, rng)
        negative = play(array, int(rng.integers(array.shape[1])), SPEEDS[first], frames)
        sample["negative"] = self._negative(negative, rng)
        people = np.asarray((array != 0).any((1, 2, 3))) if self.preprocess.mask else None
        return {
            name: Motion(each, None if people is None else np.repeat(people[:, None], each.shape[1], 1))
            for name, each in sample.items()
        }

    def _seen(self, joints: Array, plain: Array, rng: np.random.Generator) -> Array:
        """The input of the network at all frames: as it is, or in a view of its own."""
        if not self.options.spatial or self.view is None:
            return plain
        return self.preprocess.finish(self.view.at_all_frames(joints, rng))

    def _target(self, array: Array, clip: Array, start: int, speed: int) -> Array:
        rate = self.options.rate
        if speed == 1 and self.options.loop_at_speed_1:
            return np.concatenate([clip] * rate, axis=1)
        return play(array, start, speed / rate, rate * self.options.frames)

    def _negative(self, array: Array, rng: np.random.Generator) -> Array:
        if self.options.negative == "shuffled":
            return array[:, rng.permutation(array.shape[1])]
        if self.options.negative == "jittered":
            return array + rng.normal(0, JITTER, array.shape).astype(np.float32)
        angle = rng.uniform(-np.pi, np.pi)
        turned = array.copy()
        x, y = array[..., 0], array[..., 1]
        turned[..., 0], turned[..., 1] = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
        return turned


PLAYBACK = PlaybackOptions()
QUEUE = QueueOptions(6536, 0.0, anneal=False)
PROJECTOR = ProjectorOptions(0, 128, 1)


class Decoder(nn.Module):
    """Joints (N, C, rate T, V, M) of features per time step (N, D, T').

    Four convolutions over time, each with a norm, then a transposed one that reaches the length. The paper's decoder
    is in a supplement that is not available; the paper says four spatio-temporal blocks and a deconvolution.
    """

    def __init__(self, backbone: Backbone, hidden: int, rate: int) -> None:
        super().__init__()
        self.shape = (backbone.channels, backbone.skeleton.num_joints, backbone.people)
        blocks: list[nn.Module] = []
        for inputs in (backbone.width, hidden, hidden, hidden):
            blocks += [
                nn.Conv1d(inputs, hidden, 5, padding=2, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(inplace=True),
            ]
        self.blocks = nn.Sequential(*blocks)
        factor = backbone.stride * rate
        self.rise = nn.ConvTranspose1d(hidden, int(np.prod(self.shape)), factor, factor)

    def forward(self, sequence: Tensor, frames: int) -> Tensor:
        c, v, m = self.shape
        out: Tensor = self.rise(self.blocks(sequence))
        return out[..., :frames].reshape(len(out), c, v, m, -1).permute(0, 1, 4, 2, 3)


@in_full_precision
def printed_info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float, excluded: Tensor) -> Tensor:
    """Equation 2 as printed, (N,): exp(+distance / tau) in place of a similarity. Arguments as of `queue_info_nce`."""
    own = torch.linalg.vector_norm(query - key, dim=1)[:, None]
    logits = torch.cat([own, torch.cdist(query, queue)], 1) / temperature
    logits = logits.masked_fill(torch.cat([torch.zeros_like(excluded[:, :1]), excluded], 1), -torch.inf)
    return torch.logsumexp(logits, 1) - logits[:, 0]


class MCC(Method):
    """Triplet loss within a sequence, InfoNCE across sequences, and interpolation between frames (equation 4).

    Two printed formulas are inverted and are not the default. Equation 1 has the distances exchanged, so that its
    minimum pushes positives apart. Equation 2 takes exp(+distance / tau), which rewards distance. Here the margin is on
    d(anchor, positive) - d(anchor, negative) of unit vectors, and similarity is the cosine. `variant="paper"` takes
    both as printed. The bank of K keys is printed as 6536. One encoder computes queries and keys, as in the paper; with
    a momentum above 0, keys come from a momentum encoder.

    Args:
        backbone: the network.
        triplet: lambda 1, the weight of the triplet loss; 0 leaves the term out.
        nce: lambda 2, the weight of InfoNCE; 0 leaves the term out.
        interpolation: lambda 3, the weight of the interpolation loss; 0 leaves the term out.
        margin: gamma of the triplet loss.
        temperature: tau of InfoNCE.
        playback: sampling of the clips.
        queue: the bank of keys.
        projector: of the compared embedding; 0 layers compare the network's features. `hidden` 0: the network's width.
        decoder_width: channels of the decoder's hidden layers.
        hard_negative: whether the changed clip is a negative of its own anchor in InfoNCE, too, as the reversed clip
            of Motion-R3 is.
        variant: "standard", or the formulas of the "paper" as printed.
    """

    former_options: ClassVar[Mapping[str, str]] = {
        "between": "interpolation",
        "frames": "playback.frames",
        "rate": "playback.rate",
        "spliced": "playback.loop_at_speed_1",
        "changed": "playback.vary_speed",
        "broken": "playback.negative",
        "momentum": "queue.momentum",
        "width": "projector.width",
        "layers": "projector.layers",
        "hidden": "decoder_width",
    }

    def __init__(
        self,
        backbone: Backbone,
        triplet: float = 1.0,
        nce: float = 1.0,
        interpolation: float = 1.0,
        margin: float = 0.15,
        temperature: float = 0.5,
        playback: PlaybackOptions = PLAYBACK,
        queue: QueueOptions = QUEUE,
        projector: ProjectorOptions = PROJECTOR,
        decoder_width: int = 128,
        hard_negative: bool = False,
        variant: Literal["standard", "paper"] = "standard",
    ) -> None:
        super().__init__(backbone, queue.momentum, queue.anneal)
        if playback.rate < 2 or playback.frames < 2 or temperature <= 0 or margin < 0:
            raise TrainingError(
                "MCC: rate and frames are at least 2, temperature > 0, margin >= 0; "
                f"given {playback.rate}, {playback.frames}, {temperature}, {margin}"
            )
        if min(triplet, nce, interpolation) < 0 or triplet + nce + interpolation == 0:
            weights = (triplet, nce, interpolation)
            raise TrainingError(f"MCC: weights are 0 or more and not all 0; given {weights}")
        self.weights = {"triplet": triplet, "nce": nce, "interpolation": interpolation}
        self.margin, self.temperature, self.variant = margin, temperature, variant
        self.playback, self.hard_negative = playback, hard_negative
        hidden = projector.hidden or backbone.width
        self.projector = Projector(backbone.width, hidden, projector.width, projector.layers)
        self.queue = Queue(queue.size, projector.width if projector.layers else backbone.width)
        if decoder_width < 1:
            raise TrainingError(f"MCC: decoder_width {decoder_width}; allowed: 1 and more")
        self.decoder = Decoder(backbone, decoder_width, playback.rate) if interpolation else None
        self.keys = self.momentum_copy(Encoder(backbone, self.projector)) if queue.momentum else None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The network, and the decoder of the interpolation loss."""
        return {**super().networks, **({} if self.decoder is None else {"decoder": self.decoder})}

    def sample_transform(self, preprocess: Preprocess, view: View) -> SampleTransform:
        """Clips at playback speeds; of the view the steps on joints alone are used, with `playback.spatial`."""
        if not self.playback.spatial:
            return PlaybackSampling(preprocess, self.playback)
        if not isinstance(view, RandomView):
            raise TrainingError(f"MCC: playback.spatial takes the steps of a view; given {type(view).__name__}")
        return PlaybackSampling(preprocess, self.playback, view)

    def loss(self, batch: Batch) -> LossOutput:
        steps = {name: self._sequence(batch, name) for name in ("anchor", "positive")}
        features = {name: sequence.mean(-1) for name, sequence in steps.items()}
        anchor, positive = (unit(self.projector(features[name])) for name in ("anchor", "positive"))
        losses: dict[str, Tensor] = {}
        negative: Tensor | None = None
        if self.weights["triplet"] or self.hard_negative:
            negative = unit(self.projector(features_of(self.backbone, batch["negative"], batch.get("negative_mask"))))
        if self.weights["triplet"] and negative is not None:
            inverted = self.variant == "paper"
            losses["triplet"] = triplet(anchor, positive, negative, self.margin, inverted=inverted).mean()
        if self.weights["nce"]:
            losses["nce"] = self._nce(anchor, positive, batch, negative if self.hard_negative else None)
        if self.decoder is not None:
            errors = [self._interpolation(steps[name], batch, f"{name}_target") for name in steps]
            losses["interpolation"] = torch.stack(errors).mean()
        total = torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()
        return LossOutput(total, losses, features["anchor"])

    def _sequence(self, batch: Batch, name: str) -> Tensor:
        mask = batch.get(f"{name}_mask")
        return self.backbone.sequence(batch[name]) if mask is None else self.backbone.sequence(batch[name], mask)

    def _nce(self, anchor: Tensor, positive: Tensor, batch: Batch, negative: Tensor | None) -> Tensor:
        if self.keys is not None:
            with torch.no_grad():
                positive = self.keys(batch["positive"], batch.get("positive_mask"))
        excluded = self.queue.not_negative_mask(batch["index"])
        if self.variant == "paper":
            loss = printed_info_nce(anchor, positive, self.queue.keys, self.temperature, excluded).mean()
        else:
            keys = self.queue.keys.clone()
            own = None if negative is None else negative[:, None]
            loss = queue_info_nce(anchor, positive, keys, self.temperature, excluded, negatives=own).mean()
        self.queue.enqueue(positive, batch["index"], batch["label"])
        return loss

    def _interpolation(self, sequence: Tensor, batch: Batch, name: str) -> Tensor:
        """Equation 3: squared distance per joint, the mean over joints, frames, people and clips."""
        assert self.decoder is not None
        target, mask = batch[name], batch.get(f"{name}_mask")
        error: Tensor = (self.decoder(sequence, target.shape[2]) - target).square().sum(1)
        return error.mean() if mask is None else masked_mean(error.mean(2), mask)
