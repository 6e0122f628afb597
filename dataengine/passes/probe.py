"""fetch: a verified media file for every clip, or a typed failure. Media stay where they lie.

Files that could be downloaded were (see `obtain`) before the units run; why one could not stands in the plan.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.core.errors import MediaError
from dataengine.core.types import Clip, Keep, Outcome
from dataengine.media.files import digest
from dataengine.media.probe import probe
from dataengine.passes.base import Pass, Unit
from dataengine.pipeline.recipe import Recipe

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("size", pa.int64()),
        ("blake3", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("codec", pa.string()),
        ("duration", pa.float64()),
    ]
)


def _config(recipe: Recipe) -> dict[str, Any]:
    return recipe.fetch.model_dump(include={"max_bytes", "max_pixels"})


def _run(unit: Unit) -> list[Outcome]:
    rows: list[dict[str, Any]] = []
    limits = unit.recipe.fetch
    files: dict[str, tuple[int, str]] = {}
    failures = {row["clip_id"]: row["failure"] for row in unit.plan.rows()}

    def one(clip: Clip) -> Outcome:
        if not clip.media and (failure := failures[clip.clip_id]):
            kind, detail, retryable = json.loads(failure)
            raise MediaError(kind, detail, retryable)
        if not clip.media:
            raise MediaError("media_missing", f"no file for {clip.video_id} under the source's folder")
        path = unit.plan.media(clip)
        info = probe(path, max_pixels=limits.max_pixels, max_bytes=limits.max_bytes)
        if clip.media not in files:
            files[clip.media] = digest(path)
        size, content = files[clip.media]
        row = {"clip_id": clip.clip_id, "size": size, "blake3": content, "width": info.width, "height": info.height}
        rows.append({**row, "codec": info.codec, "duration": info.duration})
        return Keep(clip.clip_id)

    outcomes = unit.each(one)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), unit.artifact, compression="zstd")
    return outcomes


PASS = Pass("fetch", 1, (), ("media", "media_size", "media_time", "failure"), "parquet", _config, _run)
