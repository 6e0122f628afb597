"""measure: everything that curation judges a clip by, one table row a clip; thresholds are not applied here.

Every filter's measure is taken whether a recipe uses it or not, so that filters and thresholds can
be changed and queried without looking at poses again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.optimize import linear_sum_assignment

from dataengine.core import registry
from dataengine.core.component import Component, Filter
from dataengine.core.skeletons import COMMON, all_finite, convert, skeleton
from dataengine.core.types import Bool, Clip, Float, Int, Sample
from dataengine.dataset import index
from dataengine.dataset.signatures import pose_words
from dataengine.filters.body import Body, head_length, length
from dataengine.filters.bone_variation import body_bone_variation
from dataengine.filters.confidence import confidence
from dataengine.filters.jitter import body_jitter
from dataengine.filters.motion import body_motion
from dataengine.fusion.ssta import SSTA
from dataengine.passes import measure_kernels as kernels
from dataengine.passes.base import Pass, Row
from dataengine.passes.exact_joints import read_exact_joints
from dataengine.passes.job import Job
from dataengine.passes.unit_pass import Unit, UnitPass
from dataengine.pipeline.recipe import Recipe

LIFT = "lift"
"""The pass whose reprojection errors are measured like all else, where a recipe runs it."""
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
    names; filters of poses in space only where the recipe makes such poses."""
    named = {*recipe.curate.filters, *recipe.options.get("filters", {})}
    known = [name for name in registry.names("filters") if name in registry.KINDS["filters"].builtin or name in named]
    lifted = recipe.lifter is not None
    return [name for name in known if lifted or not registry.component_class("filters", name).needs_lift]


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
    track = pa.struct([*TRACK, *index.LIFTED_TRACKS]) if recipe.lifter is not None else TRACK
    nested = [("tracks", pa.list_(track)), ("joints", pa.list_(JOINT)), ("accuracy", pa.list_(ACCURACY))]
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


def _disagreement(arrays: dict[str, Any], fused: Float, layout: str) -> Float:
    """(M, T, 13) mean distance of the experts to the fused joint (M, T, 13, 2), in head-neck lengths."""
    found: Float = kernels.disagreement(
        arrays["expert_keypoints"], fused, head_length(arrays["keypoints"], layout)[..., 0]
    )
    return found


_OF_A_BODY = {"motion": body_motion, "jitter": body_jitter, "bone_variation": body_bone_variation}
"""Measures of built-in filters that the index holds of every track."""


def _track_rows(arrays: dict[str, Any], meta: dict[str, Any], fps: float, first: Mapping[str, float]) -> list[Row]:
    """One row a track; `first` holds the values of `_OF_A_BODY` and the mean confidence of the foremost."""
    rows: list[Row] = []
    all_seen, all_scores = all_finite(arrays["keypoints"]), arrays["scores"].astype(np.float32)
    all_confidence = arrays["confidence"].astype(np.float32)
    for rank, track_id in enumerate(meta["tracks"]):
        coords, scores, seen = arrays["keypoints"][rank], all_scores[rank], all_seen[rank]
        values, support, winner = all_confidence[rank], arrays["support"][rank], arrays["winner"][rank]
        filled = seen.any(-1)
        decided = max(int(np.count_nonzero(winner != -1)), 1)
        if rank == 0:
            measured = first
        else:
            body = Body.of(coords, scores, meta["skeleton"], fps)
            measured = {name: measure(body) for name, measure in _OF_A_BODY.items()}
            measured["confidence"] = confidence(values, support)
        rows.append(
            {
                "track_id": track_id,
                "rank": rank,
                "num_frames": int(np.count_nonzero(filled)),
                "coverage": float(np.count_nonzero(filled) / len(filled)),
                "support_mean": _mean(support[filled]),
                "score_mean": _mean(scores[seen]),
                "area": _mean(kernels.areas(coords, seen)[filled]),
                "confidence_mean": _number(measured["confidence"]),
                "confidence_p10": _tenth(values[filled]) if filled.any() else None,
                **{name: _number(measured[name]) for name in _OF_A_BODY},
                "shares": [float(np.count_nonzero(winner == e) / decided) for e in range(len(meta["experts"]))],
            }
        )
    return rows


def _tenth(values: Float) -> float:
    """The 10th percentile as `np.quantile` reckons it, of a few float32 values and several times faster."""
    ordered = np.sort(values)
    if np.isnan(ordered[-1]):
        return math.nan
    position = (len(ordered) - 1) * 0.1
    number = int(position)
    low, high = ordered[number], ordered[min(number + 1, len(ordered) - 1)]
    step, share = high - low, position - number
    return float(high - step * (1 - share) if share >= 0.5 else low + step * share)


@cache
def _common_places(layout: str) -> tuple[tuple[str, int | None], ...]:
    """The joints of a layout with their numbers in the common one, None for those that it lacks."""
    common = skeleton(COMMON)
    return tuple((j, common.index(j) if j in common.joints else None) for j in skeleton(layout).joints)


def _means_of_columns(values: Float, known: Bool) -> list[float | None]:
    """Mean of the known values of each column of (T, K)."""
    columns, masks = np.ascontiguousarray(values.T), known.T
    counts = np.count_nonzero(masks, axis=1).tolist()
    sums = np.add.reduce(columns, axis=1).tolist()  # row by row as of a single row
    for number, count in enumerate(counts):
        if 0 < count < len(values):
            sums[number] = float(np.add.reduce(columns[number, masks[number]]))
    return [total / count if count else None for total, count in zip(sums, counts)]


def _joint_rows(arrays: dict[str, Any], meta: dict[str, Any], disagreement: Float, people: int) -> list[Row]:
    rows: list[Row] = []
    seen = all_finite(arrays["keypoints"][:people])
    away, scores = disagreement[:people].astype(np.float64), arrays["scores"][:people].astype(np.float64)
    known, given = np.isfinite(away), seen & np.isfinite(scores)
    for rank, track_id in enumerate(meta["tracks"][:people]):
        distances = _means_of_columns(away[rank], known[rank])
        score_means = _means_of_columns(scores[rank], given[rank])
        visible = (np.count_nonzero(seen[rank], axis=0) / seen.shape[1]).tolist()
        for number, (joint, place) in enumerate(_common_places(meta["skeleton"])):
            rows.append(
                {
                    "track_id": track_id,
                    "joint": joint,
                    "visible": visible[number],
                    "score_mean": score_means[number],
                    "disagreement": None if place is None else distances[place],
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
    exact = unit.once(path, lambda: read_exact_joints(path))
    goal, heads = exact.at(clip, meta, arrays["timestamps"])
    head_lengths, condition = heads[..., None], exact.condition
    people, tracks = _assignment(goal, head_lengths, fused)
    proposals = arrays["expert_keypoints"]
    selected = SSTA().fuse_batch(proposals, None, COMMON).coords
    names = [*meta["experts"], "SST-A", f"fusion ({unit.recipe.pose.fusion})"]
    poses = [proposals.swapaxes(0, 1), selected[None]]
    if "fused_keypoints" in arrays:  # a student made the poses, and these were there before
        poses.append(convert(arrays["fused_keypoints"], None, meta["skeleton"], COMMON)[0][None])
        names.append(f"student {meta['student']}")
    candidates = np.concatenate([*poses, fused[None]])  # (E + 2 or 3, M, T, 13, 2)
    right, num_joints = kernels.count_right(
        candidates, goal, head_lengths[..., 0], people, tracks, meta["width"], meta["height"]
    )
    return [
        {"expert": name, "num_joints": num_joints, "num_right": number, "condition": condition}
        for name, number in zip(names, right.tolist())
    ]


def _assignment(goal: Float, head_lengths: Float, fused: Float) -> tuple[Int, Int]:
    """Pairs of true people (P, T, 13, 2) and tracks (M, T, 13, 2) with the least mean error, cut at 5 head lengths."""
    if len(goal) == len(fused) == 1:
        return np.array([0]), np.array([0])
    away = length(fused[None] - goal[:, None]) / head_lengths[:, None]
    people, tracks = linear_sum_assignment(np.where(np.isfinite(away), np.minimum(away, 5.0), 5.0).mean((2, 3)))
    return people, tracks


def _row(unit: Unit, clip: Clip, arrays: dict[str, Any], reprojection: Sequence[float | None] | None) -> dict[str, Any]:
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
        None if reprojection is None else np.array(reprojection, np.float64),
    )
    foremost = fused[0, arrays["hash_frames"]]
    facts = ("width", "height", "fps", "num_frames", "num_damaged", "frames_blake3", "skeleton", "experts")
    filters: dict[str, Filter] = unit.once("filters", lambda: _filters(unit.recipe))
    measures = {f"filter_{name}": float(component.measure(sample)) for name, component in filters.items()}
    first = {name: measures[f"filter_{name}"] for name in ("confidence", *_OF_A_BODY)}
    tracks = _track_rows(arrays, meta, fps, first)
    for track, error in zip(tracks, reprojection or ()):
        track["lift_reprojection"] = error
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

    def reads(self, passes: Sequence[Pass]) -> tuple[str, ...]:
        """What it names, and the pass that lifts where there is one."""
        return (*super().reads(passes), *(p.name for p in passes if p.name == LIFT))

    def config(self, recipe: Recipe) -> dict[str, Any]:
        return _config(recipe)

    def uses(self, recipe: Recipe) -> list[Component]:
        return list(_filters(recipe).values())

    def table_schema(self, recipe: Recipe) -> pa.Schema:
        return schema(recipe)

    def examine(self, unit: Unit, clip: Clip) -> Mapping[str, Any]:
        arrays = unit.arrays_of("poses", clip.clip_id)
        lifted = unit.arrays_of(LIFT, clip.clip_id)["json"] if LIFT in unit.job.passes else None
        return _row(unit, clip, arrays, None if lifted is None else lifted["reprojection"])

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
