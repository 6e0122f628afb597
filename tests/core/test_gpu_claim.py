"""Each process of a host takes another GPU, whatever started it and whatever it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dataengine.core import gpu_claim
from dataengine.core.errors import DataEngineError

WORKER = """
import sys
from pathlib import Path
from dataengine.core.gpu_claim import claim
print(claim(sys.argv[2].split(","), Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def started(folder: Path, names: str) -> tuple[subprocess.Popen[str], str]:
    """A process that sees the GPUs `names`, and the name of the one that it took."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, names.split(",")[int(process.stdout.readline())]


def end(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "seen",
    [
        ["0,1,2,3"] * 4,  # command-line workers with names of any kind: all see every GPU
        ["0,1,2,3", "1,2,3,0", "2,3,0,1", "3,0,1,2"],  # LocalCUDACluster: each list is rotated
        ["GPU-a", "GPU-b", "GPU-c", "GPU-d"],  # one GPU each, by SLURM or a container
    ],
)
def test_processes_of_a_host_take_different_gpus(tmp_path: Path, seen: list[str]) -> None:
    processes, taken = zip(*(started(tmp_path / "locks", names) for names in seen))
    try:
        assert len(set(taken)) == 4
    finally:
        end(list(processes))


def test_a_restarted_worker_takes_the_gpu_that_became_free(tmp_path: Path) -> None:
    locks = tmp_path / "locks"
    first, one = started(locks, "0,1")
    second, _ = started(locks, "0,1")
    third, shared = started(locks, "0,1")
    try:
        assert shared == "0", "more processes than GPUs share them evenly"
        end([first])
        again, two = started(locks, "0,1")
        assert one == two == "0"
        end([again])
    finally:
        end([first, second, third])


@pytest.mark.parametrize(
    ("count", "environment", "uuids", "names"),
    [
        (2, {}, (), ("0", "1")),
        (2, {"CUDA_VISIBLE_DEVICES": "5, 3"}, (), ("5", "3")),
        (1, {"CUDA_VISIBLE_DEVICES": "7,-1"}, (), ("0",)),
        (2, {"CUDA_VISIBLE_DEVICES": "0,1"}, ("GPU-a", "GPU-b"), ("GPU-a", "GPU-b")),
    ],
)
def test_names_of_gpus(count: int, environment: dict[str, str], uuids: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert gpu_claim.visible(count, environment, uuids) == names


def test_a_folder_of_somebody_else_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "locks").symlink_to(tmp_path)
    with pytest.raises(DataEngineError, match="set TMPDIR"):
        gpu_claim.claim(["0"], tmp_path / "locks")


def test_only_cuda_without_an_index_is_claimed() -> None:
    assert gpu_claim.device_of_process("cpu") == "cpu"
    assert gpu_claim.device_of_process("cuda:3") == "cuda:3"
