"""LTN: latent time navigation, contrast of clips of one video that stays aware of when each is.

Source: Yang et al., Self-supervised Video Representation Learning via Latent Time Navigation, AAAI 2023 (thesis,
chapter 5), on rho-MoCo and rho-BYOL of Feichtenhofer et al., A Large-Scale Study on Unsupervised Spatiotemporal
Representation Learning, CVPR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone
from training.data.rgb import as_frames, seconds_of
from training.data.types import SampleTransform, SkeletonSequence
from training.distributed import masked_mean, unit
from training.methods.base import Batch, LossOutput, Method, Projector, ProjectorOptions, View, features_of
from training.methods.losses import Form, queue_info_nce
from training.methods.queue import Queue, QueueOptions
from training.transforms.preprocess import Preprocess
from training.transforms.rgb import PicturePreprocess, PictureViews, changed_views
from training.transforms.view import View as RandomView

Transform = Literal["linear", "attention", "addition", "none"]
QUEUE = QueueOptions(size=8192)
PROJECTOR = ProjectorOptions(layers=3)
PICTURES = PictureViews()


@dataclass(frozen=True)
class TimeOptions:
    """The time encoder and the basis of directions that time moves features along.

    Attributes:
        hidden: width of the hidden layers of the time encoder.
        directions: M of the basis.
        orthogonal: whether the directions are made orthogonal, by Gram-Schmidt in every step.
        inputs: "span" for beginning, end, and distance from the beginning of the clip before; or "start" alone, as the
            thesis has it in words. All in seconds from the beginning of the video.
    """

    hidden: int = 2048
    directions: int = 64
    orthogonal: bool = True
    inputs: Literal["span", "start"] = "span"


TIME = TimeOptions()


def orthonormal(matrix: Tensor) -> Tensor:
    """The columns of a matrix (D, M) made orthonormal, as Gram-Schmidt makes them (thesis, equation 5.1)."""
    with torch.autocast(matrix.device.type, enabled=False):
        wide = matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
        q, r = torch.linalg.qr(wide)
        signs = torch.sign(torch.diagonal(r))
        made: Tensor = q * torch.where(signs == 0, torch.ones_like(signs), signs)
        return made


class TimeBlend(nn.Module):
    """Features and times to features that are moved to where their time is: f* of the thesis.

    With e = MLP([MLP(t), f]) (equation 5.2): "addition" is f + e (5.3); "attention" is f times the sum of
    softmax(e)_i d_i, element by element (5.4); "linear" is f + sum of e_i d_i (5.5), which changes f along the
    directions alone.

    Args:
        width: D of the features.
        transform: one of the three.
        options: of the time encoder and the basis.
    """

    def __init__(self, width: int, transform: Transform, options: TimeOptions) -> None:
        super().__init__()
        inputs, code = (3 if options.inputs == "span" else 1), options.directions
        outputs = width if transform == "addition" else options.directions
        self.transform, self.inputs, self.orthogonal = transform, inputs, options.orthogonal
        self.norm = nn.BatchNorm1d(inputs)
        self.time = Projector(inputs, options.hidden, code, 2)
        self.blend = Projector(code + width, options.hidden, outputs, 2)
        if transform != "addition":
            self.directions = nn.Parameter(nn.init.orthogonal_(torch.empty(width, options.directions)))

    def basis(self) -> Tensor:
        """(D, M) the directions."""
        return orthonormal(self.directions) if self.orthogonal else self.directions

    def forward(self, features: Tensor, times: Tensor) -> Tensor:
        """f* (N, D) of features (N, D) and times (N, 3) in seconds."""
        code = self.time(self.norm(times[:, : self.inputs].to(self.norm.weight.dtype)))
        made: Tensor = self.blend(torch.cat([code.to(features.dtype), features], 1))
        if self.transform == "addition":
            return features + made
        basis = self.basis().to(features.dtype)
        if self.transform == "attention":
            moved: Tensor = features * (torch.softmax(made, 1).to(features.dtype) @ basis.T)
            return moved
        return features + made.to(features.dtype) @ basis.T


class TimeAwareEncoder(nn.Module):
    """A network, what time does to its features, and a projector."""

    def __init__(self, backbone: Backbone, blend: TimeBlend | None, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.blend, self.projector = backbone, blend, projector

    def forward(self, pictures: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) of clips (N, 3, T, H, W), and their projections (N, width)."""
        features = features_of(self.backbone, pictures)
        moved = features if self.blend is None else self.blend(features, times)
        return features, self.projector(moved)


@dataclass(frozen=True)
class ClipsOfVideo:
    """Several clips of a video at random times, each with its own random view, in the order of time.

    The sample has clip0 ... of shape (W, T, H, 3), and times (P, 3) float32: when each begins and ends, and how long
    after the clip before it begins (0 of the first), in seconds from the beginning of the video.

    Attributes:
        preprocess: of the pictures.
        views: random changes of a clip.
        frames: T of each clip.
        stride: frames of the video for each frame of a clip; of a shorter video they lie as far apart as it allows.
        clips: P.
        part: most of the video that a clip covers; of short videos frames lie closer, so that clips can differ in time.
    """

    preprocess: PicturePreprocess
    views: PictureViews
    frames: int
    stride: int
    clips: int
    part: float

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        pictures, seconds = as_frames(self.preprocess.joints(sequence)), seconds_of(sequence)
        total = len(pictures)
        span = min((self.frames - 1) * self.stride, self.part * (total - 1))
        starts = np.sort(rng.uniform(0, total - 1 - span, self.clips)) if total > 1 else np.zeros(self.clips)
        sample: dict[str, Any] = {}
        times = np.zeros((self.clips, 3), np.float32)
        for number, start in enumerate(starts.tolist()):
            positions = np.rint(start + np.linspace(0, span, self.frames)).astype(np.int64)
            sample[f"clip{number}"] = changed_views(pictures[positions], self.views, self.preprocess, rng)
            times[number, :2] = seconds[positions[0]], seconds[positions[-1]]
        times[1:, 2] = np.diff(times[:, 0])
        sample["times"] = times
        return sample


class LTN(Method):
    """LTN: features of clips of one video are alike once each is moved along a few learnt directions to where its time
    is. So features stay aware of time along these, and an action and its reverse can be told apart.

    P clips of each video are drawn. Each in turn is a query, and the others are its keys, which a momentum encoder
    computes. The time encoder, the directions and the projector are dropped when the network is taken elsewhere.

    Equation 5.6 of the thesis sums over positive keys in the numerator and over negatives alone in the denominator,
    which has no lower bound; `variant = "paper"` takes it. Otherwise each positive key has a contrast of its own, and
    the mean is taken, as in rho-MoCo.

    Args:
        backbone: a network over pictures.
        transform: what time does to features: "linear" (variant 3 of the thesis), "attention" (2) or "addition" (1);
            "none" is rho-MoCo or rho-BYOL, whose features are to be the same at all times.
        framework: "moco", with a queue of negatives; or "byol", without negatives and with a predictor.
        positives: P, clips of each video.
        stride: frames of the video for each frame of a clip; 8 x 8 with `view.frames` 8.
        part: most of a video that one clip covers, from 0 to 1.
        temperature: divides cosines, of "moco".
        queue: of negatives, and the momentum encoder.
        projector: an MLP after the features.
        time: the time encoder and the directions.
        pictures: random changes of a clip.
        variant: "standard", or "paper" for the contrast as printed.

    Raises:
        TrainingError: an option out of range, or a network over joints.
    """

    def __init__(
        self,
        backbone: Backbone,
        transform: Transform = "linear",
        framework: Literal["moco", "byol"] = "moco",
        positives: int = 4,
        stride: int = 8,
        part: float = 0.5,
        temperature: float = 0.1,
        queue: QueueOptions = QUEUE,
        projector: ProjectorOptions = PROJECTOR,
        time: TimeOptions = TIME,
        pictures: PictureViews = PICTURES,
        variant: Literal["standard", "paper"] = "standard",
    ) -> None:
        super().__init__(backbone, queue.momentum, queue.anneal)
        if positives < 2 or stride < 1 or not 0 < part < 1 or temperature <= 0:
            raise TrainingError(
                f"positives {positives}, stride {stride}, part {part:g}, temperature {temperature:g}; allowed: 2 and "
                "more, 1 and more, between 0 and 1, above 0"
            )
        if not backbone.takes_pictures:
            raise TrainingError(
                f"ltn learns from pictures, and {type(backbone).__name__} takes joints; choose a network over "
                "pictures, such as slow_r50"
            )
        if time.hidden < 1 or not 1 <= time.directions < backbone.width:
            raise TrainingError(
                f"time.hidden {time.hidden} and time.directions {time.directions}; allowed: 1 and more, and 1 to "
                f"{backbone.width - 1}, as the network has {backbone.width} features"
            )
        self.positives, self.stride, self.part, self.pictures = positives, stride, part, pictures
        self.temperature, self.framework = temperature, framework
        self.form: Form = "paper" if variant == "paper" else "alone"
        blend = None if transform == "none" else TimeBlend(backbone.width, transform, time)
        width = projector.width if projector.layers else backbone.width
        head: nn.Module = Projector(backbone.width, projector.hidden, projector.width, projector.layers)
        if framework == "byol":
            head = normed(head)
        self.encoder = TimeAwareEncoder(backbone, blend, head)
        self.key_encoder = self.momentum_copy(self.encoder)
        self.predictor = normed(Projector(width, projector.hidden, width, 2)) if framework == "byol" else None
        self.queue = Queue(queue.size, width) if framework == "moco" else None

    def sample_transform(self, preprocess: Preprocess, view: View) -> SampleTransform:
        """Several clips of each video.

        Raises:
            TrainingError: the data are no pictures, or the view has steps, which `pictures` takes the place of.
        """
        if not isinstance(preprocess, PicturePreprocess) or not isinstance(view, RandomView):
            raise TrainingError(
                "ltn learns from videos, and the data are joints; give a folder of videos, or a dataset built with "
                'pack.keep_video and data.format = "videos"'
            )
        if view.steps not in ("none", ()):
            raise TrainingError('ltn draws its own clips of videos (method.pictures): set view.steps to "none"')
        return ClipsOfVideo(preprocess, self.pictures, view.frames, self.stride, self.positives, self.part)

    def loss(self, batch: Batch) -> LossOutput:
        """The contrast of every clip with the others of its video."""
        pictures = torch.stack([batch[f"clip{number}"] for number in range(self.positives)], 1).flatten(0, 1)
        times = batch["times"].flatten(0, 1)
        features, projected = self.encoder(pictures, times)
        with torch.no_grad():
            keys = unit(self.key_encoder(pictures, times)[1]).unflatten(0, (-1, self.positives))
        if self.queue is None:
            assert self.predictor is not None
            loss = self._regression(unit(self.predictor(projected)).unflatten(0, (-1, self.positives)), keys)
        else:
            loss = self._contrast(unit(projected).unflatten(0, (-1, self.positives)), keys, self.queue, batch["index"])
        return LossOutput(loss, {"contrast": loss}, features.unflatten(0, (-1, self.positives))[:, 0])

    def _contrast(self, queries: Tensor, keys: Tensor, queue: Queue, owners: Tensor) -> Tensor:
        """Mean InfoNCE of queries (N, P, D), each with the keys of the other clips of its video; fills the queue."""
        excluded = queue.not_negative_mask(owners)
        negatives = queue.keys.clone()
        each = [
            queue_info_nce(
                queries[:, number], self._others(keys, number), negatives, self.temperature, excluded, self.form
            )
            for number in range(self.positives)
        ]
        repeated = owners.repeat_interleave(self.positives)
        queue.enqueue(keys.flatten(0, 1), repeated, torch.full_like(repeated, -1))
        return masked_mean(torch.stack(each).mean(0), (~excluded).any(1))

    def _regression(self, predicted: Tensor, keys: Tensor) -> Tensor:
        """Mean squared distance of unit vectors (N, P, D) from the keys of the other clips (Grill et al. 2020, (2))."""
        each = [
            2 - 2 * (predicted[:, number, None] * self._others(keys, number)).sum(-1).mean(1)
            for number in range(self.positives)
        ]
        return torch.stack(each).mean()

    def _others(self, keys: Tensor, number: int) -> Tensor:
        """(N, P - 1, D) all keys but that of a clip itself."""
        return torch.cat([keys[:, :number], keys[:, number + 1 :]], 1)


def normed(layers: nn.Module) -> nn.Sequential:
    """An MLP with a norm before each ReLU, as BYOL has it: without, features collapse."""
    steps: list[nn.Module] = []
    for step in layers.children():
        if isinstance(step, nn.ReLU):
            before = steps[-1]
            assert isinstance(before, nn.Linear)
            steps.append(nn.BatchNorm1d(before.out_features))
        steps.append(step)
    return nn.Sequential(*steps)
