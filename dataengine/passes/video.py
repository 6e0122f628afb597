"""video: the pictures of kept clips, cut to their frames, as shards beside the poses; only with `pack.keep_video`.

A video shard has the keys of its pose shard in the same order, each with `mp4`: exactly the frames that
the poses belong to, at their times. With `blur_faces` the heads of everybody whose pose is known are
made unrecognisable before anything is written. With `face_detector` so are the faces that it finds, which may be of
people whom no expert saw.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dataengine.core import registry
from dataengine.core.component import Component, DetectorSession
from dataengine.core.skeletons import convert
from dataengine.core.types import Clip, Float, Frames
from dataengine.filters.body import head_length
from dataengine.io import shards
from dataengine.media.encode import write_video
from dataengine.media.frame_sampler import FrameSampler
from dataengine.passes.base import Pass, Row
from dataengine.passes.job import Job
from dataengine.passes.pack import planned_rows, samples, shard_state, shards_in
from dataengine.passes.progress import BuildState, PassState
from dataengine.passes.unit_pass import receipt
from dataengine.pipeline import plan as plans
from dataengine.pipeline.recipe import Recipe
from dataengine.pipeline.task import Receipt, Task

HEAD = 1.1
"""Radius of what is blurred about the middle of the head, in lengths from the nose to the shoulders' middle: hair and
chin lie within it, also of a face seen from the side."""


FACE = 0.8
"""Radius of what is blurred about the middle of a face's box, in lengths of its longer side: hair and chin lie within
it."""
HELD = 3
"""Frames before and after the one in which a face is found, in which it is blurred as well: detectors miss some."""
GROWN = 0.1
"""Growth of the radius for each of these frames, since heads move."""


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
        found: list[Any] = [recipe.pose.decoder, decoder, recipe.pack.model_dump()]
        for faces in _face_detectors(recipe):
            found += [registry.config(faces), faces.weights()]
        return found

    def uses(self, recipe: Recipe) -> list[Component]:
        return [recipe.component("decoders", recipe.pose.decoder), *_face_detectors(recipe)]

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
            with ExitStack() as stack:
                writer = stack.enter_context(shards.ShardWriter(staged))
                faces = [stack.enter_context(one.load("cpu")) for one in _face_detectors(job.recipe)]
                for clip_id, arrays in samples(job, planned):
                    meta, clip = arrays["json"], plan.clip(clip_id)
                    assert clip is not None
                    circles = heads(arrays["keypoints"], meta["skeleton"]) if pack.blur_faces else None
                    times = arrays["timestamps"].astype(np.float64).tolist()
                    frames, fps = _frames(job, plan, clip, circles, faces), Fraction(meta["fps"])
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


def face_circles(boxes: Sequence[Float], n: int) -> Float:
    """Circles (M, 3) of frame `n`: about its faces (M, 5), and about those of the frames before and after."""
    near = range(max(0, n - HELD), min(len(boxes), n + HELD + 1))
    found = []
    for m in near:
        low, high = boxes[m][:, :2].astype(np.float64), boxes[m][:, 2:4].astype(np.float64)
        radius = FACE * (1 + GROWN * abs(n - m)) * (high - low).max(1, initial=0.0)
        found.append(np.concatenate([(low + high) / 2, radius[:, None]], 1))
    return np.concatenate(found)


def _face_detectors(recipe: Recipe) -> list[Any]:
    """The face detector of a recipe, none or one."""
    name = recipe.face_detector
    return [recipe.component("face_detectors", name)] if name else []


def _frames(
    job: Job, plan: plans.Plan, clip: Clip, circles: Float | None, faces: Sequence[DetectorSession]
) -> Iterator[Frames]:
    """The frames of a clip that have poses, blurred where the recipe says so."""
    picked = _picked(job, plan, clip)
    if not faces:
        for count, frame in enumerate(picked):
            yield frame if circles is None else blurred(frame, circles[:, count])
        return
    none = np.zeros((0, 5), np.float32)
    frames: deque[Frames] = deque()
    seen: deque[Float] = deque(maxlen=2 * HELD + 1)
    done = 0
    following: Iterator[Frames | None] = itertools.chain(picked, itertools.repeat(None, HELD))
    for given in following:
        if given is not None:
            frames.append(given)
        seen.append(none if given is None else faces[0].detect(given[None])[0])
        place = len(seen) - 1 - HELD  # a frame waits until those behind it were looked at
        if place >= 0 and frames:
            known = np.zeros((0, 3)) if circles is None else circles[:, done]
            yield blurred(frames.popleft(), np.concatenate([known, face_circles(seen, place)]))
            done += 1


def _picked(job: Job, plan: plans.Plan, clip: Clip) -> Iterator[Frames]:
    recipe = job.recipe
    sampler = FrameSampler(recipe.pose.max_fps)
    with recipe.component("decoders", recipe.pose.decoder).open(
        plan.media(clip), clip.span_start, clip.span_end
    ) as stream:
        for batch in stream:
            for n in sampler.pick(batch.timestamps):
                yield batch.frames[n]
