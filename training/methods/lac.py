"""LAC: contrast of composed motions, of whole sequences and of single time steps.

Source: Yang et al., LAC - Latent Action Composition for Skeleton-based Action Segmentation, ICCV 2023 (thesis, 4.3).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from dataengine.io.storage import file_hash
from training.backbones.base import Backbone
from training.backbones.skeleton_autoencoder import SkeletonAutoencoder
from training.data.types import SampleTransform
from training.distributed import masked_mean, unit
from training.methods.base import Batch, LossOutput, Method, Projector, ProjectorOptions, RandomViews, View
from training.methods.generator import composed, generator_file, load_generator
from training.methods.losses import Form, in_full_precision, info_nce
from training.methods.queue import Queue, QueueOptions
from training.transforms.preprocess import Preprocess

QUEUE = QueueOptions(8192, 0.994, anneal="auto")
PROJECTOR = ProjectorOptions(2048, 128, 2)


class TimeEncoder(nn.Module):
    """A network and its projector: motions (N, C, T, V, M) to unit vectors of the sequence (N, D) and of each time step
    (N, T', D)."""

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, motion: Tensor) -> tuple[Tensor, Tensor]:
        """Both, of one pass."""
        steps = self.backbone.sequence(motion).transpose(1, 2)
        return unit(self.projector(steps.mean(1))), unit(self.projector(steps))


@in_full_precision
def positives_info_nce(
    query: Tensor, keys: Tensor, queue: Tensor, temperature: float, excluded: Tensor, form: Form
) -> Tensor:
    """InfoNCE (N,) of queries (N, D), P keys each (N, P, D), against a queue (Q, D) without what is `excluded` (N,
    Q)."""
    logits = torch.cat([torch.einsum("nd,npd->np", query, keys), query @ queue.T], 1) / temperature
    positive = torch.zeros_like(logits, dtype=torch.bool)
    positive[:, : keys.shape[1]] = True
    return info_nce(logits, positive, positive | torch.cat([positive[:, : keys.shape[1]], ~excluded], 1), form)


class LAC(Method):
    """Contrast of composed motions on several bodies, in the space of sequences and in that of time steps.

    A frozen autoencoder of `lac_retarget` composes the motion of every clip with those of others of its batch, and
    generates it on the clip's own body (query) and on P others (positive keys). Negatives are keys of earlier batches,
    of whole sequences and of time steps. Similarities of time steps are averaged over time; the published program sums
    them, which divides the temperature by the number of steps.

    The thesis prints losses without the positives in the denominator (equations 4.6 and 4.7), which have no lower
    bound; `variant = "paper"` takes these, and sums over time.

    Args:
        backbone: the network that learns.
        generator: folder of a finished run of lac_retarget, or a file of its weights.
        motions: how many motions are composed; 1: none, bodies and views alone are changed; 0: no generator, two random
            views of a clip as in MoCo.
        positives: P, bodies beside its own on which each composed motion is generated.
        frame_weight: weight of the loss of time steps; 0: none.
        steps: time steps that are contrasted, evenly spaced over the network's own.
        variant: "standard", or "paper".
        temperature: divides cosines.
        queue: of negatives, and the momentum encoder.
        projector: an MLP after the network, the same for sequences and time steps.

    Raises:
        TrainingError: an option out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        generator: str = "",
        motions: int = 2,
        positives: int = 4,
        frame_weight: float = 1.0,
        steps: int = 16,
        variant: Literal["standard", "paper"] = "standard",
        temperature: float = 0.1,
        queue: QueueOptions = QUEUE,
        projector: ProjectorOptions = PROJECTOR,
    ) -> None:
        super().__init__(backbone, queue.momentum, queue.anneal)
        if motions < 0 or positives < 1 or frame_weight < 0 or steps < 1 or temperature <= 0:
            raise TrainingError(
                f"motions {motions}, positives {positives}, frame_weight {frame_weight}, steps {steps}, temperature "
                f"{temperature}; allowed: 0 and more, 1 and more, 0 and more, 1 and more, above 0"
            )
        if motions == 0 and frame_weight:
            raise TrainingError(
                "motions 0 contrasts two random views, whose time steps are not of the same time: set frame_weight to 0"
            )
        self.path, self.motions, self.positives = generator, motions, 1 if motions == 0 else positives
        self.frame_weight, self.steps, self.temperature = frame_weight, steps, temperature
        self.form: Form = "paper" if variant == "paper" else "sum"
        self.step_temperature = temperature / steps if variant == "paper" else temperature
        self.encoder = TimeEncoder(
            backbone, Projector(backbone.width, projector.hidden, projector.width, projector.layers)
        )
        self.key_encoder = self.momentum_copy(self.encoder)
        width = projector.width if projector.layers else backbone.width
        self.queue = Queue(queue.size, width)
        self.step_queue = Queue(queue.size, width * steps) if frame_weight else None
        self.register_buffer("generator_hash", torch.zeros(32, dtype=torch.uint8))
        self._generator: tuple[SkeletonAutoencoder, ...] = ()  # no part of the checkpoint, which keeps its hash
        self._same_generator = False

    generator_hash: Tensor

    def sample_transform(self, preprocess: Preprocess, view: View) -> SampleTransform:
        """A random view of each clip; without a generator two.

        Raises:
            TrainingError: no autoencoder is there, or it does not go with the clips.
        """
        if self.motions == 0:
            return RandomViews(preprocess, {"motion": view, "key": view})
        network = load_generator(self.path, self.backbone.skeleton)
        if network.axes != self.backbone.channels or preprocess.stream != "joint" or preprocess.score:
            raise TrainingError(
                f"the autoencoder of {self.path} generates joints of {network.axes} coordinates; the network takes "
                f"{self.backbone.channels} channels of stream {preprocess.stream!r}: train lac_retarget with "
                "backbone.axes as many as the data have, and set preprocess.stream to joint, preprocess.score to false"
            )
        self._generator = (network,)
        return RandomViews(preprocess, {"motion": view})

    def loss(self, batch: Batch) -> LossOutput:
        """The contrast of sequences, and of time steps."""
        query, keys = self._pairs_of(batch)
        anchor, anchor_steps = self.encoder(query)
        with torch.no_grad():
            encoded = [self.key_encoder(key) for key in keys]
        owners, labels = batch["index"], torch.full_like(batch["index"], -1)
        sequences = torch.stack([one for one, _ in encoded], 1)
        parts = {"sequence": self._contrast(anchor, sequences, self.queue, self.temperature, owners)}
        loss = parts["sequence"]
        if self.step_queue is not None:
            flat = torch.stack([self._flat(steps) for _, steps in encoded], 1)
            temperature = self.step_temperature
            parts["frame"] = self._contrast(self._flat(anchor_steps), flat, self.step_queue, temperature, owners)
            loss = loss + self.frame_weight * parts["frame"]
            self.step_queue.enqueue(flat[:, 0], owners, labels)
        self.queue.enqueue(sequences[:, 0], owners, labels)
        return LossOutput(loss, parts, anchor)

    def _pairs_of(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """The query of each clip, and its P keys, each (N, C, T, V, M)."""
        if self.motions == 0:
            return batch["motion"], [batch["key"]]
        network = self._network(batch["motion"])
        with torch.autocast(batch["motion"].device.type, enabled=False):
            return composed(network, batch["motion"], self.motions, self.positives)

    def _network(self, like: Tensor) -> SkeletonAutoencoder:
        """The generator on the device of a tensor, the one that the run began with.

        Raises:
            TrainingError: its file has changed since, or none was loaded.
        """
        if not self._generator:
            raise TrainingError("lac has no autoencoder yet: make its sample_transform first")
        network = self._generator[0]
        if network.mean.device != like.device or network.mean.dtype != like.dtype:
            network.to(like.device, like.dtype)
        if self._same_generator:
            return network
        own = torch.tensor(list(bytes.fromhex(file_hash(generator_file(self.path)))), dtype=torch.uint8)
        held = self.generator_hash.cpu()
        if held.any() and not torch.equal(held, own):
            raise TrainingError(
                f"the autoencoder of {self.path} is not the one that this run began with: put it back, or start anew "
                "in another folder"
            )
        self.generator_hash.copy_(own)
        self._same_generator = True
        return network

    def _flat(self, steps: Tensor) -> Tensor:
        """Time steps (N, T', D) as one unit vector (N, steps D), so that a product is the mean cosine over time.

        Raises:
            TrainingError: the network gives fewer steps.
        """
        total = steps.shape[1]
        if total < self.steps:
            raise TrainingError(
                f"the network gives {total} time steps of a view, and method.steps are {self.steps}: set method.steps "
                f"to {total} or fewer, or view.frames to {self.steps * self.backbone.stride} or more"
            )
        chosen = torch.linspace(0, total - 1, self.steps, device=steps.device).round().long()
        flat: Tensor = steps[:, chosen].flatten(1) / self.steps**0.5
        return flat

    def _contrast(self, query: Tensor, keys: Tensor, queue: Queue, temperature: float, owners: Tensor) -> Tensor:
        """Mean InfoNCE of queries; those without a negative do not count."""
        excluded = queue.not_negative_mask(owners)
        each = positives_info_nce(query, keys, queue.keys.clone(), temperature, excluded, self.form)
        return masked_mean(each, (~excluded).any(1))
