"""Real people: MoveNet lightning before and after it learned from fused poses, in cameras it never saw.

The four synchronised cameras of `multiview.py`. The student `movenet` learns from what the overlay `cpu` fuses
(thunder, efficientpose and multipose) in two of them and in a few other videos; frames of the same two cameras that it
does not learn from decide when it stops. The error is measured in the other two cameras, whose pictures it never saw,
in the boxes of the detector:

* `fused`: distance to where the fused poses of the three other cameras, triangulated, project. The fused poses are what
  the student learned from, so their common faults are no faults here.
* `own`: distance to where the student's own poses of the three other cameras project, as in `multiview.py`: how well
  its views agree, whatever its teachers said.

Where the detector's box cuts an arm off, no pose in that box can be right. So both are told for the boxes around fused
people, too, which the pass `repose` gives to a student: `fused, boxes of repose` and `own, boxes of repose`. The goal
is that of the detector's boxes.

Both before minus after, joint by joint and frame by frame; intervals over runs of ten frames and over joints, drawn
with replacement. OKS over the annotated people of `real_pictures.py`, in their boxes, tells what was forgotten.

What was tried beside these settings is told on the page of students, with its figures: longer training, other crops,
means of weights, a second look in a larger box. On the seen cameras no interval of the mean was above 0.

`student_pictures.py` makes the labels first. Each seed is kept; `--quick` takes one seed and few steps.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import student_pictures
from harness import main
from multiview import SHARED, Array, cameras, triangulated
from real_pictures import in_boxes, pictures
from seeds import seeds
from student_pictures import CAMERAS, VIDEOS, People

from dataengine.core.component import ExpertSession
from dataengine.core.skeletons import BODY12, COMMON, skeleton
from dataengine.core.types import LabelledFrame
from dataengine.refine.loop import FitSettings, fit
from dataengine.refine.movenet import MoveNetStudent

SEEN = ("cam01", "cam03")
"""The cameras that a student learns from; the others are measured in. Settings were chosen the other way round, by what
was learned from cam02 and cam04."""
UNSEEN = [camera for camera in CAMERAS if camera not in SEEN]
STUDENT = MoveNetStudent(variant="lightning")
SETTINGS = FitSettings(epochs=10, batch=16, rate=1e-4, patience=10, threads=1)
RUN, LEARNED, HELD = 20, (1, 15), 16
"""Of every so many frames of a seen camera those from the first to the second are learned from, and those from the
third on decide when learning stops."""
MOST, SURE = 160, 0.4
"""Most people of the other videos, every few of them, and least confidence of the fusion there."""
KINDS = ("fused", "own")
"""What the goal is about."""
WHOLE = "boxes of repose"
BLOCK, DRAWS = 10, 1000
"""Frames of a run, and resamplings, of the intervals."""


def labelled() -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """What is learned from, and what decides when learning stops."""
    train, held = [], []
    for camera in SEEN:
        people = student_pictures.read(camera)
        for frame, number in zip(people.labelled(), people.frame):
            if LEARNED[0] <= number % RUN < LEARNED[1]:
                train.append(frame)
            elif number % RUN >= HELD:
                held.append(frame)
    other = [frame for name in VIDEOS for frame in others(name)]
    return train + other[:: max(1, -(-len(other) // MOST))], held


def others(name: str) -> list[LabelledFrame]:
    """The labelled people of another video."""
    people: People = student_pictures.read(name)
    return [frame for frame, confidence in zip(people.labelled(), people.confidence) if confidence >= SURE]


def seen_by(session: ExpertSession) -> dict[str, Array]:
    """By camera, the body joints (T, 12, 2) that an expert sees in the detector's boxes, NaN without a box."""
    order = skeleton(STUDENT.skeleton).indices(BODY12)
    out = {}
    for camera in CAMERAS:
        frames, pixels, affines = student_pictures.read_crops(camera)
        points = np.stack(session.infer(pixels))[:, order, :2] - 0.5  # type: ignore[attr-defined]
        out[camera] = np.full((student_pictures.FRAMES, len(order), 2), np.nan)
        out[camera][frames] = (points - affines[:, None, :, 2]) / affines[:, None, :1, 0]
    return out


def seen_whole(session: ExpertSession) -> dict[str, Array]:
    """As `seen_by`, in boxes around the fused people."""
    order, out = skeleton(STUDENT.skeleton).indices(BODY12), {}
    for camera in CAMERAS:
        people = student_pictures.read(camera)
        out[camera] = np.full((student_pictures.FRAMES, len(order), 2), np.nan)
        for frame, number, (left, top, scale) in zip(people.labelled(), people.frame, people.affine):
            box = np.concatenate([frame.boxes, np.ones((1, 1), np.float32)], 1)
            points = session.predict(frame.image[None], [box])[0].coords[0, order]
            out[camera][number] = (points + 0.5) * scale + (left, top) - 0.5
    return out


def fused_views() -> dict[str, Array]:
    """By camera, the twelve body joints (T, 12, 2) of the fused poses."""
    order, out = skeleton(COMMON).indices(BODY12), {}
    for camera in CAMERAS:
        people = student_pictures.read(camera)
        out[camera] = np.full((student_pictures.FRAMES, len(order), 2), np.nan)
        points = (people.keypoints + 0.5) * people.affine[:, None, 2:] + people.affine[:, None, :2] - 0.5
        out[camera][people.frame] = points[:, order]
    return out


def errors(views: dict[str, Array], told: dict[str, Array]) -> Array:
    """(T, 24) pixels between what was seen in the unseen cameras and what the three other views told."""
    rig = cameras(SHARED / "videos" / "pose2sim_single" / "Calib.qca.txt")
    out = []
    for camera in UNSEEN:
        points = triangulated([(rig[other], told[other]) for other in CAMERAS if other != camera])
        out.append(np.linalg.norm(views[camera] - rig[camera].project(points), axis=-1))
    return np.concatenate(out, 1)


def oks(session: ExpertSession, layout: str) -> list[float]:
    """OKS of every annotated person in its own box."""
    out = []
    for picture in pictures():
        boxes = np.array([[*person.box, 1.0] for person in picture.people], np.float32)
        found, _ = in_boxes(session.predict(picture.image[None], [boxes])[0], layout, picture.people)
        out += [person.oks(pose) for person, pose in zip(picture.people, found)]
    return out


def measured(checkpoint: Path | None) -> dict[str, Any]:
    """What the expert with these weights sees: errors (T, J) and OKS of each person."""
    expert = STUDENT.expert(checkpoint)
    with expert.load() as session:
        views, whole = seen_by(session), seen_whole(session)
        found = {"oks": np.round(oks(session, expert.skeleton), 4).tolist()}
    fused = fused_views()
    kinds = {"fused": errors(views, fused), "own": errors(views, views)}
    kinds |= {f"fused, {WHOLE}": errors(whole, fused), f"own, {WHOLE}": errors(whole, whole)}
    return found | {kind: np.round(one, 1).tolist() for kind, one in kinds.items()}


def learn(quick: bool, seed: int, folder: Path) -> dict[str, Any]:
    """Let a student learn from the seen cameras, and measure it in the others."""
    train, held = labelled()
    settings = FitSettings(**asdict(SETTINGS) | {"seed": seed} | ({"epochs": 1} if quick else {}))
    checkpoint = folder / "student.onnx"
    with STUDENT.start(seed=seed) as session:
        fitted = fit(session, train, held, settings, folder)
        session.save(checkpoint)
    found = measured(checkpoint)
    shutil.rmtree(folder)
    return found | {"history": fitted.history, "best_epoch": fitted.best_epoch, "frames": [len(train), len(held)]}


def gained(before: Array, after: Array) -> list[float]:
    """95 % interval of the mean of before - after (T, J), over runs of frames and joints drawn with replacement."""
    runs = len(before) // BLOCK
    lost = (before - after)[: runs * BLOCK].reshape(runs, BLOCK, -1)
    rng, draws = np.random.default_rng(0), []
    for _ in range(DRAWS):
        drawn = lost[rng.integers(runs, size=runs)][..., rng.integers(lost.shape[-1], size=lost.shape[-1])]
        draws.append(np.nanmean(drawn))
    return [round(float(v), 2) for v in np.percentile(draws, (2.5, 97.5))]


def compared(before: dict[str, Any], students: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors before and after, their difference with its interval, and OKS; means over seeds."""
    out: dict[str, Any] = {}
    for kind in (*KINDS, *(f"{kind}, {WHOLE}" for kind in KINDS)):
        first, each = np.array(before[kind], float), [np.array(one[kind], float) for one in students]
        mean = np.mean(each, 0)
        out[kind] = {
            "before": summary(first),
            "after": [summary(one) for one in each],
            "gain": round(float(np.nanmean(first - mean)), 2),
            "interval": gained(first, mean),
            "seeds": [gained(first, one) for one in each],
        }
    out["oks"] = {
        "before": round(float(np.mean(before["oks"])), 4),
        "after": [round(float(np.mean(one["oks"])), 4) for one in students],
    }
    out["best_epochs"] = [one["best_epoch"] for one in students]
    return out


def summary(values: Array) -> dict[str, float]:
    """Mean, median and 90th percentile in pixels."""
    median, p90 = np.nanpercentile(values, (50, 90))
    return {
        "mean": round(float(np.nanmean(values)), 2),
        "median": round(float(median), 2),
        "p90": round(float(p90), 2),
    }


def students(quick: bool, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """What students of these seeds see, and how they learned; those that learned before are read."""
    protocol = {
        "student": asdict(STUDENT), "settings": asdict(SETTINGS), "seen": SEEN, "videos": VIDEOS,
        "frames": (RUN, *LEARNED, HELD, MOST, SURE), "quick": quick,
    }  # fmt: skip
    return seeds("student_real", protocol, numbers, functools.partial(learn, quick))


def run(quick: bool) -> dict[str, Any]:
    """Errors of MoveNet lightning in two unseen cameras before and after learning, and OKS; three seeds."""
    found_by = students(quick, range(1 if quick else 3))
    found = compared(measured(None), found_by)
    fell = all(found[kind]["interval"][0] > 0 for kind in KINDS)
    kept = float(np.mean(found["oks"]["after"])) >= found["oks"]["before"]
    return {
        "name": "student_real",
        "value": {kind: found[kind]["gain"] for kind in KINDS} | {"oks": float(np.mean(found["oks"]["after"]))},
        "unit": "px that the error falls in two unseen cameras, mean over joints, frames and seeds; OKS after",
        "goal": f"intervals above 0, and OKS at least {found['oks']['before']}",
        "holds": bool(fell and kept),
        "baselines": {f"lightning {kind}": found[kind]["before"]["mean"] for kind in KINDS}
        | {"lightning oks": found["oks"]["before"]},
        "n": len(found_by),
        "spread": {kind: found[kind]["interval"] for kind in KINDS},
        "data": "pose2sim_single, 4 cameras, 100 frames; other videos; keypoints2d",
        "details": found | {"protocol": found_by[0]["protocol"]},
    }


if __name__ == "__main__":
    main(run)
