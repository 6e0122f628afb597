"""Motion-R3: contrast of whole motions and of their frames, for features that rank and annotate clips.

Source: Motion-R3: Fast and Accurate Motion Annotation via Representation-based Representativeness Ranking (arXiv
2304.01672, 2023), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone, at_steps
from training.data.entries import Motion
from training.data.types import Array, SampleTransform, SkeletonSequence
from training.distributed import gather, masked_mean, unit
from training.methods.base import Batch, LossOutput, Method, Projector, ProjectorOptions, View, features_of
from training.methods.losses import in_full_precision, info_nce, queue_info_nce
from training.methods.queue import Queue, QueueOptions
from training.transforms.preprocess import Preprocess
from training.transforms.view import View as RandomView

VIEWS = ("motion", "key", "reversed")


@dataclass(frozen=True)
class Perturbation:
    """Perturbation of single frames of a view (equations 3 and 4).

    Attributes:
        share: t_pb, the probability that a frame is perturbed.
        missing: t_md, the share of these that are missing, which is zero; the others show another frame of the view.
    """

    share: float = 0.15
    missing: float = 0.9

    def __call__(self, array: Array, rng: np.random.Generator) -> Array:
        """A perturbed copy of (M, T, V, C)."""
        frames = array.shape[1]
        drawn, others = rng.random(frames), rng.integers(frames, size=frames)
        is_missing = drawn < self.share * self.missing
        out: Array = array.take(np.where((drawn < self.share) & ~is_missing, others, np.arange(frames)), axis=1)
        out[:, is_missing] = 0
        return out


PERTURBATION = Perturbation()
QUEUE = QueueOptions(4096, 0.999, anneal=False)
PROJECTOR = ProjectorOptions(128, 128, 1)


@dataclass(frozen=True)
class PerturbedViews:
    """Two perturbed views of a clip, a third one played backwards, and when each frame of the first two was.

    Entries: "motion", "key" and "reversed" (M, T, V, C); "motion_frames" and "key_frames" (T,) float64, frames of the
    clip, -1 for empty ones.

    Attributes:
        preprocess: makes the input of the network.
        view: selects the frames (the downsampling of equation 5) and changes the joints.
        perturbation: of the frames of each view.
    """

    preprocess: Preprocess
    view: RandomView
    perturbation: Perturbation

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        prepared = self.preprocess.prepare(sequence)
        sample: dict[str, Any] = {}
        for name in VIEWS:
            array, positions = self.view.sampled(prepared.joints, rng)
            entry = self.preprocess.entry(array[:, ::-1] if name == "reversed" else array)
            made = self.perturbation(entry.array, rng)
            valid = None if entry.valid is None else entry.valid & np.asarray((made != 0).any((2, 3)))
            sample[name] = Motion(made, valid)
            if name != "reversed":
                sample[f"{name}_frames"] = prepared.frames_at(positions)
        return sample


class DualEncoder(nn.Module):
    """A network and its projector: motions to features (N, D), and unit vectors of the whole (N, W) and of each step
    (N, T', W)."""

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, motion: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """All three, of one pass where the features are the mean over time."""
        network = self.backbone
        steps = network.sequence(motion) if mask is None else network.sequence(motion, mask)
        is_mean = type(network).features is Backbone.features
        whole = network.mean_over_time(steps, mask) if is_mean else features_of(network, motion, mask)
        return whole, unit(self.projector(whole)), unit(self.projector(steps.transpose(1, 2)))


@in_full_precision
def frame_info_nce(query: Tensor, key: Tensor, near: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """InfoNCE of each step of a view among the steps of another view of the clip; near ones are its positives.

    Equation 11 is printed without negatives although the text defines them, and with the logarithm outside of the sum
    over frames. Here each step is an anchor of its own, and all steps of the other view are in its denominator.

    Args:
        query, key: (N, T', W) unit vectors of two views.
        near: (N, T', T') bool, steps of the second view near in time to each of the first.
        valid: (N, T') bool, steps of the second view that are there.
        temperature: divides cosines.

    Returns:
        (N, T') float; 0 for a step without a near one.
    """
    logits = query @ key.transpose(1, 2) / temperature
    among = valid[:, None].expand_as(near)
    each = info_nce(logits.flatten(0, 1), near.flatten(0, 1), among.flatten(0, 1))
    return each.view(near.shape[:2])


@in_full_precision
def printed_frame_loss(query: Tensor, key: Tensor, near: Tensor, temperature: float) -> Tensor:
    """Equation 11 as printed, (N,): -log of the sum over steps and their neighbours; arguments as of
    `frame_info_nce`."""
    logits = query @ key.transpose(1, 2) / temperature
    return -torch.logsumexp(logits.masked_fill(~near, torch.finfo(logits.dtype).min).flatten(1), 1)


class MotionR3(Method):
    """Contrast of whole motions against a queue and their own reversal, and of frames against frames farther in time.

    Three views of a clip are drawn by the steps of [view], whose steps on time are the paper's downsampling at random
    offsets and intervals: two are played forwards (query and key), one backwards. Single frames of each are missing or
    out of place. Whole motions are contrasted as in MoCo, frames of the query with those of the key: frames less than
    `neighbourhood` frames of the clip apart are positives of each other. Decisions where the paper is silent or cannot
    be trained as printed:

    - The reversed view is encoded by the momentum encoder, and is a negative of its own clip alone.
    - Frames have negatives (see `frame_info_nce`). Views differ in offset and interval, so what is near is measured in
      frames of the clip and not of the view.
    - Differences to frames around (equation 1) are an affair of the network: `st_transformer` takes them over frames of
      the view, so that its features need nothing but joints. Other networks see joints as they are.
    - The temperature, the momentum and the sizes of the queue and the projection are not printed; here those of MoCo.

    `variant="paper"` takes equation 11 as printed, neighbours by frames of the views, and one queue (equation 10) that
    also holds reversed views and queries of earlier batches; the reversed views of a batch are negatives of all its
    clips.

    Args:
        backbone: the network that learns.
        frame_weight: omega, the weight of the loss of frames; 0 leaves it out.
        neighbourhood: t_nb, frames of the clip; the paper's 12 are a tenth of a second at 120 frames per second.
        backwards: whether a reversed view is a negative.
        perturbation: of single frames.
        temperature: divides cosines.
        queue: of negatives, and the momentum encoder.
        projector: an MLP after the network, the same for motions and frames.
        variant: "standard", or the formulas of the "paper" as printed.

    Raises:
        TrainingError: an option out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        frame_weight: float = 1.0,
        neighbourhood: float = 12.0,
        backwards: bool = True,
        perturbation: Perturbation = PERTURBATION,
        temperature: float = 0.07,
        queue: QueueOptions = QUEUE,
        projector: ProjectorOptions = PROJECTOR,
        variant: Literal["standard", "paper"] = "standard",
    ) -> None:
        super().__init__(backbone, queue.momentum, queue.anneal)
        if frame_weight < 0 or neighbourhood <= 0 or temperature <= 0:
            raise TrainingError(
                f"frame_weight {frame_weight}, neighbourhood {neighbourhood}, temperature {temperature}; allowed: 0 "
                "and more, above 0, above 0"
            )
        if not (0 <= perturbation.share < 1 and 0 <= perturbation.missing <= 1):
            raise TrainingError(
                f"perturbation share {perturbation.share}, missing {perturbation.missing}; allowed: from 0 to below 1, "
                "from 0 to 1"
            )
        self.frame_weight, self.neighbourhood, self.backwards = frame_weight, neighbourhood, backwards
        self.perturbation, self.temperature, self.variant = perturbation, temperature, variant
        projection = Projector(backbone.width, projector.hidden, projector.width, projector.layers)
        self.encoder = DualEncoder(backbone, projection)
        self.key_encoder = self.momentum_copy(self.encoder)
        self.queue = Queue(queue.size, projector.width if projector.layers else backbone.width)

    def sample_transform(self, preprocess: Preprocess, view: View) -> SampleTransform:
        """Three perturbed views of each clip; see `PerturbedViews`."""
        if not isinstance(view, RandomView):
            raise TrainingError(
                f"r3 asks a view which frames it shows: give a training.transforms.View; given {type(view).__name__}"
            )
        return PerturbedViews(preprocess, view, self.perturbation)

    def loss(self, batch: Batch) -> LossOutput:
        """The contrast of motions, and of frames."""
        features, anchor, steps = self.encoder(batch["motion"], batch.get("motion_mask"))
        with torch.no_grad():
            _, key, key_steps = self.key_encoder(batch["key"], batch.get("key_mask"))
            turned = self.key_encoder(batch["reversed"], batch.get("reversed_mask"))[1] if self.backwards else key[:0]
        parts = {"sequence": self._sequences(anchor, key, turned, batch)}
        if self.frame_weight:
            parts["frame"] = self._frames(steps, key_steps, batch)
        loss = parts["sequence"] + self.frame_weight * parts.get("frame", torch.zeros_like(parts["sequence"]))
        return LossOutput(loss, parts, features)

    def _sequences(self, anchor: Tensor, key: Tensor, turned: Tensor, batch: Batch) -> Tensor:
        """Equation 9; afterwards the queue has the keys of this batch."""
        owners, is_printed = batch["index"], self.variant == "paper"
        negatives: Tensor | None = None
        if len(turned):
            negatives = gather(turned).expand(len(anchor), -1, -1) if is_printed else turned[:, None]
        excluded, keys = self.queue.not_negative_mask(owners), self.queue.keys.clone()
        each = queue_info_nce(anchor, key, keys, self.temperature, excluded, negatives=negatives)
        for row in (turned, anchor.detach(), key) if is_printed else (key,):
            if len(row):
                self.queue.enqueue(row, owners, torch.full_like(owners, -1))
        return masked_mean(each, (~excluded).any(1) | (negatives is not None))

    def _frames(self, steps: Tensor, key_steps: Tensor, batch: Batch) -> Tensor:
        """The contrast of frames: the mean over those that have a near one in the other view."""
        time, there = self._times(batch, "motion", steps.shape[1])
        key_time, key_there = self._times(batch, "key", steps.shape[1])
        if self.variant == "paper":
            place = torch.arange(steps.shape[1], device=steps.device) * self.backbone.stride
            time, key_time = place.expand_as(there), place.expand_as(there)
        apart = (time[:, :, None] - key_time[:, None]).abs()
        near = (apart < self.neighbourhood) & there[:, :, None] & key_there[:, None]
        if self.variant == "paper":
            return masked_mean(printed_frame_loss(steps, key_steps, near, self.temperature), near.any(2).any(1))
        each = frame_info_nce(steps, key_steps, near, key_there, self.temperature)
        return masked_mean(each.flatten(), near.any(2).flatten())

    def _times(self, batch: Batch, name: str, steps: int) -> tuple[Tensor, Tensor]:
        """When each step of a view was, (N, T') frames of the clip, and whether somebody is there, (N, T') bool."""
        frames, stride = batch[f"{name}_frames"], self.backbone.stride
        shown, mask = frames >= 0, batch.get(f"{name}_mask")
        there = at_steps(shown[..., None] if mask is None else mask & shown[..., None], stride).any(2)
        rest = (0, -frames.shape[1] % stride)
        grouped = nn.functional.pad(frames.masked_fill(~shown, 0), rest).view(len(frames), -1, stride)
        count = nn.functional.pad(shown, rest).view(grouped.shape).sum(2).clamp(min=1)
        return (grouped.sum(2) / count)[:, :steps], there[:, :steps]
