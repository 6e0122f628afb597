"""Anchor poses: clusters of normalised poses, and the nearest one of a person."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core.errors import ComponentError
from dataengine.experts.anchor_classes import classify, cluster, distances, normalise

V = 6


def planted(seed: int = 0, counts: tuple[int, ...] = (30, 20, 10)) -> tuple[np.ndarray, np.ndarray]:
    """Templates (K, V, 2) far from each other, and noisy poses of them in a random order."""
    rng = np.random.default_rng(seed)
    templates = rng.uniform(0, 1, (len(counts), V, 2))
    poses = np.concatenate([t + rng.normal(0, 0.01, (n, V, 2)) for t, n in zip(templates, counts, strict=True)])
    return templates, rng.permutation(poses)


def test_planted_clusters_are_found_largest_first() -> None:
    templates, poses = planted()
    for seed in range(5):
        assert np.abs(cluster(poses, 3, seed) - templates).max() < 0.02


def test_same_poses_and_seed_give_the_same_bytes() -> None:
    poses = np.random.default_rng(1).uniform(0, 1, (80, V, 2))
    poses[:20, 4:] = np.nan
    first = cluster(poses, 7, 3)
    assert first.dtype == np.float32
    assert cluster(poses.copy(), 7, 3).tobytes() == first.tobytes()
    assert np.isfinite(first).all()


def test_distances_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(2)
    poses, anchors = rng.normal(size=(5, V, 2)), rng.normal(size=(3, V, 2))
    poses[rng.random((5, V)) < 0.3] = np.nan
    poses[4] = np.nan
    found = distances(poses, anchors)
    for n in range(5):
        for k in range(3):
            gaps = [np.sum((poses[n, v] - anchors[k, v]) ** 2) for v in range(V) if np.isfinite(poses[n, v]).all()]
            assert found[n, k] == pytest.approx(np.mean(gaps) if gaps else np.inf)


def test_class_is_the_nearest_anchor_and_none_with_few_joints() -> None:
    anchors = np.stack([np.zeros((V, 2)), np.ones((V, 2)), np.zeros((V, 2))])
    poses = np.stack([np.full((V, 2), 0.2), np.full((V, 2), 0.9), np.full((V, 2), 0.9)])
    poses[2, 2:] = np.nan
    assert classify(poses, anchors).tolist() == [0, 1, -1]
    assert classify(np.zeros((0, V, 2)), anchors).tolist() == []


def test_joints_that_a_truncated_class_lacks_lie_where_the_whole_body_has_them() -> None:
    """Upper bodies fill their boxes: the legs go below the box, at the scale of the upper body."""
    whole = np.stack([np.array([0.2, 0.8, 0.2, 0.8, 0.2, 0.8]), np.array([0, 0, 0.5, 0.5, 1, 1])], -1)
    upper = whole.copy()
    upper[:, 1] *= 2
    upper[4:] = np.nan
    rng = np.random.default_rng(0)
    poses = np.concatenate([whole + rng.normal(0, 0.005, (40, V, 2)), upper + rng.normal(0, 0.005, (15, V, 2))])
    anchors = cluster(poses, 2)
    assert np.abs(anchors[0] - whole).max() < 0.02
    assert np.abs(anchors[1, 4:, 1] - 2).max() < 0.2


def test_normalised_poses_are_in_lengths_of_the_box() -> None:
    points = np.array([[[10.0, 20], [30, 60], [np.nan, np.nan]]])
    found = normalise(points, np.array([[10.0, 20, 50, 100]]))
    assert found[0, :2].tolist() == [[0, 0], [0.5, 0.5]]
    assert np.isnan(found[0, 2]).all()


@pytest.mark.parametrize(("poses", "count"), [(np.zeros((2, V, 2)), 3), (np.full((9, V, 2), np.nan), 2)])
def test_too_few_poses_are_told(poses: np.ndarray, count: int) -> None:
    with pytest.raises(ComponentError, match="anchor poses of"):
        cluster(poses, count)


def test_equal_poses_make_as_many_anchors_as_asked_for() -> None:
    assert cluster(np.full((9, V, 2), 0.5), 4).shape == (4, V, 2)


def test_a_joint_that_nobody_has_is_told() -> None:
    poses = np.random.default_rng(0).uniform(size=(9, V, 2))
    poses[:, 5] = np.nan
    with pytest.raises(ComponentError, match=r"joints \[5\]"):
        cluster(poses, 2)
