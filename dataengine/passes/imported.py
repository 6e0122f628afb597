"""imported: poses that another program saved, in place of `probe` and `pose`.

The artifact has the form of that of `pose`, with no expert: keypoints are the saved ones, converted from the layout of
the file to that of the recipe and nothing else. People that no program linked over time are linked by the tracker of
the recipe, by their saved numbers where they have some. There are no pictures, so frames do not change, and there are
no hashes of them; what stands for the pictures in the search for equal clips are the poses.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from blake3 import blake3

from dataengine.core import registry
from dataengine.core.component import Component, Tracker
from dataengine.core.skeletons import COMMON, convert, skeleton
from dataengine.core.types import Clip, Float, Int, Keep, Outcome, Poses, Reject
from dataengine.dataset.signatures import LONGEST, STEP
from dataengine.io import shards
from dataengine.passes.base import Column, Row
from dataengine.passes.progress import BuildState
from dataengine.passes.unit_pass import Unit, UnitPass
from dataengine.pipeline.recipe import Recipe

SAME = 1e-3
"""Pixels within which a pose of a track is a saved one."""


@dataclass(frozen=True)
class Imported(UnitPass):
    """Takes saved poses as they are, and links the people of single frames over time."""

    version = 1
    gives = "poses"
    plan_columns = ("media", "file")
    extension = "tar"
    per = "frame"
    columns = (
        Column("saved_as", pa.string(), description="name of the clip in the file that it was imported from"),
        Column("size_known", pa.bool_(), description="whether the file told the size of the picture"),
        Column(
            "people_left_out",
            pa.int32(),
            description="saved people, counted frame by frame, that belong to no track or could not be read",
        ),
    )

    def enabled(self, recipe: Recipe) -> bool:
        return recipe.brings_poses

    def config(self, recipe: Recipe) -> dict[str, Any]:
        pose = recipe.pose
        tracker = registry.config(recipe.component("trackers", pose.tracker))
        return {"skeleton": pose.skeleton, "max_tracks": pose.max_tracks, "tracker": [pose.tracker, tracker]}

    def uses(self, recipe: Recipe) -> list[Component]:
        return [recipe.component("trackers", recipe.pose.tracker)]

    def process(self, unit: Unit) -> list[Outcome]:
        tracker = unit.recipe.component("trackers", unit.recipe.pose.tracker)
        with shards.ShardWriter(unit.artifact) as writer:

            def one(clip: Clip) -> Outcome:
                found = _poses(unit, clip, tracker)
                if isinstance(found, Reject):
                    return found
                writer.write(clip.clip_id, found)
                return Keep(clip.clip_id)

            return unit.each(one)

    def clip_values(self, build: BuildState, unit: str) -> Mapping[str, Row]:
        if unit not in build.commits(self.name):
            return {}
        names = [column.name for column in self.columns]
        found = {}
        for key, entries in shards.iterate(build.job.ledger(self.name).artifact(unit)):
            meta = shards.decode({"json": entries["json"]})["json"]
            found[key] = {name: meta[name] for name in names}
        return found

    def explain(self, job: Any, row: Mapping[str, Any]) -> Row | None:
        step = super(UnitPass, self).explain(job, row)
        if step is not None and step["outcome"] == "keep":
            for key, entries in shards.iterate(job.ledger(self.name).artifact(row["unit"])):
                if key == row["clip_id"]:
                    meta = shards.decode({"json": entries["json"]})["json"]
                    step["facts"] = {name: meta[name] for name in (*(c.name for c in self.columns), "num_tracks")}
        return step

    def rates(self, recipe: Recipe) -> Mapping[str, float]:
        return {f"trackers/{recipe.pose.tracker}": 1.0}


def _saved(unit: Unit, clip: Clip) -> dict[str, Any]:
    """The entries of a clip in its part of the spool."""
    path = unit.plan.media(clip)

    def mine() -> dict[str, dict[str, Any]]:
        wanted = {one.clip_id for one in unit.clips if one.media == clip.media}
        return {key: shards.decode(entries) for key, entries in shards.iterate(path) if key in wanted}

    found: dict[str, Any] = unit.once(("part", clip.media), mine)[clip.clip_id]
    return found


def _poses(unit: Unit, clip: Clip, tracker: Tracker) -> dict[str, Any] | Reject:
    """The entries of one clip, as `dataengine.passes.pose` has them."""
    recipe, saved = unit.recipe, _saved(unit, clip)
    meta = saved["json"]
    frames = meta["num_frames"]
    fps = Fraction(meta["fps"])
    times = np.arange(frames) / float(fps)
    left_out = int(meta["left_out"])
    if "frames" in saved:
        coords, scores, alone = _linked(saved, meta["layout"], times, tracker)
        left_out += alone
        if not len(coords):
            return Reject(clip.clip_id, "no_person", 0.0, 1.0, f"nobody is linked over {frames} frames")
    else:
        coords, scores = saved["keypoints"], saved["scores"]
    tracks = len(coords)
    coords, scores = coords[: recipe.pose.max_tracks], scores[: recipe.pose.max_tracks]
    present = np.isfinite(coords).all(-1)
    keypoints, certain = (
        (coords, scores)
        if meta["layout"] == recipe.pose.skeleton
        else convert(coords, scores, meta["layout"], recipe.pose.skeleton)
    )
    common, _ = convert(coords, scores, meta["layout"], COMMON)
    support = np.isfinite(common).all(-1).sum(-1)
    people, joints = len(coords), skeleton(COMMON).num_joints
    wanted = np.arange(0, min(times[-1] + 1e-6, STEP * (LONGEST - 1) + 1e-6), STEP)
    signed = np.searchsorted(times, wanted - 1e-6).astype(np.int32)  # a pose every half second; a picture is flat
    content = blake3(np.ascontiguousarray(coords).tobytes() + np.ascontiguousarray(scores).tobytes())
    return {
        "json": {
            "width": meta["width"],
            "height": meta["height"],
            "fps": meta["fps"],
            "num_frames": frames,
            "num_damaged": 0,
            "experts": [],
            "frames_blake3": content.hexdigest(),
            "skeleton": recipe.pose.skeleton,
            "num_tracks": tracks,
            "tracks": list(range(people)),
            "saved_as": meta["name"],
            "size_known": meta["size_known"],
            "people_left_out": left_out + int(max(tracks - recipe.pose.max_tracks, 0)),
        },
        "keypoints.npy": np.asarray(keypoints, np.float32),
        "scores.npy": np.clip(certain, 0, 1).astype(np.float16),
        "confidence.npy": (support > 0).astype(np.float16),
        "support.npy": support.astype(np.uint8),
        "winner.npy": np.full((people, frames, joints), -1, np.int8),
        "expert_keypoints.npy": np.zeros((people, 0, frames, joints, 2), np.float32),
        "expert_scores.npy": np.zeros((people, 0, frames, joints), np.float16),
        "timestamps.npy": times.astype(np.float32),
        "change.npy": np.zeros(frames, np.float32),
        "people.npy": np.minimum(present.any(-1).sum(0), 255).astype(np.uint8),
        "hashes.npy": np.zeros(len(signed), np.uint64),
        "hash_frames.npy": signed,
    }


def _linked(saved: Mapping[str, Any], layout: str, times: Float, tracker: Tracker) -> tuple[Float, Float, int]:
    """Tracks (M, T, V, 2) with scores (M, T, V) of people of single frames, and how many people belong to none."""
    coords, scores, at = saved["keypoints"], saved["scores"], saved["frames"]
    owner = _by_number(saved["identities"], at)
    if owner is None:
        owner = _by_tracker(saved, layout, times, tracker)
    count = int(owner.max(initial=-1)) + 1
    linked = np.full((count, len(times), *coords.shape[1:]), np.nan, np.float32)
    certain = np.zeros((count, len(times), coords.shape[1]), np.float32)
    mine = owner >= 0
    linked[owner[mine], at[mine]] = coords[mine]
    certain[owner[mine], at[mine]] = scores[mine]
    return linked, certain, int((~mine).sum())


def _by_number(identities: Int, frames: Int) -> Int | None:
    """(P,) track of each person by the saved numbers, the most frequent first; None where not everybody has one of
    their own in each frame."""
    if (identities < 0).any() or len({*zip(frames.tolist(), identities.tolist())}) < len(frames):
        return None
    numbers, first, counts = np.unique(identities, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    places = np.empty(len(numbers), np.int64)
    places[order] = np.arange(len(numbers))
    found: Int = places[np.searchsorted(numbers, identities)]
    return found


def _by_tracker(saved: Mapping[str, Any], layout: str, times: Float, tracker: Tracker) -> Int:
    """(P,) track of each person by the tracker, -1 for none."""
    coords, scores, at = saved["keypoints"], saved["scores"], saved["frames"]
    boxes = _boxes(coords, scores)
    rows = _rows(at, len(times))
    given = [[Poses(coords[own], scores[own], boxes[own])] for own in rows]
    tracks = tracker.track(given, times, [layout])
    common, _ = convert(coords, scores, layout, COMMON)
    owner = np.full(len(at), -1, np.int64)
    for number, track in enumerate(tracks):
        for frame in np.flatnonzero(np.isfinite(track.coords[0]).all(-1).any(-1)).tolist():
            free = [row for row in rows[frame].tolist() if owner[row] < 0]
            away = [_away(common[row], track.coords[0, frame]) for row in free]
            if away and min(away) <= SAME:
                owner[free[int(np.argmin(away))]] = number
    return owner


def _rows(at: Int, frames: int) -> list[Int]:
    """The people of each frame; `at` ascends."""
    bounds = np.searchsorted(at, np.arange(frames + 1))
    return [np.arange(low, high) for low, high in itertools.pairwise(bounds.tolist())]


def _away(one: Float, other: Float) -> float:
    """Largest distance of two poses (V, 2) in pixels; infinite where they do not show the same joints."""
    seen = np.isfinite(one).all(-1)
    if not seen.any() or (seen != np.isfinite(other).all(-1)).any():
        return float("inf")
    return float(np.abs(one[seen] - other[seen]).max())


def _boxes(coords: Float, scores: Float) -> Float:
    """(P, 5) boxes around the joints that were seen; the score is the joints' mean. Saved boxes are not asked: some
    programs write them in other units than the joints."""
    seen = np.isfinite(coords).all(-1, keepdims=True)
    low = np.where(seen, coords, np.inf).min(1)
    high = np.where(seen, coords, -np.inf).max(1)
    found: Float = np.concatenate([low, high, scores.mean(1)[:, None]], 1).astype(np.float32)
    return found
