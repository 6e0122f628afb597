"""Running torch networks: device, precision, fixed shapes, streams and pinned memory.

A network computes in the precision of its `Runtime` only where that is safe: the modules that a component names to
`Runtime.place`. Proposals, anchors, the suppression of overlaps, the last layers and the decoding are float32.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dataengine.core.accelerator import is_accelerator
from dataengine.core.component import Component, Detector, DetectorSession, Expert, ExpertSession
from dataengine.core.errors import ComponentError, MissingExtraError
from dataengine.core.types import Frames
from dataengine.experts.batching import NetworkDetectorSession, NetworkExpertSession, Processing, bucket
from dataengine.experts.cuda_graphs import GraphedForward
from dataengine.experts.device_images import DeviceFrames, DeviceImages, Images, constant, own_stream, upload
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
        device: a torch device. dtype: what the parts of a network that bear it compute in.
        accelerated: frames are uploaded once, and batches have few fixed shapes.
        compiled: the parts of a network that bear `dtype` go through torch.compile.
    """

    device: Any
    dtype: Any
    accelerated: bool = False
    compiled: bool = False

    @staticmethod
    def open(device: str, precision: Precision, what: str, extra: str = "torch", compiled: bool = False) -> Runtime:
        """The runtime for a device name such as 'cpu', 'cuda' or 'cuda:1'. Only accelerators compile.

        Raises:
            MissingExtraError: torch is not installed.
            ComponentError: a CUDA device where torch sees none.
        """
        torch = import_torch(what, extra)
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ComponentError(f"{what}: device {device!r}, but torch sees no CUDA device; use --device cpu")
        chosen = torch.device(device)
        name = ("float16" if chosen.type == "cuda" else "float32") if precision == "auto" else precision
        accelerated = is_accelerator(device)
        return Runtime(chosen, getattr(torch, name), accelerated, compiled and accelerated)

    def place(self, network: Any, lower: Sequence[Any] = ()) -> Any:
        """The network in evaluation mode on the device.

        Args:
            network: a torch module.
            lower: modules of it that compute in `dtype`, with their weights. What they are given is brought to
                `dtype`, and what they give to float32; everything else computes in float32.
        """
        import torch

        network = network.eval().requires_grad_(False)
        if self.device.type == "cuda":
            # channels are the fastest axis, as tensor cores like it
            network = network.to(self.device, memory_format=torch.channels_last)
        for module in lower:
            if self.dtype != torch.float32:
                lower_precision(module, self.dtype)
            if self.compiled:
                module.compile(dynamic=False)
        if self.device.type == "cuda":  # threads on other streams may use the weights from now on
            torch.cuda.synchronize(self.device)
        return network

    def upload(self, frames: Frames) -> DeviceFrames:
        """Frames (T, H, W, 3) uint8 on the device, for all networks of a clip."""
        return DeviceFrames(frames, self.device)

    def images(self, pixels: Images | torch.Tensor, mean: Any, std: Any, bgr: bool = False) -> torch.Tensor:
        """(N, h, w, 3) uint8 -> (N, 3, h, w) float32 on the device, (x - mean) / std in units of 0 to 255.

        `bgr`: the network takes blue, green, red; `mean` and `std` are in this order then.
        """
        if isinstance(pixels, DeviceImages):
            pixels = pixels.gather()
        given = upload(pixels, self.device) if isinstance(pixels, np.ndarray) else pixels
        if bgr:
            given = given.flip(-1)
        # colours stay the fastest axis, as convolutions like it
        x = given.permute(0, 3, 1, 2).float()
        middle, width = (constant(np.asarray(v, np.float32).reshape(-1, 1, 1), self.device) for v in (mean, std))
        return x.sub_(middle).div_(width)

    def constant(self, values: Any) -> torch.Tensor:
        """A small array as a tensor on the device, uploaded once in the life of a process. Not to be written to."""
        return constant(np.asarray(values), self.device)

    def run(self, call: Callable[[], Any]) -> Any:
        """`call()` without gradients."""
        import torch

        with torch.inference_mode():
            return call()

    def to_host(self, tensor: torch.Tensor) -> np.ndarray:
        """A tensor as an array, once the work of the current stream is done; other threads run meanwhile."""
        if self.device.type != "cuda":
            return np.asarray(tensor.cpu().numpy())
        import torch

        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        pinned.copy_(tensor, non_blocking=True)
        event = torch.cuda.Event(blocking=True)
        event.record()
        event.synchronize()
        return np.array(pinned.numpy())


def lower_precision(module: Any, dtype: Any) -> None:
    """Weights of a module in `dtype`; floating tensors become `dtype` on their way in and float32 on their way out."""
    import torch

    def cast(value: Any, to: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(to) if value.is_floating_point() else value
        if isinstance(value, dict):  # the outputs of transformers are dictionaries too
            return type(value)({key: cast(one, to) for key, one in value.items()})
        if isinstance(value, (list, tuple)):
            return type(value)(cast(one, to) for one in value)
        return value

    module.to(dtype)
    module.register_forward_pre_hook(lambda _, given, named: (cast(given, dtype), cast(named, dtype)), with_kwargs=True)
    module.register_forward_hook(lambda _, given, made: cast(made, torch.float32))


@dataclass(frozen=True)
class TorchComponent(Component, ABC):
    """What experts and detectors on torch have in common: a file of weights and a network.

    Attributes:
        checkpoint: a local file of weights in place of the published one; '' takes the published one.
        batch: most images that go through the network at once; not given: what suits a CPU or an accelerator.
        precision: what the network computes in, apart from its last layers and the decoding, which take float32.
        compile: compile the network with torch.compile on an accelerator; the first batches take minutes then.
        cuda_graphs: on a GPU, replay forward passes that were recorded for each size of batches. It costs memory, and
            leaves more of the interpreter to other threads. Networks that cannot be recorded refuse it.
    """

    checkpoint: str = ""
    batch: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    cuda_graphs: bool = False

    extra: ClassVar[str | None] = "torch"
    default_batch: ClassVar[tuple[int, int]] = (16, 64)
    """Most images at once on a CPU and on an accelerator."""
    fixed_shapes: ClassVar[bool] = False
    """Whether `forward` gives a tensor, by the same calls whatever is on the images, and never waits for the device."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.cuda_graphs and not self.fixed_shapes:
            raise ComponentError(f"{self.title} cuda_graphs = true: this network cannot be recorded; leave it out")

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
    def forward(self, runtime: Runtime, network: Any, pixels: Any) -> Any:
        """What the network says of images (N, h, w, 3) uint8, decoded: a tensor (N, ...) on the device.

        Nothing here waits for the device. Where what it gives has no fixed shape, a list of one array per image.
        """

    def answers(self, found: np.ndarray) -> list[np.ndarray]:
        """One answer per image of what `forward` gave. Default: as it is."""
        return list(found)

    @property
    def cpu_batch(self) -> int:
        """Images that a CPU computes at once, however large the batch: what lies between layers must stay in its
        cache."""
        return 8

    def batch_on(self, accelerated: bool) -> int:
        """Most images at once, on a CPU or on an accelerator."""
        return self.default_batch[accelerated] if self.batch is None else self.batch

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
        runtime = Runtime.open(device, self.precision, self.title, self.extra or "torch", self.compile)
        return TorchNetwork(self, runtime, self.build(runtime, weights.locate(self.file)))


class TorchNetwork:
    """A network on its device, called with any number of images by any number of threads.

    On an accelerator every batch is filled up to a size of `bucket`, so that shapes are few.

    Args:
        component: what it was made of. runtime: where it runs. module: the network itself.

    Attributes:
        images: how many images the network was given. padding: how many more it computed to fill batches up.
    """

    def __init__(self, component: TorchComponent, runtime: Runtime, module: Any) -> None:
        self.component = component
        self.runtime = runtime
        self.module = module
        self.batch = component.batch_on(runtime.accelerated)
        self.images = 0
        self.padding = 0
        recorded = component.cuda_graphs and component.fixed_shapes and runtime.device.type == "cuda"
        self._forward = GraphedForward(self._plain) if recorded else self._plain

    @property
    def upload(self) -> Callable[[Frames], DeviceFrames] | None:
        """How frames come to the device, where images are made there."""
        return self.runtime.upload if self.runtime.accelerated else None

    @property
    def padding_share(self) -> float:
        """Share of the computed images that only filled batches up."""
        return self.padding / max(1, self.images + self.padding)

    def __call__(self, pixels: Images) -> list[np.ndarray]:
        """(N, h, w, 3) uint8 -> one answer per image."""
        accelerated = self.runtime.accelerated
        step = self.batch if accelerated else min(self.batch, self.component.cpu_batch)
        answers: list[np.ndarray] = []
        for start in range(0, len(pixels), step):
            part = pixels[start : start + step]
            answers += self._filled(part) if accelerated else self._run(part)
        return answers

    def warm_up(self, call: Callable[[Frames, list[Any]], Any]) -> None:
        """On CUDA, call the network once by way of its session, on a black frame with a box.

        Libraries make their handles then, and networks the tensors that they keep; both are there before threads on
        streams of their own use them.
        """
        if self.runtime.device.type != "cuda":
            return
        import torch

        call(np.zeros((1, 64, 64, 3), np.uint8), [np.array([[8.0, 8, 56, 56, 1]])])
        torch.cuda.synchronize(self.runtime.device)
        self.images = self.padding = 0

    def _filled(self, part: Images) -> list[np.ndarray]:
        """As `_run`, filled up with the first image."""
        size = bucket(len(part), self.batch)
        self.images, self.padding = self.images + len(part), self.padding + size - len(part)
        with own_stream(self.runtime.device):
            if not isinstance(part, DeviceImages):
                part = DeviceImages(((upload(part, self.runtime.device), None),))
            return self._run(part.gather(size))[: len(part)]

    def _plain(self, pixels: Any) -> Any:
        return self.component.forward(self.runtime, self.module, pixels)

    def _run(self, pixels: Any) -> list[np.ndarray]:
        found = self.runtime.run(functools.partial(self._forward, pixels))
        return found if isinstance(found, list) else self.component.answers(self.runtime.to_host(found))


@dataclass(frozen=True)
class TorchExpert(TorchComponent, Expert):
    """A pose network on torch."""

    def load(self, device: str = "cpu") -> ExpertSession:
        """Read the weights and bring the network onto a device; raises as `Expert.load`."""
        network = self.open_network(device)
        session = NetworkExpertSession(self.processing, network, network.batch, network.upload)
        network.warm_up(lambda frames, boxes: session.predict(frames, boxes))
        return session


@dataclass(frozen=True)
class TorchDetector(TorchComponent, Detector):
    """A detection network on torch."""

    def load(self, device: str = "cpu") -> DetectorSession:
        """Read the weights and bring the network onto a device; raises as `Expert.load`."""
        network = self.open_network(device)
        session = NetworkDetectorSession(self.processing, network, network.batch, network.upload)
        network.warm_up(lambda frames, boxes: session.detect(frames))
        return session
