"""Scaling: wall time of a whole build with one worker over that with two, where experts take most of it.

Rendered clips, their networks on CPU, a local cluster of one or two processes of one thread each; processes start, plan
and pack within the time. Builds with one and two workers alternate, so that a machine that slows down does so for both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import main

GOAL = 1.9


def build(corpus: Path, out: Path, workers: int) -> dict[str, Any]:
    """Build the corpus in processes of its own; seconds, and what the command says of it."""
    sources = f"kinetics700={corpus / 'kinetics'},cap={corpus / 'cap'}"
    command = [sys.executable, "-m", "dataengine.cli", "build", "posecap", "--overlay", "core", "--sources", sources]
    command += ["--set", "plan.clips_per_unit=2", "--set", "report.gallery=0", "--device", "cpu"]
    begun = time.monotonic()
    done = subprocess.run(
        [*command, "--workers", str(workers), "--out", str(out), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return {"seconds": time.monotonic() - begun, "kept": json.loads(done.stdout)["kept"]}


def run(quick: bool) -> dict[str, Any]:
    """Build 128 clips three times with each number of workers (16 clips once, --quick)."""
    clips, repeats = (16, 1) if quick else (128, 3)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        sample = [sys.executable, "-m", "dataengine.cli", "sample", str(corpus), "--clips", str(clips)]
        subprocess.run(sample, check=True, capture_output=True)
        build(corpus, folder / "first", 2)  # compiles and caches what later builds find
        for repeat in range(repeats):
            for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
                seconds[workers].append(build(corpus, folder / f"{repeat}-{workers}", workers)["seconds"])
    ratios = [one / two for one, two in zip(seconds[1], seconds[2])]
    value = statistics.median(ratios)
    return {
        "name": "scaling",
        "value": round(value, 3),
        "unit": "x the clips per second of one worker, with two",
        "goal": GOAL,
        "holds": value >= GOAL,
        "baselines": {f"seconds, {n} workers": [round(s, 2) for s in found] for n, found in seconds.items()},
        "n": clips,
        "spread": {"ratios": [round(r, 3) for r in ratios], "load of the machine before": round(load, 2)},
        "data": f"rendered corpus, {clips} clips and planted defects, three built-in networks and a detector",
    }


if __name__ == "__main__":
    main(run)
