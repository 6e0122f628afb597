"""ONNX files: open them on the best provider there is, and tell from their inputs and outputs what they are."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime

from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.types import Float, Frames
from dataengine.io import weights

Provider = Literal["auto", "tensorrt", "cuda", "cpu"]
PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""From the fastest to the one that is always available."""
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Mean and standard deviation of red, green and blue in ImageNet's pictures, in units of 0 to 255."""


@dataclass(frozen=True)
class Normalisation:
    """How a network takes images: (x - mean) / std in RGB, then in the order BGR if `bgr`."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False

    def __call__(self, pixels: Frames, dtype: Any) -> Float:
        """(N, h, w, 3) uint8 RGB -> (N, 3, h, w) contiguous."""
        num, height, width, _ = pixels.shape
        x = np.empty((num, 3, height, width), np.float32)
        for plane, colour in enumerate((2, 1, 0) if self.bgr else (0, 1, 2)):
            np.subtract(pixels[..., colour], np.float32(self.mean[colour]), out=x[:, plane], dtype=np.float32)
            x[:, plane] /= np.float32(self.std[colour])
        return np.asarray(x, dtype)


@dataclass(frozen=True)
class GraphInfo:
    """What an ONNX file takes and gives.

    Attributes:
        file: its name, for messages.
        input: name of its input. dtype: of the input.
        size: width and height of images, None where the file takes any.
        batch: number of images per call, None for any number.
        outputs: name and shape of each output, None where a length is free.
    """

    file: str
    input: str
    dtype: Any
    size: tuple[int, int] | None
    batch: int | None
    outputs: tuple[tuple[str, tuple[int | None, ...]], ...]

    @property
    def ranks(self) -> list[int]:
        """Numbers of axes of the outputs, ascending."""
        return sorted(len(shape) for _, shape in self.outputs)

    @property
    def shown_outputs(self) -> str:
        """The outputs for messages."""
        return "; ".join(f"{name} {list(shape)}" for name, shape in self.outputs)


@dataclass(frozen=True)
class Graph:
    """An open ONNX file.

    Attributes:
        session: of onnxruntime. info: what the file takes and gives. provider: what it runs on.
    """

    session: Any
    info: GraphInfo
    provider: str

    def __call__(self, images: Float) -> list[Float]:
        """(N, 3, h, w) -> all outputs, float32. For a file with a fixed batch the last image fills the batch up."""
        entry, size = self.info.input, self.info.batch
        if size is None:
            return [np.asarray(o, np.float32) for o in self.session.run(None, {entry: images})]
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            parts.append([o[: len(part)] for o in self.session.run(None, {entry: filled})])
        return [np.concatenate(some).astype(np.float32) for some in zip(*parts)]


def describe(path: Path) -> GraphInfo:
    """What a file takes and gives; opened once per content as far as size and time of change tell.

    Raises:
        WeightsError: the file is not an ONNX network of images.
    """
    found = path.stat()
    return _describe(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=32)
def _describe(path: Path, changed: int, size: int) -> GraphInfo:
    del changed, size
    return open_graph(path, optimized=False).info


def open_graph(path: Path, device: str = "cpu", provider: Provider = "auto", optimized: bool = True) -> Graph:
    """Open a file, single-threaded on a CPU; arguments and errors as of `open_session`.

    Raises:
        WeightsError: the file is not an ONNX network of images, with channels before height and width.
        ComponentError: the provider is not available.
    """
    session, name = open_session(path, device, provider, optimized)
    return Graph(session, _info(session, path), name)


def open_session(
    path: Path, device: str = "cpu", provider: Provider = "auto", optimized: bool = True
) -> tuple[Any, str]:
    """A file's session of onnxruntime, single-threaded on a CPU, and the name of what it runs on.

    Args:
        device: 'cpu', 'cuda' or 'cuda:N'. provider: 'auto' takes the fastest that works on the device, and never the
            CPU for a GPU.
        optimized: False opens faster, for a description only.

    Raises:
        WeightsError: the file is not an ONNX network.
        ComponentError: the provider is not available.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name in _candidates(device, provider):
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=_provider(name, device))
        except Exception as error:  # onnxruntime has an exception class for every kind of damage, none of them public
            if name != "cpu" and provider == "auto":
                continue
            raise WeightsError(
                f"{path} cannot be opened as an ONNX network: {' '.join(str(error).split())[:300]}"
            ) from error
        if session.get_providers()[0] == PROVIDERS[name]:
            return session, name
    if provider == "auto" and device.startswith("cuda"):
        raise ComponentError(no_gpu(path.name, device))
    raise ComponentError(
        f"{path.name}: onnxruntime cannot use {provider!r} here, only "
        f"{', '.join(onnxruntime.get_available_providers())}"
    )


def no_gpu(file: str, device: str) -> str:
    """The message where onnxruntime cannot use a GPU: why, as far as it can be told, and what to do."""
    there = onnxruntime.get_available_providers()
    why = (
        "its CUDA provider does not start (its libraries must be of one CUDA version)"
        if PROVIDERS["cuda"] in there
        else f"it only has {', '.join(there)}"
    )
    return (
        f"{file}: device {device!r}, but onnxruntime {onnxruntime.__version__} cannot use it: {why}; take an expert on "
        f"torch (`rtmpose` is the same network), or install onnxruntime-gpu for {_cuda_version()} in place of "
        'onnxruntime, or ask for the CPU with provider = "cpu"'
    )


def _cuda_version() -> str:
    """The CUDA version that torch brings, which onnxruntime-gpu must share in one process."""
    try:
        import torch
    except ImportError:
        return "the CUDA version of the driver"
    found = torch.version.cuda
    return "the CUDA version of the driver" if found is None else f"CUDA {found.partition('.')[0]}, as torch has"


def _candidates(device: str, provider: Provider) -> list[str]:
    there = [name for name, full in PROVIDERS.items() if full in onnxruntime.get_available_providers()]
    if provider != "auto":
        return [name for name in there if name == provider]
    return [name for name in there if (name == "cpu") != device.startswith("cuda")]


def _provider(name: str, device: str) -> list[Any]:
    index = int(device.partition(":")[2] or 0)
    options: dict[str, Any] = {} if name == "cpu" else {"device_id": index}
    if name == "tensorrt":  # building an engine takes minutes: once a file and machine
        cache = weights.folder() / "tensorrt"
        cache.mkdir(parents=True, exist_ok=True)
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache)}
    rest = [(PROVIDERS["cuda"], {"device_id": index})] if name == "tensorrt" else []
    return [(PROVIDERS[name], options), *rest, *([PROVIDERS["cpu"]] if name != "cpu" else [])]


def _info(session: Any, path: Path) -> GraphInfo:
    entries = session.get_inputs()
    shape = entries[0].shape if len(entries) == 1 else []
    if len(shape) != 4 or (shape[1] != 3 and isinstance(shape[1], int)) or entries[0].type not in TYPES:
        given = ", ".join(f"{e.name} {e.shape} {e.type}" for e in entries)
        raise WeightsError(f"{path} takes {given}; wanted one input (N, 3, height, width) of floats")
    lengths = [n if isinstance(n, int) and n > 0 else None for n in shape]
    size = (lengths[3], lengths[2]) if lengths[2] and lengths[3] else None
    outputs = tuple((o.name, tuple(n if isinstance(n, int) else None for n in o.shape)) for o in session.get_outputs())
    return GraphInfo(path.name, entries[0].name, TYPES[entries[0].type], size, lengths[0], outputs)


def kind_by_name(name: str, hints: Sequence[tuple[str, str]]) -> str | None:
    """The kind that a file's name tells, by the first of (pattern, kind) found in it."""
    return next((kind for pattern, kind in hints if re.search(pattern, name.lower())), None)


def kind_of_pose(graph: GraphInfo) -> str | None:
    """The kind of pose network that a graph's outputs tell, None where they fit none."""
    ranks = graph.ranks
    if ranks == [3, 3]:
        return "simcc"
    if ranks == [3, 4]:
        return "rtmo"
    return {4: "heatmap", 3: "yolo"}.get(ranks[0]) if len(ranks) == 1 else None


def kind_of_detector(graph: GraphInfo) -> str | None:
    """The kind of detector that a graph's outputs tell; RTMDet and YOLOX, both end to end, look alike: None."""
    if len(graph.outputs) != 1 or len(graph.outputs[0][1]) != 3:
        return None
    _, rows, last = graph.outputs[0][1]
    if last is None or rows is None or last == 6:
        return "yolo"
    return "yolox" if rows > last > 6 else "yolo"
