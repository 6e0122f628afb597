"""What is known of frames without training a network: a linear probe of frozen features, and floors on coordinates.

    probe = frame_probe(backbone, train, names, preprocess, 64)        # a method, as a trained one
    floors = frame_floors(train, test, names, preprocess, 64)          # name -> scores of the frames of every clip

Nearest neighbours and ridge regression see the joints that the network is given, and learn nothing by gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone
from training.data.entries import Motion
from training.data.spans import cut, dense, renumbered
from training.data.types import Array, SkeletonDataset, SkeletonSequence
from training.evaluate.segmentation import FrameScores
from training.methods.segmentation import Segmentation
from training.transforms.preprocess import Preprocess
from training.transforms.windows import prepared_window

EVERY = 4
"""Frames between those that floors look at; those between have the scores of the nearest."""
POSES = 8
"""Poses of a window that floors see."""
NEIGHBOURS = 5
"""Nearest neighbours that vote."""
STRENGTH = 300.0
"""Of ridge regression, on standardised numbers."""
MOST = 20_000
"""Windows, or steps, of the training clips that are learnt from, at most; of more, some are drawn."""
STEEPNESS = 8.0
"""The output r of the linear probe becomes the logit 8 (r - 1/2): the threshold 1/2 of both is the same."""
BATCH = 64
"""Windows per forward pass."""
ROWS = 512
"""Queries whose distances are in memory at once."""


def _clips(datasets: Sequence[SkeletonDataset], names: Sequence[str]) -> Iterator[SkeletonSequence]:
    """The clips one by one, their spans as indices into `names`."""
    for dataset in datasets:
        for index in range(len(dataset)):
            clip = dataset.read([index])[0]
            spans = renumbered(clip.spans, dataset.span_labels, names)
            yield cut(clip, 0, clip.keypoints.shape[1], spans)


def _ridge(rows: Array, targets: Array, strength: float = STRENGTH) -> tuple[Array, Array]:
    """Weights (D, K) and offsets (K,) of ridge regression, for rows as they are; inside they are standardised."""
    centre, scale = rows.mean(0), np.maximum(rows.std(0), 1e-6)
    normal = ((rows - centre) / scale).astype(np.float64)
    goal = targets - targets.mean(0)
    weight = np.linalg.solve(normal.T @ normal + strength * np.eye(normal.shape[1]), normal.T @ goal)
    weight /= scale[:, None]
    return np.asarray(weight), np.asarray(targets.mean(0) - centre @ weight)


def _some(count: int, seed: int) -> Any:
    """Numbers of `MOST` of `count` rows, drawn at random, or all."""
    if count <= MOST:
        return slice(None)
    return np.sort(np.random.default_rng(seed).choice(count, MOST, replace=False))


@torch.no_grad()
def frame_probe(
    backbone: Backbone,
    train: Sequence[SkeletonDataset],
    names: Sequence[str],
    preprocess: Preprocess,
    frames: int,
    device: Any = "cpu",
    seed: int = 0,
) -> Segmentation:
    """A linear probe of a frozen network: ridge regression from the features of its steps to the classes of frames.

    Args:
        backbone: the network; it is put into evaluation mode.
        train: clips with spans.
        names: of the K classes.
        preprocess: prepares windows.
        frames: of a window; they follow each other without overlap.
        device: where the network runs.
        seed: draws the steps that are learnt from, where there are many.

    Raises:
        TrainingError: no frame of the clips has a class.
    """
    method = Segmentation(backbone, len(names)).to(device)
    method.eval()
    features: list[Array] = []
    targets: list[Array] = []
    waiting: list[Motion] = []

    def run() -> None:
        motion = torch.from_numpy(np.asarray(Motion.stack("motion", waiting)[""])).to(device)
        features.append(backbone.sequence(motion).float().transpose(1, 2).cpu().numpy())
        waiting.clear()

    kept: list[Any] = []
    for clip in _clips(train, names):
        total = clip.keypoints.shape[1]
        for start in range(0, max(total - frames, 0) + 1, frames):
            window = cut(clip, start, start + frames, clip.spans)
            joints, valid = prepared_window(preprocess, window, frames)
            waiting.append(Motion(preprocess.finish(joints)))
            targets.append(dense(window.spans, frames, len(names))[:: backbone.stride])
            kept.append(valid[:: backbone.stride])
            if len(waiting) == BATCH:
                run()
    if waiting:
        run()
    rows, goals, there = np.concatenate(features), np.stack(targets), np.stack(kept)
    rows, goals = rows[there], goals[there]
    if not goals.any():
        raise TrainingError("no frame of the training clips has a class; give data with spans, or data.spans")
    some = _some(len(rows), seed)
    weight, offset = _ridge(rows[some], goals[some])
    head = method.head
    head.get_parameter("weight").copy_(torch.from_numpy(STEEPNESS * weight.T[:, :, None]))
    head.get_parameter("bias").copy_(torch.from_numpy(STEEPNESS * (offset - 0.5)))
    return method


def frame_floors(
    train: Sequence[SkeletonDataset],
    test: Sequence[SkeletonDataset],
    names: Sequence[str],
    preprocess: Preprocess,
    frames: int,
    seed: int = 0,
) -> dict[str, list[FrameScores]]:
    """Scores of the frames of the test clips by the nearest windows of the training clips, and by ridge regression.

    Around every fourth frame lies a window of `frames` frames, prepared by itself as for the network, of which `POSES`
    evenly spaced poses are one row.

    Args:
        train, test: clips with spans.
        names: of the K classes.
        preprocess: prepares the windows.
        frames: of a window.
        seed: draws the windows that are learnt from, where there are many.

    Returns:
        "nearest neighbours" and "ridge", each with the scores of every test clip.
    """
    parts = [(_rows(clip, preprocess, frames), _targets(clip, len(names))) for clip in _clips(train, names)]
    rows, goals = np.concatenate([row for row, _ in parts]), np.concatenate([goal for _, goal in parts])
    some = _some(len(rows), seed)
    rows, goals = rows[some], goals[some]
    weight, offset = _ridge(rows, goals)
    found: dict[str, list[FrameScores]] = {"nearest neighbours": [], "ridge": []}
    for clip in _clips(test, names):
        queries, total = _rows(clip, preprocess, frames), clip.keypoints.shape[1]
        place = np.minimum(np.rint(np.arange(total) / EVERY).astype(np.int64), len(queries) - 1)
        votes = np.concatenate([_votes(queries[k : k + ROWS], rows, goals) for k in range(0, len(queries), ROWS)])
        straight = np.clip(queries @ weight + offset, 0, 1).astype(np.float32)
        for name, scores in (("nearest neighbours", votes), ("ridge", straight)):
            found[name].append(FrameScores(clip.key, scores[place], clip.spans, clip.fps))
    return found


def _rows(clip: SkeletonSequence, preprocess: Preprocess, frames: int) -> Array:
    """(windows, D) float32, one around every fourth frame of a clip, moved inwards at its ends."""
    total = clip.keypoints.shape[1]
    poses = np.rint(np.linspace(0, frames - 1, POSES)).astype(np.int64)
    rows = []
    for centre in range(0, total, EVERY):
        start = min(max(centre - frames // 2, 0), max(total - frames, 0))
        joints, _ = prepared_window(preprocess, cut(clip, start, start + frames, None), frames)
        rows.append(preprocess.finish(joints)[:, poses].reshape(-1))
    return np.stack(rows)


def _targets(clip: SkeletonSequence, num_classes: int) -> Array:
    return dense(clip.spans, clip.keypoints.shape[1], num_classes)[::EVERY]


def _votes(queries: Array, rows: Array, goals: Array) -> Array:
    """(Q, K) float32, the mean target of the nearest rows."""
    count = min(NEIGHBOURS, len(rows))
    apart = np.square(rows).sum(1) - 2 * queries @ rows.T
    nearest = np.argpartition(apart, count - 1, axis=1)[:, :count]
    return np.asarray(goals[nearest].mean(1), np.float32)
