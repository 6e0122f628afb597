"""Several processes end as one does, whatever their threads are at."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
sys.path[:0] = {paths!r}
import torch
from training.distributed import end_together
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method={address!r}, rank={rank}, world_size=2)
end_together()
def communicate():
    network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    network.itself = [network]
    for _ in range(40):
        last = [torch.distributed.all_reduce(torch.ones(200000), async_op=True) for _ in range(4)]
        last[0].wait()
communicate()
"""


def test_a_process_ends_while_its_threads_communicate():
    """Values of all processes are on their way, and nobody waits for them: without an end in order most abort."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{found.getsockname()[1]}"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD.format(paths=[str(ROOT)], address=address, rank=rank)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for child in children:
        _, error = child.communicate(timeout=250)
        assert child.returncode == 0, error
