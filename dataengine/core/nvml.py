"""NVIDIA GPUs as the driver's management library (NVML) reports them, without any other package.

NVML tells of GPUs without making a CUDA context, so that a process that asks may still fork. It counts the GPUs of the
host; `visible` applies CUDA_VISIBLE_DEVICES as CUDA does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
LENGTH = 96


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class _Rates(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in ("gpu", "memory")]


@dataclass(frozen=True)
class Gpu:
    """A GPU of this host.

    Attributes:
        name: its model. uuid: "GPU-...". memory: bytes.
    """

    name: str
    uuid: str
    memory: int


@contextmanager
def opened() -> Iterator[Any]:
    """The library, initialised; None where there is no driver."""
    try:
        library = ctypes.CDLL(LIBRARY)
        ready = library.nvmlInit_v2() == 0
    except (OSError, AttributeError):
        yield None
        return
    if not ready:
        yield None
        return
    try:
        yield library
    finally:
        library.nvmlShutdown()


def all_gpus() -> tuple[Gpu, ...] | None:
    """The GPUs of this host in the order of their slots; None without a driver that answers."""
    with opened() as library:
        if library is None:
            return None
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return None
        found = []
        for index in range(count.value):
            handle = handle_of(library, index)
            if handle is not None:
                memory = _Memory()
                library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
                name, uuid = (_string(library, f, handle) for f in ("nvmlDeviceGetName", "nvmlDeviceGetUUID"))
                found.append(Gpu(name, uuid, memory.total))
        return tuple(found)


def handle_of(library: Any, index: int) -> Any:
    """What the library calls the GPU of an index; None where it does not answer."""
    handle = ctypes.c_void_p()
    return handle if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0 else None


def utilisation(library: Any, handle: Any) -> float | None:
    """Share of the last moments (up to a second) in which a kernel ran; None where it is not measured."""
    rates = _Rates()
    return rates.gpu / 100 if library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)) == 0 else None


def _string(library: Any, function: str, handle: Any) -> str:
    text = ctypes.create_string_buffer(LENGTH)
    return text.value.decode(errors="replace") if getattr(library, function)(handle, text, LENGTH) == 0 else ""


def visible(gpus: Sequence[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; None leaves all.

    Entries are indices, UUIDs or their beginnings, and UUIDs of instances (MIG). The first entry that names no GPU
    hides itself and those after it (CUDA C++ programming guide, "CUDA environment variables").
    """
    if setting is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for entry in map(str.strip, setting.split(",")):
        if entry.startswith("MIG-"):
            chosen.append(Gpu("MIG instance", entry, 0))
            continue
        if entry.isdigit():
            matching = [gpus[int(entry)]] if int(entry) < len(gpus) else []
        else:
            matching = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        if len(matching) != 1:
            break
        chosen += matching
    return tuple(chosen)
