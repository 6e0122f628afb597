"""Held-out clips as a gate looks at them: the poses of two generations of a student beside the fused ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.errors import MediaError
from dataengine.core.progress import Progress
from dataengine.core.skeletons import COMMON, all_finite, convert
from dataengine.core.types import Clip, Float, Reject
from dataengine.passes.clip_frames import pose_arrays
from dataengine.passes.exact_joints import read_exact_joints
from dataengine.passes.job import Job
from dataengine.passes.pose_session import PoseSession
from dataengine.passes.student_poses import open_student, student_poses
from dataengine.passes.unit_pass import Unit
from dataengine.pipeline import plan as plans
from dataengine.refine.gate import Limits, Margins, PairedValues, Verdict, judge
from dataengine.refine.measures import JudgedClip, aligned, extra, taken
from dataengine.refine.pseudo_labels import Thresholds
from dataengine.refine.sampling import drawn


class HeldOut:
    """The held-out clips of a build, of which the gate looks at some.

    Args:
        poses: name of the pass that made the fused poses.
        clips: ids of the held-out clips. rows: clip_id -> its row of the plan.
        limits: which fused joints are sure enough to be compared with.
    """

    def __init__(
        self,
        job: Job,
        poses: str,
        clips: Set[str],
        rows: Mapping[str, Mapping[str, Any]],
        limits: Thresholds,
        device: str,
    ) -> None:
        self.job, self.poses, self.rows, self.limits, self.device = job, poses, rows, limits, device
        table = job.recipe.refine
        order = sorted(clips, key=lambda clip_id: (drawn("gate", clip_id, table.seed), clip_id))
        self.chosen = sorted(order[: table.gate.clips])

    def judged(
        self,
        before: Path | None,
        after: Path,
        margins: Margins,
        best_epoch: int,
        progress: Progress,
        name: str,
    ) -> Verdict:
        """The verdict on the weights `after`, compared with those of `before` (None: before any learning)."""
        recipe = self.job.recipe
        truth: dict[str, PairedValues] | None = None
        replaced: dict[str, PairedValues] | None = None
        with open_student(recipe, self.device, before) as old, open_student(recipe, self.device, after) as new:
            with progress.step(name, len(self.chosen)) as advance:
                clips = list(self._clips(old, new, advance))
            if recipe.refine.gate.truth is not None:
                from dataengine.passes.annotated import compare_on_pictures

                truth, replaced = compare_on_pictures(recipe, old, new, self.device, progress, name)
        gate = recipe.refine.gate
        return judge(
            clips, margins, truth, replaced, best_epoch, Limits(gate.max_missing, gate.min_agreement, gate.max_extra)
        )

    def _clips(self, old: PoseSession, new: PoseSession, advance: Any) -> Iterator[JudgedClip]:
        for clip_id in self.chosen:
            found = self.clip(clip_id, old, new)
            advance(1)
            if found is not None:
                yield found

    def clip(self, clip_id: str, old: PoseSession, new: PoseSession) -> JudgedClip | None:
        """The poses of two generations in one clip; None where its media cannot be decoded any more."""
        row, most, people = self.rows[clip_id], self.job.recipe.refine.gate.frames, self.job.recipe.pose.max_people
        plan = plans.load_unit(self.job.work, row["unit"], (self.job.work / "plan.parquet").stat().st_mtime_ns)
        clip = plan.clip(clip_id)
        assert clip is not None, "a clip that was posed is planned"
        arrays = pose_arrays(self.job.ledger(self.poses), row["unit"], clip_id)
        unit = Unit(self.job, row["unit"], [clip], self.job.work, plan)
        kept = (slice(people), slice(most))  # the people of the dataset
        common, scores = convert(
            arrays["keypoints"][kept], arrays["scores"][kept].astype(np.float32), arrays["json"]["skeleton"], COMMON
        )
        confidence = arrays["confidence"][kept].astype(np.float32)
        sure = all_finite(common) & (scores >= self.limits.min_score)
        sure &= ((confidence >= self.limits.gamma) & (sure.sum(-1) >= self.limits.min_joints))[..., None]
        try:
            (before, more), (after, more_now) = (self._people(unit, one, clip, arrays, common) for one in (old, new))
        except MediaError:
            return None
        fps = float(Fraction(arrays["json"]["fps"]))
        exact = None if clip.truth is None else _exact(Path(plan.roots[clip.source]) / clip.truth, clip, arrays, common)
        return JudgedClip(
            clip_id, f"{row['source']}\0{row['video_id']}", fps, common, scores, sure, before, after,
            experts=arrays["expert_keypoints"][:people, :, :most].swapaxes(0, 1),
            exact=None if exact is None else exact[0],
            exact_heads=None if exact is None else exact[1], extra=(more, more_now),
        )  # fmt: skip

    def _people(
        self, unit: Unit, session: PoseSession, clip: Clip, arrays: Mapping[str, Any], fused: Float
    ) -> tuple[Float, float]:
        """(M, T, 13, 2) poses of a generation, in the order of the fused people, and `JudgedClip.extra` of them."""
        found = student_poses(unit, session, clip, arrays, self.job.recipe.refine.gate.frames)
        poses = np.full_like(fused, np.nan)
        if isinstance(found, Reject):
            return poses, 0.0
        common, _ = convert(found["keypoints.npy"], None, found["json"]["skeleton"], COMMON)
        everybody, _ = convert(arrays["keypoints"], None, arrays["json"]["skeleton"], COMMON)
        frames = min(common.shape[1], fused.shape[1])
        numbers = aligned(fused[:, :frames], common[:, :frames])
        poses[:, :frames] = taken(common[:, :frames], numbers)
        return poses, extra(common[: self.job.recipe.pose.max_people, :frames], everybody[:, :frames])


def _exact(path: Path, clip: Clip, arrays: Mapping[str, Any], fused: Float) -> tuple[Float, Float] | None:
    """Exact joints (M, T, 13, 2) and head lengths (M, T) of a rendered clip, in the order of the fused people; NaN
    outside of the picture. None where they cannot be read: pass measure tells of it."""
    try:
        known = read_exact_joints(path)
    except (OSError, ValueError, KeyError):
        return None
    meta = arrays["json"]
    goal, heads = (values[:, : fused.shape[1]] for values in known.at(clip, meta, arrays["timestamps"]))
    inside = ((goal >= 0) & (goal < (meta["width"], meta["height"]))).all(-1, keepdims=True)
    numbers = aligned(fused, goal)
    return taken(np.where(inside, goal, np.nan), numbers), taken(heads, numbers)
