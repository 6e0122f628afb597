"""Made-up motions as files, for what reads its data from a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.motions import CLASSES, Motions

TABLES: dict[str, dict[str, Any]] = {
    "run": {"epochs": 2, "batch": 8, "workers": 0, "log_every": 1, "tensorboard": False, "floors": False},
    "preprocess": {"people": 1},
    "view": {"frames": 16},
    "backbone": {"name": "stgcn", "channels_base": 16, "blocks": [2]},
    "method": {"name": "supervised"},
    "optim": {"lr": 0.1},
}
"""A small run, whose figures have no floors unless a test asks for them."""
TMOR = {
    "name": "tmor",
    "text": "ngrams",
    "video": "video",
    "queue": {"size": 64, "momentum": 0.9},
    "projector": {"hidden": 64, "width": 16},
}


def write(path: Path, count: int = 72, seed: int = 1, video: int = 6, labels: bool = True) -> Path:
    """An npz file: two clips in three train, the others val; with a video feature of `video` numbers, two views a
    clip."""
    dataset = Motions(count, seed, video=video)
    clips = dataset.clips
    arrays: dict[str, Any] = {
        "keypoints": np.concatenate([clip.keypoints[0] for clip in clips]),
        "offsets": np.cumsum([0, *(clip.keypoints.shape[1] for clip in clips)]),
        "split": np.where(np.arange(count) // len(CLASSES) % 3 < 2, "train", "val"),
        "joint_names": np.array(dataset.skeleton.joints),
        "frame_size": np.tile([640, 480], (count, 1)),
    }
    if labels:
        arrays |= {"label": dataset.label_ids, "label_names": np.array(CLASSES)}
    if video:
        arrays["video"] = np.stack([clip.features["video"] for clip in clips])
    np.savez(path, **arrays)
    return path
