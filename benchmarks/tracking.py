"""Identities in annotated crowds, and what detecting people only in every k-th frame costs.

Crowds: the 30 test videos of the Multi-Person PoseTrack data (street and sport, up to 16 people), the visible joints
of every person being the detections. Detections are also made worse: people missed for a while, joints moved and lost,
people seen where nobody is. Compared are a greedy link from frame to frame by overlap, and ByteTrack and OC-SORT as in
Roboflow's `trackers`, fed with the same boxes and scores. Their options, and ours, were chosen on the 30 train videos.
A person without any visible joint is no target in that frame, but must be the same person afterwards. The metrics are
those of `trackers.eval`, similarity being the overlap of boxes around visible joints.

Every k-th frame: rendered people of unseen seeds, `synthetic_detector` and `synthetic_topdown`, boxes held or carried
along (`dataengine.tracking.next_boxes`) in between; PCKh@0.5 of matched people, the missed counting as wrong.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import supervision
from crowds import FAULTS, Array, Detections, Video, around, crowds, detections
from harness import main
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

from dataengine.core import registry
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import Poses
from dataengine.rendering import RenderedClip, render_clip
from dataengine.tracking import next_boxes
from tools.synthetic_experts.calibrate import WITHIN, matched

FPS = 25.0
"""Assumed; the annotation does not give it."""


Link = Callable[[Detections], list[tuple[Array, Array]]]
"""A tracker: detections of every frame -> identities (N,) and boxes (N, 4) of every frame."""


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
    """A tracker of boxes from the library; a new identity also gets the sight before it, which the library leaves
    without one."""

    def link(frames: Detections) -> list[tuple[Array, Array]]:
        tracker = make()
        out: list[tuple[Array, Array]] = []
        known: set[int] = set()
        for poses in frames:
            given = supervision.Detections(
                xyxy=poses.boxes[:, :4].astype(float), confidence=poses.boxes[:, 4].astype(float)
            )
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
        lambda: OCSORTTracker(
            frame_rate=FPS, minimum_iou_threshold=0.1, minimum_consecutive_frames=1, high_conf_det_threshold=0.45
        )
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
    hota, clear, identity = (
        aggregate_hota_metrics(parts[0]),
        aggregate_clear_metrics(parts[1]),
        aggregate_identity_metrics(parts[2]),
    )
    shares = {
        "HOTA": hota["HOTA"],
        "DetA": hota["DetA"],
        "AssA": hota["AssA"],
        "IDF1": identity["IDF1"],
        "MOTA": clear["MOTA"],
    }
    return {k: round(100 * float(v), 2) for k, v in shares.items()} | {"switches": int(clear["IDSW"])}


def _compared(video: Video, frames: list[tuple[Array, Array]]) -> tuple[list[Array], list[Array], list[Array]]:
    """True and found identities of every frame, and the overlaps of their boxes."""
    rows = [np.flatnonzero(video.frame == t) for t in range(video.num_frames)]
    truth = [around(video.joints[r]) if len(r) else np.zeros((0, 4)) for r in rows]
    similar = [
        box_iou(a, boxes) if len(a) and len(boxes) else np.zeros((len(a), len(boxes)))
        for a, (_, boxes) in zip(truth, frames, strict=True)
    ]
    return [video.person[r].astype(int) for r in rows], [names for names, _ in frames], similar


def _hota(video: Video, frames: list[tuple[Array, Array]]) -> dict[str, Any]:
    return dict(compute_hota_metrics(*_compared(video, frames)))


def margins(table: dict[str, dict[str, dict[str, Any]]]) -> dict[str, list[float]]:
    """95 % interval of how much higher our mean HOTA is than each other tracker's, over videos drawn with
    replacement."""
    rng = np.random.default_rng(0)
    count = len(next(iter(table.values()))["oks"]["parts"])
    gains: dict[str, list[float]] = {}
    for _ in range(300):
        drawn = rng.integers(count, size=count)
        means = {
            name: np.mean(
                [aggregate_hota_metrics([row[name]["parts"][i] for i in drawn])["HOTA"] for row in table.values()]
            )
            for name in TRACKERS
        }
        for name in set(TRACKERS) - {"oks"}:
            gains.setdefault(name, []).append(100 * float(means["oks"] - means[name]))
    return {
        name: [round(float(v), 2) for v in np.percentile(some, (2.5, 97.5))] for name, some in sorted(gains.items())
    }


def compare(
    videos: list[Video], trackers: dict[str, Link], faults: tuple[str, ...] = FAULTS
) -> dict[str, dict[str, dict[str, Any]]]:
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
    detector, expert = (
        registry.create("detectors", "synthetic_detector").load(),
        registry.create("experts", "synthetic_topdown").load(),
    )
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
        out[name] = {
            "pckh": round(float(100 * right / total), 2),
            "cpu_ms_a_frame": round(float(1e3 * spent / clips), 2),
        }
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
    inside = np.asarray(((truth >= 0) & (truth < size)).all(-1))
    right = 0.0
    for t, frame in enumerate(poses):
        coords, _ = convert(frame.coords, frame.scores, "body14", COMMON)
        for m, p in matched(coords, truth[t], clip.head[t]):
            gap = np.linalg.norm(coords[m] - truth[t, p], axis=-1)
            right += float(((gap <= WITHIN * clip.head[t, p]) & inside[t, p]).sum())
    return right, float(inside.sum())


def perfect(video: Video, frames: Detections) -> list[tuple[Array, Array]]:
    """Every detection that overlaps somebody gets their identity, and the others are left out: what links can reach at
    most."""
    out = []
    for t, poses in enumerate(frames):
        rows, boxes = np.flatnonzero(video.frame == t), poses.boxes[:, :4].astype(float)
        overlap = (
            box_iou(around(video.joints[rows]), boxes)
            if len(rows) and len(boxes)
            else np.zeros((len(rows), len(boxes)))
        )
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
                    names = [
                        _name(frames[video.frame[r]], around(video.joints[r : r + 1])) for r in (before[-1], after[0])
                    ]
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
            "best_by_fault": {
                fault: max((row["HOTA"], name) for name, row in rows.items())[1] for fault, rows in table.items()
            },
            "wholly_hidden": {name: hidden(videos, link) for name, link in TRACKERS.items()},
            "every_kth_frame": every,
        },
    }


if __name__ == "__main__":
    main(run)
