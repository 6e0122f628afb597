"""Kills workers and drivers at random moments, runs two drivers at once, and compares the datasets byte by byte."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from harness import main

SETTINGS = ["--set", "plan.clips_per_unit=2", "--set", "report.gallery=0"]


def command(corpus: Path, out: Path, workers: int) -> list[str]:
    sources = f"kinetics700={corpus / 'kinetics'},cap={corpus / 'cap'}"
    build = [sys.executable, "-m", "dataengine.cli", "build", "posecap", "--overlay", "core", "--sources", sources]
    return [*build, *SETTINGS, "--workers", str(workers), "--out", str(out), "--json"]


def start(corpus: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(corpus, out, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(corpus: Path, out: Path, workers: int) -> dict[str, str]:
    """Run a build to its end; blake3 of every file of the dataset."""
    done = subprocess.run(command(corpus, out, workers), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    manifest = json.loads((out / "dataset" / "MANIFEST.json").read_text())
    return {"fingerprint": manifest["fingerprint"], **{f["path"]: f["blake3"] for f in manifest["files"]}}


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Processes of a driver that run units: the youngest generation below it."""
    try:
        return [
            p
            for p in psutil.Process(driver.pid).children(recursive=True)
            if not p.children() and p.memory_info().rss > 60e6
        ]
    except psutil.NoSuchProcess:
        return []


def torment(corpus: Path, out: Path, kills: int, rng: random.Random) -> dict[str, int]:
    """Run builds into `out`, killing a worker or the driver at random moments, `kills` times in all."""
    count = {"driver": 0, "worker": 0}
    while sum(count.values()) < kills:
        driver = start(corpus, out, 2)
        while sum(count.values()) < kills and driver.poll() is None:
            time.sleep(rng.uniform(1.0, 8.0))
            victims = workers_of(driver)
            if driver.poll() is None and victims and rng.random() < 0.6:
                rng.choice(victims).send_signal(signal.SIGKILL)
                count["worker"] += 1
            elif driver.poll() is None:
                orphans = psutil.Process(driver.pid).children(recursive=True)
                driver.kill()
                driver.wait()
                count["driver"] += 1
                _, alive = psutil.wait_procs(orphans, timeout=20)
                if alive:
                    raise RuntimeError(f"{len(alive)} processes outlived their driver")
        driver.wait()
    return count


def run(quick: bool) -> dict[str, Any]:
    """Kill workers and drivers, run two drivers at once, and compare the bytes."""
    rng, kills = random.Random(0), 4 if quick else 20
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        subprocess.run(
            [sys.executable, "-m", "dataengine.cli", "sample", str(corpus), "--clips", "12"],
            check=True,
            capture_output=True,
        )
        reference = finish(corpus, folder / "reference", 2)
        same = {"one worker": finish(corpus, folder / "one", 1) == reference}
        count = torment(corpus, folder / "chaos", kills, rng)
        same[f"{kills} kills"] = finish(corpus, folder / "chaos", 2) == reference
        pair = [start(corpus, folder / "pair", 1) for _ in range(2)]
        codes = [driver.wait() for driver in pair]
        same["two drivers"] = codes == [0, 0] and finish(corpus, folder / "pair", 1) == reference
    equal = sum(same.values())
    return {
        "name": "chaos",
        "value": equal,
        "unit": "of 3 scenarios with equal bytes",
        "goal": 3,
        "holds": equal == 3,
        "baselines": same,
        "n": kills,
        "spread": count,
        "data": "rendered corpus, 12 clips and planted defects",
    }


if __name__ == "__main__":
    main(run)
