"""What an exception says about: memory, the environment, or neither."""

from __future__ import annotations

import copy
import errno
import os
from pathlib import Path

import av
import pytest

from dataengine.core.errors import EnvironmentFailure, ExpertError, MediaError, MissingExtraError, RecipeError
from dataengine.core.failures import ENVIRONMENT, environment_kind, in_one_line, is_out_of_memory, kind_of


class Fail(Exception):
    """As onnxruntime's: it derives from Exception alone."""


Fail.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


class OutOfMemoryError(RuntimeError):
    """As torch's."""


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out_of_memory"),
        (OutOfMemoryError("CUDA error, whatever it says"), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9"),
         "out_of_memory"),
        (os_error(errno.ENOMEM), "out_of_memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "gpu_failed"),
        (RuntimeError("CUDA error: device-side assert triggered"), "gpu_failed"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "gpu_failed"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "gpu_failed"),
        (RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802"), "gpu_failed"),
        (RuntimeError("Found no NVIDIA driver on your system"), "gpu_failed"),
        (Fail("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access"), "gpu_failed"),
        (Fail("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input"), None),
        (ExpertError("expert_failed", "CUDA error: unspecified launch failure"), "gpu_failed"),
        (ExpertError("expert_crashed", "it ended with signal 11"), None),
        (RuntimeError("can't start new thread"), "host_limits"),
        (os_error(errno.EIO), "storage_failed"),
        (os_error(errno.ESTALE), "storage_failed"),
        (os_error(errno.ENOTCONN), "storage_failed"),
        (os_error(errno.ETIMEDOUT), "storage_failed"),
        (os_error(errno.EHOSTDOWN), "storage_failed"),
        (os_error(errno.EROFS), "storage_failed"),
        (os_error(errno.ENOSPC), "disk_full"),
        (os_error(errno.EDQUOT), "disk_full"),
        (os_error(errno.EMFILE), "host_limits"),
        (os_error(errno.ENOENT), None),
        (os_error(errno.EACCES), None),
        (OSError("no number"), None),
        (RuntimeError("shapes differ"), None),
        (ValueError("out of memory"), None),
        (ValueError("CUDA error"), None),
        (RecipeError("--device 'cuda': no CUDA-capable device is here"), None),
        (MissingExtraError("CUDA", "torch"), None),
        (MediaError("media_missing", "there is no file 'a.mp4'"), None),
        (EnvironmentFailure("media_unreachable", "gone"), "media_unreachable"),
    ],
)  # fmt: skip
def test_every_exception_is_memory_environment_or_neither(error: Exception, kind: str | None) -> None:
    assert kind_of(error) == kind
    assert is_out_of_memory(error) is (kind == "out_of_memory")
    assert environment_kind(error) == (kind if kind in ENVIRONMENT else None)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_what_the_operating_system_caused_is_what_it_said() -> None:
    unreadable = MediaError("media_unreadable", "'a.mp4' cannot be read", True)
    assert kind_of(caused(unreadable, os_error(errno.ESTALE))) == "storage_failed"
    assert kind_of(caused(ExpertError("expert_failed", "cannot be started"), os_error(errno.EMFILE))) == "host_limits"
    assert kind_of(caused(unreadable, PermissionError(errno.EACCES, "Permission denied"))) is None
    damaged = av.error.OSError(errno.EIO, "Input/output error")
    assert kind_of(caused(MediaError("media_corrupt", "'a.mp4' cannot be opened"), damaged)) is None


def test_torch_out_of_memory_is_recognised() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)


def test_an_environment_failure_travels_between_processes() -> None:
    error = copy.copy(EnvironmentFailure("gpu_failed", "a lost context", "clip-1"))
    assert (error.kind, error.detail, error.clip_id) == ("gpu_failed", "a lost context", "clip-1")
    assert str(error) == "gpu_failed: a lost context"


@pytest.mark.parametrize("name", ["file/run", "folder"])
def test_a_place_that_nobody_can_write_to_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    told = rf"storage_failed: .*{name.split('/')[0]}.*another place"
    with pytest.raises(EnvironmentFailure, match=told) as error, in_one_line():
        (tmp_path / name).write_bytes(b"x")
    assert "\n" not in str(error.value)


def test_other_errors_of_the_system_stay_what_they_are() -> None:
    with pytest.raises(FileNotFoundError), in_one_line():
        Path("nowhere/at/all").read_bytes()


def test_a_full_disk_is_told_with_the_place_and_what_is_free(tmp_path: Path) -> None:
    told = rf"No space left on device \({tmp_path}, [\d.]+ MB free\)"
    with pytest.raises(EnvironmentFailure, match=told) as error, in_one_line(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.kind == "disk_full"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("No space left on device (os error 28)"), "disk_full: No space left on device ("),
        (
            PermissionError("Permission denied (os error 13): ro/.p.csv.partial"),
            "storage_failed: Permission denied (ro/.p.csv.partial); ",
        ),
        (
            PermissionError(errno.EACCES, "Failed to open local file 'ro/p.parquet'. Detail: [errno 13] ..."),
            "storage_failed: Permission denied (ro/p.parquet); ",
        ),
    ],
)
def test_what_polars_and_pyarrow_say_in_their_texts_alone_is_understood(error: OSError, said: str) -> None:
    with pytest.raises(EnvironmentFailure) as raised, in_one_line(Path()):
        raise error
    assert str(raised.value).startswith(said)
