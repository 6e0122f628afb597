"""generations: what the students of a build learned, round by round, and which generation counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dataengine.core.errors import DatasetError
from dataengine.inspect.build import job_of
from dataengine.passes.base import ALL
from dataengine.passes.refine import GENERATION, record_of


def generations(out: Path) -> list[dict[str, Any]]:
    """Every generation in the work of a build, the oldest first.

    Returns:
        Rows of `round`, `weights` (a path), `weights_blake3`, `in_use` (whether the poses of the build are its own),
        `published`, `reasons`, losses and values of measures before and after.

    Raises:
        DatasetError: no build there, or one that never refined.
    """
    job = job_of(out)
    record = record_of(job)
    used = record["rounds"][record["generation"] - 1]["weights_blake3"] if record and record["generation"] else None
    folder = job.ledger("refine").folder if "refine" in job.fingerprints else None
    commit = None if folder is None else job.ledger("refine").read(ALL)
    here = None if folder is None or commit is None else folder / "generations" / commit.inputs[:12]
    paths = sorted(
        (job.work).glob(f"refine-*/generations/*/round-*/{GENERATION}"), key=lambda path: (path.stat().st_mtime, path)
    )
    if not paths:
        raise DatasetError(f"{out} holds no generation: build with a student, --set 'refine.student=\"NAME\"'")
    found = []
    for path in paths:
        row = json.loads(path.read_bytes())
        history, verdict = row["history"], row["verdict"]
        values = {f"{one['name']} ({one['against']})": [one["before"], one["after"]] for one in verdict["comparisons"]}
        found.append(
            {
                "round": row["round"],
                "in_use": path.parent.parent == here and row["weights_blake3"] == used,
                "published": verdict["published"],
                "reasons": verdict["reasons"],
                "weights": str(path.parent / row["weights"]),
                "weights_blake3": row["weights_blake3"],
                "frames": row["train_frames"],
                "validation": [history[0]["validation"], history[row["best_epoch"]]["validation"]],
                "measures": values,
            }
        )
    return found


def to_text(found: list[dict[str, Any]]) -> str:
    """The generations for people."""
    lines = []
    for row in found:
        said = "in use" if row["in_use"] else "published" if row["published"] else "refused"
        before, after = row["validation"]
        lines.append(
            f"round {row['round']}  {said}  {row['frames']} frames, validation loss {before:.4g} -> {after:.4g}"
        )
        lines.append(f"  weights  {row['weights']}")
        for name, (before, after) in row["measures"].items():
            if before is not None and after is not None:
                shown = f"{after:.4g}, {before:.4g}" if name.endswith("(limit)") else f"{before:.4g} -> {after:.4g}"
                lines.append(f"  {name:<20} {shown}")
        lines += [f"  refused: {reason}" for reason in row["reasons"]]
    return "\n".join(lines)
