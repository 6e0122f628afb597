"""Clips that show no pose: a network is given zeros of them, and what it says of zeros means nothing.

`training.runs.features.TemporalCrops` decides which they are. Tables have a row for each of them with the reason and
without an answer. They are counted and told.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from dataengine.core.types import Bool
from training.data.types import Array, SkeletonDataset, remark

NO_POSE = "no_pose"
"""The reason, in the column `reason` of tables."""


def shows_pose(keypoints: Array) -> bool:
    """Whether joints (M, T, V, C) as they are stored show a pose: some are seen, and not all lie at one point."""
    points = keypoints[np.isfinite(keypoints).all(-1)]
    return bool(len(points) and (points != points[0]).any())


def reasons(shows_pose: Bool) -> pl.Series:
    """The column `reason` of a table of N clips: null where a clip shows a pose."""
    return pl.Series("reason", [None if shown else NO_POSE for shown in shows_pose.tolist()], dtype=pl.String)


def tell_of_no_pose(clip_ids: Iterable[str], shows_pose: Bool, effect: str) -> None:
    """Say how many clips show no pose.

    Args:
        clip_ids: of the N clips.
        shows_pose: (N,).
        effect: what becomes of them.
    """
    if shows_pose.all():
        return
    first = list(clip_ids)[int(np.argmin(shows_pose))]
    gone = int((~shows_pose).sum())
    remark(
        f"{gone} of {len(shows_pose)} clips {'shows' if gone == 1 else 'show'} no pose (no joint is seen, or all lie "
        f"at one point), for example {first!r}: {effect}"
    )


def keys_of(datasets: Iterable[SkeletonDataset]) -> list[str]:
    """Ids of the clips of some datasets."""
    return [key for dataset in datasets for key in dataset.keys]
