"""Running torch networks: device, precision, fixed shapes, pinned memory, warm-up."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dataengine.core import registry
from dataengine.core.errors import ComponentError, MissingExtraError
from dataengine.core.types import Frames
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

    def pictures(self, pixels: Frames, mean: Any, std: Any, fixed: int | None = None) -> torch.Tensor:
        """(N, h, w, 3) uint8 -> (N or more, 3, h, w) float32 on the device, (x - mean) / std in units of 0 to 255.

        `fixed`: on a GPU the batch is filled up with its first picture to this many, so that shapes do not change.
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
        """Within this, what is computed is computed in the precision of its inputs: for decoding answers."""
        import torch

        return torch.autocast(self.device.type, enabled=False)

    def run(self, call: Callable[[], Any]) -> Any:
        """`call()` without gradients, in this precision."""
        import torch

        lower = self.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype) if lower else nullcontext():
            return call()


@dataclass
class _Live:
    """What an expert holds once it is loaded; belongs to its process and is never sent to another."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    device: str | None = None
    runtime: Runtime | None = None
    network: Any = None


@dataclass(frozen=True)
class TorchNetwork:
    """What the experts on torch have in common: a file of weights, loaded once whichever thread comes first.

    Subclasses give `title`, `extra`, `file` and `open`, and compute in `forward`.

    Attributes:
        checkpoint: a local file of weights in place of the published one; '' takes the published one.
        batch: most pictures that go through the network at once.
        precision: what the network computes in.
    """

    checkpoint: str = ""
    batch: int = 16
    precision: Precision = "auto"
    _live: Any = field(default_factory=_Live, init=False, repr=False, compare=False)

    title: ClassVar[str] = ""
    extra: ClassVar[str] = "torch"
    cache: ClassVar[int] = 8
    """Pictures that a CPU takes at once, however large the batch: what lies between layers must stay in its cache."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ComponentError(f"{self.title}: batch = {self.batch}: at least 1")
        for name in ("min_score", "min_mean", "threshold", "overlap"):
            if not 0 <= getattr(self, name, 0) <= 1:
                raise ComponentError(f"{self.title}: {name} = {getattr(self, name)}: lies in [0, 1]")
        if getattr(self, "max_people", 1) < 1:
            raise ComponentError(f"{self.title}: max_people = {getattr(self, 'max_people', 1)}: at least 1")

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **registry.config(self)), ()

    @property
    def published(self) -> str:
        """Name of the published weights in the manifest of weights."""
        raise NotImplementedError

    @property
    def file(self) -> str:
        """Name or path of the weights in use; a folder stands for the model.safetensors in it."""
        if not self.checkpoint:
            return self.published
        inside = Path(self.checkpoint).expanduser()
        return str(inside / "model.safetensors") if inside.is_dir() else self.checkpoint

    def needs(self) -> list[str]:
        """Published weights that must lie here."""
        return weights.names_of(self.file)

    def weights(self) -> dict[str, str]:
        """The file of weights with its sha256.

        Raises:
            WeightsError: it is not here, or is another one.
        """
        return weights.hashes(self.file)

    def load(self, device: str = "cpu") -> None:
        """Read the weights and bring the network onto a device such as 'cpu' or 'cuda:0'. Idempotent.

        Raises:
            MissingExtraError: its library is not installed.
            WeightsError: the weights are not here, or are not of this network.
            ComponentError: torch sees no such device.
        """
        with self._live.lock:
            if self._live.device != device:
                runtime = Runtime.open(device, self.precision, self.title, self.extra)
                network = self.open(runtime, weights.locate(self.file))
                self._live.runtime, self._live.network, self._live.device = runtime, network, device

    def open(self, runtime: Runtime, path: Path) -> Any:
        """The network with the weights of a file, on the device, ready to be called."""
        raise NotImplementedError

    def forward(self, runtime: Runtime, network: Any, pixels: Frames) -> list[np.ndarray]:
        """(N, h, w, 3) uint8 -> one answer a picture."""
        raise NotImplementedError

    def infer(self, pixels: Frames) -> list[np.ndarray]:
        """(N, h, w, 3) uint8 -> one answer a picture, in any thread; loads on the CPU where nothing is loaded yet.

        Raises:
            as `load`.
        """
        if self._live.device is None:
            self.load()
        runtime, network = self._live.runtime, self._live.network
        assert runtime is not None
        if not len(pixels):
            return []
        step = self.batch if runtime.device.type == "cuda" else min(self.batch, self.cache)
        answers: list[np.ndarray] = []
        for start in range(0, len(pixels), step):
            part = pixels[start : start + step]
            answers += runtime.run(lambda part=part: self.forward(runtime, network, part))[: len(part)]
        return answers
