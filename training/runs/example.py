"""A data set to learn from, made in seconds: rendered bodies in motion, without pictures, as one npz file.

People differ in size and pace, cameras in place and height; joints are noisy and now and then not seen. Nobody is in
two splits. What is learnt from it says how a run goes, and nothing about real people.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import SKELETONS
from dataengine.io.storage import staged
from dataengine.rendering.body import Body, pose
from dataengine.rendering.motion import angles as varied
from dataengine.rendering.scene import draw_camera
from training.runs.example_motions import ACTIONS, angles

VARIED = ("walk", "wave", "clap", "squat", "jump", "kick", "bow", "punch")
"""The classes of untrimmed sequences, and of clips in space."""
LAYOUT = SKELETONS["body14"]
SIZE = (640, 480)
"""Width and height of the picture in pixels."""
FPS = 25.0
FACING = np.pi / 3
"""Largest angle in radians between where a person faces and the camera."""
NOISE, UNSEEN = 2.0, 0.05
"""Standard deviation of the noise in pixels, and the share of joints that are not seen."""
BETWEEN = 12
"""Frames between two actions of an untrimmed sequence."""
CLIPS_EACH = 10
"""Clips of one person."""


def write_example(path: str | os.PathLike[str], clips: int = 400, seed: int = 0, space: bool = False) -> Path:
    """Write the data set; the same numbers give the same arrays.

    Args:
        path: of the npz file; its keys are those of `training.data.formats.npz`.
        clips: how many; at least 80. Seven people in ten are of the split train, the others of val.
        seed: chooses people, motions and cameras.
        space: whether joints are written in space (metres, y up) without noise, as motion capture, in place of pixels.

    Raises:
        TrainingError: too few clips, or another ending than .npz.
    """
    target = Path(path)
    if clips < 80 or target.suffix != ".npz":
        raise TrainingError(f"{target}, {clips} clips; allowed: a file that ends in .npz, and 80 clips or more")
    rng = np.random.default_rng(seed)
    people = -(-clips // CLIPS_EACH)
    bodies = [Body.draw(rng) for _ in range(people)]
    subjects = np.arange(clips) // CLIPS_EACH
    labels = (np.arange(clips) + subjects) % len(ACTIONS)
    make, names = (_captured, VARIED) if space else (_clip, ACTIONS)
    poses = [make(rng, names[label], bodies[subject]) for label, subject in zip(labels, subjects)]
    order = rng.permutation(people)
    arrays: dict[str, Any] = {
        "keypoints": np.concatenate([keypoints for keypoints, _ in poses]),
        "visible": np.concatenate([visible for _, visible in poses]),
        "offsets": np.cumsum([0, *(len(keypoints) for keypoints, _ in poses)]),
        "label": labels,
        "label_names": np.array(names),
        "names": np.array([f"example{seed}_{number:05d}" for number in range(clips)]),
        "split": np.where(np.isin(subjects, order[: round(0.7 * people)]), "train", "val"),
        "subject": subjects,
    }
    return _write(target, arrays)


def write_untrimmed(path: str | os.PathLike[str], sequences: int = 60, seed: int = 0) -> Path:
    """Write sequences of several actions each, one after the other, with the spans of each; the same numbers give the
    same arrays.

    Args:
        path: of the npz file; its keys are those of `training.data.formats.npz`.
        sequences: how many, each of a person of its own; at least 10. Seven in ten are of the split train, the others
            of val.
        seed: chooses people, motions and cameras.

    Raises:
        TrainingError: too few sequences, or another ending than .npz.
    """
    target = Path(path)
    if sequences < 10 or target.suffix != ".npz":
        raise TrainingError(f"{target}, {sequences} sequences; allowed: a file that ends in .npz, and 10 or more")
    rng = np.random.default_rng(seed)
    made = [_sequence(rng) for _ in range(sequences)]
    spans = [of_one for _, _, of_one in made]
    arrays: dict[str, Any] = {
        "keypoints": np.concatenate([keypoints for keypoints, _, _ in made]),
        "visible": np.concatenate([visible for _, visible, _ in made]),
        "offsets": np.cumsum([0, *(len(keypoints) for keypoints, _, _ in made)]),
        "spans": np.concatenate(spans),
        "span_offsets": np.cumsum([0, *map(len, spans)]),
        "span_names": np.array(VARIED),
        "names": np.array([f"untrimmed{seed}_{number:05d}" for number in range(sequences)]),
        "split": np.where(np.arange(sequences) < round(0.7 * sequences), "train", "val"),
    }
    return _write(target, arrays)


def _write(target: Path, arrays: Mapping[str, Any]) -> Path:
    """Write the arrays of clips with what all of them share: joints, size of the picture and rate."""
    clips = len(arrays["names"])
    shared: dict[str, Any] = {
        "joint_names": np.array(LAYOUT.joints),
        "frame_size": np.tile(SIZE, (clips, 1)),
        "fps": np.full(clips, FPS),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with staged(target) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays, **shared)
    return target


def _sequence(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Pixels (T, V, 2) float32, what is seen (T, V) bool and spans (S, 3) of one person who does one thing after the
    other; between two, the body moves straight to where the next one begins."""
    body, place = Body.draw(rng), (rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3))
    facing = np.pi + rng.uniform(-FACING, FACING)
    pieces: list[Any] = []
    spans = []
    total = 0
    for label in rng.permutation(len(VARIED)).tolist():
        t = np.arange(int(rng.integers(40, 90))) / FPS
        points = pose(body, varied(VARIED[label], t, rng), place, facing).points[:, : LAYOUT.num_joints]
        if pieces:
            share = (np.arange(1, BETWEEN + 1) / (BETWEEN + 1))[:, None, None]
            pieces.append(pieces[-1][-1] + (points[0] - pieces[-1][-1]) * share)
            total += BETWEEN
        pieces.append(points)
        spans.append((label, total, total + len(points)))
        total += len(points)
    points = np.concatenate(pieces)
    pixels = draw_camera(rng, np.arange(total) / FPS, SIZE, 1, moving=False).project(points)
    noisy = pixels + rng.normal(0, NOISE, pixels.shape)
    return noisy.astype(np.float32), rng.random(pixels.shape[:2]) >= UNSEEN, np.array(spans, np.int64)


def _captured(rng: np.random.Generator, action: str, body: Body) -> tuple[Any, Any]:
    """Metres (T, V, 3) float32 and what is seen (T, V) bool, all, of one person who does something."""
    t = np.arange(int(rng.integers(40, 90))) / FPS
    points = pose(body, varied(action, t, rng), (0.0, 0.0), rng.uniform(-np.pi, np.pi)).points
    joints = points[:, : LAYOUT.num_joints].astype(np.float32)
    return joints, np.ones(joints.shape[:2], bool)


def _clip(rng: np.random.Generator, action: str, body: Body) -> tuple[Any, Any]:
    """Pixels (T, V, 2) float32 and what is seen (T, V) bool of one person who does something."""
    t = np.arange(int(rng.integers(40, 90))) / FPS
    camera = draw_camera(rng, t, SIZE, 1, moving=False)
    facing = np.pi + rng.uniform(-FACING, FACING)
    points = pose(body, angles(action, t, rng), (rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3)), facing).points
    pixels = camera.project(points[:, : LAYOUT.num_joints])
    noisy = pixels + rng.normal(0, NOISE, pixels.shape)
    return noisy.astype(np.float32), rng.random(pixels.shape[:2]) >= UNSEEN
