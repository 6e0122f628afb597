"""What methods share: draws of views, a projector, a queue of keys, a momentum encoder."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError, suggestion
from training.backbones.base import Backbone
from training.data.types import Array, Clip, Draw
from training.distributed import gather, unit
from training.transforms.preprocess import Prepare

View: TypeAlias = Callable[[Array, np.random.Generator], Array]
Batch: TypeAlias = Mapping[str, Any]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Views:
    """Independent random views of a clip, by name, and stored features that go with it.

    Attributes:
        prepare: makes joints (M, T, V, C) of a clip, and the stream that the network sees of a view of them.
        views: name -> view of the joints.
        features: names of stored features; of several cached ones (K, D) one is chosen at random, the only one is taken as it is.
    """

    prepare: Prepare
    views: Mapping[str, View]
    features: tuple[str, ...] = ()

    def __call__(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        joints = self.prepare.joints(clip)
        drawn: dict[str, Any] = {name: self.prepare.finish(view(joints, rng)) for name, view in self.views.items()}
        for name in self.features:
            if name not in clip.features:
                raise TrainingError(f"clip {clip.key!r} has no feature {name!r}{suggestion(name, clip.features)}")
            stored = np.asarray(clip.features[name], np.float32)
            drawn[name] = stored[rng.integers(len(stored))] if stored.ndim == 2 else stored
        return drawn


class Projector(nn.Sequential):
    """An MLP (N, D) -> (N, width): layers - 1 of Linear and ReLU, then Linear; 0 layers is the identity."""

    def __init__(self, features: int, hidden: int, width: int, layers: int) -> None:
        sizes = [features, *[hidden] * (layers - 1)]
        steps: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            steps += [nn.Linear(a, b), nn.ReLU(inplace=True)]
        super().__init__(*steps, *([nn.Linear(sizes[-1], width)] if layers else []))


class Encoder(nn.Module):
    """A network and its projector: motions to unit vectors."""

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, motion: Tensor) -> Tensor:
        return unit(self.projector(self.backbone.features(motion)))


class Queue(nn.Module):
    """The latest keys of all processes, oldest overwritten first; part of the checkpoint.

    Attributes:
        keys: (Q, D), rows of unit length; owners: (Q,) index of the clip each came from, EMPTY where none is yet; labels: (Q,).
    """

    EMPTY = -2
    keys: Tensor
    owners: Tensor
    labels: Tensor
    pointer: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if size < 1:
            raise TrainingError(f"a queue holds at least 1 key; given {size}")
        self.register_buffer("keys", torch.zeros(size, width))
        self.register_buffer("owners", torch.full((size,), self.EMPTY))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def known(self, owners: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N, Q) bool: entries that are no negatives of these clips: empty, of the same clip, or of the same label where labels are given."""
        same = (self.owners == self.EMPTY) | (self.owners == owners[:, None])
        return same if labels is None else same | ((self.labels == labels[:, None]) & (labels >= 0)[:, None])

    @property
    def mean(self) -> Tensor:
        """(D,) of the keys that are there; zeros where none is yet."""
        here = self.owners != self.EMPTY
        return self.keys[here].sum(0) / here.sum().clamp(min=1)

    @torch.no_grad()
    def push(self, keys: Tensor, owners: Tensor, labels: Tensor) -> None:
        """Put the keys (N, D) of all processes in, in the order of ranks."""
        keys, owners, labels = (gather(values)[-len(self.keys) :] for values in (keys, owners, labels))
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.keys[places] = keys.to(self.keys.dtype)
        self.owners[places] = owners
        self.labels[places] = labels
        self.pointer.copy_((self.pointer + len(keys)) % len(self.keys))


@dataclass
class Outcome:
    """What a method says of a batch: the loss, its parts to be logged, and features (N, D) that collapse is watched on."""

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    features: Tensor | None = None


class Method(nn.Module):
    """A method around a network: one small class says what it draws and the loss.

    The base owns momentum encoders: what `shadow` is given follows by an exponential moving average
    after every step. Queues, projectors and shadows are modules, so that checkpoints hold them.

    Attributes:
        backbone: the network that is learnt.
        needs: names of stored features that every clip must have.
        momentum: of shadows; with `anneal` it rises to 1 by a cosine over the run, as in PySlowFast.
    """

    needs: tuple[str, ...] = ()

    def __init__(self, backbone: Backbone, momentum: float = 0.0, anneal: bool = False) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise TrainingError(f"momentum is between 0 and 1; given {momentum}")
        self.backbone = backbone
        self.momentum, self.anneal = momentum, anneal
        self._pairs: list[tuple[nn.Module, nn.Module]] = []

    def shadow(self, module: Module) -> Module:
        """A copy without gradients that follows `module` by the momentum."""
        made = copy.deepcopy(module).requires_grad_(False)
        self._pairs.append((module, made))
        return made

    def draw(self, prepare: Prepare, view: View) -> Draw:
        """What the feed takes of a clip."""
        return Views(prepare, {"motion": view}, self.needs)

    def loss(self, batch: Batch) -> Outcome:
        """The loss of a batch."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` as tensors by name, which wrappers for several processes can pass on."""
        outcome = self.loss(batch)
        named = {f"part_{name}": value for name, value in outcome.parts.items()}
        features = {} if outcome.features is None else {"features": outcome.features.detach()}
        return {"loss": outcome.loss, **named, **features}

    @torch.no_grad()
    def finish(self, progress: float) -> None:
        """After an optimiser step, `progress` of the run in [0, 1]: shadows follow."""
        keep = self.momentum if not self.anneal else 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
        for online, target in self._pairs:
            for new, old in zip(online.parameters(), target.parameters()):
                old.mul_(keep).add_(new.detach(), alpha=1 - keep)

    def embed(self, motion: Tensor) -> Tensor:
        """Features (N, D) of motions, for probes and search."""
        features: Tensor = self.backbone.features(motion)
        return features
