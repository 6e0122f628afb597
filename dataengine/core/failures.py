"""What an exception says about: a host, memory, or none of the two (then it is a clip's, or a mistake of ours).

A failure of the environment is a property of a host at some time, never of a clip: a mount that went away, a full
disk, a GPU whose context is lost. It commits nothing. The unit runs again, elsewhere if there is an elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from dataengine.core.errors import DataEngineError, EnvironmentFailure, ExpertError, MediaError

OUT_OF_MEMORY = "out_of_memory"
"""What `kind_of` calls every way of running out of memory, on the host or on an accelerator."""

ENVIRONMENT: dict[str, str] = {
    "media_unreachable": "files that were there when they were planned lie in a folder that is gone or empty now",
    "storage_failed": "the file system failed (input/output error, stale handle, server away, read-only)",
    "disk_full": "no room is left on a disk, or in a quota",
    "host_limits": "the host has no more processes, threads or open files to give",
    "gpu_failed": "the GPU, its driver or one of its libraries failed; the process cannot use the GPU any more",
    "handshake_failed": "a worker differs from the driver in what results depend on",
}
"""Every kind of failure of the environment with its meaning. The list is closed."""

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_HOST_LIMITS = {errno.EMFILE, errno.ENFILE, errno.EAGAIN}
_NO_PLACE = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
"""What the system says of a place that nobody can write to, such as a file where a folder is to be."""
_A_FILE = (errno.ENOTDIR, errno.EEXIST)
_ROOM = 64 << 10
_STORAGE_FAILED = {
    errno.EIO,
    errno.EROFS,
    errno.ENXIO,
    errno.ENODEV,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EREMOTEIO,
}

_MEMORY_TEXTS = (
    "out of memory",
    "failed to allocate memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",  # CUDNN_STATUS_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED
    "allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "cudaerrormemoryallocation",
)
_GPU_TEXTS = (
    "cuda error",
    "cudaerror",
    "cuda_error",
    "cuda failure",
    "cuda runtime",
    "cuda driver",
    "cudagetdevicecount",
    "cudnn",
    "cublas",
    "cusolver",
    "cufft",
    "curand",
    "nccl",
    "nvml",
    "nvrtc",
    "nvidia driver",
    "cuda-capable device",
    "illegal memory access",
    "misaligned address",
    "illegal instruction was encountered",
    "unspecified launch failure",
    "launch timed out",
    "device-side assert",
    "uncorrectable ecc",
    "fallen off the bus",
    "no cuda gpus are available",
)


def kind_of(error: BaseException) -> str | None:
    """What an exception is: `out_of_memory`, a kind of `ENVIRONMENT`, or None for everything else.

    Errors of this package keep what they are, with two exceptions. A `MediaError` or `ExpertError` that the operating
    system caused is what the system said. The text of an `ExpertError` is that of the process of an isolated expert. No
    library is imported for asking.
    """
    if isinstance(error, EnvironmentFailure):
        return error.kind
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OUT_OF_MEMORY
    if isinstance(error, OSError):
        return _kind_of_errno(_of_the_system(error)[0])
    if isinstance(error, MediaError | ExpertError) and (kind := _kind_of_cause(error.__cause__)) is not None:
        return kind
    if isinstance(error, ExpertError):
        return _kind_of_text(error.detail) if error.kind == "expert_failed" else None
    if isinstance(error, DataEngineError) or not _of_a_runtime(error):
        return None
    return _kind_of_text(str(error))


def environment_kind(error: BaseException) -> str | None:
    """The kind of `ENVIRONMENT` that an exception is, or None."""
    kind = kind_of(error)
    return kind if kind in ENVIRONMENT else None


@contextlib.contextmanager
def in_one_line(place: Path | None = None) -> Iterator[None]:
    """Give what the environment did to the block in one line.

    Args:
        place: where the block writes; the line names it, and for a full disk what is free there.

    Raises:
        EnvironmentFailure: the operating system said that a disk is full, a file system failed and the like.
    """
    try:
        yield
    except OSError as error:
        number, file = _of_the_system(error)
        kind = environment_kind(error) or ("storage_failed" if number in _NO_PLACE and file else None)
        if kind is None:
            raise
        named = file or place
        where = f" ({named}{free_text(Path(str(named))) if kind == 'disk_full' else ''})" if named else ""
        mended = "that is mended" if environment_kind(error) else "you may use it, or give another place"
        said = "a file lies where a folder is to be" if number in _A_FILE else os.strerror(number) if number else error
        text = f"{said}{where}; run the same command again once {mended}"
        raise EnvironmentFailure(kind, text) from error


def free_text(place: Path) -> str:
    """How much is free on the disk of a place, which need not exist: ', 3.2 MB free'; '' where nobody tells."""
    there = next((path for path in (place, *place.absolute().parents) if path.exists()), place)
    try:
        return f", {shutil.disk_usage(there).free / 1e6:.1f} MB free"
    except OSError:
        return ""


def is_full(place: Path) -> bool:
    """Whether the disk of a place has less room than any file of a build takes."""
    try:
        return shutil.disk_usage(place).free < _ROOM
    except OSError:
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch, onnxruntime, cuDNN or cuBLAS ran out of host or device memory."""
    return kind_of(error) == OUT_OF_MEMORY


def _kind_of_cause(cause: BaseException | None) -> str | None:
    """What the operating system said. libav calls a damaged file an input/output error, too, so it is not asked."""
    of_the_system = isinstance(cause, OSError) and not type(cause).__module__.startswith("av.")
    return kind_of(cause) if of_the_system and cause is not None else None


def _of_the_system(error: OSError) -> tuple[int | None, str | None]:
    """The number of an error and the file that it is about, as far as they are told. Those of polars (Rust) and pyarrow
    have one or both in their texts alone."""
    number, file, text = error.errno, error.filename, str(error)
    if number is None and (told := re.search(r"\(os error (\d+)\)(?:: (.+))?$", text)):
        number, file = int(told[1]), told[2]
    if file is None and (told := re.search(r"local file '([^']+)'", text)):
        file = told[1]
    return number, file


def _kind_of_errno(number: int | None) -> str | None:
    if number == errno.ENOMEM:
        return OUT_OF_MEMORY
    for kind, numbers in (
        ("disk_full", _DISK_FULL),
        ("host_limits", _HOST_LIMITS),
        ("storage_failed", _STORAGE_FAILED),
    ):
        if number in numbers:
            return kind
    return None


def _of_a_runtime(error: BaseException) -> bool:
    """Whether an exception may come from torch or onnxruntime. Those of onnxruntime derive from `Exception` alone."""
    return isinstance(error, RuntimeError | SystemError) or type(error).__module__.startswith(("torch", "onnxruntime"))


def _kind_of_text(text: str) -> str | None:
    """What the message of a numeric library says. Memory comes first: 'CUDA error: out of memory' heals by itself."""
    lower = text.lower()
    if any(part in lower for part in _MEMORY_TEXTS):
        return OUT_OF_MEMORY
    if any(part in lower for part in _GPU_TEXTS):
        return "gpu_failed"
    return "host_limits" if "can't start new thread" in lower else None
