"""Running out of memory for real: a process whose address space is limited, and networks that need more per image."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dataengine

LIMITED = """
import json, resource, sys
import numpy as np
from dataengine.core.errors import ExpertError
from dataengine.experts.batching import AdaptiveBatchSize

KIND = sys.argv[1]
if KIND == "torch":
    import torch
    torch.set_num_threads(1)

class Network:
    '''Needs 100 MB for each image, and answers with its sum.'''
    sizes = []
    def infer(self, pixels):
        self.sizes.append(len(pixels))
        if KIND == "torch":
            work = torch.ones((len(pixels), 25_000_000), dtype=torch.float32)
            return [float(p.sum() * row[0]) for p, row in zip(pixels, work)]
        work = np.ones((len(pixels), 25_000_000), np.float32)
        return [float(p.sum() * row[0]) for p, row in zip(pixels, work)]

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 1_000_000, resource.RLIM_INFINITY))
pixels = np.arange(11 * 4 * 4 * 3, dtype=np.uint8).reshape(11, 4, 4, 3)
size, network = AdaptiveBatchSize(8), Network()
try:
    answers = size.run(network, pixels)
    right = answers == [float(p.sum()) for p in pixels]
    print(json.dumps({"right": right, "batch": size.batch, "halvings": size.halvings, "sizes": network.sizes}))
except ExpertError as error:
    print(json.dumps({"kind": error.kind, "retryable": error.retryable, "sizes": network.sizes}))
"""


def limited(kind: str, megabytes: int) -> dict[str, object]:
    answer = subprocess.run(
        [sys.executable, "-c", LIMITED, kind, str(megabytes)],
        capture_output=True,
        text=True,
        cwd=Path(dataengine.__file__).parents[1],
        check=True,
    )
    found: dict[str, object] = json.loads(answer.stdout)
    return found


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_batches_are_halved_until_they_fit(kind: str) -> None:
    """320 MB above what the process holds: two images fit, four do not."""
    if kind == "torch":
        pytest.importorskip("torch")
    found = limited(kind, 320)
    assert found["right"] and (found["batch"], found["halvings"]) == (2, 2)
    assert found["sizes"] == [8, 4, 2, 2, 2, 2, 2, 1]


def test_one_image_that_does_not_fit_is_a_typed_error() -> None:
    found = limited("numpy", 60)
    assert (found["kind"], found["retryable"], found["sizes"]) == ("out_of_memory", True, [8, 4, 2, 1])
