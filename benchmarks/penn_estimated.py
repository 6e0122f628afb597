"""Penn Action as it would be estimated: what recognition loses when joints come from fused estimators and not from
annotators.

The thesis's downstream protocol. Every usable clip of both sides gets tracks of three simulated estimators with real
errors and faults (`track_protocol`; training clips take errors of one half of the pictures, test clips of the other);
they are fused by SST-A and by the consensus fusion; one network is trained and tested on each, and on the annotated
joints of the same clips. Not a benchmark by itself: `penn_action` shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from seeds import accuracy, predict, supervise
from skeletons import Memory, penn
from track_protocol import LAYOUT, clips, residuals, simulate

from dataengine.core import registry
from training.data.types import SkeletonSequence
from training.engine.settings import OptimSettings, TrainSettings
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

FUSIONS = ("ssta", "consensus")


def estimated(split: str, annotated: Memory, fusion: str | None, seed: int = 0) -> Memory:
    """The usable clips of a side with fused joints, or with the annotated ones where no fusion is named."""
    place = {int(clip.key) - 1: number for number, clip in enumerate(annotated.clips)}
    errors = residuals(0 if split == "train" else 1)
    # the clip called 0001 is the first of the file
    component = None if fusion is None else registry.create("fusion", fusion, {})
    chosen, sequences = [], []
    for track in clips(split):
        number = place[track.index]
        clip = annotated.clips[number]
        chosen.append(number)
        if component is not None:
            coords = simulate(track, errors, np.random.default_rng([seed, track.index]))
            fused = component.fuse(coords, None, LAYOUT).coords.astype(np.float32)
            clip = SkeletonSequence(clip.key, fused[None], None, clip.label, clip.size, clip.fps)
        sequences.append(clip)
    name = f"{split} {fusion or 'annotated'} {seed}"
    return Memory(name, annotated.skeleton, annotated.labels, tuple(sequences), f"{annotated.fingerprint}-{name}")


def job(protocol: dict[str, Any], steps: Any) -> Any:
    """One seed: a network each on annotated and on fused joints."""
    splits = dict(zip(("train", "test"), penn()))

    def run(seed: int, folder: Path) -> dict[str, Any]:
        found = {}
        for fusion in (None, *FUSIONS):
            train, test = (estimated(split, splits[split], fusion, seed) for split in ("train", "test"))
            preprocess, view = Preprocess(train.skeleton), View(protocol["frames"], steps, train.skeleton)
            settings = TrainSettings(
                epochs=protocol["epochs"],
                optim=OptimSettings(lr=protocol["lr"], weight_decay=protocol["decay"], warmup=1),
                seed=seed,
                log_every=39,
                save_every=60,
            )
            place = folder / (fusion or "annotated")
            backbone = supervise(
                train, preprocess, view, settings, seed, place, protocol["batch"], protocol["smoothing"]
            )
            found[fusion or "annotated"] = accuracy(
                predict(backbone, test, preprocess, protocol["frames"]), test.label_ids
            )
        return found

    return run
