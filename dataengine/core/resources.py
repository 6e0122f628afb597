"""Processors and memory that this process may use: affinity and the limits of control groups, not what the host has.

A container or a job of a scheduler has a share of its host. `os.cpu_count()` and the physical memory tell of the host
alone. Limits stand in files of control groups, version 1 (one hierarchy per controller) and version 2 (one for all);
a limit of a group bounds all groups in it (kernel documentation, admin-guide/cgroup-v1 and cgroup-v2).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def cpu_count(root: Path = ROOT) -> int:
    """Processors that this process may keep busy: those of its affinity, at most its quota rounded up, at least 1."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        allowed = os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """The quota of processors of this process's control groups, the smallest; None without one."""
    found = []
    for folder in _groups("", root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) / int(period))
    for folder in _groups("cpu", root):
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory_bytes(root: Path = ROOT) -> int:
    """Bytes of memory that this process may use: those of the host, at most the limits of its control groups."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    files = [folder / "memory.max" for folder in _groups("", root)]
    files += [folder / "memory.limit_in_bytes" for folder in _groups("memory", root)]
    limits += [int(text) for text in map(_text, files) if text.isdigit()]
    return min(limits)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the group of this process and of those around it; '' is the hierarchy of version 2.

    A container without a namespace of its own reads the host's path, which does not exist under its mount: then the
    mount itself is its group.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controller not in controllers.split(","):
            continue
        names = [controllers, controller] if controller else ["", "unified"]
        for mount in dict.fromkeys(mounts / name for name in names):
            inside = mount / path.lstrip("/")
            yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(mount))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
