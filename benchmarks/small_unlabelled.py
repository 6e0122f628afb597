"""The small recipes without labels, run as a user runs them: `train`, then `probe --blocks --knn --label-fraction 0.1`,
beside floors and random networks.

The sets are two of `small_sets`, cut out of training sides on which defaults may be chosen. What learning is worth is
the gain over random networks of the same features; the floors on coordinates say whether a network was needed at all.

`--only mcc_small penn2d 0` runs one recipe on one set with one seed; what was run is kept in results/seeds. `--quick`
tells what is there.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import main
from seeds import kept, seeds, spread
from small_sets import small_set, write

from dataengine.core import settings
from training import config as configs
from training.runs import splits
from training.runs.probe import probe
from training.runs.run import load_run
from training.runs.train import train

RECIPES = ("tmor_small", "mcc_small")
SETS = ("penn2d", "ucla3d")
SEEDS = range(3)
FEW = 0.1
RANDOM = "random network"


def protocol(recipe: str) -> dict[str, Any]:
    """Everything that the recipe says and that decides the figures."""
    tables = settings.read(configs.find(recipe))
    unseen = ("name", "seed", "workers", "save_every", "probe_every")
    return tables | {"run": {key: value for key, value in tables["run"].items() if key not in unseen}, "few": FEW}


def job(recipe: str, name: str) -> Callable[[int, Path], dict[str, Any]]:
    """One seed of a recipe on a set: every probe in per cent, with its baselines."""

    def run(seed: int, folder: Path) -> dict[str, Any]:
        chosen = [f"run.seed={seed}", "run.tensorboard=false", "run.probe_every=0"]
        config = configs.load(recipe, chosen).on([str(write(name, folder))])
        history = train(config, folder / "run", device="cpu").history
        learnt = load_run(folder / "run")
        train_part, val = (splits.open_split(learnt.config.data, split) for split in ("train", "val"))
        report = probe(learnt, train_part, val, fractions=(FEW,), neighbours=True, blocks=True)
        found: dict[str, Any] = {"steps": history.steps, "clips": [len(part) for part in small_set(name)]}
        for result in report.results:
            found[result.name] = {
                "value": round(100 * result.value, 2),
                **{key: round(100 * value, 2) for key, value in result.baselines.items()},
            }
        return found

    return run


def rows_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Value, baselines and gain over random networks of every probe, over seeds."""
    found = {}
    for name, one in runs[0].items():
        if isinstance(one, dict) and "value" in one:
            both = [{"value": run[name]["value"], "over": run[name]["value"] - run[name][RANDOM]} for run in runs]
            floors = {key: value for key, value in one.items() if key != "value"}
            found[name] = {"value": spread(both, "value"), "over_random": spread(both, "over"), "baselines": floors}
    return found


def run(quick: bool) -> dict[str, Any]:
    """Probes of the small recipes without labels, beside floors and random networks."""
    torch.set_num_threads(1)
    found, n = {}, {}
    for recipe in RECIPES:
        for name in SETS:
            part, own = f"small_unlabelled-{recipe}-{name}", protocol(recipe)
            numbers = kept(part, own, SEEDS) if quick else SEEDS
            if numbers:
                runs = seeds(part, own, numbers, job(recipe, name))
                found[f"{recipe}, {name}"] = rows_of(runs)
                n[f"{recipe}, {name}"] = {"clips": runs[0]["clips"], "seeds": len(runs)}
    linear = {key: next(iter(rows.values())) for key, rows in found.items()}
    gains = {key: round(row["over_random"]["mean"], 2) for key, row in linear.items()}
    whole = len(found) == len(RECIPES) * len(SETS) and all(one["seeds"] == len(SEEDS) for one in n.values())
    return {
        "name": "small_unlabelled",
        "value": gains,
        "unit": "points of a linear probe over random networks",
        "goal": "above 0",
        "holds": whole and all(gain > 0 for gain in gains.values()),
        "baselines": {key: row["baselines"] for key, row in linear.items()},
        "n": n,
        "spread": found,
        "data": "cut out of the training sides of Penn Action and NW-UCLA, see small_sets",
        "details": {"protocol": {recipe: protocol(recipe) for recipe in RECIPES}},
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:  # one recipe, one set and one seed, as a short job
        torch.set_num_threads(1)
        recipe, name, seed = sys.argv[2], sys.argv[3], int(sys.argv[4])
        seeds(f"small_unlabelled-{recipe}-{name}", protocol(recipe), [seed], job(recipe, name))
    else:
        main(run)
