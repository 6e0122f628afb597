"""Real people in pictures: every expert alone, pairs, and every fusion, against annotated joints.

31 annotated people of twelve pictures (COCO, MPII, PoseTrack). Two tasks: inside the annotated boxes, and whole
pictures, where a person that is not found counts 0. OKS as in the COCO keypoint task, over the joints of the common
layout that are annotated (the head point of MPII is no nose and is left out); PCK@a: joints within a times the longer
side of the annotated box; PCKh@0.5: within half a head, of the people whose head is annotated (MPII, PoseTrack).

Whatever is chosen or fitted is chosen and fitted on one half of the pictures and reported on the other, both ways: the
score calibration, the best member, and the fusion. The calibration that ships was fitted without these pictures.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from harness import main
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

import dataengine
from dataengine.core import registry
from dataengine.core.component import Expert
from dataengine.core.skeletons import COMMON, convert, skeleton
from dataengine.core.types import Poses
from dataengine.fusion.observations import typical_scale
from dataengine.fusion.score_calibration import ScoreCalibration, built_in, fit, fit_agreement

Array = NDArray[Any]
SHARED = Path(os.environ.get("DATAENGINE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "thunder": ("movenet", {"variant": "thunder"}),
    "efficientpose": ("efficientpose", {}),
    "multipose": ("movenet_multipose", {"size": 384}),
    "lightning": ("movenet", {"variant": "lightning"}),
    "mediapipe": ("mediapipe", {}),
}
"""Registered name and options of each expert."""
OVERLAY = ("thunder", "efficientpose", "multipose")
"""The experts of the overlay `cpu`."""
DETECTOR: tuple[str, dict[str, Any]] = ("nanodet_multipose", {"max_people": 60})
"""Detector of whole pictures, and its options: pictures of crowds show more than its usual number of people."""
FUSIONS: dict[str, dict[str, Any]] = {
    "consensus": {"method": "consensus"},
    "ssta": {"method": "ssta"},
    "ssta, scores": {"method": "ssta", "score_power": 1.0},
    "best": {"method": "best"},
    "mean_shift": {"method": "mean_shift"},
    "viterbi_path": {"method": "viterbi_path"},
    "spline": {"method": "spline"},
    "median": {"method": "median"},
    "mean": {"method": "mean"},
}
DEFAULT = "consensus"
CALIBRATED = ("consensus", "best", "ssta, scores")
"""Fusions that are to be no worse than their best member."""
SIGMAS = np.array([0.026, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089])
"""Constants of the COCO keypoint task in the order of body13."""
FILLED = 0.53
"""Share of the annotated box that a person fills, where no area is annotated (as for PoseTrack)."""
FOUND = 0.5
"""Least OKS of a person that counts as found."""


@dataclass(frozen=True)
class Person:
    """An annotated person: joints (13, 2), labelled (13,), area in pixels^2, box xyxy, head length in pixels or NaN."""

    joints: Array
    labelled: Array
    area: float
    box: Array
    head: float

    def oks(self, pose: Array) -> float:
        """OKS of a pose (13, 2); joints that it lacks count 0."""
        squared = ((pose - self.joints) ** 2).sum(-1)
        near = np.nan_to_num(np.exp(-squared / (2 * self.area * (2 * SIGMAS) ** 2)))
        return float(near[self.labelled].mean())

    def hits(self, pose: Array) -> list[float]:
        """Joints within 0.1 and 0.2 of the longer side of the box, and within half a head, and how many were asked."""
        away = np.nan_to_num(np.linalg.norm(pose - self.joints, axis=-1), nan=np.inf)[self.labelled]
        side, headed = max(self.box[2:] - self.box[:2]), np.isfinite(self.head)
        near = [float((away <= reach).sum()) for reach in (0.1 * side, 0.2 * side, 0.5 * self.head)]
        return [*near, float(len(away)), float(len(away) * headed)]

    @property
    def scale(self) -> float:
        """Head-neck length in pixels: what the head shows or what the trunk does, whichever is less foreshortened."""
        seen = np.where(self.labelled[:, None], self.joints, np.nan)[None, None]
        headless = np.where(np.arange(13)[:, None] > 0, seen, np.nan)
        return max(typical_scale(seen, COMMON), typical_scale(headless, COMMON))


@dataclass(frozen=True)
class Picture:
    """A picture (H, W, 3) and its annotated people."""

    name: str
    image: Array
    people: tuple[Person, ...]


def _read(path: Path) -> Array:
    with av.open(str(path)) as file:
        return np.asarray(next(file.decode(video=0)).to_ndarray(format="rgb24"))


def _person(points: Array, names: Sequence[str], box: Array, area: float | None, head: float) -> Person:
    """A person from annotated points (V, 3) x, y, flag; `names` of the points."""
    order = [names.index(joint) if joint in names else -1 for joint in skeleton(COMMON).joints]
    known = np.array([n >= 0 and points[n, 2] > 0 for n in order])
    joints = np.where(known[:, None], points[order, :2], np.nan)
    return Person(joints, known, area or FILLED * float(np.prod(box[2:] - box[:2])), box, head)


def _around(points: Array) -> Array:
    """A box around joints with a twelfth of its sides as margin."""
    low, high = points.min(0), points.max(0)
    return np.concatenate([low - (high - low) / 12, high + (high - low) / 12])


def pictures(data: Path = SHARED / "keypoints2d") -> list[Picture]:
    """The twelve pictures with the people whose joints are annotated."""
    out = []
    coco, track = (
        json.loads((data / name).read_text())
        for name in ("coco/test_coco.json", "posetrack18/annotations/test_posetrack18_val.json")
    )
    for content, folder in ((coco, data / "coco"), (track, data / "posetrack18")):
        names = content["categories"][0]["keypoints"]
        for image in content["images"]:
            found = []
            for one in content["annotations"]:
                if one["image_id"] != image["id"] or not one["num_keypoints"]:
                    continue
                x, y, w, h = one["bbox"]
                size = 0.6 * float(np.hypot(*one["bbox_head"][2:])) if "bbox_head" in one else np.nan
                points = np.array(one["keypoints"], float).reshape(-1, 3)
                found.append(_person(points, names, np.array([x, y, x + w, y + h]), one.get("area"), size))
            if found:
                out.append(Picture(image["file_name"], _read(folder / image["file_name"]), tuple(found)))
    for one in json.loads((data / "mpii" / "test_mpii.json").read_text()):
        joints, seen = np.array(one["joints"], float), np.array(one["joints_vis"]) > 0
        names = list(skeleton("mpii16").joints)
        head = float(np.linalg.norm(joints[names.index("head_top")] - joints[names.index("upper_neck")]))
        person = _person(np.column_stack([joints, seen]), names, _around(joints[seen]), None, head)
        out.append(Picture(one["image"], _read(data / "mpii" / one["image"]), (person,)))
    return out


def halves(every: Sequence[Picture]) -> Array:
    """(N,) 0 or 1: pictures by name, each to the half with fewer people so far."""
    half, filled = np.zeros(len(every), int), [0, 0]
    for n in sorted(range(len(every)), key=lambda n: (-len(every[n].people), every[n].name)):
        half[n] = int(filled[1] < filled[0])
        filled[half[n]] += len(every[n].people)
    return half


@dataclass(frozen=True)
class Observed:
    """One annotated person as the experts see it: coords (E, 1, 13, 2) and own scores (E, 1, 13)."""

    coords: Array
    scores: Array


def _common(poses: Poses, layout: str) -> tuple[Array, Array]:
    return convert(poses.coords, poses.scores, layout, COMMON)


def _overlap(box: Array, other: Array) -> float:
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:4], other[2:4])
    both = float(np.prod(np.maximum(high - low, 0)))
    return both / (float(np.prod(box[2:4] - box[:2])) + float(np.prod(other[2:4] - other[:2])) - both)


def in_boxes(poses: Poses, layout: str, people: Sequence[Person]) -> tuple[Array, Array]:
    """Poses (P, 13, 2) and scores (P, 13) of an expert: to each annotated box the person whose box overlaps it, by half
    or more. That is the box itself for top-down experts."""
    coords, scores = _common(poses, layout)
    shared = np.array([[_overlap(p.box, box) for box in poses.boxes] for p in people]).reshape(len(people), len(poses))
    out, rated = np.full((len(people), 13, 2), np.nan), np.zeros((len(people), 13))
    for p, k in zip(*linear_sum_assignment(-shared)):
        if shared[p, k] >= 0.5:
            out[p], rated[p] = coords[k], scores[k]
    return out, rated


def observe(every: Sequence[Picture], names: Sequence[str]) -> tuple[list[list[Observed]], list[dict[str, Any]]]:
    """What the experts see of each picture.

    Returns:
        Per picture the annotated people, seen inside the annotated boxes; and per picture the people found by the
        detector and the experts of each way (see `ways`): poses before fusion, as tracks.
    """
    experts: dict[str, Expert] = {n: registry.create("experts", EXPERTS[n][0], EXPERTS[n][1]) for n in names}
    detector, tracker = registry.create("detectors", *DETECTOR).load(), registry.create("trackers", "oks")
    sessions = {n: expert.load() for n, expert in experts.items()}
    given: list[list[Observed]] = []
    own: list[dict[str, Any]] = []
    for picture in every:
        boxes = np.array([[*p.box, 1.0] for p in picture.people], np.float32)
        seen = []
        for name, expert in experts.items():
            sessions[name].start_clip()
            poses = sessions[name].predict(picture.image[None], [boxes] if expert.needs_boxes else None)[0]
            seen.append(in_boxes(poses, expert.skeleton, picture.people))
        coords, scores = (np.stack(parts) for parts in zip(*seen))
        given.append([Observed(coords[:, p, None], scores[:, p, None]) for p in range(len(picture.people))])
        found = detector.detect(picture.image[None])
        poses_of = {}
        for name, expert in experts.items():
            sessions[name].start_clip()
            poses_of[name] = sessions[name].predict(picture.image[None], found if expert.needs_boxes else None)[0]
        own.append({})
        for way in ways(names):
            layouts = [experts[n].skeleton for n in way]
            own[-1]["+".join(way)] = tracker.track([[poses_of[n] for n in way]], np.array([0.0]), layouts)
    for session in (detector, *sessions.values()):
        session.close()
    return given, own


def ways(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Experts that look at whole pictures together: each alone, and those of the overlay, with mediapipe where it is
    at hand."""
    together = [OVERLAY] if set(OVERLAY) <= set(names) else []
    further = [(*OVERLAY, "mediapipe")] if together and "mediapipe" in names else []
    return [*((n,) for n in names), *together, *further]


CALIBRATIONS = ("none", "shipped", "labels", "agreement")
"""None; the one that ships; and two fitted on the other half: to its annotations, and to how experts agree."""


@dataclass(frozen=True)
class Study:
    """Everything that was observed, and how people divide into halves.

    Attributes:
        names: of the experts, in the order of the observations.
        people: (N,) annotated people of all pictures, `picture` and `half` (N,) of each.
        given: (N,) what experts see inside the annotated boxes.
        own: per picture the tracks of each way.
    """

    names: tuple[str, ...]
    people: list[Person]
    picture: Array
    half: Array
    given: list[Observed]
    own: list[dict[str, Any]]

    @classmethod
    def of(cls, every: Sequence[Picture], names: Sequence[str]) -> Study:
        given, own = observe(every, names)
        picture = np.repeat(np.arange(len(every)), [len(p.people) for p in every])
        people = [person for p in every for person in p.people]
        return cls(tuple(names), people, picture, halves(every)[picture], [o for g in given for o in g], own)

    def calibration(self, kind: str, half: int) -> ScoreCalibration:
        """A calibration for the people of `half`, fitted without them."""
        if kind == "none":
            return ScoreCalibration()
        if kind == "shipped":
            made = {n: registry.create("experts", EXPERTS[n][0], EXPERTS[n][1]).score_calibration for n in self.names}
            return ScoreCalibration({n: built_in().curves[c] for n, c in made.items() if c in built_in().curves})
        rest = [n for n in range(len(self.people)) if self.half[n] != half]
        coords, scores = [self.given[n].coords for n in rest], [self.given[n].scores for n in rest]
        if kind == "agreement":
            return fit_agreement(coords, scores, self.names)
        truth, known = ([getattr(self.people[n], a)[None] for n in rest] for a in ("joints", "labelled"))
        return fit(coords, scores, truth, known, [self.people[n].scale for n in rest], self.names)

    def pose(self, observed: Observed, way: Sequence[str], fusion: str, calibration: ScoreCalibration) -> Array:
        """The fused pose (13, 2) of some experts; that of a single expert is as it comes."""
        rows = [self.names.index(n) for n in way]
        if len(rows) == 1:
            return np.asarray(observed.coords[rows[0], 0])
        coords, scores = calibration.apply(observed.coords[rows], observed.scores[rows], COMMON, way)
        return np.asarray(dataengine.fuse(coords, scores, skeleton=COMMON, **FUSIONS[fusion]).coords[0])

    def in_boxes(self, way: Sequence[str], fusion: str, kind: str) -> Array:
        """(N, 6) OKS and what `Person.hits` says of every person inside its annotated box."""
        known = [self.calibration(kind, half) for half in (0, 1)]
        rows = []
        for person, observed, half in zip(self.people, self.given, self.half):
            pose = self.pose(observed, way, fusion, known[half])
            rows.append([person.oks(pose), *person.hits(pose)])
        return np.array(rows)

    def whole(self, way: Sequence[str], fusion: str, kind: str) -> Array:
        """(N, 6) the same of whole pictures: the found people that fit the annotated ones best, one to one."""
        known = [self.calibration(kind, half) for half in (0, 1)]
        rows = np.zeros((len(self.people), 6))
        for number, tracks in enumerate(self.own):
            mine = np.flatnonzero(self.picture == number)
            poses = []
            for track in tracks["+".join(way)]:
                wide = np.full((len(self.names), 1, 13, 2), np.nan), np.zeros((len(self.names), 1, 13))
                for e, name in enumerate(way):
                    wide[0][self.names.index(name)], wide[1][self.names.index(name)] = track.coords[e], track.scores[e]
                poses.append(self.pose(Observed(*wide), way, fusion, known[self.half[mine[0]]]))
            nobody = np.full((13, 2), np.nan)
            similar = np.array([[self.people[n].oks(pose) for pose in poses] for n in mine]).reshape(len(mine), -1)
            of = dict(zip(*linear_sum_assignment(-similar)))
            for k, n in enumerate(mine):
                pose = poses[of[k]] if k in of and similar[k, of[k]] > 0 else nobody
                rows[n] = self.people[n].oks(pose), *self.people[n].hits(pose)
        return rows

    def scores(self, kind: str) -> dict[str, list[float]]:
        """Of every expert the mean score, the share of joints that are right, and the logarithmic loss per joint."""
        known = [self.calibration(kind, half) for half in (0, 1)]
        pairs: dict[str, list[tuple[float, bool]]] = {n: [] for n in self.names}
        for person, observed, half in zip(self.people, self.given, self.half):
            scores = known[half].apply(observed.coords, observed.scores, COMMON, self.names)[1]
            for e, name in enumerate(self.names):
                away = np.linalg.norm(observed.coords[e, 0] - person.joints, axis=-1)
                seen = np.isfinite(away)
                pairs[name] += list(zip(scores[e, 0][seen].tolist(), (away[seen] <= 0.5 * person.scale).tolist()))
        out = {}
        for name, found in pairs.items():
            score, right = np.array(found).reshape(-1, 2).T
            chance = np.clip(score, 0.01, 0.99)
            loss = -np.log(np.where(right > 0, chance, 1 - chance)).mean()
            out[name] = [round(float(v), 3) for v in (score.mean(), right.mean(), loss)]
        return out


def row(found: Array) -> dict[str, float]:
    """Means of (N, 6): OKS, PCK@0.1, PCK@0.2 and PCKh@0.5 in per cent, and the number of people found."""
    right = 100 * found[:, 1:4].sum(0) / [found[:, 4].sum(), found[:, 4].sum(), found[:, 5].sum()]
    shares = dict(zip(("pck_0.1", "pck_0.2", "pckh_0.5"), (round(float(v), 1) for v in right)))
    return {"oks": round(float(found[:, 0].mean()), 4), **shares, "found": int((found[:, 0] >= FOUND).sum())}


def paired(fused: Array, single: Array) -> dict[str, Any]:
    """Mean difference of OKS over people, with its 95 % interval over people drawn with replacement."""
    gain = fused[:, 0] - single[:, 0]
    draws = np.random.default_rng(0).integers(len(gain), size=(4000, len(gain)))
    low, high = np.percentile(gain[draws].mean(1), (2.5, 97.5))
    return {"gain": round(float(gain.mean()), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def chosen(study: Study, rows: dict[str, Array]) -> tuple[Array, list[str]]:
    """Rows of the candidate that is best on the other half, and which that was for each half."""
    best = [max(rows, key=lambda name: rows[name][study.half != half, 0].mean()) for half in (0, 1)]
    out = np.where((study.half == 0)[:, None], rows[best[0]], rows[best[1]])
    return out, best


def measured(study: Study, task: str, way: tuple[str, ...]) -> dict[str, Any]:
    """One task: every expert alone, pairs, every fusion with every calibration, and what the other half chooses."""
    ask = study.in_boxes if task == "boxes" else study.whole
    alone = {n: ask((n,), DEFAULT, "none") for n in study.names}
    fused = {f"{f} ({k})": ask(way, f, k) for f in FUSIONS for k in CALIBRATIONS}
    member, which = chosen(study, {n: alone[n] for n in way})
    taken, what = chosen(study, fused)
    out: dict[str, Any] = {
        "alone": {n: row(r) for n, r in alone.items()},
        "fused": {n: row(r) for n, r in fused.items()},
    }
    if task == "boxes":
        pairs = itertools.combinations(study.names, 2)
        out["pairs"] = {"+".join(pair): row(ask(pair, DEFAULT, "shipped")) for pair in pairs}
    out["best_member"] = row(member) | {"which": which}
    out["chosen"] = row(taken) | {"which": what} | paired(taken, member)
    out["against_best_member"] = {f"{f} (shipped)": paired(fused[f"{f} (shipped)"], member) for f in FUSIONS}
    return out


def run(quick: bool) -> dict[str, Any]:
    """OKS, PCK and people found on annotated pictures; `--quick` leaves out mediapipe and lightning."""
    study = Study.of(pictures(), OVERLAY if quick else tuple(EXPERTS))
    boxes, whole = measured(study, "boxes", OVERLAY), measured(study, "pictures", OVERLAY)
    reached = whole["fused"][f"{DEFAULT} (shipped)"]
    level = {
        f"{f}, {name}": task["against_best_member"][f"{f} (shipped)"]
        for name, task in (("boxes", boxes), ("pictures", whole))
        for f in CALIBRATED
    }
    details: dict[str, Any] = {"boxes": boxes, "pictures": whole}
    if not quick:
        details["pictures, with mediapipe"] = measured(study, "pictures", (*OVERLAY, "mediapipe"))
    return {
        "name": "real_pictures",
        "value": reached["oks"],
        "unit": f"OKS of whole pictures, missed people count 0; {reached['found']} of {len(study.people)} found",
        "goal": ">= 0.80 and 28 found; consensus, best and ssta with calibrated scores not below their best member",
        "holds": reached["oks"] >= 0.8
        and reached["found"] >= 28
        and all(one["interval"][1] >= 0 for one in level.values()),
        "baselines": {n: r["oks"] for n, r in whole["alone"].items()},
        "n": len(study.people),
        "spread": {n: [one["gain"], *one["interval"]] for n, one in level.items()},
        "data": "31 people of 12 pictures of COCO, MPII and PoseTrack; halves of 6 pictures; shipped score calibration",
        "details": details | {"scores": {kind: study.scores(kind) for kind in CALIBRATIONS}},
    }


if __name__ == "__main__":
    main(run)
