"""Devices: the CPU, or NVIDIA GPUs through torch or onnxruntime."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from functools import cache

from dataengine.core.errors import RecipeError, suggestion


@cache
def gpus() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that the driver reports; empty without a driver."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ()
    try:
        answer = subprocess.run(
            [smi, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip()) if answer.returncode == 0 else ()


@cache
def able() -> bool:
    """Whether torch or onnxruntime can use a GPU. Without a GPU, torch is not imported."""
    if not gpus():
        return False
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return True
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def count() -> int:
    """Number of GPUs that this process may use, at least 1."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.device_count())
    return max(1, len(gpus()))


def pick(name: str) -> str:
    """The device for 'auto', 'cpu' or 'cuda': 'auto' is 'cuda' where a runtime can use a GPU, else 'cpu'.

    Raises:
        RecipeError: an unknown name, or 'cuda' where nothing can use a GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"--device {name!r}{suggestion(name, ('auto', 'cpu', 'cuda'))}")
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
