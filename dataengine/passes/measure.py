"""measure: everything that curation judges a clip by, one table row a clip; thresholds are not applied here.

Every filter's measure is taken whether a recipe uses it or not, so that filters and thresholds can
be changed and queried without looking at poses again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.optimize import linear_sum_assignment

from dataengine.core import registry
from dataengine.core.component import Filter
from dataengine.core.skeletons import COMMON, convert, skeleton
from dataengine.core.types import Clip, Float, Sample
from dataengine.dataset.near_duplicates import pose_words
from dataengine.filters.bone_variation import bone_variation
from dataengine.filters.confidence import confidence
from dataengine.filters.jitter import jitter
from dataengine.filters.motion import motion
from dataengine.fusion import fuse
from dataengine.passes.base import Job, Row
from dataengine.passes.unit_pass import Unit, UnitPass
from dataengine.pipeline.recipe import Recipe

TRACK = pa.struct(
    [
        ("track_id", pa.int32()),
        ("rank", pa.int32()),
        ("support_mean", pa.float32()),
        ("num_frames", pa.int32()),
        ("coverage", pa.float32()),
    ]
    + [
        (name, pa.float32())
        for name in ("score_mean", "confidence_mean", "confidence_p10", "area", "motion", "jitter", "bone_variation")
    ]
    + [("shares", pa.list_(pa.float32()))]
)
JOINT = pa.struct(
    [
        ("track_id", pa.int32()),
        ("joint", pa.string()),
        ("visible", pa.float32()),
        ("score_mean", pa.float32()),
        ("disagreement", pa.float32()),
    ]
)
ACCURACY = pa.struct(
    [("expert", pa.string()), ("num_joints", pa.int32()), ("num_right", pa.int32()), ("condition", pa.string())]
)


def measured_filters(recipe: Recipe) -> list[str]:
    """Names of the filters whose measures are taken: every built-in one, and those of other packages that the recipe
    names."""
    named = {*recipe.curate.filters, *recipe.options.get("filters", {})}
    return [name for name in registry.names("filters") if name in registry.KINDS["filters"].builtin or name in named]


def schema(recipe: Recipe) -> pa.Schema:
    """The table of one unit: facts of the clip, a column a filter, and its tracks, joints and accuracies."""
    facts = [
        ("clip_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.string()),
        ("num_frames", pa.int32()),
    ]
    facts += [
        ("num_damaged", pa.int32()),
        ("frames_blake3", pa.string()),
        ("skeleton", pa.string()),
        ("num_tracks", pa.int32()),
    ]
    measures = [(f"filter_{name}", pa.float64()) for name in measured_filters(recipe)]
    own = [("confidence_p10", pa.float32()), ("expert_disagreement", pa.float32()), ("experts", pa.list_(pa.string()))]
    own += [("hashes", pa.list_(pa.uint64())), ("words", pa.binary())]
    nested = [("tracks", pa.list_(TRACK)), ("joints", pa.list_(JOINT)), ("accuracy", pa.list_(ACCURACY))]
    return pa.schema([*facts, *measures, *own, *nested])


def _filters(recipe: Recipe) -> dict[str, Filter]:
    """The filters that are measured, with the recipe's options."""
    return {name: recipe.component("filters", name) for name in measured_filters(recipe)}


def _config(recipe: Recipe) -> dict[str, Any]:
    filters = _filters(recipe)
    settings = {
        name: {k: v for k, v in registry.config(f).items() if k not in ("min", "max")} for name, f in filters.items()
    }
    weights = {name: found for name, f in filters.items() if (found := f.weights())}
    return {"filters": settings, "people": recipe.pose.max_people, **({"weights": weights} if weights else {})}


def _mean(values: Float) -> float | None:
    values = np.asarray(values, np.float64)
    return _mean_of(values[np.isfinite(values)])


def _mean_of(values: Float) -> float | None:
    """The mean of finite float64 values, without the checks of `np.mean`; None where there are none."""
    return float(np.add.reduce(values) / len(values)) if len(values) else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _length(vectors: Float) -> Float:
    """(..., 2) -> (...) lengths, as `np.linalg.norm` and several times faster for two coordinates."""
    squares = vectors * vectors
    result: Float = np.sqrt(squares[..., 0] + squares[..., 1])
    return result


def head_length(coords: Float, layout: str) -> Float:
    """(..., T, 1) pixels: median over frames of the distance from head point to the middle of the shoulders."""
    body, _ = convert(coords, None, layout, "body14")
    spans = _length(body[..., 0, :] - body[..., 1, :])
    middle = np.full((*spans.shape[:-1], 1), np.nan, spans.dtype)
    for place in np.ndindex(spans.shape[:-1]):
        known = np.sort(spans[place][spans[place] > 0])  # NaN is not above 0
        if len(known):
            middle[place] = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2
    return middle


def _disagreement(arrays: dict[str, Any], fused: Float, layout: str) -> Float:
    """(M, T, 13) mean distance of the experts to the fused joint (M, T, 13, 2), in head-neck lengths."""
    away = _length(arrays["expert_keypoints"] - fused[:, None])
    seen = np.isfinite(away)
    count = seen.sum(1)
    mean = np.where(seen, away, 0).sum(1) / np.maximum(count, 1)
    result: Float = np.where(count > 0, mean / head_length(arrays["keypoints"], layout)[..., None], np.nan)
    return result


def _track_rows(arrays: dict[str, Any], meta: dict[str, Any], fps: float) -> list[dict[str, Any]]:
    rows = []
    layout = meta["skeleton"]
    for rank, track_id in enumerate(meta["tracks"]):
        coords, scores = arrays["keypoints"][rank], arrays["scores"][rank].astype(np.float32)
        seen = np.isfinite(coords).all(-1)
        filled = seen.any(-1)
        values, support = arrays["confidence"][rank].astype(np.float32), arrays["support"][rank]
        flat = np.where(seen[..., None], coords, np.nan)[filled]
        sides = np.fmax.reduce(flat, 1) - np.fmin.reduce(flat, 1)
        winner = arrays["winner"][rank]
        decided = max(int((winner != -1).sum()), 1)
        rows.append(
            {
                "track_id": track_id,
                "rank": rank,
                "num_frames": int(filled.sum()),
                "coverage": float(filled.mean()),
                "support_mean": _mean(support[filled]),
                "score_mean": _mean(scores[seen]),
                "area": _mean(sides[:, 0] * sides[:, 1]),
                "confidence_mean": _number(confidence(values, support)),
                "confidence_p10": float(np.quantile(values[filled], 0.1)) if filled.any() else None,
                "motion": _number(motion(coords, scores, layout, fps)),
                "jitter": _number(jitter(coords, scores, layout, fps)),
                "bone_variation": _number(bone_variation(coords, scores, layout, fps)),
                "shares": [float((winner == e).sum() / decided) for e in range(len(meta["experts"]))],
            }
        )
    return rows


def _joint_rows(arrays: dict[str, Any], meta: dict[str, Any], disagreement: Float, people: int) -> list[dict[str, Any]]:
    rows = []
    joints, common = skeleton(meta["skeleton"]).joints, skeleton(COMMON)
    places = [common.index(joint) if joint in common.joints else None for joint in joints]
    seen = np.isfinite(arrays["keypoints"][:people]).all(-1)
    away, scores = disagreement[:people].astype(np.float64), arrays["scores"][:people].astype(np.float64)
    known, given = np.isfinite(away), seen & np.isfinite(scores)
    for rank, track_id in enumerate(meta["tracks"][:people]):
        for number, (joint, place) in enumerate(zip(joints, places)):
            distance = None if place is None else _mean_of(away[rank, known[rank, :, place], place])
            rows.append(
                {
                    "track_id": track_id,
                    "joint": joint,
                    "visible": float(np.count_nonzero(seen[rank, :, number]) / seen.shape[1]),
                    "score_mean": _mean_of(scores[rank, given[rank, :, number], number]),
                    "disagreement": distance,
                }
            )
    return rows


def _accuracy_rows(unit: Unit, clip: Clip, arrays: dict[str, Any], fused: Float) -> list[dict[str, Any]]:
    """PCKh@0.5 of every expert, of SST-A and of the recipe's fusion against exact joints.

    A person that nobody found counts as wrong.

    PCKh as in Andriluka et al. 2014 with the unforeshortened head-neck length as unit; joints outside
    the picture are left out.
    """
    if clip.truth is None:
        return []
    meta, path = arrays["json"], Path(unit.plan.roots[clip.source]) / clip.truth
    joints, head, fps, condition = unit.once(path, lambda: _read_truth(path))
    index = np.arange(meta["num_frames"])
    if clip.span_start is not None or len(joints) != meta["num_frames"]:
        index = np.round((arrays["timestamps"].astype(np.float64) + (clip.span_start or 0.0)) * fps).astype(int)
    index = np.clip(index, 0, len(joints) - 1)
    goal, _ = convert(joints[index].transpose(1, 0, 2, 3), None, "body14", COMMON)
    head_lengths = head[index].T[..., None]
    inside = (
        (goal[..., 0] >= 0) & (goal[..., 0] < meta["width"]) & (goal[..., 1] >= 0) & (goal[..., 1] < meta["height"])
    )
    away = _length(fused[None] - goal[:, None]) / head_lengths[:, None]
    cost = np.where(np.isfinite(away), np.minimum(away, 5.0), 5.0).mean((2, 3))
    people, tracks = linear_sum_assignment(cost) if cost.size else ([], [])
    proposals = arrays["expert_keypoints"]
    candidates = {name: proposals[:, e] for e, name in enumerate(meta["experts"])}
    candidates["SST-A"] = np.stack([fuse(p, None, "ssta", COMMON).coords for p in proposals])
    candidates[f"fusion ({unit.recipe.pose.fusion})"] = fused
    rows = []
    for name, coords in candidates.items():
        right = 0
        for p, t in zip(people, tracks):
            error = _length(coords[t] - goal[p]) / head_lengths[p]
            right += int(((error <= 0.5) & inside[p]).sum())
        rows.append({"expert": name, "num_joints": int(inside.sum()), "num_right": right, "condition": condition})
    return rows


def _read_truth(path: Path) -> tuple[Float, Float, float, str | None]:
    """Exact joints, head lengths, frame rate and condition of a rendered video."""
    with np.load(path, allow_pickle=False) as truth:
        condition = str(truth["condition"]) if "condition" in truth else None
        return truth["joints"], truth["head"], float(truth["fps"]), condition


def _row(unit: Unit, clip: Clip, arrays: dict[str, Any]) -> dict[str, Any]:
    meta, people = arrays["json"], unit.recipe.pose.max_people
    fused, _ = convert(arrays["keypoints"], None, meta["skeleton"], COMMON)
    disagreement = _disagreement(arrays, fused, meta["skeleton"])
    fps = float(Fraction(meta["fps"]))
    sample = Sample(
        meta["width"],
        meta["height"],
        fps,
        meta["skeleton"],
        arrays["keypoints"][:people],
        arrays["scores"][:people].astype(np.float32),
        arrays["confidence"][:people].astype(np.float32),
        arrays["support"][:people].astype(np.int32),
        disagreement[:people],
        arrays["people"].astype(np.int32),
        arrays["change"],
    )
    tracks = _track_rows(arrays, meta, fps)
    foremost = fused[0, arrays["hash_frames"]]
    facts = ("width", "height", "fps", "num_frames", "num_damaged", "frames_blake3", "skeleton", "experts")
    filters: dict[str, Filter] = unit.once("filters", lambda: _filters(unit.recipe))
    measures = {f"filter_{name}": float(component.measure(sample)) for name, component in filters.items()}
    return {
        **{name: meta[name] for name in facts},
        "num_tracks": meta["num_tracks"],
        **measures,
        "confidence_p10": tracks[0]["confidence_p10"],
        "expert_disagreement": _mean(disagreement[0]),
        "tracks": tracks,
        "hashes": arrays["hashes"].tolist(),
        "words": pose_words(foremost).tobytes(),
        "joints": _joint_rows(arrays, meta, disagreement, people),
        "accuracy": _accuracy_rows(unit, clip, arrays, fused),
    }


@dataclass(frozen=True)
class Measure(UnitPass):
    """Measures every clip by every filter, and its tracks and joints."""

    version = 2
    after = ("poses",)
    gives = "measures"
    plan_columns = ("media", "truth", "span_start")
    per = "frame"

    def enabled(self, recipe: Recipe) -> bool:
        return True

    def config(self, recipe: Recipe) -> dict[str, Any]:
        return _config(recipe)

    def table_schema(self, recipe: Recipe) -> pa.Schema:
        return schema(recipe)

    def examine(self, unit: Unit, clip: Clip) -> Mapping[str, Any]:
        return _row(unit, clip, unit.arrays_of("poses", clip.clip_id))

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        step = super().explain(job, row)
        if step is not None and step["outcome"] == "keep":
            path = job.ledger(self.name).artifact(row["unit"])
            measured = pq.read_table(path, filters=[("clip_id", "==", row["clip_id"])]).to_pylist()[0]
            step["measures"] = [_verdict(job.recipe, name, measured) for name in measured_filters(job.recipe)]
        return step


def _verdict(recipe: Recipe, name: str, measured: Mapping[str, Any]) -> Row:
    """The value of one filter beside its thresholds."""
    component, value = recipe.component("filters", name), measured[f"filter_{name}"]
    number, used = float("nan") if value is None else value, name in recipe.curate.filters
    return {
        "filter": name,
        "value": None if math.isnan(number) else round(number, 5),
        "unit": component.measured_in,
        "used": used,
        "min": component.min,
        "max": component.max,
        "keeps": component.keep(number) if used else None,
    }
