"""probe: a verified media file for every clip, or a typed failure. Media stay where they lie.

Files that could be downloaded were downloaded before the units run (`dataengine.passes.download`). The plan says why a
file could not be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dataengine.core.errors import MediaError
from dataengine.core.types import Clip
from dataengine.media.files import digest
from dataengine.media.probe import probe
from dataengine.passes.base import Column
from dataengine.passes.unit_pass import Unit, UnitPass
from dataengine.pipeline.recipe import Recipe


@dataclass(frozen=True)
class Probe(UnitPass):
    """Opens the media file of every clip and takes its size, hash, picture size, codec and duration."""

    version = 2
    plan_columns = ("media", "media_size", "media_time", "failure")
    schema = pa.schema(
        [
            ("clip_id", pa.string()),
            ("size", pa.int64()),
            ("blake3", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("codec", pa.string()),
            ("duration", pa.float64()),
            ("video_stream", pa.int32()),
        ]
    )
    columns = (
        Column(
            "video_stream",
            pa.int32(),
            description="Number of the video stream that was read, among all streams of the file, from 0.",
        ),
    )

    def enabled(self, recipe: Recipe) -> bool:
        return not recipe.brings_poses

    def config(self, recipe: Recipe) -> dict[str, Any]:
        return recipe.fetch.model_dump(include={"max_bytes", "max_pixels"})

    def examine(self, unit: Unit, clip: Clip) -> Mapping[str, Any]:
        limits = unit.recipe.fetch
        if not clip.media:
            failure = unit.plan.row(clip.clip_id)["failure"]
            if failure:
                kind, detail, retryable = json.loads(failure)
                raise MediaError(kind, detail, retryable)
            raise MediaError("media_missing", f"no file for {clip.video_id} under the source's folder")
        path = unit.plan.media(clip)
        info = probe(path, max_pixels=limits.max_pixels, max_bytes=limits.max_bytes)
        size, content = unit.once(("digest", clip.media), lambda: digest(path))
        picture = {"width": info.width, "height": info.height, "codec": info.codec, "duration": info.duration}
        return {"size": size, "blake3": content, "video_stream": info.stream, **picture}
