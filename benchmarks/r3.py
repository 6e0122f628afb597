"""Motion-R3: micro-F1 of the annotator after the first 5, 10 and 20 % of the clips that each way of ranking names, and
the time of ranking 100,000 clips.

Data: the training splits of Penn Action (1,258 clips, 15 classes) and of the HDM05 subset (188 clips, 11 classes). The
network is that of the recipe r3_small, trained on these clips without their labels for a fixed number of steps; no
label chooses anything. Clips are ranked by facility location, which is what `rank` does by default and no part of the
paper, by greedy k-centre and by the paper's classifier. The annotator learns from the clips named and is measured on
all the others. Ten seeds draw the first clip of k-centre and of the classifier, the random picks, the centres of
k-means, and the weights of the annotator; one network per set serves all of them. Intervals are of differences paired
by seed. Beside the learnt features: a network with random weights, and 64 principal components of the prepared
coordinates.

Figures of each seed are kept in results/seeds; R3_SETS="hdm05" R3_SPEED=0 measures one set and no times, R3_STEPS=80
trains for less.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skeletons
import torch
from harness import main
from scipy.cluster.vq import kmeans2
from seeds import WORK, place, seeds, train

from training import create_backbone, create_method
from training.backbones.base import Backbone
from training.config import load
from training.evaluate.annotator import fit_annotator
from training.evaluate.confidence_intervals import over_seeds
from training.evaluate.logistic import unit
from training.evaluate.metrics import micro_f1
from training.evaluate.ranking import by_classifier, facility_location, k_centres
from training.runs.features import THREE_CROPS, extract_features
from training.runs.train import train_settings
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

torch.set_num_threads(1)
SHARED = Path(os.environ.get("DATAENGINE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
SHARES = (0.05, 0.1, 0.2)
SEEDS = 10
COMPONENTS = 64
TITLES = {"penn": "Penn Action", "hdm05": "HDM05 subset"}
NORMALISE = {"penn": "body", "hdm05": "view_body"}
STEPS, QUICK_STEPS = int(os.environ.get("R3_STEPS", "200")), 40
WAYS = ("facility location", "k-centre", "classifier")
OTHERS = ("random", "k-means")


def clips(name: str) -> tuple[skeletons.Memory, Preprocess]:
    """A training split, and what makes the input of it."""
    part = {"penn": skeletons.penn, "hdm05": skeletons.hdm05}[name](SHARED)[0]
    return part, Preprocess(part.skeleton, normalise=NORMALISE[name])


def network(part: skeletons.Memory, preprocess: Preprocess) -> Backbone:
    """The network of the recipe with first weights."""
    config = load("r3_small")
    torch.manual_seed(0)
    channels = preprocess(part.read([0])[0]).shape[-1]
    backbone: Backbone = create_backbone(
        config.backbone.name, 0, part.skeleton, channels, people=1, **config.backbone.options
    )
    return backbone


def rows_of(backbone: Backbone, part: skeletons.Memory, preprocess: Preprocess) -> np.ndarray:
    """(N, D) features, the mean over three crops."""
    return extract_features(backbone.features, part, preprocess, load("r3_small").view.frames, THREE_CROPS)[0]


def features(name: str, steps: int) -> dict[str, np.ndarray]:
    """Features of a set by what made them; kept beside the checkpoints until all seeds are measured."""
    folder = WORK / place(f"r3-features-{name}", {"steps": steps, "recipe": load("r3_small").to_toml()}, 0).stem
    kept = folder / "features.npz"
    if kept.exists():
        with np.load(kept, allow_pickle=False) as file:
            return {kind: file[kind] for kind in file.files}
    part, preprocess = clips(name)
    coordinates = skeletons.flat(part, preprocess)
    coordinates -= coordinates.mean(0)
    left, values, _ = np.linalg.svd(coordinates, full_matrices=False)
    backbone = network(part, preprocess)
    random = rows_of(backbone.eval(), part, preprocess)
    config = load("r3_small")
    method = create_method("r3", backbone=backbone.train(), **config.method.options)
    view = View(config.view.frames, config.view.steps, part.skeleton)
    epochs = max(1, round(steps / max(1, len(part) // config.run.batch)))
    config = load("r3_small", [f"run.epochs={epochs}"])
    train(method, part, preprocess, view, train_settings(config), 0, folder, config.run.batch)
    found = {
        "r3": rows_of(backbone.eval(), part, preprocess),
        "random network": random,
        "coordinates": left[:, :COMPONENTS] * values[:COMPONENTS],
    }
    np.savez(kept.with_suffix(".part.npz"), **found)
    kept.with_suffix(".part.npz").replace(kept)
    return found


def centres(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The clips nearest to the centres of k-means, filled up at random where two centres share one."""
    points = unit(rows)
    middle, _ = kmeans2(points, count, minit="++", seed=seed, iter=50)
    nearest = (np.square(middle).sum(1)[:, None] - 2 * middle @ points.T).argmin(1)
    chosen = list(dict.fromkeys(nearest.tolist()))
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(rows)), chosen)).tolist()
    return np.array((chosen + others)[:count])


def measured(name: str, seed: int, steps: int) -> dict[str, Any]:
    """Micro-F1 in per cent by features, share and way; and the CPU seconds of the longest training of an annotator."""
    part, _ = clips(name)
    truth = np.eye(len(part.labels), dtype=bool)[part.label_ids]
    counts = {share: max(2, round(share * len(part))) for share in SHARES}
    most, longest = max(counts.values()), 0.0
    found: dict[str, float] = {}
    for kind, rows in features(name, steps).items():
        first = int(np.random.default_rng(seed).integers(len(rows)))
        orders = {"facility location": facility_location(rows, most).order}
        orders["k-centre"] = k_centres(rows, most, first).order
        if kind == "r3":
            orders["classifier"] = by_classifier(rows, most, first, seed=seed).order
            orders["random"] = np.random.default_rng(seed).permutation(len(rows))[:most]
        for share, count in counts.items():
            picks = {way: order[:count] for way, order in orders.items()}
            picks |= {"k-means": centres(rows, count, seed)} if kind == "r3" else {}
            for way, chosen in picks.items():
                rest = np.setdiff1d(np.arange(len(rows)), chosen)
                begun = time.process_time()
                annotator = fit_annotator(rows[chosen], truth[chosen], exclusive=True, seed=seed)
                longest = max(longest, time.process_time() - begun)
                value = 100 * micro_f1(annotator.propose(rows[rest]), truth[rest])
                found[f"{kind} {share:.0%} {way}"] = round(value, 3)
    return {"scores": found, "annotator_s": round(longest, 2)}


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def speed(quick: bool) -> dict[str, float]:
    """CPU seconds of rankings of drawn features (N, 128), and of a retraining of the annotator on 1,000 clips."""
    rng = np.random.default_rng(0)
    sizes, count = ((2_000, 4_000), 50) if quick else ((25_000, 50_000, 100_000), 500)
    told = {}
    for size in sizes:
        rows = rng.normal(size=(size, 128)).astype(np.float32)
        told[f"facility location, {count} of {size} clips, s"] = round(
            seconds(partial(facility_location, rows, count)), 2
        )
        told[f"k-centre, {count} of {size} clips, s"] = round(seconds(partial(k_centres, rows, count)), 2)
    told[f"classifier, {count // 10} of {size} clips, s"] = round(seconds(lambda: by_classifier(rows, count // 10)), 2)
    small = rows[:2000]
    warm = seconds(lambda: by_classifier(small, 40))
    told["classifier, anew for each pick, times the time of the warm one"] = round(
        seconds(lambda: by_classifier(small, 40, warm=False)) / warm, 2
    )
    truth = np.eye(10, dtype=bool)[rng.integers(0, 10, 1000)]
    told["annotator, 1,000 clips, s"] = round(seconds(lambda: fit_annotator(rows[:1000], truth)), 2)
    return told


def interval(one: list[float], other: list[float]) -> list[float | None]:
    """Lower end, mean and upper end of the 95 % interval of differences paired by seed."""
    gain = over_seeds(np.subtract(one, other))
    return [None if edge is None else round(edge, 2) for edge in (gain.low, gain.mean, gain.high)]


def run(quick: bool) -> dict[str, Any]:
    """Train without labels, rank, label, learn, measure."""
    numbers, steps = (range(2), QUICK_STEPS) if quick else (range(SEEDS), STEPS)
    names = os.environ.get("R3_SETS", ",".join(NORMALISE)).split(",")
    baselines: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    above, annotator_s = [], 0.0
    for name in names:
        protocol = {"set": name, "steps": steps, "shares": SHARES, "recipe": load("r3_small").to_toml(), "ways": WAYS}
        runs = seeds(
            f"r3-{name}",
            protocol,
            numbers,
            lambda seed, _, name=name: measured(name, seed, steps),  # type: ignore[misc]
        )
        annotator_s = max(annotator_s, *(run["annotator_s"] for run in runs))
        scores = {title: [run["scores"][title] for run in runs] for title in runs[0]["scores"]}
        baselines |= {f"{name} {title}": round(float(np.mean(values)), 2) for title, values in scores.items()}
        for share in (f"{share:.0%}" for share in SHARES):
            for way in WAYS:
                for other in OTHERS:
                    found = interval(scores[f"r3 {share} {way}"], scores[f"r3 {share} {other}"])
                    spread[f"{name} {share} {way} - {other}"] = found
                    if way == WAYS[0]:
                        above.append(found[0] is not None and found[0] > 0)
            for kind in ("random network", "coordinates"):
                for way in WAYS[:2]:
                    title = f"{share} {way}"
                    spread[f"{name} {title}, r3 - {kind}"] = interval(scores[f"r3 {title}"], scores[f"{kind} {title}"])
    timed = speed(quick) if os.environ.get("R3_SPEED", "1") == "1" else {}
    baselines |= timed | {"annotator, longest of all, s": annotator_s}
    return {
        "name": "r3",
        "value": sum(above),
        "unit": f"of {len(above)} comparisons in which picks by facility location are better, by an interval above 0",
        "goal": "all 12: 5, 10 and 20 % of two sets, against random and k-means picks; annotator below 5 s",
        "holds": all(above) and len(names) == len(NORMALISE) and bool(timed) and annotator_s < 5 and not quick,
        "baselines": baselines,
        "n": len(numbers),
        "spread": spread,
        "data": f"{' and '.join(TITLES[name] for name in names)}, training clips; r3_small of {steps} steps, no labels",
    }


if __name__ == "__main__":
    main(run)
