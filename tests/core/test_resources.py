"""Processors and memory: limits of control groups of both versions, and affinity."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataengine.core.resources import cpu_count, cpu_quota, memory_bytes


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"
GROUP2 = {"proc/self/cgroup": "0::/jobs/build\n"}
GROUP1 = {"proc/self/cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({**GROUP2, f"{V2}/jobs/build/cpu.max": "max 100000\n"}, None),
        ({**GROUP2, f"{V2}/jobs/build/cpu.max": "150000 100000\n"}, 1.5),
        # the group around it has less
        ({**GROUP2, f"{V2}/jobs/build/cpu.max": "300000 100000\n", f"{V2}/jobs/cpu.max": "100000 100000\n"}, 1.0),
        # a container sees its own group at the mount
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "200000 100000"}, 2.0),
        ({**GROUP1, f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, None),
        ({**GROUP1, f"{V1}/cpu.cfs_quota_us": "50000", f"{V1}/cpu.cfs_period_us": "100000"}, 0.5),
        (
            {
                **GROUP1,
                f"{V1}/docker/abc/cpu.cfs_quota_us": "250000",
                f"{V1}/docker/abc/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
    ],
)
def test_quota_of_control_groups(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    assert cpu_quota(tree(tmp_path, files)) == quota


def test_a_quota_below_the_affinity_bounds_the_count(tmp_path: Path) -> None:
    assert cpu_count(tree(tmp_path, {**GROUP2, f"{V2}/cpu.max": "50000 100000"})) == 1
    assert cpu_count(tree(tmp_path, {f"{V2}/cpu.max": "6400000 100000"})) == len(os.sched_getaffinity(0))


def test_affinity_bounds_the_count() -> None:
    only = min(os.sched_getaffinity(0))
    script = (
        f"import os; os.sched_setaffinity(0, [{only}]); from dataengine.core.resources import *; print(cpu_count())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({**GROUP2, f"{V2}/jobs/build/memory.max": "1048576"}, 1 << 20),
        ({**GROUP2, f"{V2}/jobs/build/memory.max": "max", f"{V2}/jobs/memory.max": "2097152"}, 2 << 20),
        ({**GROUP1, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "1048576"}, 1 << 20),
        # what version 1 says where there is no limit
        ({**GROUP1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, None),
    ],
)
def test_memory_of_control_groups(files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_bytes(tree(tmp_path, files)) == (host if limit is None else limit)
