"""calibrate: curves that make the scores of experts comparable, fitted to the poses of a build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.errors import ComponentError, DatasetError, WeightsError
from dataengine.core.types import Float
from dataengine.dataset.takedown_records import TakenDown
from dataengine.fusion.score_calibration import ScoreCalibration, fit_agreement
from dataengine.inspect.build import job_of
from dataengine.io import shards
from dataengine.io.storage import staged
from dataengine.passes.job import Job
from dataengine.pipeline.plan import load

MOST = 2_000
"""Most tracks that are read; curves have few parameters."""


def expert_tracks(out: Path, job: Job) -> Iterator[tuple[list[str], Float, Float]]:
    """Every tracked person of a build as its experts saw it: their names, coords (E, T, 13, 2) and own scores
    (E, T, 13). Clips that were taken down are left out."""
    ledger, plan, gone = job.ledger("poses"), load(job.work), TakenDown.of(out)
    for unit in ledger.units():
        commit = ledger.read(unit)
        if commit is None or commit.is_aside:
            continue
        for clip_id, entries in shards.iterate(ledger.artifact(unit)):
            clip = plan.clip(clip_id)
            if clip is None or gone.reason(clip_id, clip.video_id) is not None:
                continue
            arrays = shards.decode(entries)
            for coords, scores in zip(arrays["expert_keypoints"], arrays["expert_scores"]):
                yield list(arrays["json"]["experts"]), coords, scores.astype(np.float32)


def calibrate(out: Path, to: Path) -> dict[str, Any]:
    """Fit a curve for each expert of a build to how the experts agree with each other and over time.

    Args:
        out: folder of a build of two or more experts, better three of different families.
        to: .json file to write, for `pose.calibration`.

    Returns:
        {"path", "tracks", "experts": {name: probabilities that a joint is right at scores of 0.1, 0.3, 0.5, 0.7, 0.9}}.

    Raises:
        DatasetError: no build there, or no poses of several experts in it.
    """
    if to.suffix != ".json":
        raise DatasetError(f"calibrate writes a .json file; given {to.name!r}")
    if to.exists() and not _is_calibration(to):
        raise DatasetError(f"{to} is there already and holds no calibration of scores: give another --to")
    job = job_of(out)
    names = list(job.recipe.pose.experts)
    tracks: list[tuple[Float, Float]] = []
    for experts, coords, scores in expert_tracks(out, job):
        if experts == names and len(tracks) < MOST:
            tracks.append((coords, scores))
    if not tracks:
        raise DatasetError(f"{out} holds no poses of its experts {', '.join(names)}: build it first")
    statement = f"Agreement of {', '.join(names)} on {len(tracks)} tracks of a build, without annotations."
    try:
        found = fit_agreement([c for c, _ in tracks], [s for _, s in tracks], names, fitted_on=statement)
    except ComponentError as error:
        raise DatasetError(f"{out} cannot be calibrated: {error}") from error
    with staged(to) as partial:
        found.save(partial)
    return {"path": str(to), "tracks": len(tracks), "experts": {name: _means(found, name) for name in names}}


def _is_calibration(path: Path) -> bool:
    try:
        ScoreCalibration.load(path)
    except WeightsError:
        return False
    return True


def _means(calibration: ScoreCalibration, name: str) -> dict[str, float]:
    """Probability by score, mean over joints."""
    curve = calibration.curves[name]
    return {f"{score}": round(float(curve(np.full(13, score)).mean()), 3) for score in (0.1, 0.3, 0.5, 0.7, 0.9)}


def to_text(result: dict[str, Any]) -> str:
    """A table of the probabilities, and how to use the file."""
    lines = ["P(joint is right) at a score of", ""]
    for name, means in result["experts"].items():
        lines.append(f"  {name:<24}" + "   ".join(f"{score}: {chance:.2f}" for score, chance in means.items()))
    use = f"""use  --set 'pose.calibration="{result["path"]}"'"""
    return "\n".join([*lines, "", f"{result['tracks']} tracks -> {result['path']}", use])
