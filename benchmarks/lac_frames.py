"""What contrast learns of single frames: plain, of composed motions (LAC), and of composed motions frame by frame.

Data: HDM05, eleven classes of motion capture in space, in the layout posetics17. The autoencoder of LAC and then the
networks learn from the 188 trimmed clips of three people, without labels; all networks are UNIK of a quarter width and
see the same clips, views, batches and number of steps. Then they are frozen, and ridge regression learns the classes of
frames from untrimmed sequences that are composed of the same clips, stitched and overlapped (`composed.py`, where the
protocol stands); figures are those of sequences composed of the other two people's clips. `plain` is MoCo: two random
views of a clip. `composed` are the motions of two clips in one, on the clip's own body and on two others. `composed,
frames` contrasts time steps, too.

Floors are a random network, and on coordinates nearest neighbours and ridge regression. Nothing is chosen on the test
side: steps, views and options were set beforehand, those of the recipes lac_small and lac_retarget_small where these
have them.

Over two seeds plain contrast has 52.4 % frame mAP, composed motions 49.4, contrast frame by frame beside them 48.1: the
goal is not reached, and regression on coordinates (70.6) is above all. People differ more than the rows do: with two of
the three people to learn from and the third to measure on (the autoencoder knew all three), one seed, composed motions
gave 51.0 % and plain contrast 35.2, the opposite. Both contrasts at once gave 46.9 there.

`--only ROW SEED` runs one row of one seed; rows and seeds are kept in results/seeds. `--quick` tells what is there.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
from pathlib import Path
from typing import Any

import lac
import torch
from composed import Composed, compose
from harness import main
from seeds import WORK, difference, kept, network, seeds, spread, train
from skeletons import Memory

from training import create_method
from training.backbones.base import Backbone
from training.engine.settings import OptimSettings, TrainSettings
from training.evaluate.segmentation import segmentation_results
from training.runs.features import calibrate
from training.runs.frame_probe import frame_floors, frame_probe
from training.runs.sliding import frame_scores
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

FRAMES, BASE = 32, 16
STEPS = (
    {"name": "crop", "min": 0.5},
    {"name": "flip"},
    {"name": "rotate", "degrees": (10, 30, 10)},
)
COMMON: dict[str, Any] = {
    "queue": {"size": 1024, "momentum": 0.99},
    "projector": {"hidden": 256, "width": 64, "layers": 2},
    "temperature": 0.1,
    "steps": 8,
}
ROWS: dict[str, dict[str, Any]] = {
    "plain": {"motions": 0, "frame_weight": 0.0},
    "composed": {"motions": 2, "positives": 2, "frame_weight": 0.0},
    "composed, frames": {"motions": 2, "positives": 2, "frame_weight": 1.0},
}
PROTOCOL: dict[str, Any] = {
    "frames": FRAMES,
    "base": BASE,
    "steps": list(STEPS),
    "common": COMMON,
    "epochs": 120,
    "batch": 32,
    "lr": 0.05,
    "decay": 1e-4,
    "warmup": 2,
    "generator": {"epochs": lac.EPOCHS, "axes": 3, "variant": "paper", **lac.SETTINGS},
}
SEEDS = range(2)
METRICS = ("frame mAP", "event mAP@0.3", "F1@50")


def memory(split: str) -> Memory:
    """HDM05's clips of a split, in posetics17."""
    (part,) = lac.clips(split)
    read = tuple(part.read(range(len(part))))
    return Memory(part.name, part.skeleton, tuple(part.labels), read, part.fingerprint)


def sequences() -> tuple[Composed, Composed]:
    """The untrimmed sequences that the probe learns from, and those that it is measured on."""
    return compose(memory("train"), "train", 6), compose(memory("test"), "test", 2)


def generator(seed: int) -> Path:
    """The folder of LAC's autoencoder of a seed, trained once."""
    folder = WORK / f"lac_frames-generator-{seed}"
    if not (folder / "model.safetensors").exists():
        lac.trained("without triplet", seed, lac.EPOCHS, folder, {"backbone.axes": 3})
    return folder


def learnt(row: str, seed: int, folder: Path, clips: Memory, preprocess: Preprocess) -> Backbone:
    """The network of a row."""
    options = {**COMMON, **ROWS[row]}
    if options["motions"]:
        options["generator"] = str(generator(seed))
    torch.manual_seed(seed)
    method = create_method("lac", backbone=network(clips, seed, 0, 3, BASE), **options)
    settings = TrainSettings(
        epochs=PROTOCOL["epochs"],
        optim=OptimSettings(lr=PROTOCOL["lr"], weight_decay=PROTOCOL["decay"], warmup=PROTOCOL["warmup"]),
        grad_clip=1.0,
        seed=seed,
        log_every=20,
        save_every=60,
    )
    train(method, clips, preprocess, View(FRAMES, STEPS, clips.skeleton), settings, seed, folder, PROTOCOL["batch"])
    backbone: Backbone = method.backbone
    return backbone


def job(row: str) -> Any:
    """One seed of a row: learnt, and the frames of the test sequences by a linear probe, in per cent."""

    def measure(seed: int, folder: Path) -> dict[str, Any]:
        clips, (known, told) = memory("train"), sequences()
        preprocess = Preprocess(clips.skeleton, normalise="body")
        if row == "random":
            backbone = calibrate(network(clips, seed, 0, 3, BASE), clips, preprocess, FRAMES)
        else:
            backbone = learnt(row, seed, folder, clips, preprocess)
        probe = frame_probe(backbone, [known], known.span_labels, preprocess, FRAMES)
        found = list(frame_scores(probe, [told], told.span_labels, preprocess, FRAMES, FRAMES // 2))
        return {r.metric: round(100 * r.value, 3) for r in segmentation_results(found, told.span_labels)}

    return measure


def floors(seed: int, folder: Path) -> dict[str, Any]:
    """Frame mAP on coordinates, without a network."""
    del seed, folder
    known, told = sequences()
    preprocess = Preprocess(known.skeleton, normalise="body")
    rows = frame_floors([known], [told], known.span_labels, preprocess, FRAMES)
    return {
        name: round(100 * segmentation_results(found, told.span_labels)[0].value, 3) for name, found in rows.items()
    }


def run(quick: bool) -> dict[str, Any]:
    """Frame mAP of linear probes on composed untrimmed sequences."""
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in ("random", *ROWS):
        there = kept(f"lac_frames-{row}", PROTOCOL, SEEDS)
        numbers = (there or (SEEDS[:1] if row == "random" else [])) if quick else SEEDS
        if numbers:
            found[row] = seeds(f"lac_frames-{row}", PROTOCOL, numbers, job(row))
    below = seeds("lac_frames-floors", PROTOCOL, range(1), floors)[0]
    figures = {row: {key: spread(runs, key) for key in METRICS} for row, runs in found.items()}
    ahead: dict[str, Any] = {}
    for first, second in (("composed", "plain"), ("composed, frames", "composed"), ("plain", "random")):
        pairs = list(zip(found.get(first, []), found.get(second, [])))
        if len(pairs) > 1:
            merged = [{"first": a["frame mAP"], "second": b["frame mAP"]} for a, b in pairs]
            ahead[f"{first} - {second}"] = difference(merged, "first", "second")
    goals = ("composed - plain", "composed, frames - composed")
    last = list(figures)[-1]
    return {
        "name": "lac_frames",
        "value": figures[last]["frame mAP"]["mean"],
        "unit": f"% frame mAP of a linear probe on composed sequences, {last}",
        "goal": "composed above plain, and frames above that (95 % intervals of the differences above 0)",
        "holds": all(name in ahead and ahead[name]["low"] > 0 for name in goals),
        "baselines": {
            **{row: each["frame mAP"]["mean"] for row, each in figures.items()},
            "nearest neighbours": below["nearest neighbours"],
            "ridge": below["ridge"],
        },
        "n": {row: len(runs) for row, runs in found.items()},
        "spread": {**figures, "differences": ahead},
        "data": "sequences composed of HDM05, three people to learn from and two to measure on, see composed.py",
        "details": {"protocol": PROTOCOL, "rows": ROWS},
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:  # one row and one seed, as a short job
        torch.set_num_threads(1)
        name, number = sys.argv[2], int(sys.argv[3])
        seeds(f"lac_frames-{name}", PROTOCOL, [number], floors if name == "floors" else job(name))
    else:
        main(run)
