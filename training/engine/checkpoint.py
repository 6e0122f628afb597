"""Checkpoints: one safetensors file each, with everything a run needs to go on bit for bit.

Tensors of the method (weights, buffers, queues, momentum encoders) lie under `method.`, those of the
optimiser under `optim.`; facts (step, place of the loader, configuration, fingerprints of the data) are
JSON in the header. A file is written beside its name, made durable, and renamed: none is ever half there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from dataengine.io.storage import staged

FORMAT = "1"


def write(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors by name and JSON-like facts, atomically."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    data = save(plain, {"format": "pt", "version": FORMAT, "facts": json.dumps(facts, sort_keys=True)})
    with staged(Path(path)) as partial:
        partial.write_bytes(data)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name and facts of a checkpoint; nothing in it is executed.

    Raises:
        TrainingError: there is none, it is torn, or of another version.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("version") != FORMAT:
                raise TrainingError(f"{path}: no checkpoint of version {FORMAT}; it says {header.get('version')!r}")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header["facts"])  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such checkpoint; train first, or give the folder of a run") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainingError(
            f"{path}: not a whole checkpoint ({str(error).splitlines()[0]}); delete it and go on from an earlier one"
        ) from None


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state by name of the parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}:{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, in the dtypes and on the devices that the parameters have."""
    parameters = dict(model.named_parameters())
    for label, value in tensors.items():
        name, _, key = label.rpartition(":")
        where = "cpu" if key == "step" else parameters[name].device
        optimizer.state[parameters[name]][key] = value.to(where)
