"""GPUs are found through the driver's own libraries, and CUDA_VISIBLE_DEVICES holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataengine.core.nvml import Gpu, visible

NVML = r"""
#include <stdio.h>
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned n, void **handle) { *handle = (void *)(long)(n + 1); return 0; }
int nvmlDeviceGetName(void *h, char *text, unsigned n) { snprintf(text, n, "Model %ld", (long)h - 1); return 0; }
int nvmlDeviceGetUUID(void *h, char *text, unsigned n) { snprintf(text, n, "GPU-%ld-abc", (long)h - 1); return 0; }
int nvmlDeviceGetMemoryInfo(void *h, memory *m) { m->total = 1 << 30; return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a management library that reports two GPUs."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "nvml.c").write_text(NVML)
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(folder / "nvml.c")]
    subprocess.run(command, check=True, timeout=60)
    return folder


def names(folder: Path | None, setting: str | None, script: str = "print(*devices.gpus(), sep=',')") -> str:
    """What a process without nvidia-smi on its path answers."""
    keep = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "PATH", "LD_LIBRARY_PATH")}
    settings = keep | ({} if setting is None else {"CUDA_VISIBLE_DEVICES": setting}) | {"PATH": "/nowhere"}
    settings |= {} if folder is None else {"LD_LIBRARY_PATH": str(folder)}
    script = f"import sys\nfrom dataengine.core import devices\n{script}"
    done = subprocess.run(
        [sys.executable, "-c", script], env=settings, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("setting", "found"),
    [(None, "Model 0,Model 1"), ("1", "Model 1"), ("1,0", "Model 1,Model 0"), ("", ""), ("-1", "")],
)
def test_gpus_are_found_without_nvidia_smi(driver: Path, setting: str | None, found: str) -> None:
    assert names(driver, setting) == found


def test_without_a_driver_torch_is_not_imported() -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a driver")
    script = "print(devices.gpus(), devices.able(), devices.count(), 'torch' in sys.modules)"
    assert names(None, None, script) == "() False 1 False"


TWO = (Gpu("a", "GPU-0-abc", 1), Gpu("b", "GPU-1-abc", 1))


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        (None, "ab"),
        ("0, 1", "ab"),
        ("GPU-1", "b"),
        ("GPU-", ""),  # the beginning of two
        ("0,7,1", "a"),
        ("0,-1,1", "a"),
        ("NoDevFiles", ""),
    ],
)
def test_visible_devices_as_cuda_reads_them(setting: str | None, chosen: str) -> None:
    assert "".join(gpu.name for gpu in visible(TWO, setting)) == chosen


def test_an_instance_of_a_gpu_counts_as_one() -> None:
    assert [gpu.name for gpu in visible(TWO, "MIG-1234")] == ["MIG instance"]


def test_doctor_says_what_onnxruntime_cannot_do_on_a_gpu(driver: Path) -> None:
    said = names(driver, "1", "from dataengine.inspect import doctor; print(doctor._device())")
    assert "GPUs: Model 1'" in said.replace('"', "'")
    assert "`onnx` and `onnx_detector` need onnxruntime-gpu on the GPU; `rtmpose` does not" in said


def test_doctor_counts_the_processors_that_this_process_may_use() -> None:
    only, there = min(os.sched_getaffinity(0)), os.cpu_count() or 1
    script = (
        f"import os; os.sched_setaffinity(0, [{only}])\nfrom dataengine.inspect import doctor; print(doctor._cores())"
    )
    assert names(None, None, script) == ("1 cores" if there == 1 else f"1 of {there} cores")
