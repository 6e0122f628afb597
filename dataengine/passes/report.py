"""report: the page and the card of a dataset, with pictures of kept and rejected clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from dataengine.core import registry
from dataengine.core.errors import DataEngineError
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.dataset import open as open_dataset
from dataengine.io.storage import write_durably
from dataengine.passes.base import Job
from dataengine.pipeline.plan import Plan
from dataengine.report.card import dataset_card
from dataengine.report.overlay import draw_people, encode
from dataengine.report.page import Picture, render_report
from dataengine.report.view import frames_of, pose_arrays

HEIGHT = 300
"""Pictures on the page are about this high, in pixels."""


def run(out: Path, plan: Plan, job: Job) -> None:
    """Write dataset/report.html and dataset/README.md.

    Raises:
        DatasetError: the dataset is not complete.
    """
    dataset = open_dataset(out)
    gallery = job.recipe.report.gallery if job.recipe.report is not None else 12
    pictures = list(_pictures(dataset, plan, job, gallery))
    write_durably(out / "dataset" / "report.html", render_report(dataset, pictures, motions=gallery).encode())
    write_durably(out / "dataset" / "README.md", dataset_card(dataset, _licences(job)).encode())


def _spread(ids: list[str], count: int) -> list[str]:
    """`count` ids evenly spread over the list."""
    if len(ids) <= count:
        return ids
    return [ids[int(n)] for n in np.linspace(0, len(ids) - 1, count)] if count else []


def _licences(job: Job) -> dict[str, str]:
    """Licence of each expert of the recipe, where it states one."""
    classes = {name: registry.component_class("experts", name) for name in job.recipe.pose.experts}
    return {name: cls.licence for name, cls in classes.items() if cls.licence is not None}


def _pictures(dataset: Dataset, plan: Plan, job: Job, count: int) -> Iterator[Picture]:
    kept = dataset.clips.select("clip_id", "label").sort("clip_id").collect().rows()
    out = (
        dataset.rejects.filter(pl.col("pass") == "curate")
        .select("clip_id", "reason", "detail")
        .sort("reason", "clip_id")
        .collect()
        .rows()
    )
    labels = {row["clip_id"]: row["label"] or "" for row in plan.rows()} | {
        clip_id: label or "" for clip_id, label in kept
    }
    reasons = {clip_id: (reason, detail or "") for clip_id, reason, detail in out}
    chosen = [(clip_id, None, "") for clip_id in _spread([clip_id for clip_id, _ in kept], count)]
    chosen += [(clip_id, *reasons[clip_id]) for clip_id in _spread(list(reasons), (count + 1) // 2)]
    for clip_id, reason, detail in chosen:
        picture = _picture(plan, job, clip_id)
        if picture is not None:
            jpeg, place = picture
            yield Picture(clip_id, labels[clip_id], jpeg, detail or place, reason)


def _picture(plan: Plan, job: Job, clip_id: str) -> tuple[bytes, str] | None:
    """A JPEG of the clip's clearest frame with its skeletons, and which it is; None when its media or poses are gone."""
    clip = plan.clip(clip_id)
    if clip is None:
        return None
    unit = next(row["unit"] for row in plan.rows() if row["clip_id"] == clip_id)
    try:
        arrays = pose_arrays(job.ledger("pose"), unit, clip_id)
        scores = np.nan_to_num(arrays["scores"].astype(np.float32))
        best = int(np.argmax(scores.sum((0, 2))))
        frame = next(f for n, f in enumerate(frames_of(job.recipe, plan, clip, arrays["timestamps"])) if n == best)
    except (DataEngineError, StopIteration):
        return None
    people = job.recipe.pose.max_people
    drawn = draw_people(
        frame,
        arrays["keypoints"][:people, best],
        scores[:people, best],
        arrays["json"]["skeleton"],
        scale=HEIGHT / frame.shape[0],
    )
    return encode(drawn, ".jpg"), f"frame {best + 1} of {len(arrays['timestamps'])}"
