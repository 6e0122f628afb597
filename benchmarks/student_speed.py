"""Seconds of one processor that a student needs per frame and epoch while it learns, forwards and backwards.

Processor time, not wall time, so that other programs of the machine do not count; one thread. Frames of 320 x 256 with
two labelled people. Networks with published weights are left out where the weights are not on this machine.
`dataengine build --dry-run` reads the figures from `manifests/rates.toml`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from harness import main

from dataengine.core import registry
from dataengine.core.errors import DataEngineError
from dataengine.core.types import LabelledFrame
from dataengine.testing import example_labels

STUDENTS: dict[str, dict[str, Any]] = {
    "movenet (lightning)": {"variant": "lightning"}, "movenet (thunder)": {"variant": "thunder"}, "anchor_pose": {},
}  # fmt: skip
BATCH = 8


def frames() -> list[LabelledFrame]:
    """A batch."""
    given = [one for one in example_labels(3) if len(one.keypoints)]
    return [given[n % len(given)] for n in range(BATCH)]


def seconds(name: str, options: dict[str, Any], steps: int) -> list[float]:
    """Processor seconds per frame of each step but the first.

    Raises:
        DataEngineError: its weights are not here.
    """
    import torch

    torch.set_num_threads(1)
    found = []
    with registry.create("students", name.split(" ")[0], options).start() as session:
        optimizer = torch.optim.AdamW([dict(params=list(g["params"])) for g in session.parameters()], lr=1e-6)
        for step in range(steps + 1):
            begun = time.process_time()
            optimizer.zero_grad()
            session.loss(frames(), np.random.default_rng(step), True)["loss"].backward()
            optimizer.step()
            found.append((time.process_time() - begun) / BATCH)
    return found[1:]


def run(quick: bool) -> dict[str, Any]:
    """Every student whose weights are here."""
    found, absent = dict[str, list[float]](), dict[str, str]()
    for name, options in STUDENTS.items():
        try:
            found[name] = seconds(name, options, 1 if quick else 4)
        except DataEngineError as error:
            absent[name] = str(error)
    medians = {name: round(float(np.median(values)), 4) for name, values in found.items()}
    return {
        "name": "student_speed",
        "value": medians,
        "unit": "processor seconds per frame and epoch",
        "goal": None,
        "holds": None,
        "baselines": {"absent": absent},
        "n": {name: len(values) for name, values in found.items()},
        "spread": {name: [round(min(values), 4), round(max(values), 4)] for name, values in found.items()},
        "data": f"{BATCH} small frames with one or two drawn people per step",
    }


if __name__ == "__main__":
    main(run)
