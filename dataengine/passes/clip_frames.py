"""Frames and poses of single clips, read from the work of a build: for pictures on pages and in videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dataengine.core.errors import DataEngineError, DatasetError
from dataengine.core.types import Clip, Float, Frames
from dataengine.io import shards
from dataengine.passes.job import Job
from dataengine.pipeline.ledger import Ledger
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.recipe import Recipe

LARGEST = 4096
"""Longest side of a picture that is drawn where there is none, pixels."""


def pose_arrays(ledger: Ledger, unit: str, clip_id: str) -> dict[str, Any]:
    """The arrays of one clip of the pass that gives the poses.

    Raises:
        DatasetError: the clip has none.
    """
    for key, entries in shards.iterate(ledger.artifact(unit)):
        if key == clip_id:
            return shards.decode(entries)
    raise DatasetError(f"clip {clip_id} has no poses")


def lifted_arrays(job: Job, unit: str, clip_id: str) -> dict[str, Any] | None:
    """The arrays of one clip of the pass that lifts; None where the build lifts nothing, or has not lifted the clip."""
    if "lift" not in job.passes:
        return None
    try:
        return pose_arrays(job.ledger("lift"), unit, clip_id)
    except DataEngineError:
        return None


def clearest(scores: Float) -> int:
    """The frame with the clearest poses, of scores (M, T, V)."""
    return int(np.argmax(np.nan_to_num(scores.astype(np.float32)).sum((0, 2))))


def frames_of(recipe: Recipe, plan: Plan, clip: Clip, arrays: Mapping[str, Any]) -> Iterator[Frames]:
    """The frames of a clip that poses were estimated in, in order; black ones where poses came without pictures.

    Args:
        arrays: of the clip, as `pose_arrays` gives them.
    """
    timestamps = arrays["timestamps"]
    if recipe.brings_poses:
        height, width = (min(int(arrays["json"][side]), LARGEST) for side in ("height", "width"))
        yield from (np.zeros((height, width, 3), np.uint8) for _ in range(len(timestamps)))
        return
    decoder = recipe.component("decoders", recipe.pose.decoder)
    wanted, first = np.asarray(timestamps, np.float64), None
    place = 0
    with decoder.open(plan.media(clip), clip.span_start, clip.span_end) as stream:
        for batch in stream:
            for frame, time in zip(batch.frames, batch.timestamps):
                first = float(time) if first is None else first
                if place < len(wanted) and time - first >= wanted[place] - 1e-3:
                    place += 1
                    yield frame
