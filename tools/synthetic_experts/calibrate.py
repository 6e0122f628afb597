"""Turns the networks' log-odds into the probability that a joint lies within half a head of the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, minimize

from dataengine.core.types import Poses
from dataengine.rendering import RenderedClip, render_clip

Array = NDArray[Any]
CONDITIONS = ("clean", "occluded", "lowres", "multi")
NUM_FRAMES = 6
WITHIN = 0.5
"""A joint is right within this many head lengths (PCKh at 0.5)."""
FAR = 3.0
"""Head lengths of mean distance beyond which a pose is not about a person."""


def matched(poses: Array, truth: Array, head: Array) -> list[tuple[int, int]]:
    """Pairs (pose, person) of least total mean distance (Hungarian), each within `FAR` heads.

    Args:
        poses: (M, V, 2) pixels, NaN unseen. truth: (P, V, 2) pixels. head: (P,) pixels.
    """
    if not len(poses) or not len(truth):
        return []
    gap = np.linalg.norm(poses[:, None] - truth[None], axis=-1) / head[None, :, None]
    # the mean over a pose's joints, each at most 2 FAR: one joint far off says little about who it is
    seen = np.isfinite(gap)
    cost = np.where(seen, np.minimum(np.nan_to_num(gap), 2 * FAR), 0).sum(-1) / np.maximum(seen.sum(-1), 1)
    cost = np.where(seen.any(-1), cost, 2 * FAR)
    return [(int(m), int(p)) for m, p in zip(*linear_sum_assignment(cost), strict=True) if cost[m, p] < FAR]


def outcomes(poses: Poses, clip: RenderedClip, t: int) -> Iterator[tuple[Array, Array]]:
    """Per matched person: scores (14,) and whether each joint is right (14,), NaN where it lies outside the picture."""
    size = (clip.frames.shape[2], clip.frames.shape[1])
    truth = clip.joints[t]
    for m, p in matched(poses.coords, truth, clip.head[t]):
        inside = ((truth[p] >= 0) & (truth[p] < size)).all(-1)
        gap = np.linalg.norm(poses.coords[m] - truth[p], axis=-1)
        yield poses.scores[m], np.where(inside, np.nan_to_num(gap, nan=np.inf) <= WITHIN * clip.head[t, p], np.nan)


def logistic(evidence: Array, right: Array) -> Array:
    """Slope and intercept (2,) of the logistic curve of `right` (N,) in {0, 1} over `evidence` (N,), pulled a little to
    (1, 0)."""

    def loss(ab: Array) -> float:
        z = ab[0] * evidence + ab[1]
        return float(np.mean(np.logaddexp(0, z) - right * z) + 1e-3 * ((ab[0] - 1) ** 2 + ab[1] ** 2))

    return np.asarray(minimize(loss, np.array((1.0, 0.0)), method="Nelder-Mead").x)


def fit(look: Callable[[Array], dict[str, list[Poses]]], first_seed: int, num_clips: int) -> dict[str, Array]:
    """Calibration tables (14, 2) of every expert.

    Args:
        look: frames (T, H, W, 3) to each expert's poses, with uncalibrated scores: the logistic
            function of the network's log-odds.
        first_seed: seed of the first clip; clips go through `CONDITIONS` in turn.
        num_clips: how many clips.
    """
    rows: dict[str, list[tuple[Array, Array]]] = {}
    for k in range(num_clips):
        clip = render_clip(first_seed + k, NUM_FRAMES, condition=CONDITIONS[k % len(CONDITIONS)], irregular=True)
        for name, poses in look(clip.frames).items():
            for t, frame in enumerate(poses):
                rows.setdefault(name, []).extend(outcomes(frame, clip, t))
    tables = {}
    for name, pairs in rows.items():
        scores, right = (np.stack(part) for part in zip(*pairs, strict=True))
        p = np.clip(scores.astype(np.float64), 1e-6, 1 - 1e-6)
        evidence = np.log(p / (1 - p))
        tables[name] = np.stack(
            [
                logistic(evidence[known, j], right[known, j])
                for j in range(evidence.shape[1])
                if (known := np.isfinite(right[:, j])).any()
            ]
        )
    return tables
