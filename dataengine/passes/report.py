"""report: the page and the card of the finished dataset, with pictures of kept and rejected clips."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataengine.core import registry
from dataengine.core.errors import DataEngineError, DatasetError
from dataengine.core.types import Float
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.dataset import open as open_dataset
from dataengine.dataset.index import read_manifest
from dataengine.io.storage import PARTIAL, write_durably
from dataengine.passes.base import ALL, Pass, Row
from dataengine.passes.clip_frames import clearest, frames_of, lifted_arrays, pose_arrays
from dataengine.passes.job import Job
from dataengine.passes.progress import BuildState, PassState
from dataengine.passes.unit_pass import receipt
from dataengine.pipeline import plan as plans
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.recipe import Recipe, fingerprint
from dataengine.pipeline.task import Receipt, Task
from dataengine.report.card import dataset_card
from dataengine.report.overlay import draw_people, encode
from dataengine.report.page import Picture, render_report
from dataengine.report.space import SIDES, space_panel, stage_of

HEIGHT = 300
"""Pictures on the page are about this high, in pixels."""
GALLERY = 12
"""Pictures where a recipe does not say how many."""


@dataclass(frozen=True)
class Report(Pass):
    """Writes dataset/report.html and dataset/README.md."""

    version = 1
    scope = "dataset"
    after = ("pack",)
    per = "build"

    def enabled(self, recipe: Recipe) -> bool:
        return recipe.report is not None

    def config(self, recipe: Recipe) -> Any:
        return None if recipe.report is None else recipe.report.model_dump()

    def state(self, build: BuildState) -> PassState:
        ledger, dataset = build.job.ledger(self.name), build.job.work.parent / "dataset"
        state = PassState(self.name, self.scope, ledger.fingerprint, [ALL])
        clips = [clip_id for unit in build.given(self.name).values() for clip_id in unit]
        inputs = _inputs(dataset)
        commit = build.find(self.name, ALL, inputs)
        if not all(build.state(name).finished for name in self.reads(build.passes)):
            state.left = clips
        elif commit is not None and _there(dataset, commit.size):
            state.commits = {ALL: commit}
        else:
            state.tasks, state.left = (
                [Task(ALL, tuple(clips), inputs, replaces="" if commit is None else commit.digest)],
                clips,
            )
        return state

    def run(self, job: Job, task: Task) -> Receipt:
        begun, ledger = time.monotonic(), job.ledger(self.name)
        page = write_pages(job)
        staged = ledger.stage(ALL, "html")
        staged.write_bytes(page.encode())
        commit = ledger.commit(ALL, task.inputs, staged, (), time.monotonic() - begun, replaces=task.replaces)
        return receipt(task, len(task.clips), len(task.clips), begun, commit)

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        """Nothing to tell: the page shows the dataset as a whole."""


def _inputs(dataset: Path) -> str:
    """Digest of what the page shows: the dataset, and which of its clips were taken down."""
    try:
        tombstones = sorted(path.name for path in (dataset / "tombstones").glob("*.parquet"))
        return fingerprint([read_manifest(dataset)["fingerprint"], tombstones])
    except DatasetError:
        return ""


def _there(dataset: Path, size: int) -> bool:
    """Whether page and card lie in the dataset, the page with its length."""
    try:
        return (dataset / "report.html").stat().st_size == size and (dataset / "README.md").is_file()
    except OSError:
        return False


IN_SPACE = 8
"""Most clips that are shown in space."""


def write_pages(job: Job) -> str:
    """Write the page and the card of the dataset of a build: dataset/report.html and dataset/README.md.

    Returns:
        The page.

    Raises:
        DatasetError: the dataset is not complete.
    """
    dataset = open_dataset(job.work.parent)
    gallery = GALLERY if job.recipe.report is None else job.recipe.report.gallery
    plan = plans.load(job.work)
    pictures, in_space = list(_pictures(dataset, plan, job, gallery)), list(_in_space(dataset, plan, job, gallery))
    page = render_report(dataset, pictures, in_space, motions=gallery)
    card = dataset_card(dataset, _licences(job))
    for name, text in (("report.html", page), ("README.md", card)):
        path = job.work.parent / "dataset" / name
        for leftover in path.parent.glob(f".{name}.*{PARTIAL}"):  # of a build that was killed here
            leftover.unlink(missing_ok=True)
        write_durably(path, text.encode())
    return page


def _spread(ids: list[str], count: int) -> list[str]:
    """`count` ids evenly spread over the list."""
    if len(ids) <= count:
        return ids
    return [ids[int(n)] for n in np.linspace(0, len(ids) - 1, count)] if count else []


def _licences(job: Job) -> dict[str, str]:
    """Licence of each expert of the recipe and of its lifter, where they state one."""
    classes = {name: registry.component_class("experts", name) for name in job.recipe.pose.experts}
    if job.recipe.lifter is not None:
        classes[job.recipe.lifter] = registry.component_class("lifters", job.recipe.lifter)
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
    labels = dict(kept)
    reasons = {clip_id: (reason, detail or "") for clip_id, reason, detail in out}
    chosen = [(clip_id, None, "") for clip_id in _spread([clip_id for clip_id, _ in kept], count)]
    chosen += [(clip_id, *reasons[clip_id]) for clip_id in _spread(list(reasons), (count + 1) // 2)]
    for clip_id, reason, detail in chosen:
        picture = _picture(plan, job, clip_id)
        if picture is not None:
            jpeg, place = picture
            label = labels[clip_id] if clip_id in labels else plan.row(clip_id)["label"]
            yield Picture(clip_id, label or "", jpeg, detail or place, reason)


def _in_space(dataset: Dataset, plan: Plan, job: Job, count: int) -> Iterator[Picture]:
    """Kept clips: a frame with its skeletons beside the same people in space from two sides."""
    if job.recipe.lifter is None:
        return
    errors = dict(dataset.clips.select("clip_id", "lift_reprojection").sort("clip_id").collect().rows())
    for clip_id in _spread(list(errors), min(count, IN_SPACE)):
        lifted = lifted_arrays(job, plan.row(clip_id)["unit"], clip_id)
        picture = _picture(plan, job, clip_id, None if lifted is None else lifted["keypoints3d"])
        if lifted is not None and picture is not None:
            jpeg, place = picture
            error = errors[clip_id]
            told = "" if error is None else f", reprojection error {100 * error:.1f} % of the body's height"
            yield Picture(clip_id, None, jpeg, place + told)


def _picture(plan: Plan, job: Job, clip_id: str, in_space: Float | None = None) -> tuple[bytes, str] | None:
    """A JPEG of the clip's clearest frame with its skeletons, and which it is; None when its media or poses are gone.

    Args:
        in_space: (M, T, V, 3) metres, to show on the right from two sides.
    """
    clip = plan.clip(clip_id)
    if clip is None:
        return None
    try:
        arrays = pose_arrays(job.ledger("poses"), plan.row(clip_id)["unit"], clip_id)
        scores = np.nan_to_num(arrays["scores"].astype(np.float32))
        best = clearest(scores)
        frame = next(f for n, f in enumerate(frames_of(job.recipe, plan, clip, arrays)) if n == best)
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
    if in_space is not None:
        stages, layout = [stage_of(person) for person in in_space], arrays["json"]["skeleton"]
        views = [space_panel(in_space[:, best], layout, stages, yaw, len(drawn), text) for yaw, text in SIDES]
        drawn = np.hstack([drawn, *views])
    return encode(drawn, ".jpg"), f"frame {best + 1} of {len(arrays['timestamps'])}"
