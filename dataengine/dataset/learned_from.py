"""Which clips students learned from: a table beside the generations, so that a takedown names what has seen a clip."""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataengine.io.storage import write_durably

NAME = "clips.parquet"
"""In the folder of the generations that learned from the same clips."""


def note_clips(folder: Path, clips: Iterable[tuple[str, bool]]) -> None:
    """Write ids of clips, and whether they were held out, beside the generations that learn from them."""
    rows = sorted(clips)
    table = pa.table(
        {"clip_id": pa.array([row[0] for row in rows], pa.string()), "held_out": pa.array([row[1] for row in rows])}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_durably(folder / NAME, sink.getvalue().to_pybytes())


def saw_any(folder: Path, clips: Set[str]) -> bool:
    """Whether the generations of a folder learned from one of some clips, or were held to it; no table tells nothing,
    and counts as yes."""
    try:
        seen = pq.read_table(folder / NAME, columns=["clip_id"]).column("clip_id")
    except (OSError, pa.ArrowInvalid, KeyError):
        return True
    return bool(pc.any(pc.is_in(seen, value_set=pa.array(sorted(clips), pa.string()))).as_py())


def generations_that_saw(work: Path, clips: Set[str]) -> list[Path]:
    """Weights in the work of a build that learned from one of some clips, in order of their names."""
    folders = [path for path in sorted(work.glob("refine-*/generations/*")) if path.is_dir()]
    found = [folder for folder in folders if any(folder.glob("round-*/generation.json")) and saw_any(folder, clips)]
    return [path for folder in found for path in sorted(folder.glob("round-*/generation-*"))]
