"""Passes and a filter as another package would bring them; used by test_plugin_passes.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from dataengine.core.types import Clip, Outcome, Reject, Sample
from dataengine.filters.base import Between
from dataengine.io import shards
from dataengine.passes.base import Column, Row
from dataengine.passes.progress import BuildState
from dataengine.passes.table_pass import Table, TablePass, leave_out
from dataengine.passes.unit_pass import Unit, UnitPass


@dataclass(frozen=True)
class Brightness(UnitPass):
    """Mean brightness of the first frame of a clip; clips that are too dark are left out.

    Attributes:
        min: least mean brightness of a clip that is kept, 0 to 1.
    """

    min: float = 0.0

    version = 1
    after = ("poses",)
    plan_columns = ("media", "span_start", "span_end")
    schema = pa.schema([("clip_id", pa.string()), ("brightness", pa.float32()), ("tint", pa.string())])
    columns = (
        Column("brightness", pa.float32(), description="mean brightness of the first frame, 0 to 1"),
        Column("tint", pa.string(), null=True, description="name of the colour, where the frame has one"),
    )
    reasons: ClassVar[Mapping[str, str]] = {"too_dark": "the clip is too dark"}

    def examine(self, unit: Unit, clip: Clip) -> Mapping[str, Any] | Reject:
        decoder = unit.recipe.component("decoders", unit.recipe.pose.decoder)
        with decoder.open(unit.plan.media(clip), clip.span_start, clip.span_end) as stream:
            value = float(np.mean(next(iter(stream)).frames[0]) / 255)
        if value < self.min:
            return Reject(clip.clip_id, "too_dark", value, self.min)
        return {"brightness": value, "tint": None}


@dataclass(frozen=True)
class Shift(UnitPass):
    """Moves every pose by some pixels to the right: a pass that gives other poses."""

    pixels: float = 1.0

    version = 1
    after = ("poses",)
    gives = "poses"
    extension = "tar"
    entries = ("shift.npy",)

    def process(self, unit: Unit) -> list[Outcome]:
        from dataengine.core.types import Keep

        with shards.ShardWriter(unit.artifact) as writer:

            def one(clip: Clip) -> Outcome:
                arrays = unit.arrays_of(self.earlier(unit), clip.clip_id)
                arrays["keypoints"] = arrays["keypoints"] + np.float32([self.pixels, 0])
                writer.write(clip.clip_id, {k if k == "json" else f"{k}.npy": v for k, v in arrays.items()})
                return Keep(clip.clip_id)

            return unit.each(one)

    def earlier(self, unit: Unit) -> str:
        return unit.job.ledger("poses", before=self.name).pass_name

    def sample_entries(self, job: Any, unit: str, texts: Mapping[str, str | None]) -> Mapping[str, Row]:
        return {clip_id: {"shift.npy": np.float32([self.pixels])} for clip_id in texts}


@dataclass(frozen=True)
class VideoCap(TablePass):
    """At most so many clips of a video."""

    most: int = 1

    version = 1
    after = ("decisions",)
    columns = (Column("place_in_video", pa.int32(), description="number of the clip among those of its video"),)
    reasons: ClassVar[Mapping[str, str]] = {"video_cap": "its video has as many clips as wanted"}
    tables: ClassVar[Mapping[str, pa.Schema]] = {
        "videos": pa.schema([("clip_id", pa.string()), ("video", pa.string())])
    }

    def decide(self, table: Table) -> list[Row]:
        counts: dict[str, int] = {}
        for row in table.rows:
            video = table.plan.row(row["clip_id"])["video_id"]
            counts[video] = row["place_in_video"] = counts.get(video, 0) + 1
            if counts[video] > self.most:
                leave_out(row, "video_cap", f"clip {counts[video]} of {video}", counts[video], self.most)
        return table.rows

    def table_rows(self, build: BuildState, kept: Mapping[str, Row]) -> Mapping[str, list[Row]]:
        return {"videos": [{"clip_id": clip_id, "video": build.plan.row(clip_id)["video_id"]} for clip_id in kept]}


@dataclass(frozen=True)
class Crowded(Between):
    """Share of frames with more than one person, with a reason of its own."""

    reason = "alone"
    meaning = "too few frames show two people"
    measured_in = "share of frames"

    def measure(self, sample: Sample) -> float:
        return float(np.mean(sample.people > 1))
