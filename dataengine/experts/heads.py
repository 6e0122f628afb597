"""Networks that end at their heads: maps by name, decoded outside of the graph.

Such a file takes images as (N, h, w, 3) or (N, 3, h, w) and gives maps under the names of the network's heads. Its
batch, and for some files also height and width, are free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.component import Component
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.types import Float
from dataengine.experts.onnx_graphs import Provider, open_session
from dataengine.experts.options import check_ranges
from dataengine.io import weights

INPUTS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}
"""Types of images that are taken."""


@dataclass(frozen=True)
class Heads:
    """An open file.

    Attributes:
        session: of onnxruntime. provider: what it runs on.
        file: its name, for messages.
        input: name of its input. dtype: of the input.
        channels_last: whether images are (N, h, w, 3), else (N, 3, h, w).
        size: width and height of images, None where the file takes any.
        batch: number of images per call, None for any number.
        outputs: shape by name, None where a length is free.
    """

    session: Any
    provider: str
    file: str
    input: str
    dtype: Any
    channels_last: bool
    size: tuple[int, int] | None
    batch: int | None
    outputs: dict[str, tuple[int | None, ...]]

    def __call__(self, images: Any) -> dict[str, Float]:
        """(N, h, w, 3) numbers as the network takes them, N > 0 -> its outputs by name, float32."""
        given = images if self.channels_last else images.transpose(0, 3, 1, 2)
        given = np.ascontiguousarray(given, self.dtype)
        names, step, parts = list(self.outputs), self.batch or len(given), []
        for start in range(0, len(given), step):
            part = given[start : start + step]
            filled = np.concatenate([part, np.repeat(part[-1:], step - len(part), 0)]) if len(part) < step else part
            found = self.session.run(names, {self.input: filled})
            parts.append([np.asarray(o[: len(part)], np.float32) for o in found])
        whole = parts[0] if len(parts) == 1 else [np.concatenate(some) for some in zip(*parts)]
        return dict(zip(names, whole))


def open_heads(
    path: Path,
    device: str = "cpu",
    provider: Provider = "auto",
    needed: Iterable[str] = (),
    size: tuple[int, int] | None = None,
) -> Heads:
    """Open a file.

    Args:
        path: of the ONNX file.
        device, provider: as of `dataengine.experts.onnx_graphs.open_session`.
        needed: names of outputs that the file must have.
        size: width and height of the images that it will get; None: not checked.

    Raises:
        WeightsError: the file is not an ONNX network of images, or lacks an output.
        ComponentError: the provider is not available, or the file takes images of another size only.
    """
    session, name = open_session(path, device, provider)
    entries = session.get_inputs()
    shape = [n if isinstance(n, int) and n > 0 else None for n in entries[0].shape] if len(entries) == 1 else []
    if len(shape) != 4 or 3 not in (shape[1], shape[3]) or entries[0].type not in INPUTS:
        given = ", ".join(f"{e.name} {e.shape} {e.type}" for e in entries)
        raise WeightsError(f"{path} takes {given}; wanted one input of images (N, h, w, 3) or (N, 3, h, w)")
    outputs = {o.name: tuple(n if isinstance(n, int) else None for n in o.shape) for o in session.get_outputs()}
    absent = [one for one in needed if one not in outputs]
    if absent:
        raise WeightsError(f"{path} has no output {', '.join(absent)}, only {', '.join(outputs)}: give another file")
    last = shape[3] == 3
    height, width = shape[1:3] if last else shape[2:4]
    own = (width, height) if width and height else None
    if own and size and own != tuple(size):
        raise ComponentError(f"{path.name} takes images of {own[0]} x {own[1]}, not of {size[0]} x {size[1]}")
    entry = entries[0]
    return Heads(session, name, path.name, entry.name, INPUTS[entry.type], last, own, shape[0], outputs)


@dataclass(frozen=True)
class HeadsFile(Component):
    """What experts and detectors on such files have in common: the file, and how it is run.

    Attributes:
        model: a name of the manifest of weights, or the path of an .onnx file.
        batch: most images at once.
        provider: auto takes the faster of TensorRT and CUDA that works on a GPU, and the CPU on the CPU.
    """

    model: str
    batch: int = 8
    provider: Provider = "auto"

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def file(self) -> str:
        """Name or path of the weights in use."""
        return self.model

    def needs(self) -> list[str]:
        """The file's name, where it is one of the manifest."""
        return weights.names_of(self.file)

    def weights(self) -> dict[str, str]:
        """The file with its sha256.

        Raises:
            WeightsError: it is not here, or is another one.
        """
        return weights.hashes(self.file)

    def open_heads(self, device: str, needed: Iterable[str] = (), size: tuple[int, int] | None = None) -> Heads:
        """The file on a device; arguments and errors as of the function `open_heads`."""
        return open_heads(weights.locate(self.file), device, self.provider, needed, size)
