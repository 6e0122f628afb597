"""What a round leaves behind: `generation.json`, and a verdict for every setting of the gate that judged it.

Both are read with suspicion: a file that was cut off or changed by hand counts as none, and what it told is made again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.io.storage import file_hash, write_durably
from dataengine.passes.job import Job
from dataengine.pipeline.ledger import learned_of

GENERATION = "generation.json"
ROUND: Mapping[str, type | tuple[type, ...]] = {
    "round": int, "weights": str, "weights_blake3": str, "bytes": int, "train_frames": int, "train_people": int,
    "validation_frames": int, "validation_people": int, "settings": dict, "history": list, "best_epoch": int,
    "stopped": str,
}  # fmt: skip
"""Keys of `generation.json`."""
VERDICT: Mapping[str, type | tuple[type, ...]] = {
    "published": bool, "reasons": list, "comparisons": list, "breakdown": dict, "clips": int,
}  # fmt: skip
"""Keys of a verdict."""


def read_generation(folder: Path) -> dict[str, Any] | None:
    """What a round learned, by its folder; None where nothing whole tells of it. The weights are not looked at."""
    row = _read(folder / GENERATION)
    if not _has(row, ROUND) or Path(row["weights"]).name != row["weights"]:
        return None
    history = row["history"]
    losses = [one.get("validation") if isinstance(one, dict) else None for one in history]
    if not 0 <= row["best_epoch"] < len(history) or not all(isinstance(loss, int | float) for loss in losses):
        return None
    return dict(row)


def read_verdict(path: Path, about: list[str | None] | None = None) -> dict[str, Any] | None:
    """A verdict; None where there is none that is whole, or one about other generations."""
    told = _read(path)
    if not isinstance(told, dict) or not _has(told.get("verdict"), VERDICT):
        return None
    if about is not None and told.get("about") != about:
        return None
    return dict(told["verdict"])


def write_verdict(path: Path, about: list[str | None], verdict: Mapping[str, Any]) -> None:
    """Write a verdict about a generation and the one before it, named by the hashes of their weights."""
    told = {"about": about, "verdict": verdict}
    write_durably(path, json.dumps(told, sort_keys=True, indent=1).encode())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _has(row: Any, keys: Mapping[str, type | tuple[type, ...]]) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in keys.items())


@dataclass(frozen=True)
class Generation:
    """The generation that counts. weights: its file; None and 0: the experts of the recipe."""

    number: int
    weights: Path | None = None
    digest: str | None = None


def folder_of(job: Job, inputs: str) -> Path:
    """Where the rounds for some inputs lie."""
    return job.ledger("refine").folder / "generations" / learned_of(inputs)


def generation_of(job: Job, inputs: str, sidecar: bytes) -> Generation | None:
    """The generation that a record names; None where its weights are not what they were."""
    try:
        record = json.loads(sidecar)
        if not record["generation"]:
            return Generation(0)
        row = record["rounds"][record["generation"] - 1]
        path = folder_of(job, inputs) / f"round-{row['round']}" / row["weights"]
        digest = _hash_once(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return Generation(record["generation"], path, digest) if digest == row["weights_blake3"] else None


@functools.lru_cache(maxsize=16)
def _hash_once(path: Path, changed: int) -> str:
    del changed
    return file_hash(path)
