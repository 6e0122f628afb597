"""One configuration with several seeds: as many runs, and the mean of each figure with its interval over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.core.errors import TrainingError
from dataengine.core.failures import in_one_line
from dataengine.io.storage import write_durably
from training.config import Config
from training.distributed import launched
from training.engine.loop import ProgressCallback
from training.evaluate.probes import over_runs
from training.evaluate.result import Result, plain
from training.runs.run import check_no_run
from training.runs.train import train


@dataclass(frozen=True)
class SeedsResult:
    """Runs of several seeds.

    Attributes:
        folder: the runs lie in its folders seedN.
        seeds: of the runs.
        results: the means over the runs.
    """

    folder: Path
    seeds: Sequence[int]
    results: Sequence[Result]

    @property
    def path(self) -> Path:
        """seeds.json in the folder."""
        return self.folder / "seeds.json"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        runs = [str(self.folder / f"seed{seed}") for seed in self.seeds]
        return {"runs": runs, "results": [result.as_dict() for result in self.results]}


def train_seeds(
    config: Config, folder: Path, count: int, progress: ProgressCallback | None = None, device: str = "auto"
) -> SeedsResult:
    """Train `count` runs with the seeds from `run.seed` on; each goes on where it was stopped.

    Raises:
        TrainingError: several devices are asked for; and as `train`.
    """
    if config.run.devices != 1 or launched():
        raise TrainingError(
            f"several seeds are trained one after the other on one device; run.devices is {config.run.devices}, "
            "or torchrun started this"
        )
    check_no_run(folder)
    seeds = range(config.run.seed, config.run.seed + count)
    found: dict[tuple[str, str], list[Result]] = {}
    for seed in seeds:
        own = config.model_copy(update={"run": config.run.model_copy(update={"seed": seed})})
        place = folder / f"seed{seed}"
        with in_one_line(place):
            for result in train(own, place, progress, device=device).results:
                found.setdefault((result.name, result.metric), []).append(result)
    means = SeedsResult(folder, seeds, [over_runs(same) for same in found.values() if len(same) == count])
    write_durably(means.path, (json.dumps(plain(means.to_dict()), indent=1) + "\n").encode())
    return means
