"""The default small configuration on the sets of `penn_action` and `nw_ucla`, with no option changed.

Those benchmarks fix views, schedule and width for each of the two sets, chosen on its training side. Here `unik_small`
is trained on the same files as a user would, and shall not end below them: within the 95 % interval of their saved
seeds or above. Floors are those that the training prints. Seeds that were run are kept in results/seeds.

On the training side of NW-UCLA alone, camera 1 -> camera 2, one seed, the schedule as it is gives 80.8 %; half as many
steps 78.0, twice as many 79.0, and the richer views of `nw_ucla` 79.4. So nothing was changed.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import json
from typing import Any

import torch
from harness import RESULTS, main
from public_sets import RECIPE, job, protocol
from seeds import seeds, spread
from skeletons import SHARED

SETS = {"penn_action": "Penn Action, official split, joints", "nw_ucla": "NW-UCLA, cameras 1 and 2 -> 3, joints"}
SEEDS = range(2)


def saved(name: str) -> dict[str, float]:
    """Mean and interval of the joint stream in the newest saved result of a benchmark."""
    path = max(RESULTS.glob(f"{name}_*.json"), key=lambda path: path.stem.rsplit("_", 1)[-1])
    figures: dict[str, float] = json.loads(path.read_text())["spread"]["joint"]
    return figures


def run(quick: bool) -> dict[str, Any]:
    """Top-1 of the default small configuration on Penn Action and NW-UCLA, beside the benchmarks of their own."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for name in SETS:
        file = (SHARED / "skeleton" / f"{name}.npz").resolve()
        numbers = SEEDS[:1] if quick else SEEDS
        runs = seeds(f"default_small-{name}", protocol(name, file), numbers, job(file))
        found[name] = {"top-1": spread(runs, "classifier"), "own": saved(name), "floors": runs[0]["floors"]}
    return {
        "name": "default_small",
        "value": {name: round(figures["top-1"]["mean"], 2) for name, figures in found.items()},
        "unit": "% top-1, one stream",
        "goal": {name: f"at least {figures['own']['low']:.2f}" for name, figures in found.items()},
        "holds": all(figures["top-1"]["mean"] >= figures["own"]["low"] for figures in found.values()),
        "baselines": {
            name: {**figures["floors"], f"benchmark {name}": figures["own"]["mean"]} for name, figures in found.items()
        },
        "n": {name: len(figures["top-1"]["each"]) for name, figures in found.items()},
        "spread": {name: figures["top-1"] for name, figures in found.items()},
        "data": SETS,
        "details": {"recipe": RECIPE},
    }


if __name__ == "__main__":
    main(run)
