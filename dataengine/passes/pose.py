"""pose: one decode feeds every expert; their people are tracked and fused joint by joint.

The artifact is a shard with, for each clip of M tracks, T frames, E experts and V joints of the
recipe's skeleton (experts are kept in the common layout of 13 joints):

==================  ====================  ===========================================================
json                                      picture size, frame rate, damage, expert names, track ids
keypoints           (M, T, V, 2) float32  fused pose, pixels, NaN where unseen
scores              (M, T, V) float16     in [0, 1]; probabilities where the experts are calibrated
confidence          (M, T) float16        C of the fusion
support             (M, T) uint8          present (expert, joint) pairs
winner              (M, T, 13) int8       expert whose joint was taken, -1 none, -2 blended
expert_keypoints    (M, E, T, 13, 2) f4   what each expert proposed
expert_scores       (M, E, T, 13) float16  as the expert gave them
timestamps          (T,) float32          seconds from the clip's start
change              (T,) float32          mean absolute difference to the frame before, in [0, 1]
people              (T,) uint8            tracked people in the frame
hashes              (K,) uint64           hash of a picture every half second, for near-duplicates
hash_frames         (K,) int32            the frame of each
==================  ====================  ===========================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core import registry
from dataengine.core.accelerator import is_accelerator
from dataengine.core.component import SESSIONS, ClipFrames, Component, DetectorSession
from dataengine.core.errors import MediaError
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import Clip, Fused, Keep, Outcome, Poses, Reject, Track
from dataengine.fusion.score_calibration import ScoreCalibration, of_related_experts
from dataengine.io import shards
from dataengine.io.weights import digest
from dataengine.media.frame_sampler import FrameSampler
from dataengine.media.prefetch import prefetch
from dataengine.passes.frame_stats import FrameStats
from dataengine.passes.pose_estimation import PoseEstimator
from dataengine.passes.pose_session import PoseComponents, PoseSession, built_in_curves
from dataengine.passes.unit_pass import Unit, UnitPass
from dataengine.pipeline.recipe import Recipe
from dataengine.tracking import rank
from dataengine.tracking.skipped_frames import fill_skipped, steps_at


def _config(recipe: Recipe) -> dict[str, Any]:
    tools, pose = PoseComponents.of(recipe), recipe.pose
    used: dict[str, Component | None] = {
        "decoder": tools.decoder,
        "tracker": tools.tracker,
        "fusion": tools.fusion,
        "detector": tools.detector,
    }
    used |= {name: recipe.component("experts", name) for name in tools.names}  # a process of its own changes no result
    weights = {name: found for name, c in used.items() if c is not None and (found := c.weights())}
    if (file := pose.calibration_file) is not None:
        weights["calibration"] = {Path(file).name: digest(file)}
    options = {name: None if c is None else registry.config(c) for name, c in used.items()}
    unused = {key for key in ("max_boxes", "expert_every") if not getattr(pose, key)}
    table = pose.model_dump(exclude={"max_people", "isolated", "calibration"} | unused) | {
        "detector": recipe.detector,
        "expert_weights": tools.expert_weights,
    }
    curves = {name: [curve.slope, *curve.intercept] for name, curve in built_in_curves(recipe).items()}
    return {"pose": table, "components": options, "weights": weights} | ({"score_curves": curves} if curves else {})


@dataclass(frozen=True)
class Watched:
    """How a clip is looked at in another way than the recipe's.

    Attributes:
        detector: gives the boxes of every frame. frames: most frames, from the first on; None: all.
    """

    detector: DetectorSession | None
    frames: int | None = None


def observe(unit: Unit, session: PoseSession, clip: Clip, watched: Watched | None = None) -> dict[str, Any] | Reject:
    """The entries of one clip: decode its frames once for all experts, then track and fuse."""
    pose, tools = unit.recipe.pose, session.components
    people: list[list[Poses]] = []
    times: list[float] = []
    stats, sampler = FrameStats(), FrameSampler(pose.max_fps)
    with (
        session.for_clip() as (detector, experts),
        tools.decoder.open(unit.plan.media(clip), clip.span_start, clip.span_end) as stream,
    ):
        every, most, looks = (pose.detect_every, pose.max_boxes, pose.every) if watched is None else (1, None, [1])
        looks = steps_at(min(float(stream.info.fps), pose.max_fps or math.inf), looks)
        limit = None if watched is None else watched.frames
        detector = detector if watched is None else watched.detector
        estimator = PoseEstimator(detector, list(zip(experts, session.needs_boxes)), every, most, looks)
        for batch in stream if session.budget is None else prefetch(stream, session.budget):
            picked = sampler.pick(batch.timestamps)[: None if limit is None else limit - len(times)]
            if not picked:
                continue
            frames = batch.frames if len(picked) == len(batch.frames) else batch.frames[picked]
            for frame, time in zip(frames, batch.timestamps[picked]):
                stats.add(frame, float(time))
            given = ClipFrames(clip, frames, batch.indices[picked], batch.timestamps[picked], stream.info.fps)
            people.extend([list(per_frame) for per_frame in zip(*estimator.predict(given))])
            times.extend(batch.timestamps[picked].tolist())
            unit.beat(clip)
            if len(times) == limit:
                break
        info, damaged, total = stream.info, stream.num_damaged, stream.num_frames
        fps = Fraction(stream.fps)
    timestamps = np.asarray(times, np.float64) - (times[0] if times else 0.0)
    tracks = tools.tracker.track(people, timestamps, session.skeletons)
    if not tracks:
        expected = max(total, info.num_frames or 0)
        if damaged:
            detail = f"{damaged} of {expected} frames are lost or damaged, and the others show nobody"
            raise MediaError("stream_damaged", detail, value=damaged / expected, threshold=0.0)
        return Reject(clip.clip_id, "no_person", 0.0, 1.0, f"nobody in {len(times)} frames")
    if pose.max_fps is not None and fps > Fraction(pose.max_fps).limit_denominator(1001):
        fps = Fraction(pose.max_fps).limit_denominator(1001)
    meta = {
        "width": info.width,
        "height": info.height,
        "fps": f"{fps.numerator}/{fps.denominator}",
        "num_frames": len(times),
        "num_damaged": damaged,
        "experts": list(tools.names),
        "frames_blake3": stats.hasher.hexdigest(),
        "skeleton": pose.skeleton,
        "num_tracks": len(tracks),
    }
    tracks = [fill_skipped(track, looks) for track in tracks]
    present = np.sum([np.isfinite(t.boxes).all(-1) for t in tracks], 0)
    actor = None if clip.actor is None else json.loads(clip.actor)
    ranked = rank(tracks, actor, timestamps + (clip.span_start or 0.0))[: pose.max_tracks]
    return {
        "json": meta,
        **_fuse(ranked, tools, pose.skeleton, meta),
        "timestamps.npy": timestamps.astype(np.float32),
        "change.npy": np.asarray(stats.change, np.float32),
        "people.npy": np.minimum(present, 255).astype(np.uint8),
        "hashes.npy": np.array(stats.hashes, np.uint64),
        "hash_frames.npy": np.array(stats.hash_frames, np.int32),
    }


def _fuse(tracks: Sequence[Track], tools: PoseComponents, skeleton: str, meta: dict[str, Any]) -> dict[str, Any]:
    fused = [fuse_track(track, tools) for track in tracks]
    meta["tracks"] = [t.track_id for t in tracks]
    keypoints, certain = convert(
        np.stack([f.coords for f in fused]), np.stack([f.scores for f in fused]), COMMON, skeleton
    )
    return {
        "keypoints.npy": keypoints.astype(np.float32),
        "scores.npy": np.clip(certain, 0, 1).astype(np.float16),
        "confidence.npy": np.stack([f.confidence for f in fused]).astype(np.float16),
        "support.npy": np.stack([f.support for f in fused]).astype(np.uint8),
        "winner.npy": np.stack([f.winner for f in fused]).astype(np.int8),
        "expert_keypoints.npy": np.stack([t.coords for t in tracks]).astype(np.float32),
        "expert_scores.npy": np.stack([t.scores for t in tracks]).astype(np.float16),
    }


def fuse_track(track: Track, tools: PoseComponents) -> Fused:
    """One pose sequence of the poses of every expert."""
    coords, scores = track.coords, track.scores
    if tools.calibration is not None:
        coords, scores = tools.calibration.apply(coords, scores, COMMON, tools.names)
    found = tools.fusion.fuse(coords, scores, COMMON, tools.expert_weights)
    if isinstance(tools.calibration, ScoreCalibration) and tools.fusion.combines_scores:
        found = replace(found, scores=of_related_experts(found.scores, coords))
    return found


def open_session(unit: Unit) -> PoseSession:
    """The session of this process for a unit; units of the same recipe and device share it."""
    recipe, device = unit.recipe, unit.job.device
    key = (unit.job.fingerprints["pose"], device, is_accelerator(device), recipe.pose.isolated, recipe.engine)
    return SESSIONS.get("pose", key, lambda: PoseSession(recipe, device))


def _run(unit: Unit) -> list[Outcome]:
    recipe, session = unit.recipe, open_session(unit)
    seen: dict[str, dict[str, Any]] = {}

    def one(clip: Clip) -> Outcome:
        found = observe(unit, session, clip)
        if isinstance(found, Reject):
            return found
        seen[clip.clip_id] = found
        return Keep(clip.clip_id)

    with shards.ShardWriter(unit.artifact) as writer:

        def then(clip: Clip) -> None:
            if clip.clip_id in seen:
                writer.write(clip.clip_id, seen.pop(clip.clip_id))

        return unit.each(one, recipe.engine.clips_in_flight if session.clips_in_flight else 1, then)


@dataclass(frozen=True)
class Pose(UnitPass):
    """Decodes every clip once for all experts, tracks the people and fuses the experts joint by joint."""

    version = 4
    after = ("probe",)
    gives = "poses"
    plan_columns = ("media", "span_start", "span_end", "actor")
    extension = "tar"
    on_device = True
    per = "frame"

    def enabled(self, recipe: Recipe) -> bool:
        return not recipe.brings_poses

    def config(self, recipe: Recipe) -> dict[str, Any]:
        return _config(recipe)

    def uses(self, recipe: Recipe) -> list[Component]:
        tools = PoseComponents.of(recipe)
        experts = [recipe.component("experts", name) for name in tools.names]
        return [tools.decoder, tools.tracker, tools.fusion, *experts, *([tools.detector] if tools.detector else [])]

    def unused(self, recipe: Recipe) -> Sequence[str]:
        if recipe.pose.calibration_file is not None:
            return ()
        scores = () if built_in_curves(recipe) else ("dataengine.fusion.score_calibration",)
        return ("dataengine.fusion.calibration", *scores)

    def process(self, unit: Unit) -> list[Outcome]:
        return _run(unit)

    def rates(self, recipe: Recipe) -> dict[str, float]:
        pose = recipe.pose
        parts = {f"decoders/{pose.decoder}": 1.0, f"trackers/{pose.tracker}": 1.0, f"fusion/{pose.fusion}": 1.0}
        if recipe.detector is not None:
            parts[f"detectors/{recipe.detector}"] = 1 / pose.detect_every
        looks = steps_at(pose.max_fps or math.inf, pose.every)
        return parts | {f"experts/{expert}": 1 / step for expert, step in zip(pose.experts, looks)}
