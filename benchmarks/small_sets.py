"""The default recipe on small labelled sets, beside what needs no learning: 62 to 314 training clips of 10 to 15
classes, in the plane and in space.

The sets are cut out of the *training* sides of NW-UCLA, HDM05 and Penn Action, so that the defaults can be chosen on
them: other people are measured than were learnt from (on Penn Action, which names nobody, clips that lie apart in its
list). Their figures are therefore those of a development set, and say nothing of sets that nobody tuned on.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import main
from seeds import seeds, spread
from skeletons import Memory, hdm05, nw_ucla, penn

from dataengine.core import settings
from training import config as configs
from training.data.types import Array, SkeletonSequence
from training.evaluate.floors import NEIGHBOUR, RIDGE
from training.runs.train import train

FOCAL, SIZE = 580.0, (640, 480)
"""Of the Kinect's camera, in pixels."""
SETS = ("ucla3d", "ucla3d_view", "ucla2d", "hdm3d", "hdm2d", "penn2d")
GOAL = 5.0
"""Points over the best floor."""
SEEDS = range(1)


def projected(points: Array) -> Array:
    """(..., 3) metres, y up, z away from the camera, to pixels (..., 2), y down."""
    depth = np.maximum(points[..., 2:], 0.3)
    pixels: Array = (points[..., :2] * [1, -1] / depth * FOCAL + np.array(SIZE) / 2).astype(np.float32)
    return pixels


def turned(points: Array, angle: float, distance: float = 0.0) -> Array:
    """(1, T, V, 3), y up, turned about the upright axis, before a camera where a distance in metres is given."""
    centre = np.nanmean(points, axis=(0, 1, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    moved = (points - centre) @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    before: Array = (moved + [0, 0, distance]).astype(np.float32)
    return before


def _angle(key: str) -> float:
    """An angle in radians that a clip's name decides."""
    return zlib.crc32(key.encode()) / 2**32 * 2 * np.pi


def small_set(name: str) -> tuple[Memory, Memory]:
    """Clips to learn from and clips to measure of one set."""
    if name.startswith("ucla"):
        whole, _ = nw_ucla()
        facts = [(clip.features["subject"], clip.features["view"]) for clip in whole.clips]
        if name == "ucla3d":
            parts = ([s <= 3 for s, _ in facts], [s >= 6 for s, _ in facts])
        elif name == "ucla3d_view":
            parts = ([s <= 5 and v == 1 for s, v in facts], [s >= 6 and v == 2 for s, v in facts])
        else:
            parts = ([s <= 4 and v == 1 for s, v in facts], [s >= 6 and v == 1 for s, v in facts])
    elif name.startswith("hdm"):
        whole, _ = hdm05()
        parts = (
            [c.features["subject"] == "bd" for c in whole.clips],
            [c.features["subject"] != "bd" for c in whole.clips],
        )
    else:
        whole, _ = penn()
        order = [np.flatnonzero(whole.label_ids == label) for label in range(len(whole.labels))]
        first, last = (np.concatenate([part[k] for part in order]) for k in (slice(0, 15), slice(-25, None)))
        parts = ([n in set(first) for n in range(len(whole))], [n in set(last) for n in range(len(whole))])

    def clip(given: SkeletonSequence) -> SkeletonSequence:
        points = given.keypoints
        if name == "ucla2d":
            points = projected(points)
        elif name == "hdm3d":
            points = turned(points, _angle(given.key))
        elif name == "hdm2d":
            points = projected(turned(points, _angle(given.key), 5.0))
        size = SIZE if name.endswith("2d") and name != "penn2d" else given.size
        features = {"subject": str(given.features.get("subject", given.key))}
        return SkeletonSequence(given.key, points, None, given.label, size, fps=given.fps, features=features)

    clips = tuple(map(clip, whole.clips))
    both = Memory(name, whole.skeleton, whole.labels, clips, f"{whole.fingerprint} {name}")
    train_part, val = (both.subset(np.flatnonzero(part), f"{name} {k}") for k, part in enumerate(parts))
    return train_part, val


def write(name: str, folder: Path) -> Path:
    """The set as an npz file, as a user would have it."""
    parts = small_set(name)
    clips = [clip for part in parts for clip in part.clips]
    path = folder / f"{name}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        "keypoints": np.concatenate([clip.keypoints[0] for clip in clips]),
        "offsets": np.cumsum([0, *(clip.keypoints.shape[1] for clip in clips)]),
        "label": np.array([clip.label for clip in clips]),
        "label_names": np.array(parts[0].labels),
        "names": np.array([clip.key for clip in clips]),
        "split": np.repeat(["train", "val"], [len(part) for part in parts]),
        "subject": np.array([clip.features["subject"] for clip in clips]),
        "joint_names": np.array(parts[0].skeleton.joints),
    }
    if all(clip.size for clip in clips):
        arrays["frame_size"] = np.array([clip.size for clip in clips])
    np.savez(path, **arrays)
    return path


def settled() -> dict[str, Any]:
    """Everything that the recipe says and that decides the figures."""
    tables = settings.read(configs.find("unik_small"))
    watched = ("name", "seed", "workers", "save_every", "probe_every")
    return tables | {"run": {key: value for key, value in tables["run"].items() if key not in watched}}


def job(name: str) -> Any:
    """One seed of one set: the recipe as a user would run it, and its floors on the very coordinates it is given."""

    def run(seed: int, folder: Path) -> dict[str, Any]:
        chosen = [f"run.seed={seed}", "run.tensorboard=false", "run.probe_every=0"]
        config = configs.load("unik_small", chosen).on([str(write(name, folder))])
        result = train(config, folder / "run", device="cpu")
        figure = next(one for one in result.results if one.name == "classifier")
        floors = {key: round(100 * figure.baselines[key], 2) for key in (NEIGHBOUR, RIDGE)}
        return {
            "accuracy": round(100 * figure.value, 2),
            "margin": round(100 * figure.value - max(floors.values()), 2),
            "floors": floors,
            "clips": [len(part) for part in small_set(name)],
            "steps": result.history.steps,
        }

    return run


def run(quick: bool) -> dict[str, Any]:
    """The default recipe for small sets, beside nearest neighbour and ridge."""
    torch.set_num_threads(1)
    names = SETS[:1] if quick else SETS
    runs = {name: seeds(f"small_sets-{name}", settled(), SEEDS, job(name)) for name in names}
    margins = {name: spread(found, "margin") for name, found in runs.items()}
    return {
        "name": "small_sets",
        "value": min(margin["mean"] for margin in margins.values()),
        "unit": "points of top-1 over the best floor, on the set where they are fewest",
        "goal": GOAL,
        "holds": not quick and all(margin["mean"] >= GOAL for margin in margins.values()),
        "baselines": {name: found[0]["floors"] for name, found in runs.items()},
        "n": {name: found[0]["clips"] for name, found in runs.items()},
        "spread": {"margin": margins, "accuracy": {name: spread(found, "accuracy") for name, found in runs.items()}},
        "data": "cut out of the training sides of NW-UCLA, HDM05 and Penn Action, on which the defaults were chosen",
        "details": {
            "protocol": settled(),
            "cpu_s": {name: [one["cpu_s"] for one in found] for name, found in runs.items()},
        },
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:  # one set and one seed, as a short job
        torch.set_num_threads(1)
        seeds(f"small_sets-{sys.argv[2]}", settled(), [int(sys.argv[3])], job(sys.argv[2]))
    else:
        main(run)
