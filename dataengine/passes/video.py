"""video: the pictures of kept clips, cut to their frames, as shards beside the poses; only with `pack.keep_video`.

A video shard has the keys of its pose shard in the same order, each with `mp4`: exactly the frames that
the poses belong to, at their times. With `blur_faces` the heads of everybody whose pose is known are
made unrecognisable before anything is written; people that no expert saw stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dataengine.core import registry
from dataengine.core.component import Component
from dataengine.core.skeletons import convert
from dataengine.core.types import Clip, Float, Frames
from dataengine.filters.body import head_length
from dataengine.io import shards
from dataengine.media.encode import write_video
from dataengine.media.frame_sampler import FrameSampler
from dataengine.passes.base import Job, Pass, Row
from dataengine.passes.pack import planned_rows, samples, shard_state, shards_in
from dataengine.passes.progress import BuildState, PassState
from dataengine.passes.unit_pass import receipt
from dataengine.pipeline import plan as plans
from dataengine.pipeline.recipe import Recipe
from dataengine.pipeline.task import Receipt, Task

HEAD = 1.1
"""Radius of what is blurred about the middle of the head, in lengths from the nose to the shoulders' middle: hair and
chin lie within it, also of a face seen from the side."""


@dataclass(frozen=True)
class Video(Pass):
    """Writes the pictures of kept clips into shards beside the poses; only with `pack.keep_video`."""

    version = 1
    scope = "shard"
    after = ("pack",)
    per = "frame"

    def enabled(self, recipe: Recipe) -> bool:
        return recipe.pack.keep_video

    def config(self, recipe: Recipe) -> list[Any]:
        decoder = registry.config(recipe.component("decoders", recipe.pose.decoder))
        return [recipe.pose.decoder, decoder, recipe.pack.model_dump()]

    def uses(self, recipe: Recipe) -> list[Component]:
        return [recipe.component("decoders", recipe.pose.decoder)]

    def unused(self, recipe: Recipe) -> Sequence[str]:
        return ("dataengine.labels.prompts",)  # texts cut no shards, and are part of the inputs of each

    def state(self, build: BuildState) -> PassState:
        return shard_state(self, build)

    def run(self, job: Job, task: Task) -> Receipt:
        begun, ledger, pack = time.monotonic(), job.ledger(self.name), job.recipe.pack
        plan = plans.load_clips(job.work, task.clips)
        planned = planned_rows(plan, task.clips)
        staged, count = ledger.stage(task.key, "tar"), 0
        scratch = staged.with_suffix(".mp4")
        commit = None
        try:
            with shards.ShardWriter(staged) as writer:
                for clip_id, arrays in samples(job, planned):
                    meta, clip = arrays["json"], plan.clip(clip_id)
                    assert clip is not None
                    circles = heads(arrays["keypoints"], meta["skeleton"]) if pack.blur_faces else None
                    times = arrays["timestamps"].astype(np.float64).tolist()
                    frames, fps = _frames(job, plan, clip, circles), Fraction(meta["fps"])
                    write_video(scratch, frames, fps, timestamps=times, crf=pack.crf)
                    writer.write(clip_id, {"mp4": scratch.read_bytes()})
                    count += 1
            if not task.probe:
                commit = ledger.commit(task.key, task.inputs, staged, (), time.monotonic() - begun)
        finally:
            for leftover in (staged, scratch):
                leftover.unlink(missing_ok=True)
        return receipt(task, len(task.clips), count, begun, commit)

    def live_keys(self, out: Path, units: set[str]) -> set[str]:
        return shards_in(out)

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        """Nothing to tell: the video lies beside the sample."""


def heads(keypoints: Float, layout: str) -> Float:
    """Circles about heads (M, T, 3): x, y, radius in pixels, NaN where the head of a person was never seen.

    Frames without the head take it from the nearest frame with it, and grow the radius by a tenth a frame: better too
    much.
    """
    body, _ = convert(keypoints, None, layout, "body14")
    lengths = head_length(keypoints, layout)[..., 0]
    circles = np.full((*body.shape[:2], 3), np.nan)
    for person, (points, size) in enumerate(zip(body[:, :, 0], lengths)):
        seen = np.flatnonzero(np.isfinite(points).all(-1))
        if not len(seen) or not np.isfinite(size):
            continue
        every = np.arange(len(points))
        right = np.clip(np.searchsorted(seen, every), 0, len(seen) - 1)
        left = np.maximum(right - 1, 0)
        nearest = np.where(np.abs(seen[left] - every) <= np.abs(seen[right] - every), seen[left], seen[right])
        circles[person, :, :2] = points[nearest]
        circles[person, :, 2] = HEAD * size * (1 + 0.1 * np.minimum(np.abs(nearest - every), 20))
    return circles


def blurred(frame: Frames, circles: Float) -> Frames:
    """A copy of a frame (H, W, 3) with every circle (M, 3) replaced by six by six means of it, smoothed."""
    out = np.ascontiguousarray(frame).copy()
    height, width = frame.shape[:2]
    for x, y, radius in circles[np.isfinite(circles).all(-1)]:
        low = np.maximum(np.floor([x - radius, y - radius]).astype(int), 0)
        high = np.minimum(np.ceil([x + radius, y + radius]).astype(int) + 1, [width, height])
        if (high <= low).any():
            continue
        part = out[low[1] : high[1], low[0] : high[0]]
        coarse = cv2.resize(part, (6, 6), interpolation=cv2.INTER_AREA)
        smooth = cv2.resize(coarse, part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        rows, cols = np.mgrid[low[1] : high[1], low[0] : high[0]]
        inside = (cols - x) ** 2 + (rows - y) ** 2 <= radius**2
        part[inside] = smooth[inside]
    return out


def _frames(job: Job, plan: plans.Plan, clip: Clip, circles: Float | None) -> Iterator[Frames]:
    recipe = job.recipe
    sampler, count = FrameSampler(recipe.pose.max_fps), 0
    with recipe.component("decoders", recipe.pose.decoder).open(
        plan.media(clip), clip.span_start, clip.span_end
    ) as stream:
        for batch in stream:
            for n in sampler.pick(batch.timestamps):
                yield batch.frames[n] if circles is None else blurred(batch.frames[n], circles[:, count])
                count += 1
