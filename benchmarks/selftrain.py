"""Self-training on rendered people, degraded as real video is: experts, their fusion, and the student that learns.

Two sets after those of SSTA-PRS (Table 3.1 of the thesis): `occluded`, 320 x 180 pixels with things in the way, blur
and noise, PCKh@0.5 as on Smarthome-Pose; `truncated`, 48 x 36 pixels with people cut off by the picture, PCKh@2.0 as on
NTU-Pose. Experts are of three families, as in the paper: the built-in networks top-down (with the built-in detector)
and bottom-up, and the student before it learns. SST-A fuses them; a tenth of the frames, those with C >= gamma, teaches
the student (80 / 20 split by video, early stopping on the pseudo-labels of the other videos). Tests are on clips of
other seeds, joints within the picture; a joint that was not found is wrong. The degradations and all settings were
chosen on seeds that are in no test.

Steps are kept in $DATAENGINE_SELFTRAIN (default ~/.cache/dataengine/selftrain), so that a run that was stopped goes on.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import cv2
import numpy as np
from harness import main
from numpy.typing import NDArray

from dataengine.core import registry
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import LabelledFrame, Poses
from dataengine.experts.anchor_pose import AnchorPose
from dataengine.io.storage import write_durably
from dataengine.refine.anchor_pose import AnchorPoseStudent
from dataengine.refine.loop import FitSettings, fit
from dataengine.rendering import render_clip
from tools.anchor_pose.data import cut, labelled
from tools.synthetic_experts.calibrate import matched

Array = NDArray[Any]
EXPERTS = ("synthetic_topdown", "synthetic_bottomup", "anchor_pose")
"""One of each family, as in the paper: in boxes of a detector, joints first, and the student before it learns."""
SCORED = ("synthetic_topdown", "synthetic_bottomup")
"""Experts with a score per joint; joints below a least score are missing, as OpenPose leaves out what it does not
see."""
GAMMA, SHARE = 0.18, 10
"""Threshold of C, and of how many frames one is learned."""
SEEDS = (0, 1, 2)
VERSION = 2
"""Of the steps; raised when what they compute changes."""
FPS = 10.0
BASE_VARIANT = "classification and localisation"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE_VARIANT: {},
    "full loss": {"losses": "full"},
    "classification only": {"losses": "classification"},
    "localisation only": {"losses": "localisation"},
    "gamma 0": {"gamma": 0.0},
    "gamma 0.4": {"gamma": 0.4},
    "consensus, full loss": {"labels": "consensus", "losses": "full"},
}
"""What the student learns with; the headline is `HEADLINE`, the others are measured beside it."""
HEADLINE = "full loss"
MAIN = (BASE_VARIANT, HEADLINE)
"""Learned with every seed."""
ABLATED = SEEDS[:1]
"""Seeds that the others are learned with."""


@dataclass(frozen=True)
class Setting:
    """One set of degraded clips.

    Attributes:
        within: head lengths of a right joint.
        fusion_goal, student_goal: PCKh points over the best expert (thesis, Table 3.1).
        first_seed: of its clips.
        shrink: pixels of the recording over those of the rendered picture. noise: its standard deviation.
        min_score: least score of a joint of the experts in `SCORED`.
    """

    name: str
    within: float
    fusion_goal: float
    student_goal: float
    first_seed: int
    shrink: float
    noise: float
    min_score: float


SETTINGS = (
    Setting("occluded", 0.5, 1.3, 9.3, 4_000_000, 0.35, 20, 0.5),
    Setting("truncated", 2.0, 7.7, 13.9, 4_500_000, 0.15, 18, 0.05),
)


@dataclass(frozen=True)
class Size:
    """How much is rendered: clips to learn from and to test on, and their frames."""

    clips: int
    frames: int
    tests: int
    test_frames: int
    epochs: int


@dataclass(frozen=True)
class Video:
    """One degraded clip: frames (T, H, W, 3), joints (T, 13, 2) of its one person, head (T,) pixels, times (T,)."""

    frames: Array
    joints: Array
    head: Array
    times: Array


def video(setting: Setting, seed: int, num_frames: int) -> Video:
    """The clip of a seed."""
    rng = np.random.default_rng((seed, 77))
    if setting.name == "occluded":
        clip = render_clip(seed, num_frames, fps=FPS, size=(320, 180), condition="occluded")
        frames, joints, scale = _covered(clip.frames.copy(), clip.joints, rng), clip.joints, 1.0
        frames = _recorded(frames, setting.shrink, setting.noise, rng, (320, 180))
    else:
        clip = render_clip(seed, num_frames, fps=FPS, size=(320, 240), condition="clean")
        (frames, joints), scale = cut(clip, rng, 0.55), setting.shrink
        frames = _recorded(frames, scale, setting.noise, rng, None)
        joints = (joints + 0.5) * scale - 0.5
    points = convert(joints[:, 0], None, "body14", COMMON)[0]
    return Video(frames, points, clip.head[:, 0] * scale, clip.times)


def _covered(frames: Array, joints: Array, rng: np.random.Generator) -> Array:
    """Four boxes that stay where they are, over joints of the middle frame."""
    middle = joints[len(joints) // 2, 0]
    tall = float(np.ptp(middle[:, 1]))
    for _ in range(4):
        at, half = middle[rng.integers(len(middle))] + rng.normal(0, 6, 2), tall * rng.uniform(0.1, 0.22, 2)
        paint = rng.integers(0, 255, 3).tolist()
        low, high = (at - half).astype(int).tolist(), (at + half).astype(int).tolist()
        for frame in frames:
            cv2.rectangle(frame, low, high, paint, -1)
    return frames


def _recorded(
    frames: Array, shrink: float, noise: float, rng: np.random.Generator, size: tuple[int, int] | None
) -> Array:
    """Fewer pixels and noise; `size`: brought back to it."""
    out = []
    for frame in frames:
        made = cv2.resize(frame, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        made = made if size is None else cv2.resize(made, size)
        out.append(np.clip(made + noise * rng.standard_normal(made.shape, np.float32), 0, 255).astype(np.uint8))
    return np.stack(out)


class Team:
    """The experts of a setting, opened once."""

    def __init__(self, setting: Setting) -> None:
        options = {name: {"min_score": setting.min_score} for name in SCORED}
        self.detector = registry.create("detectors", "synthetic_detector").load()
        self.experts = {name: registry.create("experts", name, options.get(name, {})) for name in EXPERTS}
        self.sessions = {name: expert.load() for name, expert in self.experts.items()}
        self.tracker = registry.create("trackers", "oks")
        self.fusions = {name: registry.create("fusion", name) for name in ("ssta", "consensus")}

    def look(self, shown: Video) -> dict[str, list[Poses]]:
        """Poses of every expert in each frame, in the common layout."""
        boxes = self.detector.detect(shown.frames)
        return {
            name: [common(p, self.experts[name].skeleton) for p in session.predict(shown.frames, boxes)]
            for name, session in self.sessions.items()
        }

    def fused(self, seen: dict[str, list[Poses]], shown: Video) -> dict[str, tuple[list[Array], list[Array]]]:
        """Of every fusion: poses (T, 13, 2) and C (T,) of every track."""
        frames = [[seen[name][t] for name in EXPERTS] for t in range(len(shown.frames))]
        tracks = self.tracker.track(frames, shown.times, [COMMON] * len(EXPERTS))
        made = {
            name: [fusion.fuse(track.coords, track.scores, COMMON) for track in tracks]
            for name, fusion in self.fusions.items()
        }
        return {name: ([one.coords for one in some], [one.confidence for one in some]) for name, some in made.items()}


def common(poses: Poses, skeleton: str) -> Poses:
    """Poses in the common layout."""
    return Poses(*convert(poses.coords, poses.scores, skeleton, COMMON), poses.boxes)


def right(people: list[Array], shown: Video, within: float) -> tuple[int, int]:
    """Right joints and joints within the picture; `people`: (M, 13, 2) of each frame."""
    size = (shown.frames.shape[2], shown.frames.shape[1])
    inside = np.asarray(((shown.joints >= 0) & (shown.joints < size)).all(-1))
    count = 0
    for t, found in enumerate(people):
        for m, _ in matched(found, shown.joints[t : t + 1], shown.head[t : t + 1]):
            gap = np.nan_to_num(np.linalg.norm(found[m] - shown.joints[t], axis=-1), nan=np.inf)
            count += int(((gap <= within * shown.head[t]) & inside[t]).sum())
    return count, int(inside.sum())


def of_tracks(coords: list[Array], num_frames: int) -> list[Array]:
    """People (M, 13, 2) of each frame of poses (T, 13, 2) of tracks."""
    every = np.stack(coords) if coords else np.zeros((0, num_frames, 13, 2), np.float32)
    return [every[np.isfinite(every[:, t]).any((1, 2)), t] for t in range(num_frames)]


class Steps:
    """Results of steps, kept by what they depend on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spent: dict[str, float] = {}

    def key(self, *parts: Any) -> str:
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def result(self, kind: str, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives, from the disk where it was made before."""
        path = self.folder / f"{kind}-{key}.json"
        if not path.is_file():
            begun = time.process_time()
            made = make() | {"cpu_seconds": round(time.process_time() - begun, 1)}
            write_durably(path, json.dumps(made).encode())
        found: dict[str, Any] = json.loads(path.read_text())
        self.spent[kind] = self.spent.get(kind, 0.0) + found["cpu_seconds"]
        return found


def teach(team: Team, setting: Setting, seed: int, size: Size) -> dict[str, Any]:
    """Fused poses of every tenth frame: fusion -> rows of clip, frame, C and joints."""
    rows: dict[str, list[Any]] = {name: [] for name in team.fusions}
    for number in range(size.clips):
        shown = video(setting, clip_seed(setting, seed, number), size.frames)
        for name, (coords, certain) in team.fused(team.look(shown), shown).items():
            for t in range(SHARE // 2, size.frames, SHARE):
                for pose, c in zip(coords, certain, strict=True):
                    if np.isfinite(pose[t]).all(-1).sum() >= 5:
                        rows[name].append([number, t, float(c[t]), np.nan_to_num(pose[t], nan=-1e4).tolist()])
    return {"rows": rows}


def clip_seed(setting: Setting, seed: int, number: int) -> int:
    return setting.first_seed + 10_000 * seed + number


def test_seeds(setting: Setting, seed: int, size: Size) -> list[int]:
    return [clip_seed(setting, seed, 5_000 + number) for number in range(size.tests)]


def judge(team: Team, setting: Setting, seed: int, size: Size) -> dict[str, Any]:
    """Right joints and joints of every test clip, for experts and fusions."""
    counts: dict[str, list[tuple[int, int]]] = {}
    for one in test_seeds(setting, seed, size):
        shown = video(setting, one, size.test_frames)
        seen = team.look(shown)
        found = {name: [p.coords for p in poses] for name, poses in seen.items()}
        found |= {name: of_tracks(c, len(shown.frames)) for name, (c, _) in team.fused(seen, shown).items()}
        for name, people in found.items():
            counts.setdefault(name, []).append(right(people, shown, setting.within))
    return {"counts": counts}


def pictures(setting: Setting, seed: int, size: Size, rows: list[Any], gamma: float) -> Iterator[LabelledFrame]:
    """Labelled frames of the rows with C >= gamma."""
    kept: dict[tuple[int, int], list[Any]] = {}
    for number, t, certain, points in rows:
        if certain >= gamma:
            kept.setdefault((number, t), []).append(points)
    shown, last = None, -1
    for (number, t), people in sorted(kept.items()):
        if number != last:
            shown, last = video(setting, clip_seed(setting, seed, number), size.frames), number
        assert shown is not None
        points = np.array(people, np.float32)
        yield labelled(f"{number}:{t}", shown.frames[t], np.where(points <= -1e4, np.nan, points), COMMON)


def fit_settings(size: Size, seed: int) -> FitSettings:
    """How the student learns."""
    return FitSettings(
        epochs=size.epochs, batch=8, rate=1.5e-4, weight_decay=0.01, clip=5.0, patience=4, seed=seed, threads=1
    )


def learn(
    setting: Setting, seed: int, size: Size, rows: list[Any], variant: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Let the student learn, and count its right joints in the test clips."""
    import torch

    torch.set_num_threads(1)
    frames = list(pictures(setting, seed, size, rows, variant.get("gamma", GAMMA)))
    held = int(0.8 * size.clips)
    parts = [[f for f in frames if (int(f.key.split(":")[0]) < held) is first and len(f)] for first in (True, False)]
    student = AnchorPoseStudent(losses=variant.get("losses", "paper"), regions=64)
    folder.mkdir(parents=True, exist_ok=True)
    settings = fit_settings(size, seed)
    with student.start("cpu", seed) as session:
        fitted = fit(session, parts[0], parts[1], settings, folder)
        session.save(folder / "student.safetensors")
    counts = []
    with AnchorPose(checkpoint=str(folder / "student.safetensors")).load() as predicting:
        for one in test_seeds(setting, seed, size):
            shown = video(setting, one, size.test_frames)
            people = [common(p, student.skeleton).coords for p in predicting.predict(shown.frames)]
            counts.append(right(people, shown, setting.within))
    return {
        "counts": counts,
        "pictures": [len(part) for part in parts],
        "best_epoch": fitted.best_epoch,
        "validation": [row["validation"] for row in fitted.history],
    }


def run(quick: bool) -> dict[str, Any]:
    """Experts, SST-A, and the student that learns of it, on two degraded sets; see the module."""
    size = Size(8, 20, 4, 8, 3) if quick else Size(40, 20, 16, 10, 6)
    steps = Steps(Path(os.environ.get("DATAENGINE_SELFTRAIN", "~/.cache/dataengine/selftrain")).expanduser())
    weights = AnchorPoseStudent().weights()
    team = functools.cache(Team)
    found: dict[str, dict[str, list[Any]]] = {setting.name: {} for setting in SETTINGS}
    beside: dict[str, dict[str, Any]] = {setting.name: {} for setting in SETTINGS}
    every = [(setting, seed, variant) for seed in SEEDS for setting in SETTINGS for variant in MAIN]
    further = [name for name in VARIANTS if name not in MAIN]
    every += [(setting, seed, name) for seed in ABLATED for name in further for setting in SETTINGS]
    for setting, seed, name in every:
        variant, counts = VARIANTS[name], found[setting.name]
        about = (asdict(setting), seed, asdict(size), weights, VERSION)
        key, own = steps.key(*about), steps.key(*about, variant, asdict(fit_settings(size, seed)))
        judged = steps.result("judge", key, partial(judge_of, team, setting, seed, size))
        taught = steps.result("teach", key, partial(teach_of, team, setting, seed, size))
        rows = taught["rows"][variant.get("labels", "ssta")]
        done = steps.result("learn", own, partial(learn, setting, seed, size, rows, variant, steps.folder / own))
        if name == HEADLINE:
            for who, some in judged["counts"].items():
                counts.setdefault(who, []).append(some)
        counts.setdefault(f"student: {name}", []).append(done["counts"])
        beside[setting.name][f"{name}, seed {seed}"] = {k: done[k] for k in ("pictures", "best_epoch", "validation")}
    tables = {s.name: summary(s, found[s.name]) | {"learning": beside[s.name]} for s in SETTINGS}
    return report(tables, size, steps)


def judge_of(team: Callable[[Setting], Team], setting: Setting, seed: int, size: Size) -> dict[str, Any]:
    return judge(team(setting), setting, seed, size)


def teach_of(team: Callable[[Setting], Team], setting: Setting, seed: int, size: Size) -> dict[str, Any]:
    return teach(team(setting), setting, seed, size)


def share(counts: Any) -> float:
    """PCKh in percent of right joints and joints (..., 2)."""
    right_of = np.asarray(counts).reshape(-1, 2).sum(0)
    return float(100 * right_of[0] / right_of[1])


def summary(setting: Setting, counts: dict[str, list[Any]]) -> dict[str, Any]:
    """PCKh of everything, and what fusion and student gain over the best expert, with intervals over clips."""
    pckh = {name: round(share(some), 2) for name, some in counts.items()}
    best = max(EXPERTS, key=lambda name: pckh[name])

    def gain(name: str, over: str) -> dict[str, Any]:
        both = [(m, o) for m, o in zip(counts[name], counts[over])]  # the shorter has fewer seeds
        mine, other = (np.asarray(some).reshape(-1, 2) for some in zip(*both))
        draws = np.random.default_rng(0).integers(len(mine), size=(1000, len(mine)))
        some = [100 * (m[..., 0].sum(1) / m[..., 1].sum(1)) for m in (mine[draws], other[draws])]
        return {
            "points": round(share(mine) - share(other), 2),
            "interval": [round(float(v), 2) for v in np.percentile(some[0] - some[1], (2.5, 97.5))],
            "per_seed": [round(share(m) - share(o), 2) for m, o in both],
        }

    students = {name.removeprefix("student: "): name for name in counts if name.startswith("student: ")}
    gains = {"ssta": gain("ssta", best), "consensus": gain("consensus", best)}
    gains |= {short: gain(name, best) for short, name in students.items()}
    ablation = {short: gain(name, students[HEADLINE]) for short, name in students.items() if short != HEADLINE}
    return {
        "pckh": pckh,
        "within_heads": setting.within,
        "best_expert": best,
        "over_best_expert": gains,
        "over_headline": ablation,
        "goals": {"ssta": setting.fusion_goal, "student": setting.student_goal},
        "holds": {
            "ssta": gains["ssta"]["points"] >= setting.fusion_goal,
            "student": gains[HEADLINE]["points"] >= setting.student_goal,
        },
    }


def report(tables: dict[str, Any], size: Size, steps: Steps) -> dict[str, Any]:
    """The result in the form of all benchmarks."""
    over = {name: table["over_best_expert"] for name, table in tables.items()}
    return {
        "name": "selftrain",
        "value": over["occluded"][HEADLINE]["points"],
        "unit": f"PCKh@0.5 points of the student ({HEADLINE}) over the best expert, occluded set",
        "goal": "SST-A >= 1.3 and 7.7, student >= 9.3 and 13.9 points over the best expert (occluded, truncated)",
        "holds": all(all(table["holds"].values()) for table in tables.values()),
        "baselines": {f"{name}/{who}": v for name, table in tables.items() for who, v in table["pckh"].items()},
        "n": len(SEEDS) * size.tests * len(SETTINGS),
        "spread": {f"{name}/{who}": g["interval"] for name, some in over.items() for who, g in some.items()},
        "data": f"rendered, {size.clips} clips of {size.frames} frames to learn from and {size.tests} of "
        f"{size.test_frames} to test, for each set and seed",
        "details": {"sets": tables, "cpu_seconds": {k: round(v, 1) for k, v in steps.spent.items()}},
    }


if __name__ == "__main__":
    main(run)
