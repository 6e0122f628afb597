"""CPU time of the pass `measure` a clip: reading poses, the filters, the rows of clip, tracks and joints, and writing.

`work_beside_the_filters` leaves out reading and writing: it is what the pass itself works out.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness import main

import dataengine
from dataengine.core.component import Filter
from dataengine.core.types import Sample
from dataengine.passes import measure
from dataengine.passes.job import Job, load_job
from dataengine.passes.unit_pass import Unit
from dataengine.pipeline import plan as plans
from dataengine.pipeline.engine import Engine

GOAL = 1.0


@dataclass
class Clock:
    """CPU seconds of calls by name."""

    spent: dict[str, float] = field(default_factory=dict)

    def timed(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call, and count its CPU time."""
        begun = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.thread_time() - begun


@dataclass
class Timed:
    """A filter whose measure is timed."""

    filter: Filter
    clock: Clock

    def measure(self, sample: Sample) -> float:
        """The filter's value."""
        value: float = self.clock.timed("filters", self.filter.measure, sample)
        return value


@contextmanager
def counted(clock: Clock) -> Iterator[None]:
    """Count the pass's rows, and its reading of exact joints, inside the block."""
    own = {name: getattr(measure, name) for name in ("_row", "read_exact_joints")}
    for name, function in own.items():
        setattr(measure, name, functools.partial(clock.timed, name, function))
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(measure, name, function)


def once(job: Job, units: list[str], folder: Path) -> dict[str, float]:
    """Milliseconds of CPU a clip in one run over all units."""
    clock, num_clips, step = Clock(), 0, job.passes["measure"]
    assert isinstance(step, measure.Measure)
    filters = {name: Timed(each, clock) for name, each in measure._filters(job.recipe).items()}
    for name in units:
        plan, commit = plans.load_unit(job.work, name, 0), job.ledger("measure").read(name)
        assert commit is not None
        clips = [clip for clip in plan.clips() if clip.clip_id in set(commit.kept)]
        unit = Unit(job, name, clips, folder / f"{name}.parquet", plan)
        unit.once("filters", lambda: filters)
        with counted(clock):
            clock.timed("whole", step.process, unit)
        num_clips += len(clips)
    ms = {name: 1e3 * seconds / num_clips for name, seconds in clock.spent.items()}
    work = ms["_row"] - ms["read_exact_joints"]
    return {
        "whole": ms["whole"],
        "filters": ms["filters"],
        "work_beside_the_filters": work - ms["filters"],
        "reading_and_writing": ms["whole"] - work,
        "clips": num_clips,
    }


def run(quick: bool) -> dict[str, Any]:
    """Build the rendered corpus and measure its clips again and again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options: dict[str, Any] = {"overlay": "core", "engine": Engine(serial=True), "overrides": ["report.gallery=0"]}
        dataengine.build("posecap", "sample", folder / "out", limit=8 if quick else None, **options)
        (saved,) = (folder / "out" / "work").glob("job-*.json")
        job = load_job(saved)
        units = list(job.ledger("measure").units())
        once(job, units, folder)
        rounds = [once(job, units, folder) for _ in range(5 if quick else 15)]
    middle = {key: float(np.median([each[key] for each in rounds])) for key in rounds[0]}
    value = middle["work_beside_the_filters"]
    return {
        "name": "measure_speed",
        "value": round(value, 3),
        "unit": "ms of CPU a clip beside the filters",
        "goal": GOAL,
        "holds": value < GOAL,
        "baselines": {key: round(middle[key], 3) for key in ("whole", "filters", "reading_and_writing")},
        "n": round(middle["clips"]),
        "spread": [round(pick(each["work_beside_the_filters"] for each in rounds), 3) for pick in (min, max)],
        "data": f"rendered corpus with exact joints, 3 experts; medians of {len(rounds)} rounds",
    }


if __name__ == "__main__":
    main(run)
