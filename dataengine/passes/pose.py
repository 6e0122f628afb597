"""pose: one decode feeds every expert; their people are tracked and fused joint by joint.

The artifact is a shard with, for each clip of M tracks, T frames, E experts and V joints of the
recipe's skeleton (experts are kept in the common layout of 13 joints):

==================  ====================  ===========================================================
json                                      picture size, frame rate, damage, expert names, track ids
keypoints           (M, T, V, 2) float32  fused pose, pixels, NaN where unseen
scores              (M, T, V) float16     in [0, 1]
confidence          (M, T) float16        C of the fusion
support             (M, T) uint8          present (expert, joint) pairs
winner              (M, T, 13) int8       expert whose joint was taken, -1 none, -2 blended
expert_keypoints    (M, E, T, 13, 2) f4   what each expert proposed
expert_scores       (M, E, T, 13) float16
timestamps          (T,) float32          seconds from the clip's start
change              (T,) float32          mean absolute difference to the frame before, in [0, 1]
people              (T,) uint8            tracked people in the frame
hashes              (K,) uint64           hash of a picture every half second, for near-duplicates
hash_frames         (K,) int32            the frame of each
==================  ====================  ===========================================================
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from dataengine.core import registry
from dataengine.core.errors import MediaError
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import Clip, Detector, Expert, Keep, Outcome, Poses, Reject, Track
from dataengine.experts.batching import Batched, Pool, Pooled
from dataengine.fusion.calibration import Calibration
from dataengine.io import shards
from dataengine.io.weights import digest
from dataengine.media.frame_sampler import FrameSampler
from dataengine.media.prefetch import Budget, ahead
from dataengine.passes.base import Pass, Unit
from dataengine.passes.frame_stats import FrameStats
from dataengine.passes.pose_estimation import PoseEstimator
from dataengine.pipeline.recipe import Recipe
from dataengine.tracking import rank


@dataclass(frozen=True)
class Tools:
    """The components of one recipe, loaded in this process."""

    decoder: Any
    detector: Detector | None
    experts: tuple[Expert, ...]
    names: tuple[str, ...]
    tracker: Any
    fusion: Any
    expert_weights: tuple[float, ...]
    calibration: Calibration | None = None
    budget: Budget | None = None

    @property
    def parallel(self) -> bool:
        """Whether clips may be under way together: on an accelerator, with networks alone."""
        return self.budget is not None


_LOADED: dict[tuple[str, str], Tools] = {}


def _components(recipe: Recipe) -> Tools:
    pose = recipe.pose
    return Tools(
        recipe.component("decoders", pose.decoder),
        recipe.component("detectors", recipe.detector) if recipe.detector else None,
        tuple(recipe.expert(name) for name in pose.experts),
        tuple(pose.experts),
        recipe.component("trackers", pose.tracker),
        recipe.component("fusion", pose.fusion),
        tuple(pose.expert_weights.get(name, 1.0) for name in pose.experts),
        None if pose.calibration is None else Calibration.load(pose.calibration),
    )


def load_tools(recipe: Recipe, device: str, key: str) -> Tools:
    """The recipe's components with weights loaded, once a process.

    On an accelerator the pictures of several clips go through the networks together, and frames are decoded ahead of
    them. On a CPU larger batches gain nothing, and a clip's results must not depend on its company: clip by clip there.
    """
    if (key, device) not in _LOADED:
        tools = _components(recipe)
        own = own_device(device)
        for component in (tools.detector, *tools.experts):
            if component is not None:
                component.load(own)
        networks = all(
            isinstance(c, Batched) or hasattr(c, "recall") for c in (tools.detector, *tools.experts) if c is not None
        )
        if device != "cpu" and networks and recipe.engine.clips_in_flight > 1:
            pool = Pool()
            tools = replace(
                tools,
                detector=Pooled(tools.detector, pool) if tools.detector else None,
                experts=tuple(
                    expert if hasattr(expert, "recall") else Pooled(expert, pool) for expert in tools.experts
                ),
                budget=Budget(recipe.engine.prefetch_mb << 20),
            )
        _LOADED[key, device] = tools
    return _LOADED[key, device]


def own_device(device: str) -> str:
    """The device of this process: local workers named 0, 1, ... take a GPU each."""
    if device != "cuda":
        return device
    from distributed import get_worker

    try:
        name = get_worker().name
    except ValueError:
        return device
    return f"cuda:{name}" if isinstance(name, int) else device


def _config(recipe: Recipe) -> dict[str, Any]:
    tools, pose = _components(recipe), recipe.pose
    used = {"decoder": tools.decoder, "tracker": tools.tracker, "fusion": tools.fusion, "detector": tools.detector}
    used |= {name: recipe.component("experts", name) for name in tools.names}  # a process of its own changes no result
    weights = {name: c.weights() for name, c in used.items() if hasattr(c, "weights")}
    if pose.calibration is not None:
        weights["calibration"] = {Path(pose.calibration).name: digest(pose.calibration)}
    options = {name: None if c is None else registry.config(c) for name, c in used.items()}
    table = pose.model_dump(exclude={"max_people", "isolated", "calibration"}) | {
        "detector": recipe.detector,
        "expert_weights": tools.expert_weights,
    }
    return {"pose": table, "components": options, "weights": weights}


def _look(unit: Unit, tools: Tools, clip: Clip) -> dict[str, Any] | Reject:
    pose = unit.recipe.pose
    people: list[list[Poses]] = []
    times: list[float] = []
    stats, sampler, estimator = (
        FrameStats(),
        FrameSampler(pose.max_fps),
        PoseEstimator(tools.detector, pose.detect_every),
    )
    lookups = [hasattr(expert, "recall") for expert in tools.experts]  # those that say what was saved of the clip
    for expert in tools.experts:
        if hasattr(expert, "begin_clip"):
            expert.begin_clip()
    with tools.decoder.open(unit.plan.media(clip), clip.span_start, clip.span_end) as stream:
        for batch in stream if tools.budget is None else ahead(stream, tools.budget):
            picked = sampler.pick(batch.timestamps)
            if not picked:
                continue
            frames = batch.frames if len(picked) == len(batch.frames) else batch.frames[picked]
            for frame, time in zip(frames, batch.timestamps[picked]):
                stats.add(frame, float(time))
            seen = iter(
                estimator.predict(frames, [expert for expert, saved in zip(tools.experts, lookups) if not saved])
            )
            answers = [
                cast(Any, expert).recall(clip, batch.indices[picked], batch.timestamps[picked], stream.info.fps)
                if saved
                else next(seen)
                for expert, saved in zip(tools.experts, lookups)
            ]
            people.extend([list(per_frame) for per_frame in zip(*answers)])
            times.extend(batch.timestamps[picked].tolist())
        info, damaged, total = stream.info, stream.num_damaged, stream.num_frames
        fps = Fraction(stream.fps)
    timestamps = np.asarray(times, np.float64) - (times[0] if times else 0.0)
    tracks = tools.tracker.track(people, timestamps, [expert.skeleton for expert in tools.experts])
    if not tracks:
        expected = max(total, info.num_frames or 0)
        if damaged:
            detail = f"{damaged} of {expected} frames are lost or damaged, and the others show nobody"
            raise MediaError("stream_damaged", detail, value=damaged / expected, threshold=0.0)
        return Reject(clip.clip_id, "no_person", 0.0, 1.0, f"nobody in {len(times)} frames")
    if pose.max_fps is not None and fps > Fraction(pose.max_fps).limit_denominator(1001):
        fps = Fraction(pose.max_fps).limit_denominator(1001)
    meta = {
        "width": info.width, "height": info.height, "fps": f"{fps.numerator}/{fps.denominator}", "num_frames": len(times),
        "num_damaged": damaged, "experts": list(tools.names), "frames_blake3": stats.hasher.hexdigest(),
        "skeleton": pose.skeleton, "num_tracks": len(tracks),
    }  # fmt: skip
    present = np.sum([np.isfinite(t.boxes).all(-1) for t in tracks], 0)
    actor = None if clip.actor is None else json.loads(clip.actor)
    ranked = rank(tracks, actor, timestamps + (clip.span_start or 0.0))[: pose.max_tracks]
    return {"json": meta, **_fuse(ranked, tools, pose.skeleton, meta), "timestamps.npy": timestamps.astype(np.float32),
            "change.npy": np.asarray(stats.change, np.float32), "people.npy": np.minimum(present, 255).astype(np.uint8),
            "hashes.npy": np.array(stats.hashes, np.uint64), "hash_frames.npy": np.array(stats.hash_frames, np.int32)}  # fmt: skip


def _fuse(tracks: Sequence[Track], tools: Tools, skeleton: str, meta: dict[str, Any]) -> dict[str, Any]:
    fused = []
    for t in tracks:
        coords, scores = t.coords, t.scores
        if tools.calibration is not None:
            coords, scores = tools.calibration.apply(coords, scores, COMMON, tools.names)
        fused.append(tools.fusion.fuse(coords, scores, COMMON, tools.expert_weights))
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


def _run(unit: Unit) -> list[Outcome]:
    tools = load_tools(unit.recipe, unit.job.device, unit.job.fingerprints["pose"])
    seen: dict[str, dict[str, Any]] = {}

    def one(clip: Clip) -> Outcome:
        found = _look(unit, tools, clip)
        if isinstance(found, Reject):
            return found
        seen[clip.clip_id] = found
        return Keep(clip.clip_id)

    with shards.ShardWriter(unit.artifact) as writer:

        def then(clip: Clip) -> None:
            if clip.clip_id in seen:
                writer.write(clip.clip_id, seen.pop(clip.clip_id))

        return unit.each(one, unit.recipe.engine.clips_in_flight if tools.parallel else 1, then)


PASS = Pass("pose", 3, ("fetch",), ("media", "span_start", "span_end", "actor"), "tar", _config, _run)
