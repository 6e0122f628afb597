"""MCC: consistency and continuity of motion (Su, Lin, Wu: Self-supervised 3D Skeleton Action Representation Learning
with Motion Consistency and Continuity, ICCV 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone
from training.data.types import Array, Clip, Draw
from training.distributed import unit
from training.methods.base import Batch, Encoder, Method, Outcome, Projector, Queue, View
from training.methods.losses import against_queue, triplet
from training.transforms.preprocess import Prepare

SPEEDS = (1, 2, 4, 8)
"""Playback speeds (section 3.1)."""


def play(array: Array, start: float, step: float, frames: int) -> Array:
    """`frames` frames of (M, T, V, C) from `start`, `step` frames apart; between frames linear, beyond the end from the first again."""
    at = (start + step * np.arange(frames)) % array.shape[1]
    before = at.astype(np.int64)
    share = (at - before).astype(np.float32)[:, None, None]
    if not share.any():
        return array[:, before]
    after = (before + 1) % array.shape[1]
    between: Array = array[:, before] * (1 - share) + array[:, after] * share
    return between


@dataclass(frozen=True)
class Triplet:
    """Three clips of a sequence at playback speeds, and what two of them are to be interpolated to.

    `anchor` b = S(r_i), `positive` p = S(r_j) with r_j != r_i, `negative` n = S(r_i) with its frames shuffled, each of `frames`
    frames from its own random start; `anchor_between`, `positive_between` are S(r / rate) of `rate` times as many frames.
    At speed 1 the paper splices the clip `rate` times (section 3.2); `spliced` False interpolates the frames between instead.

    Attributes:
        changed: whether the positive has another speed; False is the paper's ablation without.
        broken: how the negative is broken: its frames shuffled, its joints jittered, or the view turned (table 2).
        spatial: a view of `frames` frames applied to each clip, or None.
    """

    prepare: Prepare
    frames: int
    rate: int
    spliced: bool
    changed: bool
    broken: Literal["shuffled", "jittered", "turned"]

    def __call__(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        array = self.prepare(clip)
        first, second = rng.choice(len(SPEEDS), 2, replace=False)
        if not self.changed:
            second = first
        drawn: dict[str, Any] = {}
        for name, speed in (("anchor", SPEEDS[first]), ("positive", SPEEDS[second])):
            start = int(rng.integers(array.shape[1]))
            drawn[name] = play(array, start, speed, self.frames)
            drawn[f"{name}_between"] = self._between(array, drawn[name], start, speed)
        negative = play(array, int(rng.integers(array.shape[1])), SPEEDS[first], self.frames)
        drawn["negative"] = self._break(negative, rng)
        return drawn

    def _between(self, array: Array, played: Array, start: int, speed: int) -> Array:
        if speed == 1 and self.spliced:
            return np.concatenate([played] * self.rate, axis=1)
        return play(array, start, speed / self.rate, self.rate * self.frames)

    def _break(self, array: Array, rng: np.random.Generator) -> Array:
        if self.broken == "shuffled":
            return array[:, rng.permutation(array.shape[1])]
        if self.broken == "jittered":
            return array + rng.normal(0, 0.1, array.shape).astype(np.float32)
        angle = rng.uniform(-np.pi, np.pi)
        turned = array.copy()
        x, y = array[..., 0], array[..., 1]
        turned[..., 0], turned[..., 1] = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
        return turned


class Decoder(nn.Module):
    """Joints (N, C, rate T, V, M) of features a time step (N, D, T').

    Four convolutions over time, each with a norm, then a transposed one that reaches the length. The
    paper's decoder is in a supplement that cannot be had; it says four spatio-temporal blocks and a deconvolution.
    """

    def __init__(self, width: int, hidden: int, factor: int, channels: int, joints: int, people: int) -> None:
        super().__init__()
        self.shape = (channels, joints, people)
        blocks: list[nn.Module] = []
        for before in (width, hidden, hidden, hidden):
            blocks += [
                nn.Conv1d(before, hidden, 5, padding=2, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(inplace=True),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.rise = nn.ConvTranspose1d(hidden, channels * joints * people, factor, factor)

    def forward(self, sequence: Tensor, frames: int) -> Tensor:
        c, v, m = self.shape
        out: Tensor = self.rise(self.blocks(sequence))
        return out[..., :frames].reshape(len(out), c, v, m, -1).permute(0, 1, 4, 2, 3)


class MCC(Method):
    """Triplet loss within a sequence, InfoNCE across sequences, and interpolation between frames (equation 4).

    Two printed formulas are inverted and not the default. Equation 1 has the distances exchanged, so that
    its minimum drives positives apart; equation 2 takes exp(+distance / tau), which rewards distance: here
    the margin is on d(b, p) - d(b, n) of unit vectors, and similarity is the cosine. `variant="paper"` takes
    both as printed. The bank of K keys is printed as 6536. One encoder makes both sides, as in the paper;
    with `momentum` above 0 keys come from its exponential moving average.

    Args:
        triplet, nce, between: the weights lambda 1 to 3; 0 leaves a term out.
        margin: gamma. temperature: tau. queue: K. frames: of a clip. rate: l of the interpolation.
        spliced: the target at speed 1 is the clip `rate` times over, as printed; otherwise frames between its frames.
        changed, broken: how pairs are made (table 2).
        width: of the projected embedding; layers: of the projector, 0 compares features as they are.
        hidden: width of the decoder.
    """

    def __init__(
        self,
        backbone: Backbone,
        triplet: float = 1.0,
        nce: float = 1.0,
        between: float = 1.0,
        margin: float = 0.15,
        temperature: float = 0.5,
        queue: int = 6536,
        momentum: float = 0.0,
        frames: int = 32,
        rate: int = 2,
        spliced: bool = True,
        changed: bool = True,
        broken: Literal["shuffled", "jittered", "turned"] = "shuffled",
        width: int = 128,
        layers: int = 1,
        hidden: int = 128,
        variant: Literal["standard", "paper"] = "standard",
    ) -> None:
        super().__init__(backbone, momentum)
        if rate < 2 or frames < 2 or temperature <= 0 or margin < 0:
            raise TrainingError(
                f"MCC: rate and frames are at least 2, temperature > 0, margin >= 0; given {rate}, {frames}, {temperature}, {margin}"
            )
        if min(triplet, nce, between) < 0 or triplet + nce + between == 0:
            raise TrainingError(f"MCC: weights are 0 or more and not all 0; given {triplet}, {nce}, {between}")
        self.weights = {"triplet": triplet, "nce": nce, "between": between}
        self.margin, self.temperature, self.variant = margin, temperature, variant
        self.making = {"frames": frames, "rate": rate, "spliced": spliced, "changed": changed, "broken": broken}
        self.projector = Projector(backbone.width, backbone.width, width, layers)
        self.queue = Queue(queue, width if layers else backbone.width)
        factor = backbone.stride * rate
        v = backbone.skeleton.num_joints
        self.decoder = (
            Decoder(backbone.width, hidden, factor, backbone.channels, v, backbone.people) if between else None
        )
        self.keys = self.shadow(Encoder(backbone, self.projector)) if momentum else None

    def draw(self, prepare: Prepare, view: View) -> Draw:
        """Clips at playback speeds; the view is not used, the method makes its own."""
        return Triplet(prepare, **self.making)  # type: ignore[arg-type]

    def loss(self, batch: Batch) -> Outcome:
        steps = {name: self.backbone.sequence(batch[name]) for name in ("anchor", "positive")}
        features = {name: sequence.mean(-1) for name, sequence in steps.items()}
        anchor, positive = (unit(self.projector(features[name])) for name in ("anchor", "positive"))
        losses: dict[str, Tensor] = {}
        if self.weights["triplet"]:
            negative = unit(self.projector(self.backbone.features(batch["negative"])))
            losses["triplet"] = triplet(
                anchor, positive, negative, self.margin, inverted=self.variant == "paper"
            ).mean()
        if self.weights["nce"]:
            losses["nce"] = self._nce(anchor, positive, batch)
        if self.decoder is not None:
            losses["between"] = torch.stack(
                [self._between(steps[name], batch[f"{name}_between"]) for name in steps]
            ).mean()
        total = torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()
        return Outcome(total, losses, features["anchor"])

    def _nce(self, anchor: Tensor, positive: Tensor, batch: Mapping[str, Any]) -> Tensor:
        if self.keys is not None:
            with torch.no_grad():
                positive = self.keys(batch["positive"])
        known = self.queue.known(batch["index"])
        if self.variant == "paper":
            logits = torch.cat(
                [torch.linalg.vector_norm(anchor - positive, dim=1)[:, None], torch.cdist(anchor, self.queue.keys)], 1
            )
            logits = (logits / self.temperature).masked_fill(
                torch.cat([torch.zeros_like(known[:, :1]), known], 1), -torch.inf
            )
            loss = (torch.logsumexp(logits, 1) - logits[:, 0]).mean()
        else:
            loss = against_queue(anchor, positive, self.queue.keys.clone(), self.temperature, known).mean()
        self.queue.push(positive, batch["index"], batch["label"])
        return loss

    def _between(self, sequence: Tensor, target: Tensor) -> Tensor:
        """Equation 3: squared distance of a joint, the mean over joints, frames, people and clips."""
        assert self.decoder is not None
        error: Tensor = self.decoder(sequence, target.shape[2]) - target
        return error.square().sum(1).mean()
