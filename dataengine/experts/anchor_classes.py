"""Anchor poses: the classes of poses that a network tells apart, and which of them a person shows.

An anchor pose is the centre of a cluster of poses, each normalised by the box of its person: (0, 0) is the top left
corner of the box and (1, 1) its bottom right corner. Truncated bodies fill their boxes with fewer joints, so they make
clusters of their own. Source: Rogez, Weinzaepfel and Schmid, "LCR-Net++" (IEEE TPAMI 2019, arXiv 1803.00455), section
3.1, in two dimensions as in "Selective Spatio-Temporal Aggregation Based Pose Refinement System", section 3.3.
"""

from __future__ import annotations

import numpy as np

from dataengine.core.errors import ComponentError
from dataengine.core.types import Bool, Float, Int

ROUNDS = 100
"""Most rounds of k-means."""
MIN_JOINTS = 3
"""Least joints of a person who has a class."""


def normalise(keypoints: Float, boxes: Float) -> Float:
    """Joints (..., V, 2) in pixels -> in lengths of their boxes (..., 4) xyxy, float64."""
    low, size = boxes[..., None, :2], np.maximum(boxes[..., None, 2:] - boxes[..., None, :2], 1e-6)
    return np.asarray((np.asarray(keypoints, np.float64) - low) / size)


def distances(poses: Float, anchors: Float) -> Float:
    """(N, K) mean squared distance of poses (N, V, 2) to anchors (K, V, 2) over the joints that both have.

    Infinite where a pose and an anchor have no joint in common.
    """
    known: Bool = np.asarray(np.isfinite(poses).all(-1))
    both: Bool = known[:, None] & np.isfinite(anchors).all(-1)
    gaps = np.square(poses[:, None] - anchors).sum(-1)
    counts = both.sum(-1)
    return np.where(counts > 0, np.where(both, gaps, 0).sum(-1) / np.maximum(counts, 1), np.inf)


def classify(poses: Float, anchors: Float) -> Int:
    """(N,) int64 number of the nearest anchor of each pose (N, V, 2); ties go to the lower number.

    -1 for a pose with fewer than `MIN_JOINTS` joints.
    """
    if not len(poses):
        return np.zeros(0, np.int64)
    nearest = distances(poses, anchors).argmin(1)
    return np.where(np.isfinite(poses).all(-1).sum(-1) >= MIN_JOINTS, nearest, -1).astype(np.int64)


def cluster(poses: Float, num_anchors: int, seed: int = 0) -> Float:
    """Anchor poses (K, V, 2) float32 by k-means with the seeding of k-means++, largest cluster first.

    A joint that is missing in a pose takes no part in its distances and in the mean. A joint that is missing in all
    poses of a cluster is put where the mean of all whole poses has it, after the shift and scale per axis that fit
    the joints of the cluster best. The same poses and seed give the same bytes.

    Args:
        poses: (N, V, 2) normalised by their boxes, NaN where missing; those with less than `MIN_JOINTS` joints are
            left out.
        num_anchors: K.

    Raises:
        ComponentError: fewer poses than anchors, or a joint that no pose has.
    """
    poses = np.asarray(poses, np.float64)
    poses = poses[np.isfinite(poses).all(-1).sum(-1) >= MIN_JOINTS]
    if len(poses) < num_anchors or num_anchors < 1:
        raise ComponentError(f"{num_anchors} anchor poses of {len(poses)} poses: give 1 to {len(poses)}")
    seen: Bool = np.asarray(np.isfinite(poses).all(-1))
    if not seen.any(0).all():
        raise ComponentError(f"joints {np.flatnonzero(~seen.any(0)).tolist()} are missing in all {len(poses)} poses")
    rng = np.random.default_rng(seed)
    complete: Bool = np.asarray(seen.all(1))
    mean = _mean(poses[complete], seen[complete]) if complete.any() else _mean(poses, seen)
    centres = _complete(_seeds(poses, num_anchors, rng), mean)
    labels = np.full(len(poses), -1)
    for _ in range(ROUNDS):
        gaps = distances(poses, centres)
        found = gaps.argmin(1)
        for k in np.flatnonzero(np.bincount(found, minlength=num_anchors) == 0):
            # an empty cluster takes over the pose that is farthest from its own
            found[gaps[np.arange(len(poses)), found].argmax()] = k
            gaps[found == k, k] = 0
        if (found == labels).all():
            break
        labels = found
        for k in np.unique(labels):
            centres[k] = _complete(_mean(poses[labels == k], seen[labels == k]), mean)
    sizes = np.bincount(labels, minlength=num_anchors)
    order = np.lexsort((*centres.reshape(num_anchors, -1).T[::-1], -sizes))
    return np.asarray(centres[order], np.float32)


def _mean(poses: Float, seen: Bool) -> Float:
    """(V, 2) mean over the poses that have a joint, NaN where none has."""
    counts = seen.sum(0)[:, None]
    total = np.where(seen[..., None], poses, 0).sum(0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def _seeds(poses: Float, count: int, rng: np.random.Generator) -> Float:
    """Poses far from each other (Arthur and Vassilvitskii, "k-means++", 2007)."""
    chosen = [int(rng.integers(len(poses)))]
    nearest = distances(poses, poses[chosen])[:, 0]
    while len(chosen) < count:
        weights = np.where(np.isfinite(nearest), nearest, 0)
        total = weights.sum()
        if total > 0:
            pick = int(rng.choice(len(poses), p=weights / total))
        else:
            pick = int(rng.choice(np.setdiff1d(np.arange(len(poses)), chosen)))
        chosen.append(pick)
        nearest = np.minimum(nearest, distances(poses, poses[[pick]])[:, 0])
    return poses[chosen]


def _complete(poses: Float, mean: Float) -> Float:
    """Poses (..., V, 2) with their missing joints put where the scaled and shifted `mean` (V, 2) has them."""
    out = np.array(poses)
    for pose in out.reshape(-1, *mean.shape):
        here = np.isfinite(pose).all(-1)
        if here.all():
            continue
        for axis in range(2):
            x, y = mean[here, axis], pose[here, axis]
            spread = np.square(x - x.mean()).sum()
            slope = ((x - x.mean()) * (y - y.mean())).sum() / spread if spread > 1e-9 else 1.0
            # a part of the body is never smaller than the same part of the whole body
            slope = max(slope, 1.0)
            pose[~here, axis] = y.mean() + slope * (mean[~here, axis] - x.mean())
    return out
