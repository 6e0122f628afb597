"""Kills builds with a student and a lifter at random moments, starts them again each time, and compares the bytes.

The poses of the experts are made once and copied for every life, because other kills are the matter of `chaos.py`.
What is killed then is pseudo-labels, learning, the gate, the student's poses, the lift, and everything behind them.
In the end the dataset, and the weights of every generation, must be those of a build that nobody disturbed.

Two corpora: eight drawn videos with the student of the tests (two weights, which pass the gate, two rounds), which
learns in seconds, so that most kills fall into its build; and rendered people with the student `movenet`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos import bytes_of
from dask_processes import descendants, kill
from harness import main

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.golden.make_passes import save_poses
from tests.support import blocks, plugins

SEED = 16
PATIENCE = 1800.0
"""Seconds after which a run that nobody disturbs counts as hung."""
IN_A_LIFE = 5
"""Kills of one life at most."""
RENDERED = ("sources.sample.clips=12", "plan.clips_per_unit=7", "pose.max_fps=6.0", "filters.length.min=6",
            "report.gallery=1")  # fmt: skip
MOVENET = ('refine.student="movenet"', "refine.epochs=2", "refine.threads=1", "refine.gate.clips=3",
           'lift.use="temporal"')  # fmt: skip
DRAWN = ('pose.experts=["bright_block","precomputed"]', "pose.expert_weights={}", 'pose.fusion="consensus"',
         'experts.precomputed.pattern="{stem}"', "plan.clips_per_unit=3", "filters.length.min=8", "report.gallery=1",
         'curate.filters=["length"]')  # fmt: skip
BLOCK = ('refine.student="block_student"', "refine.rate=0.3", "refine.epochs=6", "refine.threads=1",
         "refine.frames=0.5", "refine.weight_decay=0.0", "refine.gate.max_missing=0.5", "refine.gate.min_agreement=0.5",
         "refine.rounds=2",
         'lift.use="temporal"')  # fmt: skip


@dataclass
class Corpus:
    """What is built, and what happened to it.

    Attributes:
        plan: settings of the poses. student: settings of what is killed.
    """

    name: str
    sources: str
    plan: tuple[str, ...]
    student: tuple[str, ...]
    environment: Mapping[str, str]
    when: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lives: int = 0
    undisturbed: float = 0.0

    def command(self, out: Path, student: bool) -> list[str]:
        settings = (*self.plan, *(self.student if student else ()))
        given = [part for one in settings for part in ("--set", one)]
        how = ["--overlay", "core", "--out", str(out), "--device", "cpu", "--workers", "1"]
        return [sys.executable, "-m", "dataengine.cli", "build", "posecap", "--sources", self.sources, *how, *given]

    def build(self, out: Path, student: bool = True) -> float:
        """Build to the end; the seconds that it took."""
        begun = time.monotonic()
        done = subprocess.run(
            self.command(out, student), capture_output=True, text=True, check=False, timeout=PATIENCE,
            env=dict(self.environment),
        )  # fmt: skip
        if done.returncode not in (0, 3):
            raise RuntimeError(f"the build ends with {done.returncode}: {done.stderr.strip()[-500:]}")
        return time.monotonic() - begun

    def torment(self, folder: Path, kills: int, rng: random.Random) -> dict[str, Any]:
        """Kill so often, in lives of some kills each; gives what was learned without them."""
        self.build(folder / "posed", student=False)
        calm = Path(shutil.copytree(folder / "posed", folder / "calm"))
        self.undisturbed = self.build(calm)
        reference, learned = bytes_of(calm), generations(calm)
        while sum(self.when.values()) < kills:
            self.lives += 1
            out = Path(shutil.copytree(folder / "posed", folder / f"life-{self.lives}"))
            for _ in range(min(IN_A_LIFE, kills - sum(self.when.values()))):
                if not self._killed(out, rng.uniform(0.1, 0.95) * self.undisturbed):
                    break  # it was quicker; the next life has its own kills
            self.build(out)
            found = bytes_of(out)
            differ = sorted(n for n in {*found, *reference} if found.get(n) != reference.get(n))
            if differ:
                self.faults.append(f"life {self.lives}: {len(differ)} files differ: {', '.join(differ[:5])}")
            if generations(out) != learned:
                self.faults.append(f"life {self.lives}: another generation")
            shutil.rmtree(out)
        return learned

    def _killed(self, out: Path, seconds: float) -> bool:
        """Start a build and kill it after so many seconds; False where it was done by then."""
        driver = subprocess.Popen(
            self.command(out, True), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(self.environment)
        )
        try:
            driver.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            orphans = descendants(driver.pid)
            kill(driver)
        self.when[f"after {stage_of(out)}"] += 1
        for orphan in orphans:
            if orphan.is_running():
                orphan.wait(60)
        return True


def generations(out: Path) -> dict[str, Any]:
    """Folder of a round -> weights, history and verdict of its generation."""
    found = {}
    for path in sorted((out / "work").glob("refine-*/generations/*/round-*/generation.json")):
        row = json.loads(path.read_text())
        name = str(path.relative_to(out / "work").parent)
        verdicts = [json.loads(one.read_text())["verdict"] for one in sorted(path.parent.glob("verdict-*.json"))]
        found[name] = [row["weights_blake3"], row["history"], *verdicts]
    return found


def stage_of(out: Path) -> str:
    """What a build has finished last."""
    work = out / "work"
    order = ("pseudo_labels", "refine", "repose", "lift", "measure", "curate", "pack", "report")
    done = [name for name in order if any(work.glob(f"{name}-*/commits/*.json"))]
    # the build without a student has measured and packed before
    done = [name for name in done if order.index(name) <= 3 or "repose" in done]
    last = done[-1] if done else "poses"
    if last == "pseudo_labels" and any(work.glob("refine-*/generations/*/round-*/generation.json")):
        return "a round"
    if last == "pseudo_labels" and any(work.glob("refine-*/generations/*/round-*/checkpoint.safetensors")):
        return "an epoch"
    return last


def drawn(folder: Path) -> Corpus:
    """The drawn videos, and the package outside with its student on the path of the builds."""
    site = folder / "site" / "outside-1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    shutil.copy(plugins.OUTSIDE / "entry_points.txt", site / "entry_points.txt")
    path = [str(folder / "site"), str(plugins.OUTSIDE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path).rstrip(os.pathsep)}
    sys.path[:0] = path[:2]
    from dataengine.core import registry

    registry.refresh()
    videos = blocks.write_corpus(folder / "videos")
    save_poses(folder / "saved", videos)
    plan = (*DRAWN, f'experts.precomputed.folder="{folder / "saved"}"')
    return Corpus("drawn", f"blocks={videos}", plan, BLOCK, environment)


def run(quick: bool) -> dict[str, Any]:
    """Twenty kills of the build of drawn videos and five of that of rendered people (none of the latter, --quick)."""
    goals = (20, 0) if quick else (20, 5)
    rng, begun = random.Random(SEED), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        corpora = [drawn(Path(name) / "drawn")]
        corpora.append(Corpus("rendered", "sample", RENDERED, MOVENET, dict(os.environ)))
        learned = {
            one.name: one.torment(Path(name) / f"builds-{one.name}", goal, rng)
            for one, goal in zip(corpora, goals)
            if goal
        }
    kills = sum(sum(one.when.values()) for one in corpora)
    faults = [f"{one.name}: {fault}" for one in corpora for fault in one.faults]
    published = {name: [row[2]["reasons"] or "published" for row in found.values()] for name, found in learned.items()}
    return {
        "name": "refine_kills",
        "value": kills,
        "unit": "kills after which dataset and weights have the same bytes" if not faults else "kills; see faults",
        "goal": sum(goals),
        "holds": not faults and kills >= sum(goals) and not quick,
        "baselines": {
            "kills": {one.name: dict(one.when) for one in corpora},
            "faults": faults,
            "gate": published,
            "undisturbed_seconds": {one.name: round(one.undisturbed, 1) for one in corpora},
        },
        "n": sum(one.lives for one in corpora),
        "spread": {"seed": SEED, "seconds": round(time.monotonic() - begun, 1)},
        "data": "8 drawn videos with a student of two weights"
        + ("" if quick else ", rendered people with movenet lightning")
        + "; lifter temporal",
    }


if __name__ == "__main__":
    main(run)
