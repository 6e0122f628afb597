"""Running torch networks: device, precision, fixed shapes, pinned memory, warm-up."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dataengine.core.component import Component, Detector, DetectorSession, Expert, ExpertSession
from dataengine.core.errors import ComponentError, MissingExtraError
from dataengine.core.types import Frames
from dataengine.experts.batching import NetworkDetectorSession, NetworkExpertSession, Processing
from dataengine.experts.options import check_ranges
from dataengine.io import weights

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "float16", "bfloat16"]
"""auto: float16 on a GPU, float32 on a CPU."""


def import_torch(what: str, extra: str = "torch") -> Any:
    """The torch module.

    Raises:
        MissingExtraError: it is not installed; names `what` needs it and the extra to add.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(what, extra) from error
    return torch


@dataclass(frozen=True)
class Runtime:
    """Where and how precisely a network runs.

    Attributes:
        device: a torch device. dtype: what the network computes in.
    """

    device: Any
    dtype: Any

    @staticmethod
    def open(device: str, precision: Precision, what: str, extra: str = "torch") -> Runtime:
        """The runtime for a device name such as 'cpu', 'cuda' or 'cuda:1'.

        Raises:
            MissingExtraError: torch is not installed.
            ComponentError: a CUDA device where torch sees none.
        """
        torch = import_torch(what, extra)
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ComponentError(f"{what}: device {device!r}, but torch sees no CUDA device; use --device cpu")
        chosen = torch.device(device)
        name = ("float16" if chosen.type == "cuda" else "float32") if precision == "auto" else precision
        return Runtime(chosen, getattr(torch, name))

    def place(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network in evaluation mode on the device; weights stay float32, `autocast` computes in `dtype`."""
        if self.device.type == "cuda":
            network = network.to(self.device)
        return network.eval().requires_grad_(False)

    def images(self, pixels: Frames, mean: Any, std: Any, fixed: int | None = None) -> torch.Tensor:
        """(N, h, w, 3) uint8 -> (N or more, 3, h, w) float32 on the device, (x - mean) / std in units of 0 to 255.

        `fixed`: on a GPU the batch is filled up with its first image to this many, so that shapes do not change.
        """
        import torch

        given = torch.from_numpy(np.ascontiguousarray(pixels))
        if self.device.type == "cuda":
            if fixed is not None and len(given) < fixed:
                given = torch.cat([given, given[:1].expand(fixed - len(given), -1, -1, -1)])
            given = given.pin_memory().to(self.device, non_blocking=True)
        # colours stay the fastest axis, as convolutions like it
        x = given.permute(0, 3, 1, 2).float()
        middle, width = (
            torch.as_tensor(v, dtype=torch.float32, device=self.device).view(-1, 1, 1) for v in (mean, std)
        )
        return x.sub_(middle).div_(width)

    def exactly(self) -> Any:
        """A context in which everything is computed in the precision of its inputs; for decoding answers."""
        import torch

        return torch.autocast(self.device.type, enabled=False)

    def run(self, call: Callable[[], Any]) -> Any:
        """`call()` without gradients, in this precision."""
        import torch

        lower = self.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype) if lower else nullcontext():
            return call()


@dataclass(frozen=True)
class TorchComponent(Component, ABC):
    """What experts and detectors on torch have in common: a file of weights and a network.

    Attributes:
        checkpoint: a local file of weights in place of the published one; '' takes the published one.
        batch: most images that go through the network at once.
        precision: what the network computes in.
    """

    checkpoint: str = ""
    batch: int = 16
    precision: Precision = "auto"

    extra: ClassVar[str | None] = "torch"

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    @abstractmethod
    def published(self) -> str:
        """Name of the published weights in the manifest of weights."""

    @property
    @abstractmethod
    def processing(self) -> Processing:
        """The steps before and after the network."""

    @abstractmethod
    def build(self, runtime: Runtime, path: Path) -> Any:
        """The network with the weights of a file, on the device, ready to be called."""

    @abstractmethod
    def forward(self, runtime: Runtime, network: Any, pixels: Frames) -> list[np.ndarray]:
        """(N, h, w, 3) uint8 -> one answer per image."""

    @property
    def cpu_batch(self) -> int:
        """Images that a CPU computes at once, however large the batch: what lies between layers must stay in its
        cache."""
        return 8

    @property
    def file(self) -> str:
        """Name or path of the weights in use; a folder stands for the model.safetensors in it."""
        if not self.checkpoint:
            return self.published
        inside = Path(self.checkpoint).expanduser()
        return str(inside / "model.safetensors") if inside.is_dir() else self.checkpoint

    def needs(self) -> list[str]:
        """Published weights that must lie on this machine."""
        return weights.names_of(self.file)

    def weights(self) -> dict[str, str]:
        """The file of weights with its sha256.

        Raises:
            WeightsError: it is not here, or is another one.
        """
        return weights.hashes(self.file)

    def open_network(self, device: str) -> TorchNetwork:
        """The network on a device; raises as `Expert.load`."""
        runtime = Runtime.open(device, self.precision, self.title, self.extra or "torch")
        return TorchNetwork(self, runtime, self.build(runtime, weights.locate(self.file)))


@dataclass(frozen=True)
class TorchNetwork:
    """A network on its device, called with any number of images.

    Attributes:
        component: what it was made of. runtime: where it runs. module: the network itself.
    """

    component: TorchComponent
    runtime: Runtime
    module: Any

    def __call__(self, pixels: Frames) -> list[np.ndarray]:
        """(N, h, w, 3) uint8 -> one answer per image."""
        own, runtime = self.component, self.runtime
        step = own.batch if runtime.device.type == "cuda" else min(own.batch, own.cpu_batch)
        answers: list[np.ndarray] = []
        for start in range(0, len(pixels), step):
            part = pixels[start : start + step]
            answers += runtime.run(functools.partial(own.forward, runtime, self.module, part))[: len(part)]
        return answers


@dataclass(frozen=True)
class TorchExpert(TorchComponent, Expert):
    """A pose network on torch."""

    def load(self, device: str = "cpu") -> ExpertSession:
        """Read the weights and bring the network onto a device; raises as `Expert.load`."""
        return NetworkExpertSession(self.processing, self.open_network(device), self.batch)


@dataclass(frozen=True)
class TorchDetector(TorchComponent, Detector):
    """A detection network on torch."""

    def load(self, device: str = "cpu") -> DetectorSession:
        """Read the weights and bring the network onto a device; raises as `Expert.load`."""
        return NetworkDetectorSession(self.processing, self.open_network(device), self.batch)
