"""energon: WebDataset shards with the metadata of NVIDIA's Megatron-Energon.

Format: `.nv-meta/.info.json` (samples of each shard), `.nv-meta/split.yaml`, `.nv-meta/dataset.yaml`, and beside each
shard an index of the offsets of its samples, unsigned 64-bit little-endian, the end of the last sample included
(NVIDIA/Megatron-Energon, docs on the dataset format).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from dataengine.exports.base import FACTS, OWN, Export, ExportedClip, ExportJob
from dataengine.io.shards import ShardWriter

META = ".nv-meta"
DATASET = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
"""Samples are given as dicts of their entries; a cooker of the reader's own makes what it trains on."""


@dataclass(frozen=True)
class Energon(Export):
    """WebDataset shards with the metadata of Megatron-Energon, which loads them as a CrudeWebdataset.

    Samples hold the entries of the dataset's own. Their JSON has licence, consent and url of the clip, too. `energon
    prepare` can add an index for looking up samples by their key.

    Attributes:
        shard_mb: size in MiB after which the next shard begins.
    """

    entries: ClassVar[tuple[str, ...] | None] = None

    shard_mb: Annotated[int, Field(ge=1)] = 512

    @property
    def target(self) -> str:
        return OWN

    def write(self, place: Path, job: ExportJob) -> None:
        (place / "shards").mkdir()
        (place / META).mkdir()
        counts: dict[str, int] = {}
        parts: dict[str, list[str]] = {}
        for split in job.splits:
            clips = job.clips(split)
            first = next(clips, None)
            while first is not None:
                name = f"shards/{split}-{len(parts.setdefault(split, [])):06d}.tar"
                parts[split].append(name)
                counts[name], first = _write_shard(place / name, first, clips, self.shard_mb << 20)
        listed = {name: parts.get(name, []) for name in ("train", "val", "test")} | parts
        lines = ["exclude: []", "split_parts:"]
        for split, names in listed.items():
            lines += [f"  {split}:" if names else f"  {split}: []", *(f"  - {name}" for name in names)]
        (place / META / "split.yaml").write_text("\n".join(lines) + "\n")
        (place / META / ".info.json").write_text(json.dumps({"shard_counts": counts}, indent=1) + "\n")
        (place / META / "dataset.yaml").write_text(DATASET)


def _write_shard(
    path: Path, clip: ExportedClip | None, more: Iterator[ExportedClip], most: int
) -> tuple[int, ExportedClip | None]:
    """Write clips until a shard is full.

    Returns:
        Clips in it, and the first clip of the next shard.
    """
    offsets = [0]
    with ShardWriter(path) as writer:
        while clip is not None and offsets[-1] < most:
            written = writer.write(clip.clip_id, _entries(clip))
            offsets.append(written.offset + written.size)
            clip = next(more, None)
    path.with_suffix(".tar.idx").write_bytes(struct.pack(f"<{len(offsets)}Q", *offsets))
    return len(offsets) - 1, clip


def _entries(clip: ExportedClip) -> dict[str, Any]:
    """The members of a sample, the JSON first."""
    others = dict(clip.others)
    facts = {**others.pop("json", {}), **{name: clip.facts[name] for name in FACTS}}
    arrays = {"keypoints": clip.keypoints, "scores": clip.scores.astype("float16"), **others}
    return {"json": facts, **{f"{name}.npy": array for name, array in arrays.items()}}
