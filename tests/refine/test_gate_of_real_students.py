"""The gate before real networks: MoveNet that learned of rendered people, the same with noise in its weights, and the
same after learning on with left and right exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataengine.core.component import Student
from dataengine.core.errors import DataEngineError
from dataengine.core.skeletons import COMMON, convert, skeleton
from dataengine.core.types import Float, LabelledFrame
from dataengine.io import weights
from dataengine.refine.gate import Margins, Verdict, judge
from dataengine.refine.loop import FitSettings, fit
from dataengine.refine.measures import JudgedClip, taken
from dataengine.refine.pseudo_labels import boxes_around
from dataengine.rendering import render_clip

torch = pytest.importorskip("torch")
from dataengine.refine.anchor_pose import AnchorPoseStudent
from dataengine.refine.movenet import MoveNetStudent

FRAMES = 8


def clip_of(seed: int) -> tuple[Float, Float]:
    """Frames (T, H, W, 3) and joints (T, 13, 2) of one rendered person."""
    made = render_clip(seed, FRAMES, size=(256, 192), condition="clean", num_people=1, fps=8.0)
    return made.frames, convert(made.joints[:, 0], None, "body14", COMMON)[0]


def labelled(seeds: range, exchanged: bool = False) -> list[LabelledFrame]:
    found = []
    for seed in seeds:
        frames, joints = clip_of(seed)
        for t in range(0, FRAMES, 2):
            points = joints[t][None].astype(np.float32)
            shown = points[:, list(skeleton(COMMON).flip)] if exchanged else points
            ones = np.ones((1, 13), np.float32)
            found.append(LabelledFrame(f"{seed}:{t}", frames[t], shown, ones, boxes_around(points), COMMON))
    return found


def learned(student: Student, start: Path | None, folder: Path, exchanged: bool, settings: FitSettings) -> Path:
    path = folder / f"generation{student.suffix}"
    with student.start(checkpoint=start) as session:
        train = labelled(range(40, 45), exchanged)
        held = train[::3] if exchanged else labelled(range(50, 52))  # early stopping is not to protect a spoilt student
        fit(session, train, held, settings, folder, name="test")
        session.save(path)
    return path


def noisy(student: Student, start: Path, folder: Path) -> Path:
    path = folder / f"noisy{student.suffix}"
    with student.start(checkpoint=start) as session, torch.no_grad():
        drawn = torch.Generator().manual_seed(0)
        for group in session.parameters():
            for tensor in group["params"]:
                tensor.mul_(1 + 0.25 * torch.randn(tensor.shape, generator=drawn))
        session.save(path)
    return path


def poses(student: Student, checkpoint: Path, seed: int) -> Float:
    """(1, T, 13, 2) of the person whose pose is nearest to the exact one."""
    frames, joints = clip_of(seed)
    boxes = [np.concatenate([box, np.ones((1, 1), np.float32)], 1) for box in map(boxes_around, joints[:, None])]
    found = np.full((1, FRAMES, 13, 2), np.nan, np.float32)
    expert = student.expert(checkpoint)
    with expert.load() as session:
        for t, some in enumerate(session.predict(frames, boxes if expert.needs_boxes else None)):
            people, _ = convert(some.coords, None, expert.skeleton, COMMON)
            away = np.nanmean(np.linalg.norm(people - joints[t], axis=-1), 1) if len(people) else np.zeros(0)
            found[0, t] = taken(people, np.array([int(away.argmin()) if len(away) else -1]))[0]
    return found


def verdict(student: Student, before: Path, after: Path) -> Verdict:
    clips = []
    for seed in range(60, 64):
        _, joints = clip_of(seed)
        fused = joints[None].astype(np.float32)
        ones = np.ones(fused.shape[:-1], np.float32)
        pair = [poses(student, one, seed) for one in (before, after)]
        clips.append(JudgedClip(f"{seed}", f"{seed}", 8.0, fused, ones, ones > 0, *pair))
    return judge(clips, Margins())


def refused(found: Verdict) -> set[str]:
    """What is not shown to be no worse than the generation before."""
    return {
        one.name for one in found.comparisons if one.against == "before" and one.before is not None and not one.passes
    }


def movenet() -> tuple[Student, FitSettings]:
    try:
        weights.locate("movenet_lightning")
    except DataEngineError as error:
        pytest.skip(str(error))
    return MoveNetStudent(variant="lightning"), FitSettings(epochs=4, batch=6, rate=3e-4, patience=9, threads=1)


def anchor_pose() -> tuple[Student, FitSettings]:
    pytest.importorskip("torchvision")
    return AnchorPoseStudent(losses="full"), FitSettings(epochs=4, batch=6, rate=1e-4, patience=9, threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("made", [movenet, anchor_pose])
def test_noise_and_exchanged_sides_are_refused(made: Callable[[], tuple[Student, FitSettings]], tmp_path: Path) -> None:
    student, settings = made()
    good = learned(student, None, tmp_path / "good", False, settings)
    assert refused(verdict(student, good, good)) == set(), "nothing is worse than itself"
    worse = refused(verdict(student, good, noisy(student, good, tmp_path)))
    assert worse & {"agreement", "missing"}, worse
    long = replace(settings, epochs=8)
    sides = verdict(student, good, learned(student, good, tmp_path / "sides", True, long))
    assert not sides.published and "exchanged" in refused(sides), [one.line() for one in sides.comparisons]
