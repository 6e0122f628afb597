"""What students that look at one person at a time have in common: crops in, a loss out."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.core.component import Student, StudentSession
from dataengine.core.errors import ComponentError
from dataengine.core.types import LabelledFrame
from dataengine.experts.preprocess import CropProcessing
from dataengine.experts.torch_runtime import Runtime, TorchExpert
from dataengine.io import weights
from dataengine.io.storage import write_durably
from dataengine.refine.person_crops import Augmentation, CropRule, PersonCrops

if TYPE_CHECKING:
    import torch

    Maps = tuple[torch.Tensor, ...]
    """What a network says, head by head."""


class PersonCropSession(StudentSession, ABC):
    """A network that learns from crops around people.

    Args:
        network: on its device, with the weights to begin with.
        device: of torch.
        rule: how crops are cut. augmentation: of those that are learned from.
        frozen: parts of the network that keep their weights.

    Attributes:
        original: the network as it was; what labels do not tell is to stay as it says.
    """

    def __init__(
        self, network: Any, device: Any, rule: CropRule, augmentation: Augmentation, frozen: Sequence[Any]
    ) -> None:
        self.network = network
        self.device = device
        self.rule = rule
        self.augmentation = augmentation
        self.original: Any = copy.deepcopy(network).eval().requires_grad_(False)
        for part in frozen:
            part.requires_grad_(False)

    @abstractmethod
    def crop_loss(self, pixels: torch.Tensor, crops: PersonCrops) -> dict[str, torch.Tensor]:
        """The loss and its parts.

        Args:
            pixels: (N, h, w, 3) uint8 on the device, N > 0. crops: the same with labels, on the host.
        """

    def parameters(self) -> Sequence[Mapping[str, Any]]:
        """Weights and biases apart from the frozen parts; biases do not decay."""
        learned = [p for p in self.network.parameters() if p.requires_grad]
        return (
            {"params": [p for p in learned if p.ndim > 1]},
            {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
        )

    def loss(
        self, frames: Sequence[LabelledFrame], rng: np.random.Generator, train: bool
    ) -> Mapping[str, torch.Tensor]:
        """The mean over people; without people 0, which teaches nothing."""
        import torch

        self.require_open()
        self.network.eval()  # averages of batch normalisation stay: batches are small, and of few people
        crops = self.rule.cut(frames, rng if train else None, self.augmentation)
        with torch.set_grad_enabled(train):
            if not len(crops):
                nothing = torch.zeros((), device=self.device)
                for group in self.parameters():
                    nothing = nothing + sum(p.sum() * 0 for p in group["params"])
                return {"loss": nothing}
            return self.crop_loss(torch.from_numpy(crops.pixels).to(self.device), crops)


@dataclass(frozen=True)
class TorchPersonStudent(Student, ABC):
    """A student that becomes a top-down expert on torch, by way of the expert's network and its option `checkpoint`.

    Attributes:
        frozen: whether the backbone keeps its weights.
        keep: weight of what the network said before, for joints without a label; 0 lets them drift.
        scale: least and most factor of the side of training crops.
        rotation: most rotation of training crops in degrees.
    """

    frozen: bool = False
    keep: float = 1.0
    scale: tuple[float, float] = (0.8, 1.25)
    rotation: float = 30.0

    def __post_init__(self) -> None:
        for name in ("keep", "rotation"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ComponentError(f"{self.title} {name} = {getattr(self, name)}: at least 0")
        if not 0 < self.scale[0] <= self.scale[1] < np.inf:
            raise ComponentError(f"{self.title} scale = {list(self.scale)}: least and most factor, above 0")

    @abstractmethod
    def expert_with(self, checkpoint: str) -> TorchExpert:
        """The expert with a file of weights; '' takes the published ones."""

    @abstractmethod
    def network(self, path: Path) -> Any:
        """The network as it learns, with the weights of a file.

        Raises:
            WeightsError: they are of another network.
        """

    @abstractmethod
    def maps(self, network: Any, images: torch.Tensor) -> Maps:
        """What the network says of images (N, 3, h, w)."""

    @abstractmethod
    def crop_loss(
        self,
        found: tuple[torch.Tensor, ...],
        before: tuple[torch.Tensor, ...],
        points: torch.Tensor,
        known: torch.Tensor,
    ) -> torch.Tensor:
        """(N, V) loss per joint: against the label where there is one, else against what was said before.

        Args:
            found, before: what `maps` gives, and gave before learning.
            points: (N, V, 2) float32 x, y in pixels of the crop, 0 without a label. known: (N, V) bool.
        """

    @property
    @abstractmethod
    def colours(self) -> tuple[Any, Any]:
        """Mean and standard deviation of the network's images."""

    def needs(self) -> list[str]:
        """The base weights."""
        return self.expert_with("").needs()

    def weights(self) -> dict[str, str]:
        """The base weights with their sha256.

        Raises:
            WeightsError: they are not here, or are other ones.
        """
        return self.expert_with("").weights()

    @property
    def skeleton(self) -> str:
        return self.expert_with("").skeleton

    @property
    def rule(self) -> CropRule:
        """Crops as the expert cuts them."""
        processing = self.expert_with("").processing
        assert isinstance(processing, CropProcessing)
        return CropRule(processing.affine, processing.size, False, self.skeleton)

    def start(self, device: str = "cpu", seed: int = 0, checkpoint: Path | None = None) -> TorchPersonSession:
        runtime = Runtime.open(device, "float32", self.title, self.extra or "torch")
        file = checkpoint or weights.locate(self.expert_with("").file)
        return TorchPersonSession(self, self.network(file).to(runtime.device), runtime)

    def expert(self, checkpoint: Path | None) -> TorchExpert:
        return self.expert_with("" if checkpoint is None else str(checkpoint))


class TorchPersonSession(PersonCropSession):
    """The network of an expert on torch while it learns.

    Args:
        student: its options. network: on the device of `runtime`, with the weights to begin with.
    """

    def __init__(self, student: TorchPersonStudent, network: Any, runtime: Runtime) -> None:
        augmentation = Augmentation(scale=student.scale, rotation=student.rotation)
        frozen = [network.backbone] if student.frozen else []
        super().__init__(network, runtime.device, student.rule, augmentation, frozen)
        self.student = student
        self.runtime = runtime

    def crop_loss(self, pixels: torch.Tensor, crops: PersonCrops) -> dict[str, torch.Tensor]:
        """The parts: `joints`, and `kept`, how far joints without a label drift."""
        import torch

        student, images = self.student, self.runtime.images(pixels, *self.student.colours)
        found = student.maps(self.network, images)
        with torch.no_grad():
            before = student.maps(self.original, images)
        weight = torch.from_numpy(crops.weights).to(self.device)
        points = torch.from_numpy(np.nan_to_num(crops.points)).to(self.device)
        each = student.crop_loss(found, before, points, weight > 0)
        lost = (weight <= 0).to(weight)
        joints, kept = weighted_mean(each, weight), weighted_mean(each, lost)
        return {"loss": joints + student.keep * kept, "joints": joints.detach(), "kept": kept.detach()}

    def save(self, path: Path) -> None:
        """Write every tensor as safetensors, under its published name."""
        from safetensors.torch import save

        state = self.network.state_dict()
        write_durably(path, save({name: state[name].detach().cpu().contiguous().clone() for name in sorted(state)}))


def weighted_mean(values: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """The weighted mean; 0 without weights."""
    return (values * given).sum() / given.sum().clamp(min=1e-6)
