"""Which poses the filter `reprojection` refuses: its measure for poses of rendered people, and for spoilt ones.

The built-in experts see rendered clips of one person, their poses are fused as the recipe posecap with overlay core
does it, and `temporal` lifts them: at 25 frames per second, and with every third and fourth frame alone. Spoilt poses
are made of those at 25 frames per second:

* `guessed`: joints drawn about the body (standard deviation a quarter of its height) that tremble by 2 % of it;
* `sides exchanged`: left and right are exchanged in every other half second;
* `legs of another`: hips, knees and ankles of another clip, in the size of this body and at the middle of its hips.

The measure is the mean distance of the lifted joints, projected, to those of the picture, in body heights. The goal is
that of the filter's default: it keeps every clip at 25 frames per second and refuses most guesses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from harness import main
from numpy.typing import NDArray

from dataengine.core import registry
from dataengine.core.skeletons import COMMON, convert, skeleton
from dataengine.core.types import Poses
from dataengine.filters.body import Body
from dataengine.filters.reprojection import Reprojection
from dataengine.pipeline.recipe import load
from dataengine.rendering import render_clip
from dataengine.tracking import rank

Array = NDArray[Any]
MEMBERS = ("synthetic_topdown", "synthetic_bottomup", "synthetic_regression")
FIRST_SEED, FRAMES, FPS, SIZE = 6_000_000, 50, 25.0, (340, 256)
LAYOUT = skeleton(COMMON)
FLIP = np.array(LAYOUT.flip)
HIPS = LAYOUT.indices(("left_hip", "right_hip"))
LEGS = LAYOUT.indices(tuple(f"{side}_{name}" for name in ("hip", "knee", "ankle") for side in ("left", "right")))
EVERY = {"25 frames per second": 1, "every third frame": 3, "every fourth frame": 4}
SPOILT = ("guessed", "sides exchanged", "legs of another")


def seen(clips: int) -> Iterator[tuple[Array, Array]]:
    """Fused joints (T, 13, 2) and scores (T, 13) of the foremost person of every clip."""
    recipe = load("posecap", "core")
    detector = registry.create("detectors", "synthetic_detector").load()
    experts = [registry.create("experts", name) for name in MEMBERS]
    sessions = [expert.load() for expert in experts]
    tracker, fusion = registry.create("trackers", "oks"), recipe.component("fusion", recipe.pose.fusion)
    weights = [recipe.pose.expert_weights.get(name, 1.0) for name in MEMBERS]
    for number in range(clips):
        clip = render_clip(FIRST_SEED + number, FRAMES, fps=FPS, size=SIZE, condition="clean", num_people=1)
        boxes = detector.detect(clip.frames)
        found = [
            [Poses(*convert(p.coords, p.scores, expert.skeleton, COMMON), p.boxes) for p in one]
            for expert, one in zip(experts, (session.predict(clip.frames, boxes) for session in sessions))
        ]
        tracks = rank(tracker.track([list(frame) for frame in zip(*found)], clip.times, [COMMON] * len(MEMBERS)))
        if tracks:
            made = fusion.fuse(tracks[0].coords, tracks[0].scores, COMMON, weights)
            yield np.asarray(made.coords), np.asarray(made.scores, np.float32)


def heights(coords: Array, scores: Array) -> Array:
    """(T,) pixels of the body."""
    return np.asarray(Body.of(coords, scores, COMMON, FPS).height)


def measured(session: Any, coords: Array, scores: Array, of: Array | None = None) -> float:
    """What the filter judges; `of`: the body's height, by default that of these joints."""
    error = session.lift(coords, scores, COMMON, SIZE).reprojection_error
    known = np.isfinite(coords).all(-1).any(-1)
    return float(np.nanmean(error[known] / (heights(coords, scores) if of is None else of)[known]))


def spoilt(kind: str, coords: Array, other: Array, height: Array, rng: np.random.Generator) -> Array:
    """Joints (T, 13, 2) that are those of no body; `other`: those of another clip, in its own pixels."""
    if kind == "guessed":
        size = float(np.nanmedian(height))
        drawn = np.nanmean(coords, (0, 1)) + rng.normal(0, 0.25, (1, *coords.shape[1:])) * size
        return np.asarray((drawn + rng.normal(0, 0.02, coords.shape) * size).astype(np.float32))
    out = coords.copy()
    if kind == "sides exchanged":
        odd = (np.arange(len(coords)) // round(FPS / 2)) % 2 == 1
        out[odd] = coords[odd][:, FLIP]
    else:
        middle = [points[:, HIPS].mean(1, keepdims=True) for points in (coords, other)]
        out[:, LEGS] = (other - middle[1] + middle[0])[:, LEGS]
    return out


def run(quick: bool) -> dict[str, Any]:
    """What the filter `reprojection` measures, and what its default refuses; see the module."""
    poses = list(seen(6 if quick else 25))
    rng, found = np.random.default_rng(0), {name: list[float]() for name in (*EVERY, *SPOILT)}
    with registry.create("lifters", "temporal").load() as session:
        for number, (coords, scores) in enumerate(poses):
            for name, step in EVERY.items():
                found[name].append(measured(session, coords[::step], scores[::step]))
            height = heights(coords, scores)
            other, others_scores = poses[(number + 1) % len(poses)]
            other = other * float(np.nanmedian(height) / np.nanmedian(heights(other, others_scores)))
            for kind in SPOILT:
                made = spoilt(kind, coords, other, height, rng)
                found[kind].append(measured(session, made, scores))
    keeps = Reprojection().keep
    table = {
        name: {
            "least": round(min(values), 4),
            "median": round(float(np.median(values)), 4),
            "most": round(max(values), 4),
            "refused": round(float(np.mean([not keeps(value) for value in values])), 3),
        }
        for name, values in found.items()
    }
    slower = {name: round(table[name]["median"] / table[next(iter(EVERY))]["median"], 2) for name in EVERY}
    whole, guessed = table[next(iter(EVERY))], table["guessed"]
    return {
        "name": "reprojection",
        "value": {"largest at 25 frames per second": whole["most"], "guesses refused": guessed["refused"]},
        "unit": "body heights, largest of the rendered clips; share of the guessed poses that the filter refuses",
        "goal": f"at most {Reprojection().max}, and at least 0.7",
        "holds": bool(whole["refused"] == 0 and guessed["refused"] >= 0.7),
        "baselines": {f"median, {name}": row["median"] for name, row in table.items()},
        "n": len(poses),
        "spread": {name: [row["least"], row["most"]] for name, row in table.items()},
        "data": f"rendered, seeds {FIRST_SEED} and up, {len(poses)} clips of {FRAMES} frames, one person each",
        "details": {"table": table, "median over that at 25 frames per second": slower},
    }


if __name__ == "__main__":
    main(run)
