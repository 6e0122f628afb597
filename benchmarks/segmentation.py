"""Actions in untrimmed sequences: UNIK with a head per frame against a classifier that slides, and floors beside both.

Sequences are composed of the real motions of Penn Action and HDM05 (`composed.py`, where the protocol stands). Per data
set and seed three networks are trained alike - UNIK of a quarter width, the same windows, views and steps: with a
linear head per frame, with dilated temporal convolutions, and as a classifier of whole windows, whose answer all frames
of the window get. At test windows slide over the sequences, each prepared by itself, half a window apart; the
classifier of windows an eighth of a window apart. Beside them stand nearest neighbours and ridge regression on the
coordinates of the window around each frame, and ridge regression on the features of a random network, which has one
seed. Dilated convolutions are in the result where they were run (`--only`).

Nothing is chosen on the test side: schedule, window and boundaries were set beforehand and are those of `segment_small`
where it has them; the last step counts.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from composed import Composed, composed_hdm05, composed_penn
from harness import main
from seeds import difference, kept, network, seeds, spread

from training import create_method
from training.data.loader import DataLoader
from training.data.spans import WindowedDataset, lengths_of
from training.data.subsets import random_subset
from training.engine.loop import fit
from training.engine.settings import OptimSettings, TrainSettings
from training.evaluate.segmentation import Boundaries, segmentation_results
from training.methods.base import Method
from training.runs.features import calibrate
from training.runs.frame_probe import frame_floors, frame_probe
from training.runs.sliding import frame_scores
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

STEPS: dict[int, tuple[dict[str, Any], ...]] = {
    2: (
        {"name": "flip"},
        {"name": "scale", "range": 0.1},
        {"name": "shift", "range": 0.1},
        {"name": "rotate", "degrees": 15},
    ),
    3: (
        {"name": "flip"},
        {"name": "scale", "range": 0.1},
        {"name": "shift", "range": 0.1},
        {"name": "rotate", "degrees": (10, 30, 10)},
    ),
}
PROTOCOL: dict[str, Any] = {"frames": 64, "batch": 32, "lr": 0.05, "decay": 1e-4, "base": 16, "composed": 1}
EPOCHS = {"penn": 4, "hdm05": 8}
HEADS: dict[str, dict[str, Any]] = {
    "linear": {"head": "linear"},
    "dilated": {"head": "tcn"},
    "window": {"head": "window"},
}
SEEDS = range(3)


def data(name: str) -> tuple[Composed, Composed]:
    """The training and test sequences of a data set."""
    return composed_penn() if name == "penn" else composed_hdm05()


def preparation(name: str, train: Composed) -> Preprocess:
    """What the network is given; joints in space are also turned to face one way."""
    return Preprocess(train.skeleton, normalise="body" if name == "penn" else "view_body")


def figures(method: Method, test: Composed, preprocess: Preprocess, hop: int) -> dict[str, float]:
    """All figures of a method on the test sequences, in per cent."""
    found = list(frame_scores(method, [test], test.span_labels, preprocess, PROTOCOL["frames"], hop))
    return {r.metric: round(100 * r.value, 3) for r in segmentation_results(found, test.span_labels)}


def job(name: str, head: str) -> Any:
    """One seed of one head: trained, tested."""
    train, test = data(name)
    preprocess, frames = preparation(name, train), PROTOCOL["frames"]
    channels = train.clips[0].keypoints.shape[-1]

    def run(seed: int, folder: Path) -> dict[str, Any]:
        backbone = network(train, seed, 0, channels, PROTOCOL["base"])
        method = create_method("segment", backbone=backbone, num_classes=len(train.span_labels), **HEADS[head])
        view = View(frames, STEPS[channels], train.skeleton)
        windows = WindowedDataset(train, frames, frames // 2)
        loader = DataLoader(windows, method.sample_transform(preprocess, view), PROTOCOL["batch"], seed=seed)
        settings = TrainSettings(
            epochs=EPOCHS[name],
            optim=OptimSettings(lr=PROTOCOL["lr"], weight_decay=PROTOCOL["decay"], warmup=0.5),
            seed=seed,
            log_every=50,
            save_every=60,
            precision="bf16-mixed",
        )
        fit(method, loader, settings, folder)
        return figures(method, test, preprocess, frames // 8 if head == "window" else frames // 2)

    return run


def floors(name: str) -> dict[str, dict[str, float]]:
    """What is reached on coordinates, without a network."""
    train, test = data(name)
    rows: dict[str, dict[str, float]] = {}
    found = frame_floors([train], [test], train.span_labels, preparation(name, train), PROTOCOL["frames"])
    for floor, scores in found.items():
        results = segmentation_results(scores, train.span_labels)
        rows[floor] = {result.metric: round(100 * result.value, 3) for result in results}
        rows["chance"] = {"frame mAP": round(100 * results[0].baselines["chance"], 3)}
    return rows


def floors_kept(name: str) -> dict[str, Any]:
    """`floors`, computed once."""
    own = {**PROTOCOL, "epochs": EPOCHS[name], "calibrated": "windows"}
    found: dict[str, Any] = seeds(f"segmentation-{name}-floors", own, range(1), lambda *_: floors(name))[0]
    return found


def random_job(name: str) -> Any:
    """One seed of a network with random weights: ridge regression on its features of frames."""
    train, test = data(name)
    preprocess, frames = preparation(name, train), PROTOCOL["frames"]

    def run(seed: int, _: Path) -> dict[str, Any]:
        backbone = network(train, seed + 100, 0, train.clips[0].keypoints.shape[-1], PROTOCOL["base"])
        windows = random_subset([WindowedDataset(train, frames, frames)], 2000)
        calibrated = calibrate(backbone, windows, preprocess, frames)
        probe = frame_probe(calibrated, [train], train.span_labels, preprocess, frames)
        return figures(probe, test, preprocess, frames // 2)

    return run


def run(quick: bool) -> dict[str, Any]:
    """Frame mAP on composed untrimmed sequences."""
    torch.set_num_threads(1)
    numbers = SEEDS[:1] if quick else SEEDS
    spreads: dict[str, Any] = {}
    below: dict[str, Any] = {}
    ahead: dict[str, Any] = {}
    sizes: dict[str, Any] = {}
    for name in EPOCHS:
        train, test = data(name)
        sizes[name] = {
            "training": {"sequences": len(train), "frames": int(lengths_of(train).sum())},
            "test": {"sequences": len(test), "frames": int(lengths_of(test).sum())},
        }
        own = {**PROTOCOL, "epochs": EPOCHS[name]}
        below[name] = floors_kept(name)
        for key in ("cpu_s", "wall_s", "hardware", "commit", "protocol", "seed"):
            below[name].pop(key)
        of_random = seeds(f"segmentation-{name}-random", own, numbers[:1], random_job(name))
        below[name]["random networks"] = {"frame mAP": spread(of_random, "frame mAP")["mean"]}
        of_head = {head: list(numbers) for head in ("linear", "window")}
        of_head["dilated"] = kept(f"segmentation-{name}-dilated", own, SEEDS)
        runs = {
            head: seeds(f"segmentation-{name}-{head}", own, of_head[head], job(name, head))
            for head in HEADS
            if of_head[head]
        }
        metrics = [key for key, value in runs["linear"][0].items() if "@" in key or key.startswith(("frame", "edit"))]
        spreads[name] = {head: {metric: spread(found, metric) for metric in metrics} for head, found in runs.items()}
        merged = [
            {f"{head} {metric}": value for head in ("linear", "window") for metric, value in _figures(runs[head][k])}
            for k in range(len(numbers))
        ]
        if len(merged) > 1:
            ahead[name] = {
                f"linear over window, {metric}": difference(merged, f"linear {metric}", f"window {metric}")
                for metric in ("frame mAP", "event mAP@0.5", "F1@50")
            }
    best = {name: max(v.get("frame mAP", 0) for v in rows.values()) for name, rows in below.items()}
    clear = bool(ahead) and all(
        ahead[name]["linear over window, frame mAP"]["low"] > 0
        and spreads[name]["linear"]["frame mAP"]["mean"] > best[name]
        for name in EPOCHS
    )
    return {
        "name": "segmentation",
        "value": spreads["penn"]["linear"]["frame mAP"]["mean"],
        "unit": "% frame mAP, Penn Action composed, linear head per frame",
        "goal": "per frame above the classifier that slides (95 % interval) and above every floor, on both data sets",
        "holds": clear,
        "baselines": below,
        "n": sizes["penn"]["test"]["frames"],
        "spread": spreads,
        "data": "sequences composed of Penn Action (annotated joints) and HDM05 (motion capture), see composed.py",
        "details": {
            "protocol": {**PROTOCOL, "epochs": EPOCHS},
            "sizes": sizes,
            "differences": ahead,
            "boundaries": Boundaries().__dict__,
        },
    }


def _figures(found: dict[str, Any]) -> list[tuple[str, float]]:
    return [(key, value) for key, value in found.items() if isinstance(value, float)]


def _one() -> None:
    """`segmentation.py --only NAME PART SEED`: one head, floors or random alone, kept for the whole."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs=3)
    name, head, seed = parser.parse_args().only
    torch.set_num_threads(1)
    own = {**PROTOCOL, "epochs": EPOCHS[name]}
    if head == "floors":
        floors_kept(name)
    else:
        part = random_job(name) if head == "random" else job(name, head)
        seeds(f"segmentation-{name}-{head}", own, [int(seed)], part)


if __name__ == "__main__":
    _one() if "--only" in sys.argv else main(run)
