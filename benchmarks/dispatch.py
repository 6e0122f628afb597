"""Dispatch: tasks that do nothing through the real Dispatcher and a real local cluster.

Milliseconds for each unit, and whether the memory of the driver (which holds the scheduler of a local cluster) stays
flat from the first tenth of the tasks to the last.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

from harness import main

from dataengine.pipeline.engine import Engine
from dataengine.pipeline.task import Receipt, Task

GOAL_MS, GOAL_GROWTH_MIB = 10.0, 64.0
CLIPS = 16


def nothing(name: str, task: Task) -> Receipt:
    """A task that does nothing."""
    del name
    return Receipt(task.key, len(task.clips), len(task.clips), 0.0, task.inputs, f"{task.key}.tar", "0" * 64)


def resident_mib() -> float:
    """Memory of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run(quick: bool) -> dict[str, Any]:
    """Run 100,000 units that do nothing (5,000 with --quick)."""
    count, workers = 5_000 if quick else 100_000, os.cpu_count() or 1
    curve: list[float] = []
    marks: list[float] = []
    done = [0]

    def receive(receipt: Receipt) -> None:
        del receipt
        done[0] += 1
        if done[0] % (count // 20) == 0:
            curve.append(round(resident_mib(), 1))
            marks.append(time.perf_counter())

    tasks = (
        Task(f"u{n:06d}", tuple(f"kinetics700-{n * CLIPS + c:011x}-0-10" for c in range(CLIPS)), f"{n:064x}")
        for n in range(count)
    )
    with Engine(workers=workers).open() as dispatcher:
        dispatcher.run(nothing, ("nothing",), tasks, receive)
    assert done[0] == count, f"{done[0]} receipts of {count} tasks"
    # the first twentieth starts workers and imports
    each = [1e3 * (b - a) / (count // 20) for a, b in itertools.pairwise(marks)]
    value, growth = sum(each) / len(each), curve[-1] - curve[1]
    return {
        "name": "dispatch",
        "value": round(value, 2),
        "unit": f"ms a unit, {count:,} units that do nothing on {workers} local workers",
        "goal": f"<= {GOAL_MS:g} ms a unit, the driver's memory growing by <= {GOAL_GROWTH_MIB:g} MiB",
        "holds": value <= GOAL_MS and growth <= GOAL_GROWTH_MIB,
        "n": count,
        "spread": [round(min(each), 2), round(max(each), 2)],
        "baselines": {"growth_mib": round(growth, 1), "first_mib": curve[0], "last_mib": curve[-1]},
        "details": {"resident_mib": curve},
        "data": f"tasks of {CLIPS} clip ids",
    }


if __name__ == "__main__":
    main(run)
