"""Poses as other programs save them: the same people in every format, for tests of the import."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.skeletons import convert
from tests.support.bodies import BODY

SIZE = (640, 480)


def people(number: int, count: int = 2, frames: int = 20, layout: str = "coco17") -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (M, T, V, 2) float32 pixels and scores (M, T, V) float32 of people who walk to the right, apart."""
    rng = np.random.default_rng(number)
    coords = np.empty((count, frames, 13, 2))
    for person in range(count):
        step = np.arange(frames)[:, None, None] * np.array([2.0, 0.0])
        swing = np.sin(np.arange(frames) * 0.6 + number)[:, None, None] * rng.normal(0, 4, (13, 2))
        coords[person] = BODY * 25 + np.array([90 + 220 * person, 60 + 10 * number % 50]) + step + swing
    points, scores = convert(coords.astype(np.float32), rng.uniform(0.5, 1, coords.shape[:3]), "body13", layout)
    points = np.round(points, 2).astype(np.float32)
    scores = np.round(scores, 3).astype(np.float32)
    if frames > 3:
        points[:, 3, -1], scores[:, 3, -1] = np.nan, 0  # an ankle that is not seen in a frame
    return points, scores


def note(number: int, count: int = 2, frames: int = 20, **more: Any) -> dict[str, Any]:
    """One annotation of pyskl."""
    points, scores = people(number, count, frames)
    held = {"frame_dir": f"clip{number}", "label": number % 3, "img_shape": SIZE[::-1], "original_shape": SIZE[::-1]}
    held |= {"total_frames": frames, "keypoint": np.nan_to_num(points), "keypoint_score": scores}
    return held | more


def write_pyskl(path: Path, notes: list[Any], split: Any = "half", **more: Any) -> Path:
    ids = [one["frame_dir"] for one in notes if isinstance(one, dict) and "frame_dir" in one]
    split = {"train": ids[::2], "val": ids[1::2]} if isinstance(split, str) else split
    path.write_bytes(pickle.dumps({"split": split, "annotations": notes} | more))
    return path


def flat(points: np.ndarray, scores: np.ndarray) -> list[float]:
    """x, y, score of every joint; 0 where unseen."""
    rows = np.concatenate([np.nan_to_num(points), scores[:, None]], 1)
    return [round(float(value), 3) for value in rows.ravel()]


def write_openpose(folder: Path, name: str, points: np.ndarray, scores: np.ndarray, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(points.shape[1]):
        held = [{"person_id": [-1], "pose_keypoints_2d": flat(points[m, frame], scores[m, frame])} for m in (1, 0)]
        path = folder / f"{name}_{frame + first:012d}_keypoints.json"
        path.write_text(json.dumps({"version": 1.3, "people": held[-len(points) :]}))
    return folder


def write_alphapose(path: Path, points: np.ndarray, scores: np.ndarray, numbered: bool = True) -> Path:
    rows = []
    for frame in range(points.shape[1]):
        for person in range(len(points)):
            row = {"image_id": f"{frame}.jpg", "category_id": 1, "score": 2.1, "box": [1.0, 2.0, 3.0, 4.0]}
            row |= {"keypoints": flat(points[person, frame], scores[person, frame])}
            rows.append(row | ({"idx": 7 - person} if numbered else {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def write_coco(path: Path, clips: dict[str, tuple[np.ndarray, np.ndarray]], results_first: bool = False) -> Path:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, (points, scores) in clips.items():
        for frame in range(points.shape[1]):
            number = len(images) + 1
            images.append({"id": number, "file_name": f"{name}/{frame + 1:06d}.jpg", "width": 640, "height": 480})
            for person in range(len(points)):
                found = {"image_id": number, "category_id": 1, "id": len(annotations), "track_id": person}
                annotations.append(found | {"keypoints": flat(points[person, frame], scores[person, frame])})
    parts = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    if results_first:
        parts = dict(reversed(parts.items()))
    path.write_text(json.dumps(parts))
    return path


def write_unik(folder: Path, frames: int = 20) -> dict[str, list[np.ndarray]]:
    """Clips of posetics17 by split, (M, T, V, 2)."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[np.ndarray]] = {}
    for split, count in (("train", 3), ("val", 2)):
        clips = [people(k, 2, frames, "posetics17")[0] for k in range(count)]
        array = np.nan_to_num(np.stack(clips)).transpose(0, 4, 2, 3, 1)
        padded = np.concatenate([array, np.zeros_like(array[:, :, :5])], 2)
        np.save(folder / f"{split}_data_joint.npy", padded)
        names = [f"{split}{k}" for k in range(count)]
        (folder / f"{split}_label.pkl").write_bytes(pickle.dumps((names, [k % 2 for k in range(count)])))
        found[split] = clips
    return found
