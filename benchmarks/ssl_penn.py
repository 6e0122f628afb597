"""Self-supervised UNIK on Penn Action: probes and fine-tuning, beside the network as it was drawn and beside training
from scratch.

Motion-motion contrast (T-MOR's L_mm, which is MoCo on skeletons) on the training clips without labels, quarter width,
five seeds. What is learnt with few labels is measured on the same 127 clips (10 %) for every row of a seed. Nothing is
chosen on the test side: on training clips, whose labels a probe of a tenth of them had to tell, 80 epochs of 16 frames
in batches of 32 were better (91.3 %) than 40 of 32 frames (90.0; 89.2 in batches of 64), which take as long; and a
probe that learns from twelve random views of a clip beside its six fixed ones was better (93.1 %) than one that does
not (92.2). Whitened features gave half a point more at the best of nine settings, and were left out.

On the test side the probe of a tenth stays a third of a point below its goal: there its clips are harder than the
hidden ones of the training side by one and a half. Before random views, with everything else equal, it gave 91.5, and
the full probe 96.3.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import main
from seeds import accuracy, difference, mirrored, network, predict, seeds, spread, supervise, tmor_options, train
from skeletons import Memory, one_nn, penn, ten_percent

from training import create_method
from training.backbones.base import Backbone
from training.engine.settings import OptimSettings, TrainSettings
from training.evaluate.probes import LabelledFeatures, linear_probe
from training.methods.base import Method
from training.runs.features import THREE_CROPS, calibrate, extract_features
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

FRAMES = 16
STRONG = (
    {"name": "crop", "min": 0.4},
    {"name": "flip"},
    {"name": "scale", "range": 0.2},
    {"name": "stretch", "range": 0.2},
    {"name": "shear", "range": 0.3},
    {"name": "rotate", "degrees": 30},
    {"name": "noise", "sigma": 0.03},
    {"name": "mask_joints", "share": 0.05},
)
PRETRAIN: dict[str, Any] = {
    "epochs": 120,
    "batch": 32,
    "lr": 0.05,
    "decay": 1e-4,
    "warmup": 2,
    "method": {"video": None, "queue": 512, "temperature": 0.1, "momentum": 0.99, "hidden": 128, "width": 128},
}
FINETUNE: dict[str, Any] = {"epochs": 60, "batch": 16, "lr": 0.1, "backbone_scale": 0.2, "smoothing": 0.1}
SCRATCH: dict[str, Any] = {"epochs": 60, "batch": 16, "lr": 0.1, "smoothing": 0.1}
PROTOCOL: dict[str, Any] = {
    "frames": FRAMES,
    "steps": list(STRONG),
    "pretrain": PRETRAIN,
    "finetune": FINETUNE,
    "scratch": SCRATCH,
    "C": 0.3,
    "views": 12,
    "base": 16,
}
SEEDS = range(5)


def drawn(dataset: Memory, seed: int, num_classes: int = 0, channels: int = 2) -> Backbone:
    """The network as it is drawn by the seed."""
    return network(dataset, seed, num_classes, channels, PROTOCOL["base"])


def pretrain(
    dataset: Memory,
    preprocess: Preprocess,
    steps: Sequence[dict[str, Any]],
    seed: int,
    folder: Path,
    tables: dict[str, Any] = PRETRAIN,
    channels: int = 2,
) -> Method:
    """A network trained without labels: motions against motions."""
    method = create_method("tmor", backbone=drawn(dataset, seed, channels=channels), **tmor_options(tables["method"]))
    settings = TrainSettings(
        epochs=tables["epochs"],
        optim=OptimSettings(lr=tables["lr"], weight_decay=tables["decay"], warmup=tables["warmup"]),
        grad_clip=1.0,
        seed=seed,
        log_every=19,
        save_every=60,
    )
    return train(
        method, dataset, preprocess, View(FRAMES, steps, dataset.skeleton), settings, seed, folder, tables["batch"]
    )


def rows(
    backbone: Backbone,
    dataset: Memory,
    preprocess: Preprocess,
    steps: Sequence[dict[str, Any]] = (),
    blocks: bool = False,
) -> np.ndarray:
    """(6, N, D): features of three fixed parts of each clip and of their mirror images; with steps also of as many
    random views as the protocol says; with `blocks` means and maxima of several blocks."""
    features = backbone.block_features if blocks else backbone.features

    def both(motion: torch.Tensor) -> torch.Tensor:
        return torch.stack([features(motion), features(mirrored(dataset, motion))], 1).flatten(1)

    backbone.eval()
    parts = [extract_features(both, dataset, preprocess, FRAMES, (span,))[0] for span in THREE_CROPS]
    fixed = [part.reshape(len(dataset), 2, -1).transpose(1, 0, 2) for part in parts]
    view = View(FRAMES, steps, dataset.skeleton)
    random_views = (
        [
            extract_features(features, dataset, preprocess, FRAMES, view=view, seed=n)[0][None]
            for n in range(PROTOCOL["views"])
        ]
        if steps
        else []
    )
    return np.concatenate([*fixed, *random_views])


def probe(
    train_features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    truth: np.ndarray,
    classes: int,
    chosen: Sequence[int] | None = None,
) -> float:
    """Linear probe in per cent: trained on every row of a clip, tested on the mean of a clip's rows."""
    chosen = range(len(labels)) if chosen is None else chosen
    taken = train_features[:, list(chosen)]
    learn = LabelledFeatures(taken.reshape(-1, taken.shape[-1]), np.tile(labels[list(chosen)], len(taken)))
    return round(
        100
        * linear_probe(learn, LabelledFeatures(test_features.mean(0), truth), classes, strength=PROTOCOL["C"]).value,
        3,
    )


def measured(
    backbone: Backbone,
    train_side: Memory,
    test: Memory,
    preprocess: Preprocess,
    few: Sequence[int],
    blocks: bool = False,
) -> tuple[float, float]:
    """The linear probe with all labels and with few."""
    train_features = rows(backbone, train_side, preprocess, STRONG, blocks)
    test_features = rows(backbone, test, preprocess, blocks=blocks)
    features = (train_features, train_side.label_ids, test_features, test.label_ids, len(train_side.labels))
    return probe(*features), probe(*features, few)


def positions(part: Memory, whole: Memory) -> list[int]:
    """Positions of a subset's clips in the whole dataset."""
    at = {key: number for number, key in enumerate(whole.keys)}
    return [at[key] for key in part.keys]


def job(seed: int, folder: Path) -> dict[str, Any]:
    """One seed: probes of the drawn and of the pre-trained network, and fine-tuning against scratch on 10 % of the
    labels."""
    whole, test = penn()
    few = ten_percent(whole, seed)
    chosen = positions(few, whole)
    preprocess, view = Preprocess(whole.skeleton), View(FRAMES, STRONG, whole.skeleton)
    found: dict[str, Any] = {}
    random = calibrate(drawn(whole, seed), whole, preprocess, FRAMES)
    found["random"], found["random_10"] = measured(random, whole, test, preprocess, chosen)
    method = pretrain(whole, preprocess, STRONG, seed, folder / "pretrain")
    found["linear"], found["linear_10"] = measured(method.backbone, whole, test, preprocess, chosen)
    for name, tables in (("scratch_10", SCRATCH), ("finetuned_10", FINETUNE)):
        backbone = drawn(few, seed, len(whole.labels))
        if name == "finetuned_10":
            backbone.load_weights(method.backbone.state_dict(), classifier=False)
        scale = tables.get("backbone_scale", 1.0)
        settings = TrainSettings(
            epochs=tables["epochs"],
            optim=OptimSettings(lr=tables["lr"], backbone_scale=scale, warmup=2),
            seed=seed,
            log_every=7,
            save_every=60,
        )
        supervise(
            few,
            preprocess,
            view,
            settings,
            seed,
            folder / name,
            tables["batch"],
            tables["smoothing"],
            backbone=backbone,
        )
        found[name] = accuracy(predict(backbone, test, preprocess, FRAMES), test.label_ids)
    return found


def run(quick: bool) -> dict[str, Any]:
    """Self-supervised learning on Penn Action."""
    torch.set_num_threads(1)
    whole, test = penn()
    runs = seeds("ssl_penn", PROTOCOL, SEEDS[:1] if quick else SEEDS, job)
    figures = {
        name: spread(runs, name)
        for name in ("random", "random_10", "linear", "linear_10", "scratch_10", "finetuned_10")
    }
    gain = None if quick else difference(runs, "finetuned_10", "scratch_10")
    goal = {"linear": 96.0, "linear_10": 92.0, "finetuned_10": 93.0, "gain_over_scratch": 3.0}
    met = {name: figures[name]["mean"] >= goal[name] for name in ("linear", "linear_10", "finetuned_10")}
    met["gain_over_scratch"] = gain is not None and gain["mean"] >= 3.0 and gain["low"] > 0
    baselines = [one_nn(ten_percent(whole, seed), test, mirror=True) for seed in SEEDS]
    return {
        "name": "ssl_penn",
        "value": figures["linear"]["mean"],
        "unit": "% top-1, linear probe",
        "goal": goal,
        "holds": all(met.values()),
        "baselines": {
            "random_network": figures["random"]["mean"],
            "random_network_10": figures["random_10"]["mean"],
            "nearest_neighbour_mirrored": one_nn(whole, test, mirror=True),
            "nearest_neighbour_mirrored_10": round(float(np.mean(baselines)), 3),
        },
        "n": len(test),
        "spread": {**figures, "finetuned_10 - scratch_10": gain},
        "data": f"Penn Action, ground-truth joints, official split ({len(whole)} / {len(test)}); 10 % are 127 clips",
        "details": {"protocol": PROTOCOL, "met": met, "cpu_s_a_seed": [run["cpu_s"] for run in runs]},
    }


if __name__ == "__main__":
    main(run)
