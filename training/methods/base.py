"""The base of methods: declaration of needs, random views, projector, momentum copies."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError, suggestion
from training.backbones.base import Backbone
from training.data.partners import Partner
from training.data.types import Array, SampleTransform, SkeletonSequence
from training.distributed import unit
from training.transforms.preprocess import Preprocess
from training.transforms.view import View as RandomView

View: TypeAlias = Callable[[Array, np.random.Generator], Array]
Batch: TypeAlias = Mapping[str, Any]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class RandomViews:
    """Independent random views of a sequence by name, and the stored features that go with the clip.

    Attributes:
        preprocess: makes joints (M, T, V, C) of a sequence, and the stream that the network sees of a view of them.
        views: name -> view of the joints.
        partners: (view, partner): views of a partner of the clip (see `training.data.partners`) in place of the clip
            itself, where it has that partner.
        frames: whether an entry NAME_frames (T,) float64 says which frame of the clip each frame of a view shows: a
            fraction between two, -1 for an empty one.
        features: names of stored features. Of a feature (K, D) with several views one is chosen at random; a feature
            (D,) is taken as it is.
    """

    preprocess: Preprocess
    views: Mapping[str, View]
    features: tuple[str, ...] = ()
    frames: bool = False
    partners: tuple[tuple[str, str], ...] = ()

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        sample = self._with_frames(sequence, rng) if self.frames else self._views(sequence, rng)
        for name in self.features:
            if name not in sequence.features:
                hint = suggestion(name, sequence.features)
                raise TrainingError(f"clip {sequence.key!r} has no feature {name!r}{hint}")
            stored = np.asarray(sequence.features[name], np.float32)
            sample[name] = stored[rng.integers(len(stored))] if stored.ndim == 2 else stored
        return sample

    def _views(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        joints = self.preprocess.joints(sequence)
        if not self.partners:
            return {name: self.preprocess.entry(view(joints, rng)) for name, view in self.views.items()}
        shown = {name: self.preprocess.joints(self._clip(sequence, name)) for name in self.views}
        return {name: self.preprocess.entry(view(shown[name], rng)) for name, view in self.views.items()}

    def _clip(self, sequence: SkeletonSequence, name: str) -> SkeletonSequence:
        """The clip that a view is of."""
        return sequence.partners.get(dict(self.partners).get(name, ""), sequence)

    def _with_frames(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        sample: dict[str, Any] = {}
        for name, view in self.views.items():
            prepared = self.preprocess.prepare(self._clip(sequence, name))
            if not isinstance(view, RandomView):
                raise TrainingError(
                    f"view {name!r} does not say which frames it shows; give a training.transforms.View"
                )
            array, positions = view.sampled(prepared.joints, rng)
            sample |= {name: self.preprocess.entry(array), f"{name}_frames": prepared.frames_at(positions)}
        return sample


MOST_LAYERS = 32
"""Of a projector."""


@dataclass(frozen=True)
class ProjectorOptions:
    """Sizes of a projector.

    Attributes:
        hidden: width of the hidden layers.
        width: D of the output.
        layers: linear layers, with ReLU between them; 0 is the identity.
    """

    hidden: int = 2048
    width: int = 128
    layers: int = 2


class Projector(nn.Sequential):
    """An MLP (N, features) -> (N, width): layers - 1 of Linear and ReLU, then Linear; 0 layers are the identity.

    Raises:
        TrainingError: a size out of range.
    """

    def __init__(self, features: int, hidden: int, width: int, layers: int) -> None:
        if (layers > 1 and hidden < 1) or width < 1 or not 0 <= layers <= MOST_LAYERS:
            raise TrainingError(
                f"projector.hidden {hidden}, width {width}, layers {layers}; allowed: 1 and more, 1 and more, 0 to "
                f"{MOST_LAYERS}"
            )
        sizes = [features, *[hidden] * (layers - 1)]
        steps: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            steps += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
        super().__init__(*steps, *([nn.Linear(sizes[-1], width)] if layers else []))


def features_of(backbone: Backbone, motion: Tensor, mask: Tensor | None = None) -> Tensor:
    """Features (N, D) of motions, of the frames and people that a mask (N, T, M) says are there."""
    return backbone.features(motion) if mask is None else backbone.features(motion, mask)


class Encoder(nn.Module):
    """A network and its projector: motions (N, C, T, V, M) to unit vectors (N, D)."""

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, motion: Tensor, mask: Tensor | None = None) -> Tensor:
        return unit(self.projector(features_of(self.backbone, motion, mask)))


@dataclass
class LossOutput:
    """The loss of a batch.

    Attributes:
        loss: () float.
        parts: terms of the loss by name, for the log.
        features: (N, D), for the collapse statistics of the log; None: no statistics.
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    features: Tensor | None = None


@dataclass(frozen=True)
class Needs:
    """What a method with these options needs of the data and of the run.

    Attributes:
        features: names of stored features that are read with each clip.
        labels: whether at least one clip must have a label.
        spans: whether clips must have spans of what happens when, whose classes are learnt frame by frame.
        texts: option -> encoder of texts. The run encodes the texts of the classes and gives the vectors (K, P, D), P
            texts per class, to the constructor under this option.
        text_networks: option -> encoder of texts that is trained along. The run makes the network, which knows the
            texts of the classes, and gives it to the constructor under this option; see
            `training.methods.text_network`.
        widths: option -> stored feature. The run measures the width of the feature, unless the option is given.
        networks: option -> folder of a finished run. The run loads it and gives its method to the constructor under
            this option, in evaluation mode; a checkpoint holds what it was made of.
        without: how a configuration does without the features, for messages.
    """

    features: tuple[str, ...] = ()
    labels: bool = False
    spans: bool = False
    texts: Mapping[str, Any] = field(default_factory=dict)
    text_networks: Mapping[str, Any] = field(default_factory=dict)
    widths: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    without: str = ""


ANNEALED = 100
"""Time constants of the momentum that a run lasts at least before the momentum is annealed by itself: 16,667 steps at
0.994. PySlowFast's schedule is for runs of ten times that length."""


def _rest(module: nn.Module, copies: set[int]) -> None:
    """Puts the parts of a module that have parameters, none of them trained, into evaluation mode."""
    if id(module) in copies:
        return
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _rest(child, copies)


class Method(nn.Module):
    """The base of methods: a subclass says what it needs, which views it takes, and the loss of a batch.

    Momentum encoders belong to the base: a `momentum_copy` of a module follows the module by an exponential
    moving average after every step. Queues, projectors and momentum copies are modules, so checkpoints hold them.

    Subclasses whose motions share a space with texts or videos implement `embed_motion`, and `embed_text` or
    `embed_video`, and name these in `modalities`.

    Attributes:
        classifies: whether the method trains the network's own classifier.
        per_frame: whether the method has a head of its own for classes of frames; the run gives it `num_classes`.
        has_projection: whether motions have a projection of their own beside the network's features; see `project`.
        probes: what is measured on validation clips while a run goes on (`run.probe_every`), the first is what the best
            network is chosen by: "knn" (labels of nearest neighbours), "frames" (mAP over frames of clips with spans),
            "measures" (see there).
        optional_networks: names of networks that it has with some options alone; settings of one that is not there
            have no effect.
        former_options: options by the names they once had.
        backbone: the network that learns, the primary one where there are several: probes and exports take it.
        momentum: of momentum copies; with `anneal` it rises to 1 by a cosine over the run, as in PySlowFast.
        anneal: whether it does; "auto": in runs of at least `ANNEALED` time constants 1 / (1 - momentum). In shorter
            ones the momentum encoder would stand still long before the network does.
        total_steps: of the run; the loop sets it.
        temperature: of similarities in the shared space.
    """

    classifies: ClassVar[bool] = False
    per_frame: ClassVar[bool] = False
    has_projection: ClassVar[bool] = False
    probes: ClassVar[tuple[str, ...]] = ("knn",)
    optional_networks: ClassVar[tuple[str, ...]] = ()
    former_options: ClassVar[Mapping[str, str]] = {}
    temperature: float = 0.1
    total_steps: int = 0

    def __init__(self, backbone: Backbone, momentum: float = 0.0, anneal: bool | Literal["auto"] = False) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise TrainingError(f"momentum is between 0 and 1; given {momentum}")
        self.backbone = backbone
        self.momentum, self.anneal = momentum, anneal
        self._pairs: list[tuple[nn.Module, nn.Module]] = []

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Needs:
        """What the method needs with these options, which include the defaults. Default: labels if it classifies."""
        return Needs(labels=cls.classifies)

    @classmethod
    def input_channels(cls, options: Mapping[str, Any], channels: int) -> int:
        """C of the network for clips of so many channels, with these options. Default: as many.

        Raises:
            TrainingError: the method does not learn from such clips.
        """
        return channels

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks of the method by name, the primary one first. Default: the backbone alone.

        A configuration gives each its own rate or schedule, or freezes it, by its name: [optim.groups.NAME]. A finished
        run leaves each but the primary one as NAME.safetensors beside model.safetensors. What belongs to no network,
        such as projectors and classifiers, is the group "heads".
        """
        return {"backbone": self.backbone}

    @property
    def partners(self) -> Mapping[str, Partner]:
        """Clips that are drawn beside each clip, by name; see `training.data.partners`. Default: none."""
        return {}

    def measures(self, batch: Batch) -> dict[str, Tensor]:
        """What is measured on validation clips while a run goes on, () each: the mean over a batch in evaluation mode.

        Default: nothing. Where `probes` names "measures", the log has the mean over all clips as probe_NAME.
        """
        return {}

    @staticmethod
    def freeze(module: Module) -> Module:
        """The module, not trained from now on: it stays in evaluation mode, too."""
        return module.requires_grad_(False).eval()

    def momentum_copy(self, module: Module) -> Module:
        """A copy without gradients that follows `module` by the momentum."""
        copied = copy.deepcopy(module).requires_grad_(False)
        self._pairs.append((module, copied))
        return copied

    def sample_transform(self, preprocess: Preprocess, view: View) -> SampleTransform:
        """Makes the sample of each sequence. Default: one random view, "motion"."""
        return RandomViews(preprocess, {"motion": view})

    def loss(self, batch: Batch) -> LossOutput:
        """The loss of a batch."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` as tensors by name, which wrappers for several processes can pass on."""
        output = self.loss(batch)
        parts = {f"part_{name}": value for name, value in output.parts.items()}
        features = {} if output.features is None else {"features": output.features.detach()}
        return {"loss": output.loss, **parts, **features}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Updates the momentum copies after a step of the optimiser; `progress` of the run is in [0, 1]."""
        anneal = self.total_steps * (1 - self.momentum) >= ANNEALED if self.anneal == "auto" else self.anneal
        keep = 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2 if anneal else self.momentum
        for online, target in self._pairs:
            for new, old in zip(online.parameters(), target.parameters()):
                old.mul_(keep).add_(new.detach(), alpha=1 - keep)

    def train(self, mode: bool = True) -> Method:
        """Training or evaluation mode. What is frozen stays in evaluation mode, so that statistics of its norms stay,
        too: modules none of whose parameters is trained, except momentum copies."""
        super().train(mode)
        if mode:
            copies = {id(copied) for _, copied in self._pairs}
            _rest(self, copies)
            classifier = dict(self.backbone.named_modules()).get(self.backbone.classifier)
            own = set(self.backbone.modules()) - set(() if classifier is None else classifier.modules())
            if own and not any(p.requires_grad for module in own for p in module.parameters(recurse=False)):
                for module in own:
                    module.training = False
        return self

    def seen(self, motion: Tensor) -> Tensor:
        """What the network sees of motions (N, C, T, V, M) as preprocessing makes them. Default: all."""
        return motion

    def embed(self, motion: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features (N, D) of motions, for probes and search; see `Backbone` for the mask."""
        return features_of(self.backbone, motion, mask)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that share a space with motions: "text", "video", both or none."""
        return ()

    @property
    def class_texts(self) -> Tensor | None:
        """(K, D) texts of the training classes that the method learnt with; None: it learnt without texts."""
        return None

    @property
    def reads_texts(self) -> bool:
        """Whether the method has an encoder of texts of its own, see `embed_texts`."""
        return False

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts, as they are written, in the shared space, (K, width) of unit length.

        Raises:
            TrainingError: the method has no encoder of texts.
        """
        raise TrainingError(f"{type(self).__name__} has no encoder of texts; see embed_text")

    @property
    def video_feature(self) -> str | None:
        """Name of the stored video feature that the method learnt with."""
        return None

    @property
    def has_classes_by_video(self) -> bool:
        """Whether `classes_by_video` is available."""
        return False

    @property
    def projects(self) -> bool:
        """Whether the method has a projection with its options. Default: where its class has one."""
        return self.has_projection

    def project(self, features: Tensor) -> Tensor | None:
        """Features (N, D) of the network in the shared space, (N, width) of unit length; None without
        `has_projection`."""
        return None

    def embed_motion(self, motion: Tensor, mask: Tensor | None = None) -> Tensor:
        """Motions in the shared space, (N, width) of unit length.

        Raises:
            TrainingError: the method learns no such space.
        """
        projected = self.project(features_of(self.backbone, motion, mask))
        if projected is None:
            raise TrainingError(f"{type(self).__name__} learns no space that motions share with texts or videos")
        return projected

    def embed_text(self, text: Tensor) -> Tensor:
        """Text features (K, D) in the shared space, (K, width) of unit length.

        Raises:
            TrainingError: the method was trained without texts.
        """
        raise TrainingError(f"{type(self).__name__} was trained without texts")

    def embed_video(self, video: Tensor) -> Tensor:
        """Video features (N, D) in the shared space, (N, width) of unit length.

        Raises:
            TrainingError: the method was trained without videos.
        """
        raise TrainingError(f"{type(self).__name__} was trained without videos")

    def classes_by_video(self, text: Tensor, training_texts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Where videos of classes (K, D) would lie, (K, width), and the mean (width,) to subtract from motions.

        Raises:
            TrainingError: texts and videos do not share a projector.
        """
        raise TrainingError(f"{type(self).__name__} has no projector that texts and videos share")
