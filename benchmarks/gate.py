"""Students that are worse on purpose before the gate: real networks on rendered people.

Each student learns from the fused poses of rendered clips (`learned`). Then it is spoilt in two ways: its weights are
multiplied by noise (`noise`), and it goes on learning with left and right of every label exchanged (`sides`). The gate
compares each with what was learned, on clips that nothing was learned from, as it compares a second round with the
first:

* `against the last generation`: the comparisons that refuse, of those with what was learned. What was learned itself is
  the control: nothing of it is worse than itself.
* `verdict`: the whole gate, with the exact joints of the rendered clips, and `without truth`, as it would be of real
  people.

The gate works where the control is refused by nothing that compares generations, and both others are refused by such
comparisons: `sides` by the exchanged pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from harness import main

import dataengine
from dataengine.core.component import Student
from dataengine.core.progress import Progress
from dataengine.core.skeletons import COMMON, skeleton
from dataengine.core.types import LabelledFrame
from dataengine.inspect.build import job_of
from dataengine.passes.held_out import HeldOut
from dataengine.passes.job import Job
from dataengine.passes.refine import Refine, Rounds
from dataengine.passes.student_poses import open_student
from dataengine.pipeline.ledger import joined_inputs
from dataengine.pipeline.task import Task
from dataengine.refine.gate import Margins, Verdict, judge
from dataengine.refine.loop import FitSettings, fit
from dataengine.refine.pseudo_labels import LabelledFrames, Thresholds

CLIPS = ("sources.sample.clips=16", "plan.clips_per_unit=7", "pose.max_fps=6.0", "filters.length.min=6",
         "report.gallery=0", "refine.validation=0.35", "refine.threads=1", "refine.frames=0.5")  # fmt: skip
NOTHING = "refine.min_joints=14"
"""So that the build samples frames and learns nothing: learning is the matter of this script."""
OPTIONS = {"anchor_pose": ['students.anchor_pose.losses="full"']}
"""With the loss of the paper the joints of a class stay where they are, and sides are hardly exchanged by learning."""
NOISE = 0.1
"""Standard deviation of the factors of `noise`, around 1."""
LEARN = {
    "movenet": FitSettings(epochs=6, batch=8, rate=3e-4, patience=9, threads=1),
    "anchor_pose": FitSettings(epochs=4, batch=6, rate=1e-4, patience=9, threads=1),
}


@dataclass(frozen=True)
class Exchanged(Sequence[LabelledFrame]):
    """Labelled frames with left and right of every person exchanged."""

    frames: Sequence[LabelledFrame]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, number: Any) -> Any:
        one, order = self.frames[number], list(skeleton(COMMON).flip)
        return replace(one, keypoints=one.keypoints[:, order], scores=one.scores[:, order])


class Bench:
    """One student, and the clips that it is judged on."""

    def __init__(self, out: Path, name: str, settings: FitSettings) -> None:
        self.job: Job = job_of(out)
        ids = tuple(dataengine.open(out).clips.collect()["clip_id"])
        self.rounds = Rounds(
            self.job,
            cast(Refine, self.job.passes["refine"]),
            Task("all", ids, joined_inputs("0" * 64, name.ljust(64, "0"))),
        )
        self.rounds.limits = Thresholds()
        self.student: Student = self.job.recipe.student
        self.folder, self.settings = out / "bench", settings
        train = [clip for clip in self.rounds.clips if clip.clip_id not in self.rounds.held]
        held = [clip for clip in self.rounds.clips if clip.clip_id in self.rounds.held]
        self.train, self.held = (LabelledFrames(clips, self.rounds.limits) for clips in (train, held))

    def learned(self, name: str, start: Path | None, change: Callable[[Any], Any] = lambda frames: frames) -> Path:
        """Weights after learning from changed labels."""
        path = self.folder / f"{name}{self.student.suffix}"
        with self.student.start(checkpoint=start) as session:
            # early stopping is not to protect a student that is spoilt on purpose
            held = self.held if start is None else change(self.train)
            fit(session, change(self.train), held, self.settings, self.folder / name, Progress(), name)
            session.save(path)
        return path

    def noisy(self, start: Path) -> Path:
        """Weights times random factors."""
        import torch

        path = self.folder / f"noise{self.student.suffix}"
        with self.student.start(checkpoint=start) as session, torch.no_grad():
            drawn = torch.Generator().manual_seed(0)
            for group in session.parameters():
                for tensor in group["params"]:
                    tensor.mul_(1 + NOISE * torch.randn(tensor.shape, generator=drawn))
            session.save(path)
        return path

    def judged(self, before: Path, after: Path) -> tuple[Verdict, Verdict]:
        """The verdict, and that without exact joints."""
        held = HeldOut(self.job, "pose", self.rounds.held, self.rounds.rows, self.rounds.limits, "cpu")
        recipe = self.job.recipe
        with open_student(recipe, "cpu", before) as old, open_student(recipe, "cpu", after) as new:
            clips = [clip for name in held.chosen if (clip := held.clip(name, old, new)) is not None]
        blind = [replace(clip, exact=None, exact_heads=None) for clip in clips]
        return judge(clips, Margins()), judge(blind, Margins())


def tried(out: Path, name: str, settings: FitSettings) -> dict[str, Any]:
    """What the gate says of one student, and of the two that were spoilt."""
    bench = Bench(out, name, settings)
    good = bench.learned("learned", None)
    made = {"learned": good, "noise": bench.noisy(good), "sides": bench.learned("sides", good, Exchanged)}
    found: dict[str, Any] = {"frames": len(bench.train), "clips": len(bench.rounds.held)}
    for kind, path in made.items():
        verdict, blind = bench.judged(good, path)
        values = {f"{one.name} ({one.against})": [one.before, one.after] for one in verdict.comparisons}
        found[kind] = {
            "against the last generation": sorted(
                {one.name for one in verdict.comparisons if one.against == "before" and one.before is not None
                 and not one.passes and one.name not in ("jitter", "flips")}
            ),
            "verdict": verdict.reasons,
            "without truth": blind.reasons,
            "values": {key: [None if v is None else round(v, 4) for v in pair] for key, pair in values.items()},
        }  # fmt: skip
    return found


def run(quick: bool) -> dict[str, Any]:
    """Every student; MoveNet alone, and fewer epochs, with --quick."""
    students = {"movenet": replace(LEARN["movenet"], epochs=2)} if quick else LEARN
    found = {}
    for name, settings in students.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            overrides = [*CLIPS, NOTHING, *OPTIONS.get(name, ()), f'refine.student="{name}"']
            dataengine.build("posecap", "sample", out, overlay="core", overrides=overrides, device="cpu")
            found[name] = tried(out, name, settings)
    refused = {
        name: {kind: row[kind]["against the last generation"] for kind in ("learned", "noise", "sides")}
        for name, row in found.items()
    }
    holds = all(not r["learned"] and r["noise"] and "exchanged" in r["sides"] for r in refused.values())
    return {
        "name": "gate",
        "value": sum(bool(r["noise"]) + bool(r["sides"]) for r in refused.values()),
        "unit": "students worse on purpose that are refused",
        "goal": 2 * len(students),
        "holds": holds and not quick,
        "baselines": found,
        "n": int(np.sum([row["clips"] for row in found.values()])),
        "spread": {"noise": NOISE},
        "data": "rendered people of the built-in source; students " + ", ".join(students),
    }


if __name__ == "__main__":
    main(run)
