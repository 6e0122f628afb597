"""Untrimmed sequences composed of the real motions of Penn Action and HDM05, with the truth of every frame. Not a
benchmark by itself.

Protocol. The clips of a split are put in random order (seed 0) and cut into rows of ten; each row becomes one sequence,
so that no clip of the test split is in a training sequence. The training clips are used twice, in two orders.

1. Bodies are matched: every clip is scaled so that the median over frames of its size (root mean square distance of the
   joints from their mean) is that of the first clip of the sequence, and moved so that its first pose has its centre
   where the sequence ended. Neither place nor size tells where a clip begins.
2. One clip in four is overlapped with the next one of another class: both are cut to the shorter, legs and hips are
   those of the first, everything above is that of the second, moved so that the two agree in the middle of the hips.
   Both classes are the truth of these frames.
3. Between two pieces lie 8 to 24 frames in which the pose moves in a straight line from the last pose to the next one.
   Nothing is the truth of these frames.

Missing joints are filled in their clip, over time, before that. A frame of Penn Action or HDM05 stays a frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from skeletons import SHARED, Memory, hdm05, penn

from dataengine.core.skeletons import Skeleton
from training.data.types import Array, SkeletonSequence
from training.transforms.preprocess import interpolate

CLIPS = 10
"""Clips of a sequence."""
OVERLAPPED = 0.25
"""Share of clips that are overlapped with the next one."""
BETWEEN = (8, 24)
"""Frames between two pieces."""
LEGS = ("hip", "knee", "ankle", "foot", "toe", "pelvis")
"""Joints of these names belong to the lower body."""


BODY = (
    "pelvis", "upper_back", "head",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip


class Composed(Memory):
    """Sequences of several actions; `label` is -1, `spans` say what happens when."""

    def __init__(self, name: str, source: Memory, clips: Sequence[SkeletonSequence], mark: str) -> None:
        super().__init__(name, source.skeleton, (), tuple(clips), mark)
        self.groups, self.span_labels = None, source.labels  # type: ignore[assignment]
        self.lengths = np.array([clip.keypoints.shape[1] for clip in clips], np.int64)


def _lower(joints: Sequence[str]) -> Any:
    return np.array([any(part in joint for part in LEGS) for joint in joints])


def _size(motion: Array) -> float:
    """The median over frames of the size of a body (T, V, C)."""
    spread = np.square(motion - motion.mean(1, keepdims=True)).mean((1, 2))
    return float(np.sqrt(np.median(spread))) or 1.0


def _matched(motion: Array, size: float, centre: Array) -> Array:
    """The motion (T, V, C), scaled to a size, and its first pose moved to a centre (C,)."""
    return np.asarray((motion - motion[0].mean(0)) * np.float32(size / _size(motion)) + centre)


def _overlapped(lower: Array, upper: Array, legs: Any, hips: Sequence[int]) -> Array:
    """The legs of one motion under the upper body of another, of one length."""
    frames = min(len(lower), len(upper))
    lower, upper = lower[:frames], _matched(upper[:frames], _size(lower[:frames]), lower[0].mean(0))
    middle = lower[:, hips].mean(1, keepdims=True) - upper[:, hips].mean(1, keepdims=True)
    return np.where(legs[:, None], lower, upper + middle)


def compose(source: Memory, name: str, passes: int = 1, seed: int = 0) -> Composed:
    """Sequences of the clips of a split; see the text of the module."""
    rng = np.random.default_rng(seed)
    legs = _lower(source.skeleton.joints)
    hips = [source.skeleton.joints.index(side + "_hip") for side in ("left", "right")]
    filled = [interpolate(clip.keypoints)[0] for clip in source.clips]
    sequences: list[SkeletonSequence] = []
    for turn in range(passes):
        order = rng.permutation(len(filled))
        for row in range(0, len(order), CLIPS):
            chosen = [int(k) for k in order[row : row + CLIPS] if np.isfinite(filled[int(k)]).all()]
            motion, spans = _sequence(source, filled, chosen, legs, hips, rng)
            key = f"{name}-{turn}-{row // CLIPS:04d}"
            sequences.append(SkeletonSequence(key, motion[None].astype(np.float32), spans=spans, fps=30.0))
    return Composed(f"{source.name} composed {name}", source, sequences, f"{source.fingerprint} {passes} {seed} v1")


def _sequence(
    source: Memory,
    filled: Sequence[Array],
    chosen: Sequence[int],
    legs: Any,
    hips: Sequence[int],
    rng: np.random.Generator,
) -> tuple[Array, Any]:
    pieces: list[Array] = []
    spans: list[tuple[int, int, int]] = []
    total, last, waiting, size = 0, None, list(chosen), _size(filled[chosen[0]])
    while waiting:
        number = waiting.pop(0)
        centre = filled[number][0].mean(0) if last is None else last.mean(0)
        piece, labels = _matched(filled[number], size, centre), [source.clips[number].label]
        other = next((k for k in waiting if source.clips[k].label != labels[0]), None)
        if other is not None and rng.random() < OVERLAPPED:
            waiting.remove(other)
            piece = _overlapped(piece, filled[other], legs, hips)
            labels.append(source.clips[other].label)
        if last is not None:
            between = int(rng.integers(BETWEEN[0], BETWEEN[1] + 1))
            share = (np.arange(1, between + 1) / (between + 1))[:, None, None]
            pieces.append(last + (piece[0] - last) * share)
            total += between
        spans += [(label, total, total + len(piece)) for label in labels]
        pieces.append(piece)
        total, last = total + len(piece), piece[-1]
    return np.concatenate(pieces), np.array(sorted(spans, key=lambda span: span[1]), np.int64)


def _with_joints(source: Memory, joints: Sequence[str]) -> Memory:
    """The clips with these joints alone."""
    columns = source.skeleton.indices(tuple(joints))
    clips = tuple(dataclasses.replace(clip, keypoints=clip.keypoints[:, :, columns]) for clip in source.clips)
    skeleton = Skeleton("hdm15", tuple(joints), ())
    return Memory(source.name, skeleton, source.labels, clips, f"{source.fingerprint} {' '.join(joints)}")


def composed_penn(shared: Path = SHARED) -> tuple[Composed, Composed]:
    """Sequences of Penn Action, 2D, 15 classes: of the training clips (twice each), and of the test clips."""
    train, test = penn(shared)
    return compose(train, "train", 2), compose(test, "test")


def composed_hdm05(shared: Path = SHARED) -> tuple[Composed, Composed]:
    """Sequences of HDM05, 3D, 11 classes: of three subjects (each clip six times), and of the other two (twice).

    Of the 31 joints these are the 15 of `BODY`; hands, feet and the spine between add nothing but time.
    """
    train, test = (_with_joints(part, BODY) for part in hdm05(shared))
    return compose(train, "train", 6), compose(test, "test", 2)
