"""UNIK on Penn Action's ground-truth joints, official split: joints, bones, and both, beside what needs no learning.

Half width for five seeds, and full width for one (its two streams take about an hour of one core). Nothing is
chosen on the test side: the last epoch counts, and schedule and views were set beforehand. Seeds that were run
are kept in results/seeds; a stopped run goes on.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path
from typing import Any

import numpy as np
import penn_estimated
import torch
from harness import main
from seeds import accuracy, difference, predict, seeds, spread, supervise
from skeletons import one_nn, penn, ridge

from training.engine.settings import OptimSettings, TrainSettings
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

STEPS = (
    {"name": "crop", "min": 0.5},
    {"name": "flip"},
    {"name": "scale", "range": 0.1},
    {"name": "shift", "range": 0.1},
    {"name": "rotate", "degrees": 15},
)
"""The weak view, with the mirror image as often as not."""
PROTOCOL: dict[str, Any] = {
    "frames": 32,
    "epochs": 30,
    "batch": 32,
    "lr": 0.1,
    "decay": 1e-4,
    "smoothing": 0.1,
    "steps": list(STEPS),
}
SEEDS = range(5)


def job(base: int) -> Any:
    """One seed: both streams trained, tested on the test split."""
    train, test = penn()

    def run(seed: int, folder: Path) -> dict[str, Any]:
        answers = {}
        for stream in ("joint", "bone"):
            preprocess = Preprocess(train.skeleton, stream=stream)
            view = View(PROTOCOL["frames"], STEPS, train.skeleton)
            settings = TrainSettings(
                epochs=PROTOCOL["epochs"],
                optim=OptimSettings(lr=PROTOCOL["lr"], weight_decay=PROTOCOL["decay"], warmup=1),
                seed=seed,
                log_every=39,
                save_every=60,
            )
            backbone = supervise(
                train,
                preprocess,
                view,
                settings,
                seed,
                folder / stream,
                PROTOCOL["batch"],
                PROTOCOL["smoothing"],
                channels_base=base,
            )
            answers[stream] = predict(backbone, test, preprocess, PROTOCOL["frames"])
        answers["both"] = answers["joint"] + answers["bone"]
        return {name: accuracy(values, test.label_ids) for name, values in answers.items()}

    return run


def run(quick: bool) -> dict[str, Any]:
    """Accuracy of UNIK on Penn Action."""
    torch.set_num_threads(1)
    train, test = penn()
    half = seeds("penn_action-half", {**PROTOCOL, "base": 32}, SEEDS[:1] if quick else SEEDS, job(32))
    full = [] if quick else seeds("penn_action-full", {**PROTOCOL, "base": 64}, range(1), job(64))
    fused = seeds("penn_estimated", PROTOCOL, SEEDS[:1] if quick else SEEDS, penn_estimated.job(PROTOCOL, STEPS))
    joint, both = spread(half, "joint"), spread(half, "both")
    lost = {} if quick else {name: difference(fused, "annotated", name) for name in penn_estimated.FUSIONS}
    return {
        "name": "penn_action",
        "value": both["mean"],
        "unit": "% top-1, joint + bone",
        "goal": {"joint": 97.5, "both": 98.0, "lost_with_consensus": 2.0, "lost_with_consensus_below_ssta": True},
        "holds": bool(
            joint["mean"] >= 97.5
            and both["mean"] >= 98.0
            and lost
            and lost["consensus"]["mean"] <= 2.0
            and lost["consensus"]["mean"] < lost["ssta"]["mean"]
        ),
        "baselines": {
            "majority": round(100 * float(np.bincount(test.label_ids).max() / len(test)), 1),
            "nearest_neighbour": one_nn(train, test),
            "nearest_neighbour_mirrored": one_nn(train, test, mirror=True),
            "ridge_mirrored": ridge(train, test, mirror=True),
        },
        "n": len(test),
        "spread": {"joint": joint, "bone": spread(half, "bone"), "both": both, "lost by estimating": lost},
        "data": f"Penn Action, ground-truth joints, official split ({len(train)} / {len(test)})",
        "details": {
            "protocol": PROTOCOL,
            "full_width": full,
            "estimated": fused,
            "cpu_s_a_seed": [run["cpu_s"] for run in half],
        },
    }


if __name__ == "__main__":
    main(run)
