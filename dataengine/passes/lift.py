"""lift: poses of the picture -> joints in space, in metres from the middle of the hips.

The artifact is a shard with, for each clip of M people that the dataset keeps, T frames and V joints of the recipe's
skeleton:

==================  ====================  ===========================================================
json                                      the lifter; of each person the mean reprojection error in body heights and in
                                          pixels, null for a person who could not be lifted
keypoints3d         (M, T, V, 3) float16  metres, x to the right of the picture, y down, z away from the camera; NaN
                                          where the person is not seen in the frame
reprojection        (M, T) float32        pixels, distance of the projected joints to those of the picture
==================  ====================  ===========================================================

Each person is lifted alone, over the whole clip. No picture is looked at, so saved poses are lifted like all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from dataengine.core import registry
from dataengine.core.component import SESSIONS, Component, Lifter, LifterSession
from dataengine.core.errors import ComponentError
from dataengine.core.gpu_claim import device_of_process
from dataengine.core.types import Bool, Clip, Float, Int, Keep, Lifted, Outcome
from dataengine.filters.body import Body
from dataengine.io import shards
from dataengine.passes.base import Column, Row
from dataengine.passes.job import Job
from dataengine.passes.progress import BuildState
from dataengine.passes.unit_pass import Unit, UnitPass
from dataengine.pipeline.recipe import Recipe

UNRELATED = ("checkpoint",)
"""Options of lifters that change no result: the hashes of weights tell which weights they are, wherever they lie."""
REACH = 10.0
"""Metres from the middle of the hips beyond which a joint belongs to no body and is NaN. Half precision holds far
more."""
BYTES = 6
"""Bytes of a joint in a sample."""


@dataclass(frozen=True)
class Lift(UnitPass):
    """Lifts the people of every clip from the picture into space; only with `[lift] use`."""

    version = 1
    after = ("poses",)
    entries = ("keypoints3d.npy",)
    columns = (
        Column(
            "lift_reprojection",
            pa.float32(),
            description="Mean distance of the first person's joints in space, projected, to those of the picture, in "
            "body heights; smaller is better.",
        ),
    )
    extension = "tar"
    on_device = True
    per = "frame"

    def enabled(self, recipe: Recipe) -> bool:
        return recipe.lifter is not None

    def config(self, recipe: Recipe) -> dict[str, Any]:
        lifter = _lifter(recipe)
        options = {k: v for k, v in registry.config(lifter).items() if k not in UNRELATED}
        weights = sorted(lifter.weights().values())
        return {"lifter": [recipe.lifter, options, weights], "people": recipe.pose.max_people}

    def uses(self, recipe: Recipe) -> list[Component]:
        return [_lifter(recipe)]

    def rates(self, recipe: Recipe) -> Mapping[str, float]:
        return {f"lifters/{recipe.lifter}": 1.0}

    def process(self, unit: Unit) -> list[Outcome]:
        session = open_lifter(unit.job)
        with shards.ShardWriter(unit.artifact) as writer:

            def one(clip: Clip) -> Outcome:
                arrays = unit.arrays_of("poses", clip.clip_id)
                writer.write(clip.clip_id, lifted(unit, clip, session, arrays))
                return Keep(clip.clip_id)

            return unit.each(one)

    def clip_values(self, build: BuildState, unit: str) -> Mapping[str, Row]:
        if unit not in build.commits(self.name):
            return {}
        return {key: {"lift_reprojection": facts["reprojection"][0]} for key, facts in facts_of(build.job, unit)}

    def sample_entries(self, job: Job, unit: str, texts: Mapping[str, str | None]) -> Mapping[str, Row]:
        """`keypoints3d.npy` of the clips of `texts`."""
        (entry,) = self.entries
        return {
            key: {entry: shards.decode_entry(entry, entries[entry])}
            for key, entries in shards.iterate(job.ledger(self.name).artifact(unit))
            if key in texts
        }

    def entry_bytes(self, num_people: Int, num_frames: Int, num_joints: int) -> Int:
        return num_people * num_frames * num_joints * BYTES

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        """Facts: the lifter, and the reprojection error of each person."""
        step = super(UnitPass, self).explain(job, row)
        if step is not None and step["outcome"] == "keep":
            facts = next(found for key, found in facts_of(job, row["unit"]) if key == row["clip_id"])
            step["facts"] = {
                "lifter": facts["lifter"],
                "lift_reprojection": _listed(facts["reprojection"], "body heights"),
                "reprojection error": _listed(facts["reprojection_px"], "pixels"),
            }
        return step


def _lifter(recipe: Recipe) -> Lifter:
    assert recipe.lifter is not None, "a recipe without a lifter does not enable the pass"
    lifter: Lifter = recipe.component("lifters", recipe.lifter)
    return lifter


def open_lifter(job: Job) -> LifterSession:
    """The session of this process for a job; units of the same recipe and device share it."""
    key = (job.fingerprints["lift"], job.device)
    return SESSIONS.get("lift", key, lambda: _lifter(job.recipe).load(device_of_process(job.device)))


def facts_of(job: Job, unit: str) -> list[tuple[str, Row]]:
    """(clip_id, what the json says) of every clip of a unit that was lifted."""
    artifact = job.ledger("lift").artifact(unit)
    return [(key, shards.decode({"json": entries["json"]})["json"]) for key, entries in shards.iterate(artifact)]


def lifted(unit: Unit, clip: Clip, session: LifterSession, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of one clip, made of those of its poses."""
    meta, people = arrays["json"], unit.recipe.pose.max_people
    keypoints, scores = arrays["keypoints"][:people], arrays["scores"][:people].astype(np.float32)
    size, fps = (meta["width"], meta["height"]), float(Fraction(meta["fps"]))
    joints, errors, relative, pixels = [], [], list[float | None](), list[float | None]()
    for coords, certain in zip(keypoints, scores):
        unit.beat(clip)
        found = _checked(session.lift(coords, certain, meta["skeleton"], size), coords, unit.recipe.lifter)
        seen = np.isfinite(coords).all(-1).any(-1)
        points, error = within_reach(found.keypoints3d, seen), np.where(seen, found.reprojection_error, np.nan)
        joints.append(points)
        errors.append(error.astype(np.float32))
        pixels.append(_mean(error))
        relative.append(_mean(error / Body.of(coords, certain, meta["skeleton"], fps).height))
    return {
        "json": {"lifter": unit.recipe.lifter, "reprojection": relative, "reprojection_px": pixels},
        "keypoints3d.npy": np.stack(joints),
        "reprojection.npy": np.stack(errors),
    }


def within_reach(keypoints3d: Float, seen: Bool) -> Float:
    """(T, V, 3) float16 metres, NaN in frames that are not `seen` (T,) and for joints that lie beyond `REACH`."""
    far = ~(np.abs(keypoints3d) <= REACH).all(-1)
    return np.where((far | ~seen[:, None])[..., None], np.nan, keypoints3d).astype(np.float16)


def _checked(found: Lifted, coords: Float, name: str | None) -> Lifted:
    """What a lifter gave, held to its word.

    Raises:
        ComponentError: arrays of other shapes than were asked for.
    """
    needed = {"keypoints3d": (*coords.shape[:2], 3), "reprojection_error": coords.shape[:1]}
    for field, shape in needed.items():
        given = np.shape(getattr(found, field))
        if given != shape:
            raise ComponentError(f"[lifters.{name}] gave {field} of shape {given}, must be {shape}: mend the lifter")
    return found


def _mean(values: Float) -> float | None:
    """The mean of the finite values; None where there are none."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    return float(np.add.reduce(finite) / len(finite)) if len(finite) else None


def _listed(values: list[float | None], measured_in: str) -> str:
    """Values of several people in words."""
    return ", ".join("-" if value is None else f"{value:.3g}" for value in values) + f" {measured_in}"
