"""One table of all methods: the same clips, the same number of steps, and the same network where the method allows it.

HDM05 subset, 11 classes: 188 clips of three people to learn from, 99 of the other two to measure on. Every method of
the registry is trained by its small recipe on the training clips, with UNIK of a quarter width; a method that refuses
that network has the one of its recipe. LAC has the clips in the layout posetics17, as it needs to know
which joints are hips and shoulders. LTN learns from the same clips drawn as pictures of stick figures. Then the network
is frozen: a linear probe of all labels, and of 10 % of them (the mean of five draws); it is fine-tuned with 10 % of the
labels (one draw for all methods); and where a method reads texts, test clips are found by descriptions of their classes
(manifests/hdm05_described.csv). `supervised` and methods with texts see the labels of the training clips;
the others do not. Floors: nearest neighbour and ridge on coordinates, random networks, and fine-tuning from a drawn
network ("none").

A method without a recipe NAME_small is trained with its defaults. Methods that learn classes of frames have no figure
here. One that cannot be trained on these clips is in the table with the reason. Nothing is chosen on test clips.

Texts are read by all-MiniLM-L6-v2, or by ALL_METHODS_TEXT=ngrams where its weights are not here.

Rows and seeds are kept in results/seeds; ALL_METHODS="mcc,r3" runs some rows, ALL_METHODS_SEEDS=1 fewer seeds, and
`--quick` trains for a tenth of the steps.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import math
import warnings
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from harness import main
from seeds import WORK, seeds, spread
from skeletons import SHARED, hdm05

from dataengine.core import settings
from dataengine.core.errors import DataEngineError
from dataengine.media.encode import write_video
from training import config as configs
from training import registry
from training.config import Config, validate
from training.data.types import SkeletonSequence
from training.runs import splits
from training.runs.probe import probe
from training.runs.run import load_run
from training.runs.train import train
from training.runs.zero_shot import retrieve

torch.set_num_threads(1)
DATA = SHARED / "skeleton" / "hdm05_subset.npz"
COMMON = {"name": "unik", "channels_base": 16}
PROTOCOL: dict[str, Any] = {"steps": 600, "tuning": 300, "batch": 16, "frames": 32, "network": COMMON, "few": 0.1}
RECIPES = {"supervised": "unik_small"}
"""Recipes that are not called NAME_small."""
TEXT = {"encoder": os.environ.get("ALL_METHODS_TEXT", "minilm"), "prompts": "hdm05_described.csv"}
NAMED, IN_NAMED_JOINTS = "posetics17", ("lac_retarget", "lac")
"""A layout that names all joints, and the methods that turn bodies to a camera and need the names."""
CLIPS = 188
NONE = "none"
SEEDS = range(int(os.environ.get("ALL_METHODS_SEEDS", "3")))
LEFT_OUT = {"segment": "learns classes of frames, and these clips are of one class each"}
SIDE = 64


def tables_of(method: str) -> dict[str, Any]:
    """The small recipe of a method, or a table with its name alone."""
    name = RECIPES.get(method, f"{method}_small")
    if name in configs.available():
        return settings.read(configs.find(name))
    return {"method": {"name": method}, "backbone": dict(COMMON), "preprocess": {"people": 1}}


def budget(tables: dict[str, Any], seed: int, steps: int) -> dict[str, Any]:
    """The tables with the data, the steps and the batch that all methods have."""
    batch = PROTOCOL["batch"]
    fixed = {
        "run": {
            "name": "row",
            "seed": seed,
            "batch": batch,
            "epochs": math.ceil(steps / (CLIPS // batch)),
            "min_steps": 0,
            "by_clips": [],
            "probe_every": 0,
            "save_every": 60.0,
            "tensorboard": False,
            "floors": False,
            "workers": 0,
        },
        "data": {"train": [str(DATA)], "val": [str(DATA)], "split": "train", "val_split": "test"},
    }
    if tables["method"]["name"] in IN_NAMED_JOINTS:
        fixed["data"] |= {"layout": "hdm31", "skeleton": NAMED}
    merged = settings.merge(tables, fixed)
    if tables.get("view", {}).get("frames") != 8:
        merged = settings.merge(merged, {"view": {"frames": PROTOCOL["frames"]}})
    return merged


def candidates(method: str, seed: int, steps: int, folder: Path) -> list[Config]:
    """Configurations of a method, the one with the common network first; the others where it is refused."""
    tables = budget(tables_of(method), seed, steps)
    options = registry.options(registry.find("methods", method))
    if method == "lac":
        tables["method"]["generator"] = str(folder.parent / f"{folder.name}-generator")
    elif method == "lac_retarget":
        tables["backbone"]["axes"] = 3
    if "text" in options and tables["method"].get("text"):
        tables["method"]["text"] = TEXT
    if tables.get("data", {}).get("format") == "videos":
        drawn = str(drawings())
        tables = settings.merge(tables, {"data": {"train": [drawn], "val": [drawn]}})
    own = tables["backbone"]
    return [validate({**tables, "backbone": network}, method) for network in (COMMON, own)]


def drawings() -> Path:
    """The clips as videos of stick figures, ROOT/SPLIT/CLASS/KEY.mp4, drawn once."""
    root = WORK / "all-methods-drawings"
    if not (root / "done").exists():
        for split, part in zip(("train", "test"), hdm05()):
            for clip in part.read(range(len(part))):
                place = root / split / part.labels[clip.label]
                place.mkdir(parents=True, exist_ok=True)
                name = "".join(c if c.isalnum() else "-" for c in clip.key)
                write_video(place / f"{name}.mp4", iter(drawn(clip, part.skeleton.bones)), Fraction(30), crf=12)
        (root / "done").touch()
    return root


def drawn(clip: SkeletonSequence, bones: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Bones of the person of a clip, seen from the front, (T, SIDE, SIDE, 3) uint8."""
    points = np.nan_to_num(clip.keypoints[0])
    low, high = points.min((0, 1)), points.max((0, 1))
    scale = (SIDE - 8) / max(float((high - low)[:2].max()), 1e-6)
    flat = (points - (low + high) / 2)[..., :2] * scale * (1, -1) + SIDE / 2
    frames = np.full((len(points), SIDE, SIDE, 3), 20, np.uint8)
    for picture, joints in zip(frames, flat):
        for number, (one, other) in enumerate(bones):
            a, b = (tuple(int(v) for v in joints[n]) for n in (one, other))
            colour = (230, 60 + 7 * (number % 20), 230 - 9 * (number % 20))
            cv2.line(picture, a, b, colour, 2, cv2.LINE_AA)
    return frames


def trained(method: str, seed: int, steps: int, folder: Path) -> Config:
    """Train a method, with the common network where it takes it; the configuration that was taken.

    Raises:
        DataEngineError: it cannot be trained on these clips.
    """
    if method == "lac":
        trained("lac_retarget", seed, steps, folder.parent / f"{folder.name}-generator")
    found: DataEngineError | None = None
    for number, config in enumerate(candidates(method, seed, steps, folder)):
        try:
            train(config, folder, device="cpu")
            return config
        except DataEngineError as error:
            if number or (folder / "last.safetensors").exists():
                raise
            found = error
    assert found is not None
    raise found


def job(method: str, steps: int, tuning: int, seed: int, folder: Path) -> dict[str, Any]:
    """One seed of a row: every figure in per cent, with its floors."""
    found: dict[str, Any] = {"figures": {}, "floors": {}, "reason": ""}
    start: Path | None = None
    if method != NONE:
        start = folder / "learnt"
        try:
            taken = trained(method, seed, steps, start)
        except (DataEngineError, NotImplementedError) as error:
            return {**found, "reason": str(error)}
        learnt = load_run(start)
        data = learnt.config.data
        train_part, test = splits.open_split(data, "train"), splits.open_split(data, "val", split="test")
        report = probe(learnt, train_part, test, fractions=(PROTOCOL["few"],), seeds=5)
        for result in report.results:
            kind = "few" if "10" in result.name else "linear" if "linear" in result.name else None
            if kind is not None and kind not in found["figures"]:
                found["figures"][kind] = round(100 * result.value, 2)
                found["floors"][kind] = {name: round(100 * value, 2) for name, value in result.baselines.items()}
        if "text" in learnt.method.modalities:
            for result in retrieve(learnt, test, by="text").results:
                found["figures"][f"{result.name}, {result.metric}"] = round(100 * result.value, 2)
        found["network"] = taken.backbone.name + (f", {NAMED}" if taken.data.skeleton else "")
        found["parameters"] = sum(p.numel() for p in learnt.backbone.parameters())
        found["labels"] = learnt.needs.labels
    tuned = tune(method, start, seed, tuning, folder / "tuned")
    found["figures"]["fine-tuned"] = tuned
    return found


def tune(method: str, start: Path | None, seed: int, steps: int, folder: Path) -> float | None:
    """Top-1 in per cent of a network trained on with 10 % of the labels; None where it cannot be."""
    few = CLIPS * PROTOCOL["few"]
    epochs = math.ceil(steps / max(1, few // PROTOCOL["batch"]))
    sets = [
        f"run.seed={seed}",
        f"run.epochs={epochs}",
        f"run.batch={PROTOCOL['batch']}",
        f"data.label_fraction={PROTOCOL['few']}",
        "run.tensorboard=false",
        "run.probe_every=0",
        "run.floors=false",
        "run.workers=0",
    ]
    try:
        if start is None:
            tables = budget(tables_of("supervised"), seed, steps) | {"backbone": dict(COMMON)}
            few_labels = {"run": {"epochs": epochs}, "data": {"label_fraction": PROTOCOL["few"]}}
            config = validate(settings.merge(tables, few_labels), NONE)
        else:
            config = configs.finetuning(str(start), None, sets)
        result = train(config, folder, device="cpu")
    except DataEngineError as error:
        if start is None:
            raise
        warnings.warn(f"{method}: not fine-tuned: {error}", stacklevel=2)
        return None
    return next((round(100 * one.value, 2) for one in result.results if one.name == "classifier"), None)


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The table as lines of Markdown."""

    def cell(row: dict[str, Any], name: str) -> str:
        value = row["figures"].get(name)
        if value is None:
            return "-"
        if "low" in value:
            return f"{value['mean']:.1f} ({value['low']:.1f} to {value['high']:.1f})"
        return f"{value['mean']:.1f}"

    lines = [
        "| method | labels | network | linear | 10 % | fine-tuned, 10 % | by text |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if row["reason"]:
            lines.append(f"| `{name}` | | {row['reason']} | | | | |")
            continue
        texts = [key for key in row["figures"] if key not in ("linear", "few", "fine-tuned")]
        by_text = cell(row, texts[0]) if texts else "-"
        cells = [cell(row, kind) for kind in ("linear", "few", "fine-tuned")]
        seen = "yes" if row.get("labels") else "no"
        lines.append(
            f"| `{name}` | {seen} | {row.get('network') or COMMON['name']} | {' | '.join(cells)} | {by_text} |"
        )
    return lines


def row_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and intervals of a row over its seeds."""
    if reason := next((one["reason"] for one in runs if one["reason"]), ""):
        return {"figures": {}, "floors": {}, "reason": reason}
    names = [name for name in runs[0]["figures"] if all(one["figures"].get(name) is not None for one in runs)]
    figures = {name: spread([{"value": one["figures"][name]} for one in runs], "value") for name in names}
    return {
        **{k: runs[0].get(k) for k in ("floors", "network", "parameters", "labels")},
        "reason": "",
        "figures": figures,
    }


def run(quick: bool) -> dict[str, Any]:
    """All methods of the registry on HDM05."""
    steps, tuning = PROTOCOL["steps"], PROTOCOL["tuning"]
    if quick:
        steps, tuning = steps // 10, tuning // 5
    protocol = {**PROTOCOL, "steps": steps, "tuning": tuning, "text": TEXT["encoder"]}
    methods = [NONE, *(name for name in registry.names("methods") if name not in LEFT_OUT)]
    wanted = os.environ.get("ALL_METHODS", ",".join(methods)).split(",")
    rows: dict[str, dict[str, Any]] = {}
    for method in (name for name in methods if name in wanted):
        tables = {} if method == NONE else tables_of(method)
        own = protocol | {"recipe": tables} | ({"skeleton": NAMED} if method in IN_NAMED_JOINTS else {})
        rows[method] = row_of(seeds(f"all_methods-{method}", own, SEEDS, partial(job, method, steps, tuning)))
    rows |= {name: {"figures": {}, "floors": {}, "reason": why} for name, why in LEFT_OUT.items() if name in wanted}
    lines = table(rows)
    print("\n".join(lines))
    linear = {name: row["figures"]["linear"]["mean"] for name, row in rows.items() if "linear" in row["figures"]}
    floors: dict[str, float] = next(
        (row["floors"]["linear"] for row in rows.values() if row["floors"].get("linear")), {}
    )
    return {
        "name": "all_methods",
        "value": linear,
        "unit": "per cent, linear probe of all labels",
        "goal": "every method of the registry has a row",
        "holds": not quick and all(not row["reason"] or name in LEFT_OUT for name, row in rows.items()),
        "baselines": floors,
        "n": 99,
        "spread": rows,
        "data": "HDM05 subset, 11 classes, three people to learn from, two to measure on",
        "details": {"protocol": protocol, "seeds": len(SEEDS), "table": lines},
    }


if __name__ == "__main__":
    main(run)
