"""The steps around lifting networks: gaps, features, projection, bones; each against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import COMMON, SKELETONS, convert, skeleton
from dataengine.core.types import Float
from dataengine.lift.bones import constant_bones
from dataengine.lift.inputs import distance_to, mirrored_features, over_gaps, person_features, smoothed
from dataengine.lift.projection import fit_scaled_orthographic, reprojection_error
from dataengine.lift.temporal import CHUNK, Temporal
from dataengine.rendering.body import Body, pose
from dataengine.rendering.motion import angles

SIZE = (640, 480)


def walker(frames: int = 60) -> Float:
    """(T, 13, 2) pixels of a rendered walker."""
    rng = np.random.default_rng(5)
    points = pose(Body.draw(rng), angles("walk", np.arange(frames) / 25, rng), (0.0, 0.0), 0.7).points
    seen = points[:, [0, *range(2, 14)]] @ np.diag([1.0, -1.0, -1.0]) + [0.0, 1.0, 5.0]
    return np.asarray(600 * seen[..., :2] / seen[..., 2:] + [320, 240], np.float32)


def test_distance_to_the_nearest_frame() -> None:
    rng = np.random.default_rng(0)
    for share in (0.05, 0.5, 1.0):
        present = rng.random(40) < share
        present[7] = True
        at = np.flatnonzero(present)
        assert list(distance_to(present)) == [min(abs(at - t)) for t in range(40)]
    assert list(distance_to(np.zeros(3, np.bool_))) == [3, 3, 3]


def test_gaps_are_bridged_and_ends_held() -> None:
    values = np.array([[np.nan, 1, np.nan, np.nan, 4, np.nan]]).T
    known = np.isfinite(values[:, 0])
    assert over_gaps(values, known)[:, 0].tolist() == [1, 1, 2, 3, 4, 4]
    assert over_gaps(values, np.zeros(6, np.bool_)).tolist() == [[0]] * 6


def test_a_running_mean_is_shorter_at_the_ends() -> None:
    values = np.random.default_rng(0).normal(size=20)
    wanted = [values[max(0, t - 3) : t + 4].mean() for t in range(20)]
    assert np.allclose(smoothed(values, 7), wanted)


def test_features_do_not_depend_on_resolution_and_little_on_the_place() -> None:
    points, seen = walker(), np.ones((60, 13), np.bool_)
    seen[20:30, 4] = False
    one = person_features(points, seen, SIZE)
    assert np.allclose(person_features(3 * points, seen, (3 * 640, 3 * 480)), one, atol=1e-5)
    moved = person_features(points + [50, 20], seen, SIZE)
    assert np.allclose(moved[:, :39], one[:, :39], atol=1e-5)
    assert np.allclose(moved[:, 39:41] - one[:, 39:41], [100 / 640, 40 / 640], atol=1e-5)
    unseen = np.where(seen[..., None], points, np.nan)
    assert np.array_equal(person_features(unseen.astype(np.float32), seen, SIZE), one)


def test_features_of_the_mirrored_picture_are_the_mirrored_features() -> None:
    points, seen = walker(), np.random.default_rng(0).random((60, 13)) < 0.8
    flip = list(skeleton(COMMON).flip)
    mirrored = points[:, flip] * [-1, 1] + [640, 0]
    assert np.allclose(
        person_features(mirrored, seen[:, flip], SIZE),
        mirrored_features(person_features(points, seen, SIZE)),
        atol=1e-5,
    )


def test_the_camera_of_least_squares_is_found() -> None:
    rng = np.random.default_rng(0)
    points, shift = rng.normal(size=(5, 13, 3)), rng.uniform(100, 300, (5, 1, 2))
    scale = rng.uniform(50, 200, 5)
    pixels, seen = scale[:, None, None] * points[..., :2] + shift, rng.random((5, 13)) < 0.8
    found = fit_scaled_orthographic(points, pixels, seen)
    assert np.allclose(found[0], scale) and np.allclose(found[1], shift[:, 0])
    assert np.abs(reprojection_error(points, pixels, seen)).max() < 1e-4
    noisy = pixels + rng.normal(0, 3, pixels.shape)
    by_hand = []
    for t in range(5):
        rows = [[points[t, v, c], float(c == 0), float(c == 1)] for v in range(13) for c in (0, 1) if seen[t, v]]
        wanted = [noisy[t, v, c] for v in range(13) for c in (0, 1) if seen[t, v]]
        left = np.array(wanted) - np.array(rows) @ np.linalg.lstsq(np.array(rows), np.array(wanted))[0]
        by_hand.append(np.linalg.norm(left.reshape(-1, 2), axis=1).mean())
    assert np.allclose(reprojection_error(points, noisy, seen), by_hand, rtol=1e-5)
    seen[:, 1:] = False
    assert np.isnan(reprojection_error(points, pixels, seen)).all()


def test_bones_keep_their_median_length_and_their_direction() -> None:
    rng = np.random.default_rng(0)
    poses = np.float32(rng.normal(size=(1, 13, 3)) + 0.05 * rng.normal(size=(30, 13, 3)))
    poses[4:6] = np.nan
    made = constant_bones(poses)
    index = skeleton(COMMON).index
    for side in ("left", "right"):
        for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
            before, after = (each[:, index(f"{side}_{b}")] - each[:, index(f"{side}_{a}")] for each in (poses, made))
            length, was = np.linalg.norm(after, axis=-1), np.linalg.norm(before, axis=-1)
            assert np.nanstd(length) < 1e-5
            assert np.allclose(after / length[:, None], before / was[:, None], atol=1e-4, equal_nan=True)
    assert np.isnan(made[4:6]).all() and np.isfinite(made[6:]).all()
    one_sided = constant_bones(poses, symmetric=False)
    knee, hip = index("left_knee"), index("left_hip")
    assert np.nanmedian(np.linalg.norm(one_sided[:, knee] - one_sided[:, hip], axis=-1)) == pytest.approx(
        float(np.nanmedian(np.linalg.norm(poses[:, knee] - poses[:, hip], axis=-1))), rel=1e-5
    )
    assert np.isnan(constant_bones(np.full((3, 13, 3), np.nan, np.float32))).all()


def test_frames_too_far_from_any_that_is_seen_are_not_lifted() -> None:
    points, scores = walker(), np.ones((60, 13), np.float32)
    points[20:50], scores[20:50] = np.nan, 0
    with Temporal(max_gap=5).load() as session:
        made = session.lift(points, scores, COMMON, SIZE)
    lifted = np.isfinite(made.keypoints3d).all((1, 2))
    assert np.flatnonzero(~lifted).tolist() == list(range(25, 45))
    assert np.array_equal(np.isfinite(made.reprojection_error), scores.all(1))


def test_every_layout_is_lifted_in_its_own_order() -> None:
    points, scores = walker(30), np.ones((30, 13), np.float32)
    with Temporal().load() as session:
        plain = session.lift(points, scores, COMMON, SIZE)
        for name in SKELETONS:
            given, told = convert(points, scores, COMMON, name)
            made = session.lift(given, told, name, SIZE)
            back = convert(made.keypoints3d, None, name, COMMON)[0][:, 1:]
            if Temporal().serves(name) and "nose" in skeleton(name).joints:
                assert np.allclose(back, plain.keypoints3d[:, 1:], atol=1e-5), name


def test_long_clips_are_lifted_in_parts_that_do_not_show() -> None:
    points = np.concatenate([walker(60)] * (CHUNK // 60 + 1))
    scores = np.ones(points.shape[:2], np.float32)
    with Temporal().load() as session:
        whole = session.lift(points, scores, COMMON, SIZE).keypoints3d
        cut = session.lift(points[CHUNK - 60 :], scores[CHUNK - 60 :], COMMON, SIZE).keypoints3d
    assert len(whole) > CHUNK and np.abs(whole[CHUNK - 20 :] - cut[40:]).max() < 1e-4


def test_the_mirrored_person_is_lifted_to_the_mirrored_pose() -> None:
    points, scores, flip = walker(), np.ones((60, 13), np.float32), list(skeleton(COMMON).flip)
    with Temporal().load() as session:
        plain = session.lift(points, scores, COMMON, SIZE).keypoints3d
        other = session.lift(points[:, flip] * np.float32([-1, 1]) + np.float32([640, 0]), scores, COMMON, SIZE)
    assert np.abs(other.keypoints3d - plain[:, flip] * [-1, 1, 1]).max() < 1e-4


def test_options_out_of_range_are_one_line() -> None:
    for options, told in (({"max_gap": -1}, "max_gap = -1"), ({"min_score": 2.0}, "min_score = 2.0")):
        with pytest.raises(ComponentError, match=told):
            Temporal(**options)  # type: ignore[arg-type]
