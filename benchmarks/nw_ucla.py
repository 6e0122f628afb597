"""UNIK on NW-UCLA, cross view (cameras 1 and 2 -> 3), joints in space: with labels, and probed after learning without
them.

Quarter width, five seeds, the last epoch, beside what needs no learning and the probe of the network as it was drawn.
RandomViews and schedule with labels were chosen on the training side alone, camera 1 -> camera 2, one seed, which is
harder: 78.6 % with 16 frames, 80.4 when depth may be inverted (Kinect takes backs for fronts), 80.6 with 32 frames for
twice the time; twice the width (80.8) and twice the epochs (80.2) changed nothing, and a start from learning without
labels gave less (77.8 after 40 epochs). Without labels the schedule is that of `ssl_penn`, shortened; random views in
the probe raised it there from 66.5 to 68.1 and a random network's not. Seeds that were run are kept in results/seeds; a
stopped run goes on.

Without labels the gain over the random network stays half a point below its goal, with random views and without (19.4
both).
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path
from typing import Any

import numpy as np
import ssl_penn
import torch
from harness import main
from seeds import accuracy, difference, predict, seeds, spread, supervise
from skeletons import nw_ucla, one_nn, ridge
from ssl_penn import PRETRAIN, drawn, pretrain, probe, rows

from training.engine.settings import OptimSettings, TrainSettings
from training.runs.features import calibrate
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

STEPS = (
    {"name": "crop", "min": 0.4},
    {"name": "flip"},
    {"name": "scale", "range": 0.2},
    {"name": "stretch", "range": 0.2},
    {"name": "shear", "range": 0.2},
    {"name": "rotate", "degrees": [15, 45, 15]},
    {"name": "noise", "sigma": 0.03},
    {"name": "mask_joints", "share": 0.05},
)
VIEW: dict[str, Any] = {"base": 16, "normalise": "view_body", "steps": list(STEPS)}
FRAMES = 16
SUPERVISED_STEPS = (*STEPS, {"name": "invert_depth"})
PROTOCOL: dict[str, Any] = {
    "base": 16,
    "normalise": "view_body",
    "steps": list(SUPERVISED_STEPS),
    "frames": FRAMES,
    "epochs": 100,
    "batch": 16,
    "lr": 0.1,
    "decay": 1e-4,
    "smoothing": 0.1,
}
WITHOUT: dict[str, Any] = {**PRETRAIN, "epochs": 80}
WITHOUT_LABELS: dict[str, Any] = {
    **VIEW,
    "frames": ssl_penn.FRAMES,
    "pretrain": WITHOUT,
    "views": ssl_penn.PROTOCOL["views"],
}
SEEDS = range(5)


def job(seed: int, folder: Path) -> dict[str, Any]:
    """One seed: trained on two cameras, tested on the third."""
    train, test = nw_ucla()
    preprocess, view = (
        Preprocess(train.skeleton, normalise=VIEW["normalise"]),
        View(FRAMES, SUPERVISED_STEPS, train.skeleton),
    )
    settings = TrainSettings(
        epochs=PROTOCOL["epochs"],
        optim=OptimSettings(lr=PROTOCOL["lr"], weight_decay=PROTOCOL["decay"], warmup=2),
        seed=seed,
        log_every=31,
        save_every=60,
    )
    backbone = drawn(train, seed, len(train.labels), channels=3)
    supervise(
        train, preprocess, view, settings, seed, folder, PROTOCOL["batch"], PROTOCOL["smoothing"], backbone=backbone
    )
    return {"joint": accuracy(predict(backbone, test, preprocess, FRAMES), test.label_ids)}


def without_labels(seed: int, folder: Path) -> dict[str, Any]:
    """One seed: linear probes of the network as it was drawn and after it learnt without labels."""
    train, test = nw_ucla()
    preprocess = Preprocess(train.skeleton, normalise=VIEW["normalise"])
    random = calibrate(drawn(train, seed, channels=3), train, preprocess, ssl_penn.FRAMES)
    learnt = pretrain(train, preprocess, STEPS, seed, folder, WITHOUT, channels=3).backbone
    found = {}
    for name, network in (("random", random), ("linear", learnt)):
        train_features, test_features = rows(network, train, preprocess, STEPS), rows(network, test, preprocess)
        found[name] = probe(train_features, train.label_ids, test_features, test.label_ids, len(train.labels))
    return found


def run(quick: bool) -> dict[str, Any]:
    """Accuracy of UNIK on NW-UCLA, cross view."""
    torch.set_num_threads(1)
    train, test = nw_ucla()
    chosen = SEEDS[:1] if quick else SEEDS
    runs = seeds("nw_ucla", PROTOCOL, chosen, job)
    probes = seeds("nw_ucla-untold", WITHOUT_LABELS, chosen, without_labels)
    linear, random = spread(probes, "linear"), spread(probes, "random")
    joint = spread(runs, "joint")
    met = {
        "joint": joint["mean"] >= 90.0,
        "stretch": joint["mean"] >= 92.0,
        "linear_over_random": linear["mean"] - random["mean"] >= 20.0,
    }
    facing, body = (Preprocess(train.skeleton, normalise=name) for name in ("view", "view_body"))
    return {
        "name": "nw_ucla",
        "value": joint["mean"],
        "unit": "% top-1, joint, cross view",
        "goal": {"joint": 90.0, "stretch": 92.0, "linear_over_random": 20.0},
        "holds": met["joint"] and met["linear_over_random"],
        "baselines": {
            "majority": round(100 * float(np.bincount(test.label_ids).max() / len(test)), 1),
            "nearest_neighbour": one_nn(train, test, preprocess=facing),
            "nearest_neighbour_mirrored": one_nn(train, test, mirror=True, preprocess=body),
            "ridge": ridge(train, test, preprocess=body, strength=100.0),
            "random_network_probe": random["mean"],
        },
        "n": len(test),
        "spread": {
            "joint": joint,
            "linear": linear,
            "random": random,
            "linear - random": None if quick else difference(probes, "linear", "random"),
        },
        "data": f"NW-UCLA, cameras 1 and 2 -> 3 ({len(train)} / {len(test)})",
        "details": {
            "protocol": PROTOCOL,
            "without_labels": WITHOUT_LABELS,
            "met": met,
            "cpu_s_a_seed": [run["cpu_s"] for run in runs],
        },
    }


if __name__ == "__main__":
    main(run)
