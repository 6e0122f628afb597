"""Which GPU a process takes: one that it sees and that the fewest processes on its host have taken.

Processes on a host agree through locks on files, which the system releases when a process ends. So it does not matter
what started a worker, what its name is, or whether CUDA_VISIBLE_DEVICES holds one device, all of them, or all of them
rotated: each process takes another GPU, and a restarted worker takes the one that became free.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import itertools
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from dataengine.core import devices
from dataengine.core.errors import DataEngineError

_HELD: list[int] = []
"""Descriptors of the locks of this process, which it keeps until it ends."""

_aside: frozenset[str] = frozenset()
"""Names of GPUs that this process takes only where there is no other."""

_claimed: tuple[str, int] = ("", 0)
"""Name of the GPU that this process has claimed, and how many it sees; '' and 0 before."""


def visible(count: int, environment: Mapping[str, str], uuids: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the GPUs that a process sees, in the order of its device indices.

    Args:
        count: how many GPUs a runtime finds.
        environment: of the process. CUDA_VISIBLE_DEVICES names GPUs of the host where their unique ids are not known.
        uuids: unique ids of the GPUs, where a runtime tells them. They alone are the same in every container.
    """
    if len(uuids) == count:
        return tuple(uuids)
    listed = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(listed) if len(listed) == count else tuple(str(n) for n in range(count))


def claim(names: Sequence[str], folder: Path, aside: Collection[str] = ()) -> int:
    """The index of the GPU that this process takes and holds until it ends: the first of those with fewest holders.

    Args:
        names: of the GPUs that the process sees, by index.
        folder: of the locks, on a file system of the host alone.
        aside: names that are taken only where there are no others.

    Raises:
        DataEngineError: the folder cannot be used, or belongs to somebody else.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError("it belongs to somebody else")
        good = [(index, name) for index, name in enumerate(names) if name not in aside]
        for turn in itertools.count():
            for index, name in good or enumerate(names):
                path = folder / f"{name.replace('/', '_')}.{turn}"
                lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    continue
                _HELD.append(lock)
                return index
    except OSError as error:
        raise DataEngineError(
            f"{folder} cannot hold the locks by which processes share GPUs: {error}; set TMPDIR to a folder of yours"
        ) from error
    raise AssertionError("some turn is free")


def _uuids() -> list[str]:
    """Unique ids of the GPUs that torch sees; empty without torch."""
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    if not torch.cuda.is_available():
        return []
    return [str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())]


@functools.cache
def _own() -> int:
    global _claimed
    folder = Path(tempfile.gettempdir()) / f"dataengine-gpus-{os.getuid()}"
    names = visible(devices.count(), os.environ, _uuids())
    index = claim(names, folder, _aside)
    _claimed = (names[index], len(names))
    return index


def claimed() -> tuple[str, int]:
    """Name of the GPU that this process has claimed, and how many it sees; '' and 0 where it has claimed none."""
    return _claimed


def leave(aside: Collection[str]) -> bool:
    """Leave GPUs to nobody, where there are others; whether this process can: False where it holds one of them."""
    global _aside
    _aside = frozenset(aside)
    return _claimed[0] not in _aside


def device_of_process(device: str) -> str:
    """The device of this process for 'cpu', 'cuda' or 'cuda:N': with 'cuda' the GPU that the process has claimed."""
    return f"cuda:{_own()}" if device == "cuda" else device
