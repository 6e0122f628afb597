"""Kills a build with a student and a lifter at random moments, starts it again each time, and compares the bytes.

The poses of the experts are made once and copied for every life, because other kills are the matter of `chaos.py`.
What is killed then is pseudo-labels, learning, the gate, the student's poses, the lift, and everything behind them.
In the end the dataset, and the weights of every generation, must be those of a build that nobody disturbed.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from chaos import bytes_of
from dask_processes import descendants, kill
from harness import main

SEED = 16
KILLS, QUICK = 20, 4
PATIENCE = 1800.0
"""Seconds after which a run that nobody disturbs counts as hung."""
PLAN = ("sources.sample.clips=12", "plan.clips_per_unit=7", "pose.max_fps=6.0", "filters.length.min=6",
        "report.gallery=1")  # fmt: skip
STUDENT = ('refine.student="movenet"', "refine.epochs=2", "refine.threads=1", "refine.gate.clips=3",
           'lift.use="temporal"')  # fmt: skip


def command(out: Path, *overrides: str) -> list[str]:
    given = [part for one in overrides for part in ("--set", one)]
    arguments = ["build", "posecap", "--sources", "sample", "--out", str(out), "--device", "cpu", "--workers", "1"]
    return [sys.executable, "-m", "dataengine.cli", *arguments, *given]


def build(out: Path, *overrides: str) -> float:
    """Build to the end; the seconds that it took."""
    begun = time.monotonic()
    done = subprocess.run(command(out, *overrides), capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"the build ends with {done.returncode}: {done.stderr.strip()[-500:]}")
    return time.monotonic() - begun


def generations(out: Path) -> dict[str, Any]:
    """Folder and name -> weights, history and verdict of every generation of a build."""
    found = {}
    for path in sorted((out / "work").glob("refine-*/generations/*/round-*/generation.json")):
        row = json.loads(path.read_text())
        name = str(path.relative_to(out / "work").parent)
        found[name] = [row["weights_blake3"], row["history"], row["verdict"]]
    return found


def stage_of(out: Path) -> str:
    """The last pass that a build of a student has finished a unit of."""
    order = ("pseudo_labels", "refine", "repose", "lift", "measure", "curate", "pack", "report")
    done = [name for name in order if any((out / "work").glob(f"{name}-*/commits/*.json"))]
    last = done[-1] if done else "nothing"
    if last == "pseudo_labels" and any((out / "work").glob("refine-*/generations/*/round-*/checkpoint.safetensors")):
        return "an epoch"
    return last


def run(quick: bool) -> dict[str, Any]:
    """Twenty kills (four, --quick)."""
    kills, rng, begun = QUICK if quick else KILLS, random.Random(SEED), time.monotonic()
    when: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder / "posed", *PLAN)
        calm = Path(shutil.copytree(folder / "posed", folder / "calm"))
        whole = build(calm, *PLAN, *STUDENT)
        reference, learned = bytes_of(calm), generations(calm)
        left, lives = kills, 0
        while left:
            lives += 1
            out = Path(shutil.copytree(folder / "posed", folder / f"life-{lives}"))
            for _ in range(min(5, left)):
                driver = subprocess.Popen(
                    command(out, *PLAN, *STUDENT), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                try:
                    driver.wait(rng.uniform(0.1, 0.9) * whole)
                    break  # it was quicker; the next life has its own kills
                except subprocess.TimeoutExpired:
                    orphans = descendants(driver.pid)
                    kill(driver)
                    left -= 1
                    when[f"after {stage_of(out)}"] += 1
                    for orphan in orphans:
                        if orphan.is_running():
                            orphan.wait(60)
            build(out, *PLAN, *STUDENT)
            found = bytes_of(out)
            differ = sorted(n for n in {*found, *reference} if found.get(n) != reference.get(n))
            faults += [f"life {lives}: {len(differ)} files differ: {', '.join(differ[:5])}"] if differ else []
            faults += [f"life {lives}: another generation"] if generations(out) != learned else []
            shutil.rmtree(out)
    published = [row[2]["published"] for row in learned.values()]
    return {
        "name": "refine_kills",
        "value": sum(when.values()),
        "unit": "kills after which dataset and weights have the same bytes" if not faults else "kills; see faults",
        "goal": kills,
        "holds": not faults and sum(when.values()) >= KILLS,
        "baselines": {"kills": dict(when), "lives": lives, "faults": faults, "published": published},
        "n": lives,
        "spread": {"seed": SEED, "seconds": round(time.monotonic() - begun, 1), "undisturbed": round(whole, 1)},
        "data": "12 rendered clips and the planted defects, student movenet lightning, lifter temporal",
    }


if __name__ == "__main__":
    main(run)
