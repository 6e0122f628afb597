"""How many clips a CPU second the recipes' whole pipeline makes ready: read, prepared, seen by random views,
stacked; with prepared clips held in memory and with clips prepared anew in every epoch, in turn.

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
from training.runs.run import make_preprocess
from training.transforms.prepared import ClipCache, prepared
from training.transforms.view import View

torch.set_num_threads(1)

GOALS = {"unik": 1500.0, "unik_small": 4000.0}
"""Clips per CPU second with prepared clips held."""


def loaders(folder: Path, recipe: str) -> dict[str, DataLoader]:
    """The batches of a recipe, with prepared clips held and without."""
    given = config.load(recipe)
    data = open_datasets(folder, entries=("keypoints", "scores"))
    preprocess = make_preprocess(given, data[0].skeleton)
    view = View(given.view.frames, given.view.steps, data[0].skeleton, preprocess.score)
    views = RandomViews(preprocess, {"motion": view})
    held = prepared(data, preprocess, ClipCache.of("memory", 4.0))
    return {"held": DataLoader(held, views, given.run.batch), "anew": DataLoader(data, views, given.run.batch)}


def measure(folder: Path, recipe: str, rounds: int) -> tuple[dict[str, list[float]], bool]:
    """Clips per CPU second by way, a value a round, the ways in turn; and whether the batches were equal."""
    ways = loaders(folder, recipe)
    first = {way: next(iter(loader)) for way, loader in loaders(folder, recipe).items()}
    equal = all(torch.equal(first["held"][name], first["anew"][name]) for name in first["held"])
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, loader in ways.items():
            spent = cpu_seconds()
            clips = sum(len(batch["label"]) for batch in loader)
            if turn:  # the first round prepares
                found[way].append(clips / (cpu_seconds() - spent))
    return found, equal


def run(quick: bool) -> dict[str, Any]:
    """Both recipes on random clips of 300 frames."""
    count, rounds = (256, 3) if quick else (1024, 5)
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), count)
        measured = {recipe: measure(Path(name), recipe, rounds) for recipe in GOALS}
    value = {recipe: round(statistics.median(found["held"])) for recipe, (found, _) in measured.items()}
    anew = {recipe: round(statistics.median(found["anew"])) for recipe, (found, _) in measured.items()}
    equal = all(same for _, same in measured.values())
    return {
        "name": "training_views",
        "value": value,
        "unit": "clips per CPU second, prepared clips held",
        "goal": GOALS,
        "holds": equal and all(value[recipe] >= goal for recipe, goal in GOALS.items()),
        "baselines": {f"{recipe}, prepared anew (clips per CPU s)": found for recipe, found in anew.items()},
        "n": rounds,
        "spread": {recipe: [round(min(f["held"])), round(max(f["held"]))] for recipe, (f, _) in measured.items()},
        "data": f"{count} random clips of 300 frames, 17 joints and 1 or 2 people, in shards as builds pack them; one "
        "process, batches of the recipes",
        "details": {"batches equal to the bit": equal},
    }


if __name__ == "__main__":
    main(run)
