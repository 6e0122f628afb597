"""Devices: the CPU, or NVIDIA GPUs through torch or onnxruntime."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from functools import cache

from dataengine.core import nvml
from dataengine.core.errors import RecipeError, suggestion

DRIVER = "libcuda.so.1"


@cache
def gpus() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that this process may use, CUDA_VISIBLE_DEVICES applied; empty without a driver.

    The driver's management library is asked first, then torch: a container may lack the one or the other. Without a
    driver, torch is not imported.
    """
    found = nvml.all_gpus()
    if found:
        return tuple(gpu.name for gpu in nvml.visible(found, os.environ.get("CUDA_VISIBLE_DEVICES")))
    if not _driver():
        return ()
    if _torch_sees():
        import torch

        return tuple(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))
    return ("a GPU that onnxruntime may use",) if _onnxruntime_has_cuda() else ()


def _driver() -> bool:
    """Whether CUDA's driver can be loaded."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def _torch_sees() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _onnxruntime_has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@cache
def able() -> bool:
    """Whether torch or onnxruntime can use a GPU. Without a GPU, torch is not imported."""
    return bool(gpus()) and (_torch_sees() or _onnxruntime_has_cuda())


def count() -> int:
    """Number of GPUs that this process may use, at least 1."""
    if gpus() and _torch_sees():
        import torch

        return int(torch.cuda.device_count())
    return max(1, len(gpus()))


def named(name: str) -> str:
    """The name of a device as given: 'auto', 'cpu' or 'cuda'.

    Raises:
        RecipeError: another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"--device {name!r}{suggestion(name, ('auto', 'cpu', 'cuda'))}")
    return name


def pick(name: str) -> str:
    """The device for 'auto', 'cpu' or 'cuda': 'auto' is 'cuda' where a runtime can use a GPU, else 'cpu'.

    Raises:
        RecipeError: an unknown name, or 'cuda' where nothing can use a GPU.
    """
    named(name)
    if name == "cpu" or (name == "auto" and not able()):
        return "cpu"
    if not able():
        missing = (
            "no NVIDIA GPU answers"
            if not gpus()
            else "neither torch nor onnxruntime can use the GPU: add the extra 'torch', or install onnxruntime-gpu"
        )
        raise RecipeError(f"--device cuda: {missing}; or use --device cpu")
    return "cuda"
