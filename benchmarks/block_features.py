"""Features of several blocks beside the plain ones: linear probes of networks that learnt without labels, on Penn
Action and NW-UCLA.

Networks, schedules, views and probes are those of `ssl_penn` and of the part of `nw_ucla` without labels; the momentum
of the key encoder stays as it is, which is the default in runs of this length. Means of the last block are the row
`plain`; means and maxima over time and joints of blocks 4, 7 and 10 are the row `blocks`. Random networks are probed by
both. Nothing is chosen on a test side: blocks and measures were named beforehand.

`--only penn 0` and `--only ucla 0` run one seed of one set; seeds that were run are kept in results/seeds.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nw_ucla as ucla
import ssl_penn
import torch
from harness import main
from seeds import difference, seeds, spread
from skeletons import nw_ucla, penn, ten_percent
from ssl_penn import drawn, measured, positions, pretrain, probe, rows

from training.runs.features import calibrate
from training.transforms.preprocess import Preprocess

PROTOCOLS: dict[str, dict[str, Any]] = {
    "penn": {**ssl_penn.PROTOCOL, "blocks": [4, 7, 10], "anneal": "auto"},
    "ucla": {**ucla.WITHOUT_LABELS, "blocks": [4, 7, 10], "anneal": "auto"},
}
SEEDS = {"penn": range(3), "ucla": range(3)}
GOALS = {"penn": 92.0, "ucla": 20.0}
"""Per cent of the probe with a tenth of the labels; points over the random network with the same features."""
KINDS = {"plain": False, "blocks": True}


def penn_job(seed: int, folder: Path) -> dict[str, Any]:
    """One seed on Penn Action: both kinds of features of the random and of the trained network."""
    whole, test = penn()
    chosen = positions(ten_percent(whole, seed), whole)
    preprocess = Preprocess(whole.skeleton)
    networks = {"random": calibrate(drawn(whole, seed), whole, preprocess, ssl_penn.FRAMES)}
    networks["learnt"] = pretrain(whole, preprocess, ssl_penn.STRONG, seed, folder).backbone
    found = {}
    for name, network in networks.items():
        for kind, blocks in KINDS.items():
            both = measured(network, whole, test, preprocess, chosen, blocks)
            found[f"{name}_{kind}"], found[f"{name}_{kind}_10"] = both
    return found


def ucla_job(seed: int, folder: Path) -> dict[str, Any]:
    """One seed on NW-UCLA, cross view."""
    train, test = nw_ucla()
    preprocess = Preprocess(train.skeleton, normalise=ucla.VIEW["normalise"])
    networks = {"random": calibrate(drawn(train, seed, channels=3), train, preprocess, ssl_penn.FRAMES)}
    networks["learnt"] = pretrain(train, preprocess, ucla.STEPS, seed, folder, ucla.WITHOUT, channels=3).backbone
    found = {}
    for name, network in networks.items():
        for kind, blocks in KINDS.items():
            learnt_from = rows(network, train, preprocess, ucla.STEPS, blocks)
            told = rows(network, test, preprocess, blocks=blocks)
            found[f"{name}_{kind}"] = probe(learnt_from, train.label_ids, told, test.label_ids, len(train.labels))
    return found


JOBS: dict[str, Callable[[int, Path], dict[str, Any]]] = {"penn": penn_job, "ucla": ucla_job}


def run(quick: bool) -> dict[str, Any]:
    """Linear probes of both kinds of features, beside random networks."""
    torch.set_num_threads(1)
    runs = {
        name: seeds(f"block_features-{name}", PROTOCOLS[name], SEEDS[name][:1] if quick else SEEDS[name], job)
        for name, job in JOBS.items()
    }
    figures = {
        name: {key: spread(found, key) for key in found[0] if "_" in key and key != "cpu_s" and key != "wall_s"}
        for name, found in runs.items()
    }
    compared = (
        {}
        if quick
        else {
            "penn, blocks - plain, 10 %": difference(runs["penn"], "learnt_blocks_10", "learnt_plain_10"),
            "ucla, blocks - plain": difference(runs["ucla"], "learnt_blocks", "learnt_plain"),
            "ucla, blocks - random blocks": difference(runs["ucla"], "learnt_blocks", "random_blocks"),
            "ucla, plain - random plain": difference(runs["ucla"], "learnt_plain", "random_plain"),
        }
    )
    few = figures["penn"]["learnt_blocks_10"]["mean"]
    over = figures["ucla"]["learnt_blocks"]["mean"] - figures["ucla"]["random_blocks"]["mean"]
    return {
        "name": "block_features",
        "value": few,
        "unit": "% top-1 on Penn Action, linear probe with 10 % of the labels, features of several blocks",
        "goal": GOALS,
        "holds": few >= GOALS["penn"] and over >= GOALS["ucla"],
        "baselines": {name: part["random_blocks"]["mean"] for name, part in figures.items()},
        "n": {"penn": len(penn()[1]), "ucla": len(nw_ucla()[1])},
        "spread": {**figures, **compared},
        "data": "Penn Action, ground-truth joints, official split; NW-UCLA, cameras 1 and 2 -> 3",
        "details": {
            "protocol": PROTOCOLS,
            "cpu_s": {name: [one["cpu_s"] for one in found] for name, found in runs.items()},
        },
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:  # one set and one seed, as a short job
        torch.set_num_threads(1)
        seeds(f"block_features-{sys.argv[2]}", PROTOCOLS[sys.argv[2]], [int(sys.argv[3])], JOBS[sys.argv[2]])
    else:
        main(run)
