"""generations: what the students of a build learned, round by round, and which generation counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataengine.core.errors import DatasetError
from dataengine.inspect.build import job_of
from dataengine.passes.base import ALL
from dataengine.passes.generation_files import GENERATION, folder_of, read_generation, read_verdict
from dataengine.passes.refine import record_of


def generations(out: Path) -> list[dict[str, Any]]:
    """Every generation in the work of a build, the oldest first.

    Returns:
        Rows of `round`, `weights` (a path; None where the files of a generation are damaged), `weights_blake3`,
        `in_use` (whether the poses of the build are its own), `published`, `judged` (whether the gate looked at it),
        `reasons`, losses, and measures before and after.

    Raises:
        DatasetError: no build there, or one that never refined.
    """
    job = job_of(out)
    record = record_of(job)
    used = record["rounds"][record["generation"] - 1]["weights_blake3"] if record and record["generation"] else None
    folder = job.ledger("refine").folder if "refine" in job.fingerprints else None
    commit = None if folder is None else job.ledger("refine").read(ALL)
    here = None if commit is None else folder_of(job, commit.inputs)
    paths = sorted(
        (job.work).glob(f"refine-*/generations/*/round-*/{GENERATION}"), key=lambda path: (path.stat().st_mtime, path)
    )
    if not paths:
        raise DatasetError(f"{out} holds no generation: build with a student, --set 'refine.student=\"NAME\"'")
    found = []
    for path in paths:
        row = read_generation(path.parent)
        if row is None:
            found.append(_damaged(path))
            continue
        history, verdict = row["history"], _verdict(path.parent, record if path.parent.parent == here else None, row)
        values = {f"{one['name']} ({one['against']})": [one["before"], one["after"]] for one in verdict["comparisons"]}
        found.append(
            {
                "round": row["round"],
                "in_use": path.parent.parent == here and row["weights_blake3"] == used,
                "published": verdict["published"],
                "judged": verdict["judged"],
                "reasons": verdict["reasons"],
                "weights": str(path.parent / row["weights"]),
                "weights_blake3": row["weights_blake3"],
                "frames": row["train_frames"],
                "validation": [history[0]["validation"], history[row["best_epoch"]]["validation"]],
                "measures": values,
            }
        )
    return found


def _damaged(path: Path) -> dict[str, Any]:
    """The row of a generation of which nothing whole tells."""
    why = f"{path} is damaged or was changed by hand: the next build with these clips learns the round again"
    return {
        "round": None, "in_use": False, "published": False, "judged": False, "reasons": [why], "weights": None,
        "weights_blake3": None, "frames": None, "validation": None, "measures": {},
    }  # fmt: skip


def _verdict(folder: Path, record: Mapping[str, Any] | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on a round: that of the build's record, or the latest of its folder."""
    rounds = [] if record is None else record["rounds"]
    for judged in rounds:
        if judged["weights_blake3"] == row["weights_blake3"]:
            return {**judged["verdict"], "judged": True}
    for path in sorted(folder.glob("verdict-*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        if (found := read_verdict(path)) is not None:
            return {**found, "judged": True}
    return {"published": False, "reasons": [], "comparisons": [], "judged": False}


def to_text(found: list[dict[str, Any]]) -> str:
    """The generations for people."""
    lines = []
    for row in found:
        if row["weights"] is None:
            lines += [f"damaged  {reason}" for reason in row["reasons"]]
            continue
        said = "in use" if row["in_use"] else "published" if row["published"] else "refused"
        said = said if row["judged"] else "not judged"
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
