"""MCC's ablation in its published order (table 1): which of its three losses, before fine-tuning, helps ST-GCN.

Published: NTU RGB+D 60, pre-trained on the set itself, then fine-tuned with all labels. Here: Penn Action, ST-GCN of a
quarter width and 32 frames, pre-trained on the training clips without labels for 5,000 steps of 16 clips, fine-tuned
with 10 % of the labels (with all of them every row is within a point of the ceiling), each row paired with "w/o
pre-training" on the same clips. Clips of a sequence are seen in random views of their own, and keys come from a
momentum encoder: of clips that differ in time alone the camera may tell which sequence they are of. The figures are
stated whichever way they fall.

Before, with 585 steps of 32 clips of 16 frames, without views and without a momentum encoder (five seeds),
interpolation alone helped (+1.2, interval 0.8 to 1.5); InfoNCE hurt (-11.2, -19.8 to -2.6), and all three together did
not clearly differ from none (-4.2, -9.4 to 1.0). Published, all of them help. With the protocol of today InfoNCE no
longer hurts: 89.0 % beside 89.3 without pre-training, one seed; the other rows were not measured.

`--only nce 0` runs one row of one seed, 10 to 30 minutes of one core; rows that were run are kept in results/seeds.
`--quick` tells what is there.
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
from seeds import accuracy, difference, kept, network, predict, seeds, spread, supervise, train
from skeletons import Memory, penn, ten_percent

from training import create_method
from training.backbones.base import Backbone
from training.engine.settings import OptimSettings, TrainSettings
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

ROWS: dict[str, dict[str, float]] = {
    "none": {},
    "triplet": {"triplet": 1.0, "nce": 0.0, "interpolation": 0.0},
    "nce": {"triplet": 0.0, "nce": 1.0, "interpolation": 0.0},
    "between": {"triplet": 0.0, "nce": 0.0, "interpolation": 1.0},
    "triplet + nce": {"triplet": 1.0, "nce": 1.0, "interpolation": 0.0},
    "all": {"triplet": 1.0, "nce": 1.0, "interpolation": 1.0},
}
PUBLISHED = {"none": 81.5, "triplet": 82.3, "nce": 81.8, "between": 82.5, "triplet + nce": 82.6, "all": 83.0}
"""NTU60 cross-subject, ST-GCN."""
STEPS = (
    {"name": "crop", "min": 0.5},
    {"name": "flip"},
    {"name": "scale", "range": 0.1},
    {"name": "shift", "range": 0.1},
    {"name": "rotate", "degrees": 15},
)
PROTOCOL: dict[str, Any] = {
    "frames": 32,
    "steps": list(STEPS),
    "pretrain": {"epochs": 64, "batch": 16, "lr": 0.05, "warmup": 1, "spatial": True},
    "queue": {"size": 512, "momentum": 0.99},
    "finetune": {"epochs": 90, "batch": 16, "lr": 0.05, "warmup": 2, "smoothing": 0.0},
    "base": 16,
}
SEEDS = range(5)


def drawn(dataset: Memory, seed: int, num_classes: int = 0) -> Backbone:
    """The network as it is drawn by the seed."""
    return network(dataset, seed, num_classes, channels_base=PROTOCOL["base"], name="stgcn")


def pretrained(dataset: Memory, view: View, weights: dict[str, float], seed: int, folder: Path) -> Backbone:
    """The network after learning from the clips without labels."""
    tables = PROTOCOL["pretrain"]
    method = create_method(
        "mcc",
        backbone=drawn(dataset, seed),
        playback={"frames": PROTOCOL["frames"], "spatial": tables["spatial"]},
        queue=PROTOCOL["queue"],
        **weights,
    )
    settings = TrainSettings(
        epochs=tables["epochs"],
        optim=OptimSettings(lr=tables["lr"], warmup=tables["warmup"]),
        grad_clip=1.0,
        seed=seed,
        log_every=39,
        save_every=60,
    )
    train(method, dataset, Preprocess(dataset.skeleton), view, settings, seed, folder, tables["batch"])
    return method.backbone


def job(row: str) -> Callable[[int, Path], dict[str, Any]]:
    """One seed of a row: the same drawn network and the same labelled clips as every other row of the seed."""

    def measure(seed: int, folder: Path) -> dict[str, Any]:
        whole, test = penn()
        few, preprocess, tables = ten_percent(whole, seed), Preprocess(whole.skeleton), PROTOCOL["finetune"]
        view = View(PROTOCOL["frames"], STEPS, whole.skeleton)
        backbone = drawn(few, seed, len(whole.labels))
        if ROWS[row]:
            learnt = pretrained(whole, view, ROWS[row], seed, folder / "pretrain")
            backbone.load_weights(learnt.state_dict(), classifier=False)
        settings = TrainSettings(
            epochs=tables["epochs"],
            optim=OptimSettings(lr=tables["lr"], warmup=tables["warmup"]),
            seed=seed,
            log_every=7,
            save_every=60,
        )
        place = folder / "finetune"
        supervise(
            few,
            preprocess,
            view,
            settings,
            seed,
            place,
            tables["batch"],
            tables["smoothing"],
            backbone=backbone,
        )
        return {"top-1": accuracy(predict(backbone, test, preprocess, PROTOCOL["frames"]), test.label_ids)}

    return measure


def name_of(row: str) -> str:
    """Of the files of a row."""
    return f"mcc_ablation-{row.replace(' + ', '_')}"


def over_none(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Differences of each row from no pre-training, paired by the seeds that both have."""
    found: dict[str, Any] = {}
    none = {one["seed"]: one["top-1"] for one in runs.get("none", ())}
    for row, some in runs.items():
        pairs = [{"row": one["top-1"], "none": none[one["seed"]]} for one in some if one["seed"] in none]
        if row != "none" and pairs:
            alone = {"mean": pairs[0]["row"] - pairs[0]["none"]}
            found[row] = {**(difference(pairs, "row", "none") if len(pairs) > 1 else alone), "n": len(pairs)}
    return found


def run(quick: bool) -> dict[str, Any]:
    """MCC's losses one by one."""
    torch.set_num_threads(1)
    _, test = penn()
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in ROWS:
        numbers = kept(name_of(row), PROTOCOL, SEEDS) or (SEEDS[:1] if row == "none" else []) if quick else SEEDS
        if numbers:
            runs[row] = seeds(name_of(row), PROTOCOL, numbers, job(row))
    gains = over_none(runs)
    whole = all(len(runs.get(row, ())) == len(SEEDS) for row in ROWS)
    return {
        "name": "mcc_ablation",
        "value": {row: round(gain["mean"], 3) for row, gain in gains.items()},
        "unit": "points of top-1 over no pre-training, 10 % of the labels",
        "goal": None,
        "holds": whole and gains["all"]["low"] > 0,
        "baselines": {"none": spread(runs["none"], "top-1")["mean"], "published_ntu60_xsub": PUBLISHED},
        "n": len(test),
        "spread": {
            "rows": {row: spread(some, "top-1") for row, some in runs.items()},
            "over no pre-training": gains,
        },
        "data": "Penn Action, ground-truth joints, official split, 127 labelled clips",
        "details": {
            "protocol": PROTOCOL,
            "seeds": {row: [one["seed"] for one in some] for row, some in runs.items()},
        },
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:  # one row and one seed, as a short job
        torch.set_num_threads(1)
        seeds(name_of(sys.argv[2]), PROTOCOL, [int(sys.argv[3])], job(sys.argv[2]))
    else:
        main(run)
