"""What a configuration leaves to the data: length, batch and width by the number of clips, normalisation by the joints.

All of it is decided once, before the first step, and stored in the resolved configuration, so a run that is resumed or
trained again from its run.toml decides nothing anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.errors import RecipeError, suggestion
from training.config import Config, validate
from training.data.loader import DataLoader
from training.data.rgb import is_pictures
from training.data.subsets import random_subset
from training.data.types import ROTATION, SkeletonDataset, remark
from training.distributed import rank
from training.engine import checkpoint
from training.runs.mirror_images import exchanged
from training.runs.run import make_preprocess, start_file
from training.transforms.preprocess import NEEDED
from training.transforms.view import PRESETS

AUTO = "auto"
LOOKED_AT = 64
"""Clips that say which axis is upright."""


def decide(config: Config, datasets: Sequence[SkeletonDataset], total: int) -> dict[str, Any]:
    """The tables of the configuration with all that follows from the clips, which is told in one line.

    Args:
        config: a configuration.
        datasets: what is learnt from.
        total: clips that are learnt from, or windows of them.

    Raises:
        RecipeError: a rule of `run.by_clips` that is none.
    """
    tables = config.to_toml()
    clips = config.data.epoch_size or total
    told = _by_clips(tables, total)
    told += _by_joints(tables, datasets)
    told += _by_sides(tables, datasets)
    run = tables["run"]
    if run["batch"] > clips:
        told.append(f"run.batch {clips}, as {run['batch']} is more than the {clips} clips of an epoch")
        run["batch"] = clips
    told += _length(tables, clips)
    if told and rank() == 0:
        remark(f"{total:,} clips to learn from: {'; '.join(told)}")
    return tables


def _by_clips(tables: dict[str, Any], clips: int) -> list[str]:
    """Apply the first rule of `run.by_clips` whose sets are no smaller; what was set."""
    rules = [_checked(tables, rule) for rule in tables["run"].pop("by_clips")]
    rule = next((rule for rule in rules if clips <= rule["up_to"]), {"up_to": 0})
    told = []
    backbone = _backbone_of_start(tables)
    for key, value in rule.items():
        if key == "up_to":
            continue
        table, _, option = key.partition(".")
        if table == "backbone" and backbone is not None:
            value = backbone.get(option, tables[table].get(option))
        tables[table][option] = value
        told.append(f"{key} {json.dumps(value)}")
    return told


def _checked(tables: Mapping[str, Any], rule: Mapping[str, Any]) -> dict[str, Any]:
    """The rule, with keys written as nested tables taken for `table.key`."""
    where = f"run.by_clips {json.dumps(rule)}"
    up_to = rule.get("up_to")
    if not isinstance(up_to, int) or isinstance(up_to, bool) or up_to < 1:
        raise RecipeError(f"{where}: up_to = CLIPS, a whole number from 1, says for which sets it is")
    flat: dict[str, Any] = {}
    for key, value in rule.items():
        nested = isinstance(value, Mapping) and "." not in key
        flat |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()} if nested else {key: value}
    for key in flat:
        table, dot, option = key.partition(".")
        if key != "up_to" and (not dot or not option or table not in tables):
            raise RecipeError(f"{where}: {key!r} is no table.key{suggestion(table, tables)}")
        if key in ("run.by_clips", "run.start"):
            raise RecipeError(f"{where}: {key} is not chosen by the number of clips")
    return flat


def _backbone_of_start(tables: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The options of the network that a run starts from, where its file says them and the network is the same."""
    start = tables["run"].get("start")
    if start is None:
        return None
    path = start_file(Path(start))
    options = checkpoint.facts_of(path).get("backbone") if path.suffix == ".safetensors" else None
    if not isinstance(options, Mapping) or options.get("name") != tables["backbone"]["name"]:
        return None
    return options


def _by_joints(tables: dict[str, Any], datasets: Sequence[SkeletonDataset]) -> list[str]:
    """Decide what is "auto" of [preprocess]; what was decided, where there was something to choose."""
    table = tables["preprocess"]
    if AUTO not in (table["normalise"], table["up"]):
        return []
    first = next(dataset for dataset in datasets if len(dataset))
    if is_pictures(first.skeleton):
        table |= {"normalise": "none", "up": "y"}
        return []
    axes = len(table.get("channels") or range(first.read([0])[0].keypoints.shape[-1]))
    named = set(NEEDED["view_body"]) <= set(first.skeleton.joints)
    told = []
    if table["normalise"] == AUTO:
        in_space = "view_body" if axes == 3 and named else "body"
        table["normalise"] = "none" if axes == ROTATION else in_space
        if axes == 3:
            told.append(f'preprocess.normalise "{table["normalise"]}" of joints in space')
    if table["up"] == AUTO:
        table["up"] = upright(datasets, table.get("channels")) if axes == 3 and named else "y"
        if axes == 3 and table["normalise"].startswith("view"):
            told.append(f'preprocess.up "{table["up"]}"')
    return told


def _by_sides(tables: dict[str, Any], datasets: Sequence[SkeletonDataset]) -> list[str]:
    """Take the step flip out of a preset where classes are each other's mirror images; what was changed.

    Steps that were written one by one stay as they are, with a warning.
    """
    first = next(dataset for dataset in datasets if len(dataset))
    config, layout = validate(tables, "the configuration"), first.skeleton
    if not config.classifies:
        return []
    preprocess = make_preprocess(config, layout)
    axes = preprocess(first.read([0])[0]).shape[-1] - preprocess.score
    steps = config.view.steps
    kept = [dict(step) for step in (PRESETS[steps].get(axes, ()) if isinstance(steps, str) else steps)]
    if all(step["name"] != "flip" for step in kept):
        return []
    pairs = exchanged(datasets, preprocess, DataLoader(datasets, shuffle=False).labels)
    if not pairs:
        return []
    said = f"mirrored clips of {pairs[0][0]!r} are nearest to {pairs[0][1]!r}"
    more = f", and so with {len(pairs) - 1} other pairs of classes" if len(pairs) > 1 else ""
    if not isinstance(steps, str):
        if rank() == 0:
            remark(f"view.steps has a step flip, and {said}{more}: leave it out, or these classes are one")
        return []
    tables["view"]["steps"] = json.loads(json.dumps([step for step in kept if step["name"] != "flip"]))
    return [f'view.steps "{steps}" without flip, as {said}{more}']


def upright(datasets: Sequence[SkeletonDataset], channels: Sequence[int] | None = None) -> str:
    """The axis, "y" or "z", along which shoulders and hips lie apart in most clips.

    Args:
        datasets: joints in space that name shoulders and hips.
        channels: which channels are x, y and z. Default: the first three.
    """
    votes = []
    chosen = list(channels or range(3))
    for part in random_subset(datasets, LOOKED_AT):
        shoulders, hips = (part.skeleton.indices((f"left_{name}", f"right_{name}")) for name in ("shoulder", "hip"))
        for clip in part.read(range(len(part))):
            points = clip.keypoints[..., chosen]
            spine = (points[:, :, shoulders] - points[:, :, hips]).reshape(-1, 3)
            spine = np.abs(spine[np.isfinite(spine).all(1)])
            if len(spine):
                votes.append(spine[:, 2].mean() > spine[:, 1].mean())
    return "z" if votes and np.mean(votes) > 0.5 else "y"


def _length(tables: dict[str, Any], clips: int) -> list[str]:
    """Make the run as long as `run.min_steps` says; what was changed."""
    run, optim = tables["run"], tables["optim"]
    an_epoch = max(1, clips // run["batch"] // run["accumulate"])
    before, needed = run["epochs"], math.ceil(run["min_steps"] / an_epoch)
    if needed <= before:
        return []
    factor = needed / before
    run["epochs"] = needed
    optim["warmup"] = round(optim["warmup"] * factor, 3)
    optim["milestones"] = [round(milestone * factor) for milestone in optim["milestones"]]
    for name in ("probe_every", "keep_every"):
        run[name] = math.ceil(run[name] * factor)
    return [f"run.epochs {needed} in place of {before}, as run.min_steps is {run['min_steps']:,}"]
