"""Which clips to annotate first: micro-F1 of the annotator after the first 5, 10 and 20 % of the clips that each way of
ranking names, and the time of ranking 100,000 clips.

Data: the training splits of Penn Action (1,258 clips, 15 classes) and of the HDM05 subset (188 clips, 11 classes).
Features: the prepared coordinates of a clip at 32 frames, reduced to 64 principal components; no network is trained.
The annotator learns from the clips named and is measured on all the others. Ten seeds draw the first clip of a ranking,
the random picks, the centres of k-means, and the weights of the annotator. Intervals are of differences paired by seed.
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
from harness import main
from scipy.cluster.vq import kmeans2

from training.evaluate.annotator import fit_annotator
from training.evaluate.confidence_intervals import over_seeds
from training.evaluate.logistic import unit
from training.evaluate.metrics import micro_f1
from training.evaluate.ranking import by_classifier, k_centres
from training.transforms.preprocess import Preprocess

SHARED = Path(os.environ.get("DATAENGINE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
SHARES = (0.05, 0.1, 0.2)
SEEDS = 10
COMPONENTS = 64
NORMALISE = {"penn": "body", "hdm05": "view_body"}


def features(name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(N, 64) components, (N,) labels and the classes of a training split."""
    train = {"penn": skeletons.penn, "hdm05": skeletons.hdm05}[name](SHARED)[0]
    rows = skeletons.flat(train, Preprocess(train.skeleton, normalise=NORMALISE[name]))
    rows -= rows.mean(0)
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    return left[:, :COMPONENTS] * values[:COMPONENTS], train.label_ids, train.labels


def centres(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The clips nearest to the centres of k-means, filled up at random where two centres share one."""
    points = unit(rows)
    middle, _ = kmeans2(points, count, minit="++", seed=seed, iter=50)
    nearest = (np.square(middle).sum(1)[:, None] - 2 * middle @ points.T).argmin(1)
    chosen = list(dict.fromkeys(nearest.tolist()))
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(rows)), chosen)).tolist()
    return np.array((chosen + others)[:count])


def picks(rows: np.ndarray, count: int, seed: int) -> dict[str, np.ndarray]:
    """The clips of each way of choosing."""
    first = int(np.random.default_rng(seed).integers(len(rows)))
    return {
        "k-centre": k_centres(rows, count, first).order,
        "classifier": by_classifier(rows, count, first, seed=seed).order,
        "random": np.random.default_rng(seed).permutation(len(rows))[:count],
        "k-means": centres(rows, count, seed),
    }


def measured(name: str, seeds: int) -> dict[str, Any]:
    """Micro-F1 per share and way, one value a seed."""
    rows, labels, classes = features(name)
    truth = np.eye(len(classes), dtype=bool)[labels]
    found: dict[str, Any] = {}
    for share in SHARES:
        count = max(2, round(share * len(rows)))
        scores: dict[str, list[float]] = {}
        for seed in range(seeds):
            for way, chosen in picks(rows, count, seed).items():
                rest = np.setdiff1d(np.arange(len(rows)), chosen)
                annotator = fit_annotator(rows[chosen], truth[chosen], exclusive=True, seed=seed)
                scores.setdefault(way, []).append(100 * micro_f1(annotator.propose(rows[rest]), truth[rest]))
        found[f"{share:.0%}"] = scores
    return found


def seconds(call: Callable[[], Any]) -> float:
    """Wall seconds of a call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def speed(quick: bool) -> dict[str, float]:
    """Seconds of rankings of drawn features (N, 128), and of a retraining of the annotator on 1,000 clips."""
    rng = np.random.default_rng(0)
    sizes, count = ((2_000, 4_000), 50) if quick else ((25_000, 50_000, 100_000), 500)
    told = {}
    for size in sizes:
        rows = rng.normal(size=(size, 128)).astype(np.float32)
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


def run(quick: bool) -> dict[str, Any]:
    """Rank, label, learn, measure."""
    seeds = 2 if quick else SEEDS
    baselines: dict[str, float] = {}
    spread: dict[str, Any] = {}
    above = []
    for name in NORMALISE:
        for share, scores in measured(name, seeds).items():
            for way, values in scores.items():
                baselines[f"{name} {share} {way}"] = round(float(np.mean(values)), 2)
            for way in ("k-centre", "classifier"):
                for other in ("random", "k-means"):
                    gain = over_seeds(np.subtract(scores[way], scores[other]))
                    spread[f"{name} {share} {way} - {other}"] = [
                        None if edge is None else round(edge, 2) for edge in (gain.low, gain.mean, gain.high)
                    ]
                    if way == "k-centre":
                        above.append(gain.low is not None and gain.low > 0)
    baselines |= speed(quick)
    return {
        "name": "ranking",
        "value": sum(above),
        "unit": f"of {len(above)} comparisons in which greedy k-centre picks are better, by an interval above 0",
        "goal": f"all {len(above)}: 5, 10 and 20 % of two sets, against random and k-means picks",
        "holds": all(above),
        "baselines": baselines,
        "n": seeds,
        "spread": spread,
        "data": "Penn Action and HDM05 subset, training splits; 64 principal components of coordinates",
    }


if __name__ == "__main__":
    main(run)
