"""Checkpoints: one safetensors file each, from which a run resumes bit for bit.

Tensors of the method (weights, buffers, queues, momentum encoders) have the prefix `method.`, those of the optimiser
`optim.`. Facts (step, position of the loader, configuration, fingerprints of the data) are JSON in the header. Files
are written atomically: to a temporary name, flushed to disk, and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
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
    """Writes tensors by name and JSON-like facts, atomically."""
    contiguous = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    data = save(contiguous, {"format": "pt", "version": FORMAT, "facts": json.dumps(facts, sort_keys=True)})
    with staged(Path(path)) as partial:
        partial.write_bytes(_in_order(data))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with the keys of its header in order; `save` orders those of the metadata at random.

    Format: https://huggingface.co/docs/safetensors, 8 bytes length of the header (little-endian), header as JSON,
    padded by spaces to a multiple of 8, tensors.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def keep(path: Path, name: Path) -> None:
    """Give a file that is about to be replaced a second name, under which it stays. Nothing where it does not exist."""
    if not path.exists():
        return
    with staged(name) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(path, partial)
        except OSError:  # a file system without links
            shutil.copyfile(path, partial)


def latest(last: Path, previous: Path) -> tuple[dict[str, Tensor], dict[str, Any], str] | None:
    """Tensors and facts of the latest whole checkpoint, and what to say of a later one that is lost.

    Returns:
        None where there is no checkpoint.

    Raises:
        TrainingError: neither of the two that are there is whole.
    """
    if not last.exists() and not previous.exists():
        return None
    try:
        return (*read(last), "")
    except TrainingError as error:
        if not previous.exists():
            raise
        tensors, facts = read(previous)
        return tensors, facts, f"{error}; taken is {previous.name}, of step {facts.get('step')}"


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name and facts of a checkpoint. No code in the file is executed.

    Raises:
        TrainingError: the file is absent, damaged, or of another version.
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


def facts_of(path: str | Path) -> dict[str, Any]:
    """The facts of a file of ours; nothing for safetensors of other programs and files that cannot be read."""
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The state of the optimiser, by name of the parameter and of the value."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}:{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restores the output of `optimizer_tensors`, on the devices of the parameters."""
    parameters = dict(model.named_parameters())
    for label, value in tensors.items():
        name, _, key = label.rpartition(":")
        device = "cpu" if key == "step" else parameters[name].device
        optimizer.state[parameters[name]][key] = value.to(device)
