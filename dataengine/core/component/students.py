"""Students, which learn from fused poses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dataengine.core.component.configuration import Component
from dataengine.core.component.poses import Expert
from dataengine.core.component.sessions import Session
from dataengine.core.types import LabelledFrame

if TYPE_CHECKING:
    from torch import Tensor, nn


class StudentSession(Session, ABC):
    """The network of a student while it learns.

    The loop (`dataengine.refine.loop`) owns what surrounds it: order of frames, optimiser, early stopping, checkpoints.
    What a session does depends on its weights and on its arguments alone, so that a run that was killed goes on as if
    nothing had happened: it keeps no count of steps, and draws random numbers from `rng`, or from torch's generator,
    which the loop seeds before each step.

    Attributes:
        network: the network, on the device of the session. Its `state_dict` is all that learning changes.
    """

    network: nn.Module

    @abstractmethod
    def loss(self, frames: Sequence[LabelledFrame], rng: np.random.Generator, train: bool) -> Mapping[str, Tensor]:
        """The loss of a batch of pictures, which may be of any sizes and hold any number of people, also none.

        Args:
            frames: pictures with labels in any layout (`LabelledFrame.skeleton`).
            rng: for augmentation and sampling.
            train: False asks for a validation loss: no augmentation, no gradient, nothing drawn.

        Returns:
            Scalars by name. "loss" is minimised; the others are parts of it, for the learning curve.
        """

    @abstractmethod
    def parameters(self) -> Sequence[Mapping[str, Any]]:
        """What is trained, as groups of an optimiser: "params", a list, and where a group learns at another rate
        "scale", a factor of the rate. Parameters that are named nowhere stay as they are."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write what `Student.expert` loads; the same weights are the same bytes."""


class Student(Component, ABC):
    """A pose estimator that learns from the poses of a build (frozen dataclass; its fields are its configuration).

    Its weights are a generation: a file that `StudentSession.save` wrote and that is never changed.

    Attributes:
        licence: of its code and base weights, where it is not this package's own.
        suffix: of the file of a generation, ".safetensors" or ".onnx".
    """

    licence: ClassVar[str | None] = None
    extra: ClassVar[str | None] = "torch"
    suffix: ClassVar[str] = ".safetensors"

    @property
    @abstractmethod
    def skeleton(self) -> str:
        """Name of the layout of the joints that it predicts (`dataengine.core.skeletons`)."""

    @abstractmethod
    def start(self, device: str = "cpu", seed: int = 0, checkpoint: Path | None = None) -> StudentSession:
        """Open a session that learns.

        Args:
            device: such as 'cpu', 'cuda' or 'cuda:1'.
            seed: of weights that are drawn.
            checkpoint: weights of an earlier generation; None begins with the base weights.

        Raises:
            MissingExtraError: a library is not installed.
            WeightsError: the weights are not here, or are of another network.
        """

    @abstractmethod
    def expert(self, checkpoint: Path | None) -> Expert:
        """The expert that predicts with the weights of a generation; None: with the base weights, before learning."""
