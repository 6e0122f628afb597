"""How many clips a CPU second the recipes' whole pipeline makes ready: read, prepared, seen by random views,
stacked; with prepared clips on disk, with those held in memory, and with clips prepared anew in every epoch, in turn.

The clips are those of `feed`: 300 frames, 17 joints, one or two people, one joint in twenty not seen. Batches are equal
to the bit.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch
from feed import write
from harness import cpu_seconds, main

from training import config
from training.data.formats import open_datasets
from training.data.loader import DataLoader
from training.methods.base import RandomViews
from training.runs.defaults import decide
from training.runs.run import make_preprocess
from training.transforms.prepared import ClipCache, prepared
from training.transforms.view import View

torch.set_num_threads(1)

GOALS = {"unik": 1500.0, "unik_small": 4000.0}
"""Clips per CPU second with prepared clips on disk."""


def loaders(folder: Path, recipe: str) -> dict[str, DataLoader]:
    """The batches of a recipe by where prepared clips are kept."""
    given = config.load(recipe, ['preprocess.normalise="body"', 'preprocess.up="y"'])
    data = open_datasets(folder, entries=("keypoints", "scores"))
    preprocess = make_preprocess(config.validate(decide(given, data, sum(map(len, data))), recipe), data[0].skeleton)
    view = View(given.view.frames, given.view.steps, data[0].skeleton, preprocess.score)
    views = RandomViews(preprocess, {"motion": view})
    places = {"disk": str(folder / "prepared"), "memory": "memory", "anew": "off"}
    kept = {way: prepared(data, preprocess, ClipCache.of(place, 4.0)) for way, place in places.items()}
    return {way: DataLoader(clips, views, given.run.batch) for way, clips in kept.items()}


def measure(folder: Path, recipe: str, rounds: int) -> tuple[dict[str, list[float]], bool]:
    """Clips per CPU second by way, a value a round, the ways in turn; and whether the batches were equal."""
    ways = loaders(folder, recipe)
    first = {way: list(loader) for way, loader in loaders(folder, recipe).items()}  # prepares
    equal = all(
        torch.equal(batch[name], other[name])
        for way in ways
        for batch, other in zip(first["anew"], first[way], strict=True)
        for name in batch
    )
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, loader in ways.items():
            spent = cpu_seconds()
            clips = sum(len(batch["label"]) for batch in loader)
            if turn:  # the first round warms caches up
                found[way].append(clips / (cpu_seconds() - spent))
    return found, equal


def run(quick: bool) -> dict[str, Any]:
    """Both recipes on random clips of 300 frames."""
    count, rounds = (256, 3) if quick else (1024, 5)
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), count)
        measured = {recipe: measure(Path(name), recipe, rounds) for recipe in GOALS}
    value = {recipe: round(statistics.median(found["disk"])) for recipe, (found, _) in measured.items()}
    others = {
        f"{recipe}, {way} (clips per CPU s)": round(statistics.median(found[way]))
        for recipe, (found, _) in measured.items()
        for way in ("memory", "anew")
    }
    equal = all(same for _, same in measured.values())
    return {
        "name": "training_views",
        "value": value,
        "unit": "clips per CPU second, prepared clips on disk",
        "goal": GOALS,
        "holds": equal and all(value[recipe] >= goal for recipe, goal in GOALS.items()),
        "baselines": others,
        "n": rounds,
        "spread": {recipe: [round(min(f["disk"])), round(max(f["disk"]))] for recipe, (f, _) in measured.items()},
        "data": f"{count} random clips of 300 frames, 17 joints and 1 or 2 people, in shards as builds pack them; one "
        "process, batches of the recipes",
        "details": {"batches of an epoch equal to the bit, wherever clips are kept": equal},
    }


if __name__ == "__main__":
    main(run)
