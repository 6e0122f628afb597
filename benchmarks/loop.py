"""The loop closed: wrong labels that `dataengine-train check` finds, and a quarter of a dataset that `rank` chooses.

Data: the training splits of Penn Action (1,258 clips, 15 classes) and of the HDM05 subset (188 clips, 11 classes).
Features: 64 principal components of the prepared coordinates; and on HDM05 those of a network of the recipe r3_small
that learnt from these clips without their labels. No label chooses anything.

Wrong labels: 5 or 10 % of the clips, drawn anew by each of ten seeds, get another class at random. Told are the
precision among as many clips as were planted, and the area under the curve of the doubts, beside chance and beside each
of the two judges that a doubt joins. How well labels agree with video features is not measured: the sets have no video.

A quarter: what `rank` chooses, by facility location; by k-centre from a first clip that the seed draws; and a quarter
at random. A logistic regression learns from the labels of the quarter and is measured on the test split. Intervals are
of differences paired by seed; facility location draws nothing on sets of this size, so its quarter is one and the same.

Figures of a set are kept in results/seeds; LOOP_SETS="hdm05" measures one set.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from pathlib import Path
from typing import Any

import numpy as np
import r3
import skeletons
import torch
from harness import main
from seeds import seeds, train

from dataengine.core.progress import Progress
from training import create_method
from training.config import load
from training.evaluate.logistic import fit
from training.evaluate.metrics import top_k
from training.evaluate.ranking import facility_location, k_centres
from training.runs import check
from training.runs.train import train_settings
from training.transforms.view import View

torch.set_num_threads(1)
PLANTED = (0.05, 0.1)
SUBSET = 0.25
SEEDS = 10
STEPS, QUICK_STEPS = 200, 40
LEARNT = ("hdm05",)
"""Sets that a network learns from."""
RANK = "facility location"
"""The way of ranking that is the default of `rank`."""
STRENGTH = 0.3
"""C of the classifier that learns from a quarter, the default of linear probes."""


def features(name: str, steps: int, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(features of train, of test) by what made them."""
    parts = {"penn": skeletons.penn, "hdm05": skeletons.hdm05}[name](r3.SHARED)
    part, preprocess = r3.clips(name)
    coordinates = [skeletons.flat(each, preprocess) for each in parts]
    middle = coordinates[0].mean(0)
    basis = np.linalg.svd(coordinates[0] - middle, full_matrices=False)[2][: r3.COMPONENTS].T
    flat = [(rows - middle) @ basis for rows in coordinates]
    if name not in LEARNT:
        return {"coordinates": (flat[0], flat[1])}
    backbone, config = r3.network(part, preprocess), load("r3_small")
    method = create_method("r3", backbone=backbone.train(), **config.method.options)
    view = View(config.view.frames, config.view.steps, part.skeleton)
    epochs = max(1, round(steps / max(1, len(part) // config.run.batch)))
    config = load("r3_small", [f"run.epochs={epochs}"])
    train(method, part, preprocess, view, train_settings(config), 0, folder, config.run.batch)
    backbone.eval()
    learnt = [r3.rows_of(backbone, each, preprocess) for each in parts]
    return {"coordinates": (flat[0], flat[1]), "r3": (learnt[0], learnt[1])}


def area(doubts: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve: how probable a wrong label is doubted more than a right one."""
    order = doubts.argsort()
    places = np.empty(len(doubts))
    places[order] = np.arange(len(doubts))
    count = int(wrong.sum())
    return float((places[wrong].sum() - count * (count - 1) / 2) / (count * (len(wrong) - count)))


def planted(rows: np.ndarray, labels: np.ndarray, num_classes: int, share: float, seed: int) -> dict[str, list[float]]:
    """Precision at the number planted and area under the curve, in per cent, of each judge."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(labels), bool)
    wrong[rng.choice(len(labels), round(share * len(labels)), replace=False)] = True
    said = np.where(wrong, (labels + rng.integers(1, num_classes, len(labels))) % num_classes, labels)
    everyone = np.ones(len(said), bool)
    judges = {
        "check": check._probabilities(rows, said, num_classes, seed, Progress()),
        "classifier alone": check._out_of_fold(rows, said, everyone, num_classes, seed, Progress()),
        "neighbours alone": check._votes(rows, said, everyone, num_classes),
    }
    told = {}
    for name, found in judges.items():
        doubts = 1 - np.nan_to_num(found[np.arange(len(said)), said], nan=1.0)
        top = np.argsort(-doubts, kind="stable")[: int(wrong.sum())]
        told[name] = [round(100 * float(wrong[top].mean()), 3), round(100 * area(doubts, wrong), 3)]
    return told


def quarter(
    rows: tuple[np.ndarray, np.ndarray], labels: tuple[np.ndarray, np.ndarray], num_classes: int, seed: int
) -> dict[str, float]:
    """Test accuracy in per cent of classifiers that learn from a quarter, and from all."""
    rng, count = np.random.default_rng(seed), round(SUBSET * len(rows[0]))
    chosen = {
        RANK: facility_location(rows[0], count).order,
        "k-centre": k_centres(rows[0], count, int(rng.integers(len(rows[0])))).order,
        "random": rng.permutation(len(rows[0]))[:count],
        "all": np.arange(len(rows[0])),
    }
    return {
        way: round(100 * top_k(fit(rows[0][n], labels[0][n], num_classes, STRENGTH).scores(rows[1]), labels[1]), 3)
        for way, n in chosen.items()
    }


def measured(name: str, numbers: range, steps: int, folder: Path) -> dict[str, Any]:
    """All figures of a set, a value a seed."""
    train_part, test_part = {"penn": skeletons.penn, "hdm05": skeletons.hdm05}[name](r3.SHARED)
    labels, num_classes = (train_part.label_ids, test_part.label_ids), len(train_part.labels)
    found: dict[str, Any] = {}
    for kind, rows in features(name, steps, folder).items():
        found[kind] = {
            "planted": {
                f"{share:.0%}": [planted(rows[0], labels[0], num_classes, share, seed) for seed in numbers]
                for share in PLANTED
            },
            "quarter": [quarter(rows, labels, num_classes, seed) for seed in numbers],
        }
    return {"figures": found}


def run(quick: bool) -> dict[str, Any]:
    """Plant and find wrong labels; choose a quarter and learn from it."""
    numbers, steps = (range(2), QUICK_STEPS) if quick else (range(SEEDS), STEPS)
    names = os.environ.get("LOOP_SETS", ",".join(r3.NORMALISE)).split(",")
    baselines: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    precision, above = [], []
    for name in names:
        protocol = {
            "set": name,
            "steps": steps,
            "seeds": len(numbers),
            "recipe": load("r3_small").to_toml(),
            "rank": RANK,
        }
        (kept,) = seeds(
            f"loop-{name}",
            protocol,
            (0,),
            lambda seed, folder, name=name: measured(name, numbers, steps, folder),  # type: ignore[misc]
        )
        for kind, figures in kept["figures"].items():
            for share, runs in figures["planted"].items():
                for judge in runs[0]:
                    values = np.array([told[judge] for told in runs])
                    title = f"{name} {kind}, {share} planted, {judge}"
                    baselines[f"{title}: precision"], baselines[f"{title}: area"] = values.mean(0).round(2).tolist()
                own = [told["check"][0] for told in runs]
                precision.append(float(np.mean(own)))
                baselines[f"{name} {kind}, {share} planted, chance: precision"] = float(share[:-1])
                for judge in ("classifier alone", "neighbours alone"):
                    found = r3.interval(own, [told[judge][0] for told in runs])
                    spread[f"{name} {kind}, {share} planted, check - {judge}: precision"] = found
            quarters = figures["quarter"]
            for way in quarters[0]:
                baselines[f"{name} {kind}, learnt from {way}"] = round(float(np.mean([q[way] for q in quarters])), 2)
            for way in ("k-centre", RANK):
                found = r3.interval([q[way] for q in quarters], [q["random"] for q in quarters])
                spread[f"{name} {kind}, quarter by {way} - random"] = found
            above.append(found[0] is not None and found[0] > 0)
    return {
        "name": "loop",
        "value": round(float(np.mean(precision)), 2),
        "unit": "% of the clips doubted most, as many as were planted wrong, that are wrong",
        "goal": "a quarter chosen by rank trains better than one at random, each interval above 0",
        "holds": bool(all(above)) and not quick,
        "baselines": baselines,
        "n": len(numbers),
        "spread": spread,
        "data": f"{', '.join(names)}: training and test splits",
    }


if __name__ == "__main__":
    main(run)
