"""repose: the poses of the dataset, made by the generation of the student that counts.

Where the gate published a generation, the student alone looks at every frame, and what it finds goes through the
recipe's tracker and fusion as in pass pose. Else the poses of the experts are handed on as they are, and nothing is
decoded. The artifact is that of pass pose, so that everything behind it reads it alike. In clips of a student:

* `expert_keypoints` and `expert_scores` stay those of the experts, of the person that each track of the student is, so
  that disagreement, C and support tell how far the experts are from the student. `winner` is -2, since no expert's
  joint was taken.
* `fused_keypoints` (M, T, V, 2) float32 and `fused_scores` (M, T, V) float16 are what the experts' fusion was.
* json has `generation`, `student`, and `before`, measures of the fused poses beside those of the student.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from dataengine.core import registry
from dataengine.core.accelerator import is_accelerator
from dataengine.core.component import SESSIONS, Component
from dataengine.core.skeletons import COMMON, all_finite, convert
from dataengine.core.types import Clip, Float, Keep, Outcome, Reject
from dataengine.filters.body import Body, length
from dataengine.filters.jitter import body_jitter
from dataengine.fusion.ssta import confidence
from dataengine.io import shards
from dataengine.passes import measure_kernels
from dataengine.passes.base import Column, Row
from dataengine.passes.generation_files import Generation
from dataengine.passes.job import Job
from dataengine.passes.pose_session import PoseSession
from dataengine.passes.progress import BuildState
from dataengine.passes.refine import generation_in_use
from dataengine.passes.student_poses import open_student, student_poses
from dataengine.passes.unit_pass import Unit, UnitPass
from dataengine.pipeline.recipe import Recipe
from dataengine.refine.measures import aligned, heads, taken

BLENDED = -2
"""`winner` where no single expert's joint was taken."""


@dataclass(frozen=True)
class Repose(UnitPass):
    """Makes the poses anew by the student that passed the gate, or hands on those of the experts."""

    version = 1
    after = ("poses", "refine")
    gives = "poses"
    plan_columns = ("media", "span_start", "span_end", "actor")
    extension = "tar"
    on_device = True
    per = "frame"
    columns = (
        Column("jitter_before", pa.float32(), True, "jitter of the poses that the experts made, before refinement"),
        Column(
            "expert_disagreement_before", pa.float32(), True,
            "mean distance of the experts to the joints that they were fused to, before refinement, head-neck lengths",
        ),
        Column("pose_coverage_before", pa.float32(), True, "share of the frames that had a pose before refinement"),
        Column(
            "moved", pa.float32(), True,
            "mean distance of the student's joints to those that the experts were fused to, head-neck lengths",
        ),
    )  # fmt: skip

    def enabled(self, recipe: Recipe) -> bool:
        return recipe.refine.student is not None

    def config(self, recipe: Recipe) -> dict[str, Any]:
        pose = recipe.pose
        kinds = (("decoders", pose.decoder), ("trackers", pose.tracker), ("fusion", pose.fusion))
        table = {key: getattr(pose, key) for key in ("skeleton", "max_tracks", "max_fps")}
        return {
            "components": {name: registry.config(recipe.component(kind, name)) for kind, name in kinds},
            "student": [recipe.refine.student, registry.config(recipe.student)],
            "pose": table | {"calibrated": pose.calibration is None},
        }

    def fingerprint(self, recipe: Recipe, upstream: Mapping[str, str]) -> str:
        """Digest of how a student is run; which weights count is part of the inputs of a unit, however they came to."""
        return super().fingerprint(recipe, {name: digest for name, digest in upstream.items() if name != "refine"})

    def uses(self, recipe: Recipe) -> list[Component]:
        pose = recipe.pose
        kinds = (("decoders", pose.decoder), ("trackers", pose.tracker), ("fusion", pose.fusion))
        return [*(recipe.component(kind, name) for kind, name in kinds), recipe.student, recipe.student.expert(None)]

    def process(self, unit: Unit) -> list[Outcome]:
        poses = self.reads(list(unit.job.passes.values()))[0]
        generation = generation_in_use(unit.job)
        assert generation is not None, "pass refine ran before"
        if generation.weights is None:
            return _handed_on(unit, poses)
        return _reposed(unit, poses, generation)

    def clip_values(self, build: BuildState, unit: str) -> Mapping[str, Row]:
        if unit not in build.commits(self.name):
            return {}
        found = {}
        for key, entries in shards.iterate(build.job.ledger(self.name).artifact(unit)):
            meta = shards.decode({"json": entries["json"]})["json"]
            found[key] = meta.get("before", {})
        return found

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        step = super(UnitPass, self).explain(job, row)
        if step is not None and step["outcome"] == "keep":
            for key, entries in shards.iterate(job.ledger(self.name).artifact(row["unit"])):
                if key == row["clip_id"]:
                    meta = shards.decode({"json": entries["json"]})["json"]
                    generation = meta.get("generation", 0)
                    made = (
                        f"generation {generation} of {meta['student']}" if generation else "the experts (generation 0)"
                    )
                    step["facts"] = {"poses of": made, **meta.get("before", {})}
        return step

    def rates(self, recipe: Recipe) -> dict[str, float]:
        pose, student = recipe.pose, recipe.refine.student
        parts = {f"decoders/{pose.decoder}": 1.0, f"trackers/{pose.tracker}": 1.0, f"fusion/{pose.fusion}": 1.0}
        name = next((n for n in registry.names("experts") if n == student), None)
        return parts | ({f"experts/{name}": 1.0} if name else {f"students/{student}": 1.0})


def _handed_on(unit: Unit, poses: str) -> list[Outcome]:
    """The poses of the experts; a unit whose clips are all there is copied as it is."""
    source, wanted = unit.job.ledger(poses).artifact(unit.name), [clip.clip_id for clip in unit.clips]
    if [key for key, _ in shards.iterate(source)] == wanted:
        shutil.copyfile(source, unit.artifact)
    else:
        chosen = set(wanted)
        with shards.ShardWriter(unit.artifact) as writer:
            for key, entries in shards.iterate(source):
                if key in chosen:
                    writer.write(key, entries)
    return [Keep(clip_id) for clip_id in wanted]


def _reposed(unit: Unit, poses: str, generation: Generation) -> list[Outcome]:
    recipe, device = unit.recipe, unit.job.device
    key = (unit.job.fingerprints["repose"], generation.digest, device, is_accelerator(device), recipe.engine)
    session = SESSIONS.get("repose", key, lambda: open_student(recipe, device, generation.weights))
    before = {clip_id: arrays for clip_id, arrays in unit.arrays(poses)}
    made: dict[str, dict[str, Any]] = {}

    def one(clip: Clip) -> Outcome:
        found = _one(unit, session, clip, before[clip.clip_id], generation)
        if isinstance(found, Reject):
            return found
        made[clip.clip_id] = found
        return Keep(clip.clip_id)

    with shards.ShardWriter(unit.artifact) as writer:

        def then(clip: Clip) -> None:
            before.pop(clip.clip_id, None)
            if clip.clip_id in made:
                writer.write(clip.clip_id, made.pop(clip.clip_id))

        return unit.each(one, recipe.engine.clips_in_flight if session.clips_in_flight else 1, then)


def _one(
    unit: Unit, session: PoseSession, clip: Clip, arrays: Mapping[str, Any], generation: Generation
) -> dict[str, Any] | Reject:
    """The entries of one clip."""
    found = student_poses(unit, session, clip, arrays)
    if isinstance(found, Reject):
        return Reject(clip.clip_id, found.reason, found.value, found.threshold, f"the student finds {found.detail}")
    meta = found["json"]
    layout = meta["skeleton"]
    own, _ = convert(found["keypoints.npy"], None, layout, COMMON)
    fused, _ = convert(arrays["keypoints"], None, layout, COMMON)
    numbers = aligned(own, fused)
    experts = taken(arrays["expert_keypoints"], numbers)
    scores = np.nan_to_num(taken(arrays["expert_scores"].astype(np.float32), numbers))
    certain = [confidence(coords, pose, COMMON) for coords, pose in zip(experts, own)]
    meta |= {
        "experts": arrays["json"]["experts"],
        "generation": generation.number,
        "student": unit.recipe.refine.student,
        "before": _before(arrays, own[0], numbers[0]),
    }
    seen = all_finite(own)
    return found | {
        "json": meta,
        "confidence.npy": np.stack([c for c, _ in certain]).astype(np.float16),
        "support.npy": np.stack([support for _, support in certain]).astype(np.uint8),
        "winner.npy": np.where(seen, BLENDED, -1).astype(np.int8),
        "expert_keypoints.npy": experts,
        "expert_scores.npy": scores.astype(np.float16),
        "fused_keypoints.npy": taken(arrays["keypoints"], numbers),
        "fused_scores.npy": np.nan_to_num(taken(arrays["scores"].astype(np.float32), numbers)).astype(np.float16),
    }


def _before(arrays: Mapping[str, Any], own: Float, number: int) -> Row:
    """Measures of the foremost person before, and how far the student moved the person that it finds foremost."""
    meta = arrays["json"]
    layout, fps = meta["skeleton"], float(Fraction(meta["fps"]))
    keypoints, scores = arrays["keypoints"][0], arrays["scores"][0].astype(np.float32)
    fused, _ = convert(arrays["keypoints"], None, layout, COMMON)
    scale = heads(fused)[:, 0]
    away = measure_kernels.disagreement(arrays["expert_keypoints"][:1], fused[:1], scale[:1])
    row = {
        "jitter_before": body_jitter(Body.of(keypoints, scores, layout, fps)),
        "expert_disagreement_before": _mean(away),
        "pose_coverage_before": float(all_finite(keypoints).any(-1).mean()),
        "moved": float("nan") if number < 0 else _mean(length(own - fused[number]) / scale[number]),
    }
    return {name: float(f"{value:.6g}") for name, value in row.items() if np.isfinite(value)}


def _mean(values: Float) -> float:
    known = values[np.isfinite(values)]
    return float(known.astype(np.float64).mean()) if len(known) else float("nan")
