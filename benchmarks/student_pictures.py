"""Pictures of people with the poses that the overlay `cpu` fuses in them, for students to learn from, kept in a cache.
Not a benchmark: `student_real.py` learns and measures.

`python benchmarks/student_pictures.py [NAME ...]` makes the files of these videos, all by default; those that are there
already stay.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from multiview import OFFSETS, SHARED, Array
from seeds import WORK

from dataengine.builder import resolve
from dataengine.core.component import ClipFrames
from dataengine.core.skeletons import COMMON
from dataengine.core.types import Clip, LabelledFrame, Poses, Track
from dataengine.experts.movenet import MoveNet
from dataengine.experts.square_crops import crop_square
from dataengine.fusion.score_calibration import ScoreCalibration, of_related_experts
from dataengine.passes.pose_estimation import PoseEstimator
from dataengine.passes.pose_session import PoseSession
from dataengine.tracking import rank

FOLDER = WORK / "student_real"
"""Where the files are kept: they hold pictures of people and stay on this machine."""
CAMERAS = tuple(OFFSETS)
"""The four synchronised cameras, of which every frame is read; of other videos every third."""
VIDEOS = (
    "R6llTwEh07w.mp4",
    "SOX5yA1l24A.mp4",
    "v_SoccerJuggling_g23_c01.avi",
    "clean_and_jerk.mp4",
    "flipping_a_pancake.mkv",
    "ntu_sample.avi",
    "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi",
)
"""Other videos with real people."""
FRAMES = 100
"""Frames of each camera."""
STEP, PEOPLE = 3, 2
"""Frames from one that is read to the next, and most people of a video."""
REACH, LARGEST = 1.7, 256
"""Side of the kept part of a frame over the longer side of a person, and most pixels of that longer side."""
JOINTS, CONFIDENCE = 6, 0.18
"""Least number of joints of a person that is kept, and least confidence of the fusion (gamma of SSTA-PRS)."""


@dataclass(frozen=True)
class People:
    """The people of one video; N of them, over all its frames.

    Attributes:
        name: of the video.
        images: (N, S, S, 3) uint8 parts of frames around people.
        keypoints, scores: (N, 13, 2) fused joints in pixels of the part, NaN where missing, and (N, 13).
        experts, expert_scores: (N, E, 13, 2) and (N, E, 13), what each expert proposed, in the order of the overlay.
        confidence: (N,) of the fusion.
        frame, track: (N,) numbers of the frame and of the person.
        affine: (N, 3) left and top of the part in pixels of the frame, and pixels of the frame per pixel of the part.
    """

    name: str
    images: Array
    keypoints: Array
    scores: Array
    experts: Array
    expert_scores: Array
    confidence: Array
    frame: Array
    track: Array
    affine: Array

    def labelled(self, keypoints: Array | None = None, scores: Array | None = None) -> list[LabelledFrame]:
        """What a student learns from: these or other joints of the same people."""
        points = self.keypoints if keypoints is None else keypoints
        rated = self.scores if scores is None else scores
        out = []
        for n, image in enumerate(self.images):
            seen = np.where(rated[n, :, None] > 0, points[n], np.nan).astype(np.float32)
            key = f"{self.name}:{self.frame[n]}:{self.track[n]}"
            boxes = extent(seen)[None]
            out.append(LabelledFrame(key, image, seen[None], rated[n][None].astype(np.float32), boxes, COMMON))
        return out


def extent(points: Array) -> Array:
    """(4,) xyxy of joints (V, 2), each side grown by a twentieth of its length."""
    low, high = np.nanmin(points, 0), np.nanmax(points, 0)
    margin = 0.05 * (high - low)
    return np.concatenate([low - margin, high + margin]).astype(np.float32)


def _observe(path: Path, session: PoseSession, detect_every: int, step: int) -> tuple[list[Any], Array, list[Any]]:
    """The tracked people of a video, and its frames that were read: their numbers and pictures."""
    recipe_experts = session.needs_boxes
    people: list[list[Poses]] = []
    frames: list[Array] = []
    numbers: list[int] = []
    with session.for_clip() as (detector, experts), session.components.decoder.open(path) as stream:
        estimator = PoseEstimator(detector, list(zip(experts, recipe_experts)), detect_every, 4)
        for batch in stream:
            picked = [n for n, index in enumerate(batch.indices) if index % step == 0]
            if not picked:
                continue
            clip = Clip(path.stem, "videos", path.stem, path.name)
            given = ClipFrames(
                clip, batch.frames[picked], batch.indices[picked], batch.timestamps[picked], Fraction(stream.fps)
            )
            people += [list(poses) for poses in zip(*estimator.predict(given))]
            frames += list(batch.frames[picked])
            numbers += batch.indices[picked].tolist()
        times = np.array(numbers) / float(stream.fps)
    tracks = session.components.tracker.track(people, times, session.skeletons)
    return rank(tracks), np.array(numbers), frames


def _part(frame: Array, box: Array) -> tuple[Array, Array]:
    """The part of a frame around a box, and its affine as in `People`."""
    longer = max(box[2:] - box[:2])
    side = max(round(REACH * float(longer)), 8)
    left, top = (round(float(c)) for c in (box[:2] + box[2:] - side) / 2)
    size = round(REACH * LARGEST)
    out = np.empty((size, size, 3), np.uint8)
    crop_square(np.ascontiguousarray(frame), left, top, side, out)
    return out, np.array([left, top, side / size])


def _size(track: Track) -> float:
    """The median area of a track's boxes."""
    return float(np.nanmedian(np.prod(track.boxes[:, 2:] - track.boxes[:, :2], -1)))


def make(name: str, session: PoseSession, target: Path) -> None:
    """Find the people of a video and write their file."""
    camera = name in CAMERAS
    path = SHARED / "videos" / (f"pose2sim_single/{name}.mp4" if camera else name)
    tracks, numbers, frames = _observe(path, session, 4 if camera else 3, 1 if camera else STEP)
    tools, rows = session.components, []
    if camera:  # a bystander may be seen in more frames
        tracks = sorted(tracks, key=_size, reverse=True)[:1]
    for track in tracks[:PEOPLE]:
        coords, scores = track.coords, track.scores
        if tools.calibration is not None:
            coords, scores = tools.calibration.apply(coords, scores, COMMON, tools.names)
        fused = tools.fusion.fuse(coords, scores, COMMON, tools.expert_weights)
        if isinstance(tools.calibration, ScoreCalibration) and tools.fusion.combines_scores:
            fused = replace(fused, scores=of_related_experts(fused.scores, coords))
        for t, points in enumerate(fused.coords):
            if np.isfinite(points).all(-1).sum() < JOINTS or fused.confidence[t] < CONFIDENCE:
                continue
            image, affine = _part(frames[t], extent(points))
            inside = [((p + 0.5 - affine[:2]) / affine[2] - 0.5) for p in (points, track.coords[:, t])]
            rows.append(
                (image, inside[0], fused.scores[t], inside[1], scores[:, t], fused.confidence[t], numbers[t],
                 track.track_id, affine)
            )  # fmt: skip
    names = ("images", "keypoints", "scores", "experts", "expert_scores", "confidence", "frame", "track", "affine")
    arrays: dict[str, Any] = {k: np.stack(v) for k, v in zip(names, zip(*rows))}
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(target.with_suffix(".part.npz"), **arrays)
    target.with_suffix(".part.npz").replace(target)


def boxes_of(camera: str, session: PoseSession) -> None:
    """Write what the detector sees of the foremost person in each frame of a camera: boxes (T, 5), and the crops that
    MoveNet lightning takes there (N, 192, 192, 3), with the numbers of their frames and their maps to the frame."""
    people = read(camera)
    found = np.full((FRAMES, 5), np.nan, np.float32)
    joints = people.keypoints * people.affine[:, None, 2:] + people.affine[:, None, :2]
    parts = []
    processing = MoveNet(variant="lightning").processing
    with (
        session.for_clip() as (detector, _),
        session.components.decoder.open(SHARED / "videos" / "pose2sim_single" / f"{camera}.mp4") as stream,
    ):
        assert detector is not None
        for batch in stream:
            for frame, index, boxes in zip(batch.frames, batch.indices, detector.detect(batch.frames)):
                mine = np.flatnonzero(people.frame == index)
                if not len(mine) or not len(boxes):
                    continue
                middle = np.nanmean(joints[mine[0]], 0)
                away = np.abs((boxes[:, :2] + boxes[:, 2:4]) / 2 - middle).sum(-1)
                found[index] = boxes[np.argmin(away)]
                cut = processing.preprocess(frame[None], [found[index][None]])
                parts.append((index, np.asarray(cut.pixels)[0], cut.affines[0]))
    frames, pixels, affines = (np.stack(part) for part in zip(*parts))
    np.savez(FOLDER / f"{camera}.boxes.npz", boxes=found, frame=frames, pixels=pixels, affines=affines)


def read_crops(camera: str) -> tuple[Array, Array, Array]:
    """Frames (N,), crops (N, 192, 192, 3) and maps (N, 2, 3) from the frame to the crop, of a camera."""
    held = np.load(FOLDER / f"{camera}.boxes.npz", allow_pickle=False)
    return held["frame"], held["pixels"], held["affines"]


def path_of(name: str) -> Path:
    """The file of a video."""
    return FOLDER / f"{Path(name).stem}.npz"


def read(name: str) -> People:
    """The people of a video.

    Raises:
        SystemExit: its file is not made yet.
    """
    path = path_of(name)
    if not path.exists():
        raise SystemExit(f"{path} is not here: run  python benchmarks/student_pictures.py {name}")
    return People(name, **np.load(path, allow_pickle=False))


def main(names: list[str]) -> None:
    """Make the files of these videos, where they are not there yet."""
    recipe = resolve("posecap", "folder=.", overlay="cpu")
    cv2.setNumThreads(1)
    with PoseSession(recipe, "cpu") as session:
        for name in names or [*CAMERAS, *VIDEOS]:
            target = path_of(name)
            if not target.exists():
                make(name, session, target)
            if name in CAMERAS and not (FOLDER / f"{name}.boxes.npz").exists():
                boxes_of(name, session)
            people = read(name)
            print(f"{name}: {len(people.images)} people, {len(set(people.frame.tolist()))} frames", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
