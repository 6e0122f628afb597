"""What brings the two short figures of learning without labels further: a key encoder that keeps its momentum, streams
summed, and features of several blocks. Linear probes on Penn Action and NW-UCLA.

Networks, schedules, views and probes are those of `ssl_penn` and of the part of `nw_ucla` without labels, whose
momentum rose to 1 over the run: there the key encoder stood still long before the network did. Here it stays as it is,
the default in runs of this length. Joints, bones and the motion of joints are learnt by a network each, and their
probabilities are summed. `plain` are means of the last block, `blocks` means and maxima over time and joints of blocks
4, 7 and 10. Random networks are probed in all the same ways: a gain over them is one of learning, not of streams or
features. Goals are those of the two benchmarks, on plain features. Nothing is chosen on a test side: streams, blocks
and measures were named beforehand.

Seed 0: 92.3 % of joints with a tenth of Penn Action's labels (nearest neighbour and a random network: `baselines`); on
NW-UCLA 20.5 points above the random network with joints, 21.3 with bones, 13.1 with their motion. Summed streams give
the best figure there, 85.8 %, and the smallest gain, 12.9: random networks gain more by sums than learnt ones.

`--only penn joint 0` runs one seed of one row of one set; seeds that were run are kept in results/seeds. A row of
streams takes 10 to 20 minutes of one core a seed. `--quick` tells what is there.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import nw_ucla as ucla
import ssl_penn
import torch
from harness import main
from seeds import WORK, accuracy, difference, kept, seeds, spread
from skeletons import Memory, nw_ucla, one_nn, penn, ten_percent
from ssl_penn import drawn, positions, pretrain, rows

from dataengine.io.storage import staged
from training.backbones.base import Backbone
from training.data.types import Array, Numbers
from training.evaluate.logistic import fit
from training.runs.features import calibrate
from training.transforms.preprocess import Preprocess

ROWS = {"joint": ("joint",), "bone": ("bone",), "motion": ("motion",), "sum": ("joint", "bone", "motion")}
MORE: dict[str, Any] = {"blocks": [4, 7, 10], "anneal": "auto"}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "penn": {**ssl_penn.PROTOCOL, **MORE},
    "ucla": {**ucla.WITHOUT_LABELS, **MORE},
}
SEEDS = range(5)
GOALS = {"Penn Action, 10 % of the labels": 92.0, "NW-UCLA, over the random network": 20.0}
"""Per cent, and points."""
FEATURES = ("plain", "blocks")


def probabilities(train_rows: Array, labels: Numbers, test_rows: Array, classes: int) -> Array:
    """(N, K) of a probe that learnt from every row of a clip, on the mean of a clip's rows."""
    flat = train_rows.reshape(-1, train_rows.shape[-1])
    model = fit(flat, np.tile(labels, len(train_rows)), classes, ssl_penn.PROTOCOL["C"])
    return torch.softmax(torch.as_tensor(model.scores(test_rows.mean(0))), 1).numpy()


def answers(
    network: Backbone,
    train: Memory,
    test: Memory,
    preprocess: Preprocess,
    steps: Sequence[dict[str, Any]],
    subsets: Mapping[str, Sequence[int]],
) -> dict[str, Array]:
    """Probabilities of the test clips by "features, subset of the labels"."""
    known, told = rows(network, train, preprocess, steps, True), rows(network, test, preprocess, blocks=True)
    width = network.width
    found = {}
    for features in FEATURES:
        part = slice(None) if features == "blocks" else slice(-2 * width, -width)  # the mean of the last block
        for name, chosen in subsets.items():
            taken = known[:, list(chosen), part]
            labels = train.label_ids[list(chosen)]
            found[f"{features}{name}"] = probabilities(taken, labels, told[..., part], len(train.labels))
    return found


@dataclass(frozen=True)
class Setting:
    """One data set: how a network learns on it, and with which labels it is probed.

    Attributes:
        data: gives the clips to learn from and those to test on.
        steps: of random views.
        pretrain: schedule and method.
        normalise: of preprocessing.
        subsets: labels of a seed's probes by the ending of their names, from the training clips.
    """

    data: Callable[[], tuple[Memory, Memory]]
    steps: Sequence[dict[str, Any]]
    pretrain: dict[str, Any]
    normalise: str
    subsets: Callable[[Memory, int], Mapping[str, Sequence[int]]]


SETTINGS = {
    "penn": Setting(
        penn,
        ssl_penn.STRONG,
        ssl_penn.PRETRAIN,
        "body",
        lambda whole, seed: {"": range(len(whole)), " 10": positions(ten_percent(whole, seed), whole)},
    ),
    "ucla": Setting(
        nw_ucla, ucla.STEPS, ucla.WITHOUT, ucla.VIEW["normalise"], lambda whole, seed: {"": range(len(whole))}
    ),
}


def stream_answers(setting: Setting, stream: str, seed: int, folder: Path) -> dict[str, Array]:
    """Probabilities of the test clips by "network features, subset"; kept in the folder, for sums of streams."""
    path = folder / f"{stream}.npz"
    if not path.exists():
        train, test = setting.data()
        preprocess = Preprocess(train.skeleton, normalise=setting.normalise, stream=stream)
        channels = train.clips[0].keypoints.shape[-1]
        random = calibrate(drawn(train, seed, channels=channels), train, preprocess, ssl_penn.FRAMES)
        learnt = pretrain(train, preprocess, setting.steps, seed, folder / stream, setting.pretrain, channels).backbone
        subsets = setting.subsets(train, seed)
        found = {
            f"{name} {kind}": rows_of_kind
            for name, network in (("random", random), ("learnt", learnt))
            for kind, rows_of_kind in answers(network, train, test, preprocess, setting.steps, subsets).items()
        }
        with staged(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **found)
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored}


def job(name: str, streams: Sequence[str]) -> Callable[[int, Path], dict[str, Any]]:
    """One seed of a stream, or of several whose probabilities are summed: top-1 in per cent."""
    setting = SETTINGS[name]

    def measure(seed: int, folder: Path) -> dict[str, Any]:
        parts = [stream_answers(setting, stream, seed, WORK / f"ssl_streams-{name}-{seed}") for stream in streams]
        truth = setting.data()[1].label_ids
        return {kind: accuracy(np.sum([part[kind] for part in parts], 0), truth) for kind in parts[0]}

    return measure


def measured(name: str, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Seeds of each stream and of their sum; of a quick run those that are there, at least one of the joints."""
    found = {}
    for row, streams in ROWS.items():
        part = f"ssl_streams-{name}-{row}"
        there = kept(part, PROTOCOLS[name], SEEDS)
        numbers = there or (SEEDS[:1] if row == "joint" else []) if quick else SEEDS
        if numbers:
            found[row] = seeds(part, PROTOCOLS[name], numbers, job(name, streams))
    return found


def run(quick: bool) -> dict[str, Any]:
    """Linear probes of both kinds of features, of each stream and of their sum, beside random networks."""
    torch.set_num_threads(1)
    runs = {name: measured(name, quick) for name in SETTINGS}
    figures = {
        name: {
            f"{row}, {kind}": spread(found, kind)
            for row, found in rows_of_set.items()
            for kind in found[0]
            if kind.startswith(("random ", "learnt "))
        }
        for name, rows_of_set in runs.items()
    }
    few = {row: figures["penn"][f"{row}, learnt plain 10"]["mean"] for row in runs["penn"]}
    over = {
        f"{row}, {features}": difference(found, f"learnt {features}", f"random {features}")
        for row, found in runs["ucla"].items()
        for features in FEATURES
        if len(found) > 1
    }
    gain = {
        row: figures["ucla"][f"{row}, learnt plain"]["mean"] - figures["ucla"][f"{row}, random plain"]["mean"]
        for row in runs["ucla"]
    }
    last = {name: list(rows_of_set)[-1] for name, rows_of_set in runs.items()}
    met = dict(zip(GOALS, (few[last["penn"]] >= 92.0, gain[last["ucla"]] >= 20.0)))
    whole, test = penn()
    nearest = [one_nn(ten_percent(whole, seed), test, mirror=True) for seed in SEEDS]
    complete = all(len(runs[name].get(row, ())) == len(SEEDS) for name in runs for row in ROWS)
    return {
        "name": "ssl_streams",
        "value": {
            **{f"Penn Action, 10 %, {row}": value for row, value in few.items()},
            **{f"NW-UCLA, over random, {row}": round(value, 3) for row, value in gain.items()},
        },
        "unit": "% top-1 of a linear probe, and points of it",
        "goal": GOALS,
        "holds": complete and all(met.values()),
        "baselines": {
            "Penn Action, random network, 10 %": figures["penn"]["joint, random plain 10"]["mean"],
            "Penn Action, nearest neighbour, mirrored, 10 %": round(float(np.mean(nearest)), 3),
            "NW-UCLA, random network": figures["ucla"]["joint, random plain"]["mean"],
        },
        "n": {"penn": len(test), "ucla": len(nw_ucla()[1])},
        "spread": {**figures, "NW-UCLA, over the random network": over},
        "data": "Penn Action, ground-truth joints, official split; NW-UCLA, cameras 1 and 2 -> 3",
        "details": {
            "protocol": PROTOCOLS,
            "met": met,
            "seeds": {
                name: {row: [one["seed"] for one in found] for row, found in rows_of_set.items()}
                for name, rows_of_set in runs.items()
            },
        },
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:  # one set, one row and one seed, as a short job
        torch.set_num_threads(1)
        chosen, row, seed = sys.argv[2], sys.argv[3], int(sys.argv[4])
        seeds(f"ssl_streams-{chosen}-{row}", PROTOCOLS[chosen], [seed], job(chosen, ROWS[row]))
    else:
        main(run)
