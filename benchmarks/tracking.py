"""Identities in annotated crowds, and what detecting people only in every k-th frame costs.

Crowds: the 30 test videos of the Multi-Person PoseTrack data (street and sport, up to 16 people), the visible joints
of every person being the detections. Detections are also made worse: people missed for a while, joints moved and lost,
people seen where nobody is. Compared are a greedy link from frame to frame by overlap, and ByteTrack and OC-SORT as in
Roboflow's `trackers`, fed with the same boxes and scores. Their options, and ours, were chosen on the 30 train videos.
A person without any visible joint is no target in that frame, but must be the same person afterwards. The metrics are
those of `trackers.eval`, similarity being the overlap of boxes around visible joints.

Every k-th frame: rendered people of unseen seeds, `lite_detector` and `lite_topdown`, boxes held or carried along
(`dataengine.tracking.next_boxes`) in between; PCKh@0.5 of matched people, the missed counting as wrong.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import supervision
from harness import main
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from trackers import ByteTrackTracker, OCSORTTracker
from trackers.eval import (
    aggregate_clear_metrics,
    aggregate_hota_metrics,
    aggregate_identity_metrics,
    box_iou,
    compute_clear_metrics,
    compute_hota_metrics,
    compute_identity_metrics,
)

from dataengine import registry
from dataengine.rendering import RenderedClip, render_clip
from dataengine.skeletons import COMMON, convert
from dataengine.tracking import next_boxes
from dataengine.types import Poses
from training.lite.calibrate import WITHIN, matched

Array = NDArray[Any]
SHARED = Path(os.environ.get("DATAENGINE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
FPS = 25.0
"""Assumed; the annotation does not give it."""


@dataclass(frozen=True)
class Video:
    """People of one annotated video: joints (N, 13, 2) NaN where not visible, and whose they are in which frame."""

    joints: Array
    frame: Array
    person: Array
    num_frames: int


Detections = list[Poses]
Link = Callable[[Detections], list[tuple[Array, Array]]]
"""A tracker: detections of every frame -> identities (N,) and boxes (N, 4) of every frame."""


def crowds(train: bool) -> list[Video]:
    """The annotated videos of one side of the split, in the layout body13."""
    data = np.load(SHARED / "tracks" / "bonn_posetrack.npz")
    names = list(data["joint_names"])
    points = np.where((data["state"] == 2)[..., None], data["points"], np.nan)
    head = (points[:, names.index("upper_neck")] + points[:, names.index("head_top")]) / 2
    limbs = [points[:, names.index(f"{side}_{j}")] for j in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in "lr"]
    joints = np.stack([head, *limbs], 1)
    out = []
    for video in np.flatnonzero(data["video_train"] == train):
        rows = np.flatnonzero((data["video_index"] == video) & np.isfinite(joints[..., 0]).any(1))
        out.append(Video(joints[rows], data["frame"][rows], data["track_id"][rows], int(data["video_frames"][video])))
    return out


def around(joints: Array) -> Array:
    """(N, 4) boxes around the seen joints (N, V, 2), widened by a tenth of the longer side and 4 pixels."""
    low, high = np.nanmin(joints, 1), np.nanmax(joints, 1)
    pad = 0.1 * (high - low).max(1, keepdims=True) + 4
    return np.concatenate([low - pad, high + pad], 1)


def detections(video: Video, fault: str, seed: int) -> Detections:
    """What a detector would give: everything visible, or made worse by `fault`."""
    rng = np.random.default_rng((seed, 7))
    joints = video.joints.copy()
    scores = rng.uniform(0.6, 1.0, len(joints))
    there = np.ones(len(joints), np.bool_)
    if fault in ("missed", "all"):  # gone for 5 frames on average, a sixth of the time
        for person in np.unique(video.person):
            rows = np.flatnonzero(video.person == person)
            hidden = 0
            for row in rows:
                hidden = hidden - 1 if hidden > 0 else (rng.geometric(0.2) if rng.random() < 0.04 else 0)
                there[row] = hidden == 0
    if fault in ("jittered", "all"):
        size = around(joints)
        size = np.sqrt((size[:, 2] - size[:, 0]) * (size[:, 3] - size[:, 1]))
        joints += rng.normal(0, 0.05, joints.shape) * size[:, None, None]
        lost = rng.random(joints.shape[:2]) < 0.15
        lost[np.isnan(np.where(lost, np.nan, joints[..., 0])).all(1)] = False
        joints[lost] = np.nan
        scores *= rng.uniform(0.7, 1.0, len(scores))
    ghosts = _ghosts(video, rng) if fault in ("ghosts", "all") else []
    out = []
    for t in range(video.num_frames):
        rows = np.flatnonzero((video.frame == t) & there)
        people = [(joints[r], scores[r]) for r in rows] + [(pose, score) for when, pose, score in ghosts if when == t]
        people = [people[i] for i in rng.permutation(len(people))]
        out.append(_poses(people))
    return out


def _ghosts(video: Video, rng: np.random.Generator) -> list[tuple[int, Array, float]]:
    """People where nobody is: somebody's joints elsewhere, half of them missing, for 3 frames on average, one in four frames."""
    out = []
    low, high = np.nanmin(video.joints, (0, 1)), np.nanmax(video.joints, (0, 1))
    for t in range(video.num_frames):
        if rng.random() < 0.25:
            pose = video.joints[rng.integers(len(video.joints))]
            pose = pose - np.nanmean(pose, 0) + rng.uniform(low, high)
            some = rng.random(len(pose)) < 0.5
            pose = np.where(some[:, None], np.nan, pose) if np.isfinite(pose[~some]).any() else pose
            score = rng.uniform(0.2, 0.7)
            for later in range(t, min(t + rng.geometric(1 / 3), video.num_frames)):
                out.append((later, pose + rng.normal(0, 2, pose.shape), score))
    return out


def _poses(people: list[tuple[Array, float]]) -> Poses:
    if not people:
        return Poses.empty(13)
    coords = np.stack([pose for pose, _ in people]).astype(np.float32)
    confidence = np.array([score for _, score in people], np.float32)
    scores = np.where(np.isfinite(coords[..., 0]), confidence[:, None], 0).astype(np.float32)
    return Poses(coords, scores, np.concatenate([around(coords), confidence[:, None]], 1).astype(np.float32))


def ours(**options: Any) -> Link:
    """Our tracker `oks`."""
    tracker = registry.create("trackers", "oks", options)

    def link(frames: Detections) -> list[tuple[Array, Array]]:
        tracks = tracker.track([[p] for p in frames], np.arange(len(frames)) / FPS, [COMMON])
        out = []
        for t in range(len(frames)):
            here = [k for k in tracks if np.isfinite(k.boxes[t]).all()]
            out.append((np.array([k.track_id for k in here], int), np.array([k.boxes[t] for k in here]).reshape(-1, 4)))
        return out

    return link


def greedy(least: float = 0.3) -> Link:
    """The most overlapping pairs of neighbouring frames first; no gap is bridged."""

    def link(frames: Detections) -> list[tuple[Array, Array]]:
        before, names, count, out = np.zeros((0, 4)), np.zeros(0, int), 0, []
        for poses in frames:
            boxes = poses.boxes[:, :4].astype(float)
            overlap = box_iou(before, boxes) if len(before) and len(boxes) else np.zeros((len(before), len(boxes)))
            own = np.full(len(boxes), -1)
            while overlap.size and overlap.max() >= least:
                i, j = np.unravel_index(overlap.argmax(), overlap.shape)
                own[j] = names[i]
                overlap[i], overlap[:, j] = 0, 0
            for j in np.flatnonzero(own < 0):
                own[j], count = count, count + 1
            before, names = boxes, own
            out.append((own, boxes))
        return out

    return link


def published(make: Callable[[], Any]) -> Link:
    """A tracker of boxes from the library; a new identity also gets the sight before it, which the library leaves without one."""

    def link(frames: Detections) -> list[tuple[Array, Array]]:
        tracker = make()
        out: list[tuple[Array, Array]] = []
        known: set[int] = set()
        for poses in frames:
            given = supervision.Detections(xyxy=poses.boxes[:, :4].astype(float), confidence=poses.boxes[:, 4].astype(float))
            found = tracker.update(given if len(poses) else supervision.Detections.empty())
            names, boxes = np.asarray(found.tracker_id, int), found.xyxy.reshape(-1, 4)
            if out:
                _credit(out[-1], names, boxes, known)
            known |= set(names[names >= 0].tolist())
            out.append((names, boxes))
        return [(names[names >= 0], boxes[names >= 0]) for names, boxes in out]

    return link


def _credit(before: tuple[Array, Array], names: Array, boxes: Array, known: set[int]) -> None:
    for name, box in zip(names.tolist(), boxes, strict=True):
        free = np.flatnonzero(before[0] < 0)
        if name >= 0 and name not in known and len(free):
            overlap = box_iou(box[None], before[1][free])[0]
            if overlap.max() > 0.3:
                before[0][free[overlap.argmax()]] = name


TRACKERS: dict[str, Link] = {
    "oks": ours(),
    "greedy": greedy(),
    "bytetrack": published(
        lambda: ByteTrackTracker(
            frame_rate=FPS,
            minimum_iou_threshold=0.1,
            minimum_consecutive_frames=2,
            high_conf_det_threshold=0.3,
            track_activation_threshold=0.5,
        )
    ),
    "ocsort": published(
        lambda: OCSORTTracker(frame_rate=FPS, minimum_iou_threshold=0.1, minimum_consecutive_frames=1, high_conf_det_threshold=0.45)
    ),
}


def score(videos: list[Video], found: list[list[tuple[Array, Array]]]) -> dict[str, Any]:
    """Metrics of all videos together, in per cent; `switches` is a count."""
    parts: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for video, frames in zip(videos, found, strict=True):
        compared = _compared(video, frames)
        parts[0].append(compute_hota_metrics(*compared))
        parts[1].append(compute_clear_metrics(*compared))
        parts[2].append(compute_identity_metrics(*compared))
    hota, clear, identity = aggregate_hota_metrics(parts[0]), aggregate_clear_metrics(parts[1]), aggregate_identity_metrics(parts[2])
    shares = {"HOTA": hota["HOTA"], "DetA": hota["DetA"], "AssA": hota["AssA"], "IDF1": identity["IDF1"], "MOTA": clear["MOTA"]}
    return {k: round(100 * float(v), 2) for k, v in shares.items()} | {"switches": int(clear["IDSW"])}


def _compared(video: Video, frames: list[tuple[Array, Array]]) -> tuple[list[Array], list[Array], list[Array]]:
    """True and found identities of every frame, and the overlaps of their boxes."""
    rows = [np.flatnonzero(video.frame == t) for t in range(video.num_frames)]
    truth = [around(video.joints[r]) if len(r) else np.zeros((0, 4)) for r in rows]
    similar = [
        box_iou(a, boxes) if len(a) and len(boxes) else np.zeros((len(a), len(boxes))) for a, (_, boxes) in zip(truth, frames, strict=True)
    ]
    return [video.person[r].astype(int) for r in rows], [names for names, _ in frames], similar


def _hota(video: Video, frames: list[tuple[Array, Array]]) -> dict[str, Any]:
    return dict(compute_hota_metrics(*_compared(video, frames)))


def margins(table: dict[str, dict[str, dict[str, Any]]]) -> dict[str, list[float]]:
    """95 % interval of how much higher our mean HOTA is than each other tracker's, over videos drawn with replacement."""
    rng = np.random.default_rng(0)
    count = len(next(iter(table.values()))["oks"]["parts"])
    gains: dict[str, list[float]] = {}
    for _ in range(300):
        drawn = rng.integers(count, size=count)
        means = {
            name: np.mean([aggregate_hota_metrics([row[name]["parts"][i] for i in drawn])["HOTA"] for row in table.values()])
            for name in TRACKERS
        }
        for name in set(TRACKERS) - {"oks"}:
            gains.setdefault(name, []).append(100 * float(means["oks"] - means[name]))
    return {name: [round(float(v), 2) for v in np.percentile(some, (2.5, 97.5))] for name, some in sorted(gains.items())}


FAULTS = ("none", "missed", "jittered", "ghosts", "all")


def compare(videos: list[Video], trackers: dict[str, Link], faults: tuple[str, ...] = FAULTS) -> dict[str, dict[str, dict[str, Any]]]:
    """Metrics and CPU milliseconds a frame by fault and tracker."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for fault in faults:
        seen = [detections(video, fault, seed) for seed, video in enumerate(videos)]
        for name, link in trackers.items():
            begun = time.process_time()
            found = [link(frames) for frames in seen]
            spent = time.process_time() - begun
            row = score(videos, found)
            row["parts"] = [_hota(video, frames) for video, frames in zip(videos, found, strict=True)]
            row["ms_a_frame"] = round(1e3 * spent / sum(v.num_frames for v in videos), 3)
            table.setdefault(fault, {})[name] = row
    return table


FIRST_SEED = 1_000_000
"""Of the rendered clips; the built-in experts never saw it."""
EVERY = (1, 2, 4, 8, 16)


def sparse(clips: int, first_seed: int = FIRST_SEED) -> dict[str, dict[str, float]]:
    """PCKh@0.5 and CPU milliseconds a frame when people are detected in every k-th frame only."""
    detector, expert = registry.create("detectors", "lite_detector"), registry.create("experts", "lite_topdown")
    detector.load()
    expert.load()
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for k in range(clips):
        condition = ("clean", "multi", "occluded", "mixed")[k % 4]
        clip = render_clip(first_seed + k, 48, fps=FPS, condition=condition, camera_motion=k % 8 >= 4)
        for every in EVERY:
            for name, carried in (("held", False), ("carried", True)):
                begun = time.process_time()
                poses = _look(clip, detector, expert, every, carried)
                spent = time.process_time() - begun
                rows.setdefault(f"{every}/{name}", []).append((*_right(poses, clip), spent / len(clip.frames)))
    out = {}
    for name, some in rows.items():
        right, total, spent = np.sum(some, 0)
        out[name] = {"pckh": round(float(100 * right / total), 2), "cpu_ms_a_frame": round(float(1e3 * spent / clips), 2)}
    return out


def _look(clip: RenderedClip, detector: Any, expert: Any, every: int, carried: bool) -> list[Poses]:
    boxes = np.zeros((0, 5), np.float32)
    out: list[Poses] = []
    for t, frame in enumerate(clip.frames):
        if t % every == 0:
            (boxes,) = detector.detect(frame[None])
        elif carried:
            boxes = next_boxes(out[-1], boxes, out[-2] if t > 1 else None)
        out += expert.predict(frame[None], [boxes])
    return out


def _right(poses: list[Poses], clip: RenderedClip) -> tuple[float, float]:
    """Number of right joints and of joints in the picture."""
    size = (clip.frames.shape[2], clip.frames.shape[1])
    truth = clip.joints[:, :, [0, *range(2, 14)]]
    inside = ((truth >= 0) & (truth < size)).all(-1)
    right = 0.0
    for t, frame in enumerate(poses):
        coords, _ = convert(frame.coords, frame.scores, "body14", COMMON)
        for m, p in matched(coords, truth[t], clip.head[t]):
            gap = np.linalg.norm(coords[m] - truth[t, p], axis=-1)
            right += float(((gap <= WITHIN * clip.head[t, p]) & inside[t, p]).sum())
    return right, float(inside.sum())


def perfect(video: Video, frames: Detections) -> list[tuple[Array, Array]]:
    """Every detection that overlaps somebody gets their identity, and the others are left out: what links can reach at most."""
    out = []
    for t, poses in enumerate(frames):
        rows, boxes = np.flatnonzero(video.frame == t), poses.boxes[:, :4].astype(float)
        overlap = box_iou(around(video.joints[rows]), boxes) if len(rows) and len(boxes) else np.zeros((len(rows), len(boxes)))
        i, j = linear_sum_assignment(overlap, maximize=True)
        right = overlap[i, j] > 0.3
        out.append((video.person[rows[i[right]]].astype(int), boxes[j[right]]))
    return out


def ceiling(videos: list[Video]) -> dict[str, dict[str, float]]:
    """Metrics of `perfect` by fault."""
    seeded = list(enumerate(videos))
    return {fault: score(videos, [perfect(v, detections(v, fault, seed)) for seed, v in seeded]) for fault in FAULTS}


def hidden(videos: list[Video], link: Link) -> dict[str, int]:
    """How often people who are wholly out of sight for a while come back, and as themselves.

    Compared are the last sight before and the first after with at least four joints, a second at most away.
    """
    times = same = 0
    for seed, video in enumerate(videos):
        frames = link(detections(video, "none", seed))
        joints = np.isfinite(video.joints[..., 0]).sum(1)
        for person in np.unique(video.person):
            rows = np.flatnonzero(video.person == person)
            for a, b in itertools.pairwise(rows):
                before = rows[(rows <= a) & (joints[rows] >= 4) & (video.frame[rows] >= video.frame[a] - FPS)]
                after = rows[(rows >= b) & (joints[rows] >= 4) & (video.frame[rows] <= video.frame[b] + FPS)]
                if video.frame[b] - video.frame[a] > 1 and len(before) and len(after):
                    times += 1
                    names = [_name(frames[video.frame[r]], around(video.joints[r : r + 1])) for r in (before[-1], after[0])]
                    same += names[0] == names[1] >= 0
    return {"times": times, "same": same}


def _name(found: tuple[Array, Array], box: Array) -> int:
    overlap = box_iou(box, found[1])[0] if len(found[1]) else np.zeros(1)
    return int(found[0][overlap.argmax()]) if overlap.max() > 0.5 else -1


def run(quick: bool) -> dict[str, Any]:
    """Our tracker against a greedy link, ByteTrack and OC-SORT in annotated crowds; boxes held and carried along."""
    videos = crowds(train=False)[:: 3 if quick else 1]
    compare(videos[:1], TRACKERS, ("all",))  # compiles
    table = compare(videos, TRACKERS)
    intervals = margins(table)
    for rows in table.values():
        for row in rows.values():
            row.pop("parts")
    mean = {name: round(float(np.mean([table[fault][name]["HOTA"] for fault in FAULTS])), 2) for name in TRACKERS}
    every = sparse(8 if quick else 48)
    return {
        "name": "tracking",
        "value": mean["oks"],
        "unit": "HOTA, mean over perfect detections and four kinds of faults",
        "goal": "above greedy, ByteTrack and OC-SORT",
        "holds": mean["oks"] == max(mean.values()),
        "baselines": {f"{fault}/{name}": row["HOTA"] for fault, rows in table.items() for name, row in rows.items()},
        "n": sum(v.num_frames for v in videos),
        "spread": {"gain_in_mean_hota": intervals},
        "data": f"Multi-Person PoseTrack, {len(videos)} test videos; rendered, seeds {FIRST_SEED} and up",
        "details": {
            "table": table,
            "perfect_links": ceiling(videos),
            "mean_hota": mean,
            "best_by_fault": {fault: max((row["HOTA"], name) for name, row in rows.items())[1] for fault, rows in table.items()},
            "wholly_hidden": {name: hidden(videos, link) for name, link in TRACKERS.items()},
            "every_kth_frame": every,
        },
    }


if __name__ == "__main__":
    main(run)
