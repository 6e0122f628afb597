"""Reading files of weights without running anything that stands in them.

safetensors files hold nothing but tensors. A .pt or .pth file is a pickle and may name any function of any
installed library. Here torch's own restricted reader (`weights_only`) comes first; what it refuses, because
settings or whole modules lie beside the tensors, goes through `read_inert`, which builds tensors and
plain containers itself and puts an empty `Inert` in the place of every other object: no function or
class that a file names is ever looked up or called.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.core.errors import WeightsError

if TYPE_CHECKING:
    import torch

State = dict[str, "torch.Tensor"]

STORAGES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "DoubleStorage": "float64",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
"""What torch calls storages in its files, and what they hold."""
CONTAINERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}

COUNTERS = "num_batches_tracked"
"""Counters of training steps; some files leave them out, and nothing depends on them."""


def read_state(path: Path) -> State:
    """Tensors of a checkpoint by name, float32 where they are floating.

    Understands safetensors; torch files of a state dictionary, alone or under `state_dict`, `model` or `ema`; and
    torch files of whole modules, whose tensors are taken out of them.

    Raises:
        WeightsError: it is none of these.
    """
    import torch

    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"weights {path} cannot be read as safetensors: {error}") from error
    else:
        state = state_of(read_pickle(path), path)
    return {name: t.to(torch.float32) if t.is_floating_point() else t for name, t in state.items()}


def read_pickle(path: Path) -> Any:
    """What a torch file holds; objects that are not data are `Inert`.

    Raises:
        WeightsError: it is no torch file, or one of before 2020 with more than tensors in it.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, KeyError) as error:
        if not zipfile.is_zipfile(path):
            raise WeightsError(
                f"weights {path} are no torch file of tensors alone; save its state_dict as safetensors: {error}"
            ) from error
    try:
        return read_inert(path)
    except Exception as error:
        raise WeightsError(f"weights {path} cannot be read: {type(error).__name__}: {error}") from error


class Inert:
    """An object of a file that was not built: what it was called and the state it had, if any."""

    kind = ""

    def __new__(cls, *given: Any, **named: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *given: Any, **named: Any) -> Inert:
        return Inert()

    def append(self, item: Any) -> None:
        """Lists of other classes are filled through this; nothing is kept."""

    def extend(self, items: Any) -> None:
        """As `append`."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Mappings of other classes are filled through this; nothing is kept."""


class _Reader(pickle.Unpickler):
    """Builds tensors and containers; looks nothing up."""

    def __init__(self, data: bytes, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(data))
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CONTAINERS:
            return CONTAINERS[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _parameter
        return type("Inert", (Inert,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        import torch

        _, kind, key, _, count = pid
        if key not in self.storages:
            held = self.archive.read(f"{self.folder}/data/{key}")
            dtype = getattr(torch, kind)
            self.storages[key] = (
                torch.frombuffer(bytearray(held), dtype=dtype, count=int(count))
                if count
                else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]


def _tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> torch.Tensor:
    return storage.as_strided(tuple(size), tuple(stride), int(offset))


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def read_inert(path: Path) -> Any:
    """The content of a torch file (zip format of torch 1.6 and later) with `Inert` for all that is not data."""
    with zipfile.ZipFile(path) as archive:
        inner = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        order = [archive.read(name) for name in archive.namelist() if name.endswith("/byteorder")]
        if order and order[0] != b"little":
            raise ValueError("saved on a big-endian machine")
        return _Reader(archive.read(inner), archive, inner.removesuffix("/data.pkl")).load()


def state_of(found: Any, path: Path) -> State:
    """Tensors by name of what a torch file holds; averaged weights (`ema`) come before others.

    Raises:
        WeightsError: there are none.
    """
    import torch

    if isinstance(found, Inert):
        return dict(module_state(found.state or {}))
    if isinstance(found, Mapping):
        for key in ("ema", "state_dict", "model"):
            if isinstance(found.get(key), (Mapping, Inert)):
                return state_of(found[key], path)
        tensors = {str(name): t for name, t in found.items() if isinstance(t, torch.Tensor)}
        if tensors:
            return tensors
    raise WeightsError(f"weights {path} hold no state dictionary")


def module_state(attributes: Any, prefix: str = "") -> State:
    """The state dictionary of a module from the attributes it was saved with, as `torch.nn.Module.state_dict` names
    them."""
    import torch

    state: State = {}
    passing = attributes.get("_non_persistent_buffers_set", ())
    for group in ("_parameters", "_buffers"):
        for name, t in attributes.get(group, {}).items():
            if isinstance(t, torch.Tensor) and not (group == "_buffers" and name in passing):
                state[prefix + name] = t
    for name, child in attributes.get("_modules", {}).items():
        if isinstance(child, Inert) and isinstance(child.state, Mapping):
            state |= module_state(child.state, f"{prefix}{name}.")
    return state


def fill(network: Any, state: State, path: Path, what: str) -> None:
    """Put tensors into a network; every one must have its place, and every place its tensor.

    Raises:
        WeightsError: they are of another network.
    """
    own = network.state_dict()
    refuse(
        path, what,
        missing=sorted(name for name in set(own) - set(state) if not name.endswith(COUNTERS)),
        extra=sorted(set(state) - set(own)),
        other=sorted(name for name in set(own) & set(state) if own[name].shape != state[name].shape),
    )  # fmt: skip
    network.load_state_dict(state, strict=False)


def refuse(path: Path, what: str, missing: list[str], extra: list[str], other: list[str]) -> None:
    """Raise WeightsError if a file lacks tensors of a network, has others, or has some of another shape."""
    wrong = [
        f"{len(some)} {say} (such as {some[0]})"
        for some, say in ((missing, "missing"), (extra, "unknown"), (other, "of another shape"))
        if some
    ]
    if wrong:
        raise WeightsError(
            f"weights {path} are not of {what}: tensors {', '.join(wrong)}; give the model they belong to, or its "
            "weights"
        )
