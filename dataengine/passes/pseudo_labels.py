"""pseudo_labels: frames of the clips that a student may learn from, with the fused poses there.

A unit pass, so that frames are decoded by all workers and a clip that is added costs its own frames alone. Which
frames are taken is a function of the clip's id and the seed (`dataengine.refine.sampling`). Clips of other splits than
those of `refine.splits` go on without frames. The artifact is a shard as `dataengine.refine.pseudo_labels` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.core import registry
from dataengine.core.component import Component
from dataengine.core.errors import MediaError
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import Clip, Frames, Keep, Outcome
from dataengine.io import shards
from dataengine.media.frame_sampler import FrameSampler
from dataengine.passes.base import Row
from dataengine.passes.job import Job
from dataengine.passes.unit_pass import Unit, UnitPass
from dataengine.pipeline.recipe import Recipe
from dataengine.refine.pseudo_labels import IMAGE, encode
from dataengine.refine.sampling import sampled_frames


@dataclass(frozen=True)
class PseudoLabels(UnitPass):
    """Takes frames out of clips for a student, with the fused poses there."""

    version = 1
    after = ("poses",)
    plan_columns = ("media", "span_start", "span_end", "split")
    extension = "tar"
    per = "frame"

    def enabled(self, recipe: Recipe) -> bool:
        return recipe.refine.student is not None

    def config(self, recipe: Recipe) -> dict[str, Any]:
        table = recipe.refine
        decoder = registry.config(recipe.component("decoders", recipe.pose.decoder))
        return {
            "frames": table.frames,
            "seed": table.seed,
            "splits": sorted(table.splits),
            "decoder": [recipe.pose.decoder, decoder],
            "max_fps": recipe.pose.max_fps,
        }

    def uses(self, recipe: Recipe) -> list[Component]:
        return [recipe.component("decoders", recipe.pose.decoder)]

    def process(self, unit: Unit) -> list[Outcome]:
        poses = self.reads(list(unit.job.passes.values()))[0]
        with shards.ShardWriter(unit.artifact) as writer:

            def one(clip: Clip) -> Outcome:
                if clip.split in unit.recipe.refine.splits:
                    writer.write(clip.clip_id, _sampled(unit, clip, unit.arrays_of(poses, clip.clip_id)))
                return Keep(clip.clip_id)

            return unit.each(one)

    def rates(self, recipe: Recipe) -> dict[str, float]:
        return {f"decoders/{recipe.pose.decoder}": 1.0}

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        step = super().explain(job, row)
        if step is not None and step["outcome"] == "keep":
            step["facts"] = {"frames": 0}
            for key, entries in shards.iterate(job.ledger(self.name).artifact(row["unit"])):
                if key == row["clip_id"]:
                    step["facts"] = {"frames": len(shards.decode({"json": entries["json"]})["json"]["frames"])}
        return step


def _sampled(unit: Unit, clip: Clip, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of one clip."""
    meta, table = arrays["json"], unit.recipe.refine
    frames = sampled_frames(clip.clip_id, meta["num_frames"], table.frames, table.seed)
    pictures = _decoded(unit, clip, frames.tolist())
    common, scores = convert(arrays["keypoints"], arrays["scores"].astype(np.float32), meta["skeleton"], COMMON)
    return {
        "json": {"frames": frames.tolist()},
        **{IMAGE.format(number): encode(picture) for number, picture in pictures.items()},
        "keypoints.npy": np.ascontiguousarray(common[:, frames], np.float32),
        "scores.npy": np.ascontiguousarray(scores[:, frames], np.float16),
        "confidence.npy": np.ascontiguousarray(arrays["confidence"][:, frames]),
        "expert_keypoints.npy": np.ascontiguousarray(arrays["expert_keypoints"][:, :, frames]),
        "expert_scores.npy": np.ascontiguousarray(arrays["expert_scores"][:, :, frames]),
    }


def _decoded(unit: Unit, clip: Clip, wanted: list[int]) -> dict[int, Frames]:
    """number -> picture of some frames, as the poses count them; decoding ends with the last of them."""
    sampler, count, found, chosen = FrameSampler(unit.recipe.pose.max_fps), 0, dict[int, Frames](), set(wanted)
    decoder = unit.recipe.component("decoders", unit.recipe.pose.decoder)
    with decoder.open(unit.plan.media(clip), clip.span_start, clip.span_end) as stream:
        for batch in stream:
            unit.beat(clip)
            for n in sampler.pick(batch.timestamps):
                if count in chosen:
                    found[count] = batch.frames[n].copy()
                count += 1
            if len(found) == len(chosen):
                break
    if len(found) < len(chosen):
        raise MediaError("decode_failed", f"{clip.media} has {count} frames now, and had more when it was posed")
    return found
