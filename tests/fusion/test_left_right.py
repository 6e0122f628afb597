"""Left and right put straight from one view alone."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import BODY12, convert, skeleton
from dataengine.fusion.left_right import straighten
from dataengine.rendering.body import Body, pose
from dataengine.rendering.motion import angles

LAYOUT = skeleton("body13")
MIRROR = list(LAYOUT.flip)


def walker(seed=0, frames=75, fps=25.0, heading=0.0, turns=0.0, noise=0.5, motion="walk"):
    """(T, 13, 2) pixels of a person about 170 pixels tall, seen from the side, from the front (heading pi / 2) or
    turning."""
    rng, t = np.random.default_rng(seed), np.arange(frames) / fps
    points = pose(Body.draw(rng), angles(motion, t, rng), (0.0, 0.0), 0.0).points[:, [0, *range(2, 14)]]
    angle = heading + 2 * np.pi * turns * t
    across = points[..., 0] * np.cos(angle)[:, None] + points[..., 2] * np.sin(angle)[:, None]
    return 100 * np.stack([across, -points[..., 1]], -1) + rng.normal(0, noise, (frames, 13, 2))


def swap(points, spans):
    """`spans`: (first, end, joints) whose sides are exchanged; returns the points and the mask."""
    mask = np.zeros(points.shape[:2], bool)
    for first, end, joints in spans:
        mask[first:end, LAYOUT.indices(joints)] ^= True
    return np.where(mask[..., None], points[:, MIRROR], points), mask


@pytest.mark.parametrize("heading", [0.0, 0.8, 1.6, 2.4])
@pytest.mark.parametrize("fps", [12.5, 25, 60])
def test_a_person_without_exchanges_is_left_alone(heading, fps):
    for seed in range(3):
        points = walker(seed, heading=heading, fps=fps)
        fixed, _, mask = straighten(points)
        assert not mask.any()
        np.testing.assert_array_equal(fixed, points.astype(np.float32))


@pytest.mark.parametrize("turns", [0.15, 0.4, -0.7])
def test_a_person_who_turns_is_left_alone(turns):
    for seed in range(4):
        assert not straighten(walker(seed, turns=turns, heading=seed))[2].any()


@pytest.mark.parametrize("joints", [BODY12, BODY12[2:6], BODY12[8:]], ids=["body", "arms", "legs"])
def test_exchanges_are_undone(joints):
    for seed in range(4):
        points = walker(seed, heading=0.5, motion="run")
        worse, mask = swap(points, [(20, 31, joints), (40, 41, joints), (55, 58, joints)])
        fixed, _, found = straighten(worse)
        telling = np.linalg.norm(points - points[:, MIRROR], axis=-1) > 8
        wrong = (found != mask) & telling
        assert wrong.mean() < 0.02 < (mask & telling).mean()
        assert np.abs(fixed - points)[~(found != mask)].max() < 1e-3


def test_gaps_and_frames_between_two_minds_do_not_break_the_thread():
    points = walker(3, heading=0.4)
    worse, mask = swap(points, [(20, 45, BODY12)])
    worse[[20, 44]] = (points[[20, 44]] + points[[20, 44]][:, MIRROR]) / 2  # neither one nor the other
    worse[30:33] = np.nan
    rng = np.random.default_rng(0)
    worse[rng.random(worse.shape[:2]) < 0.1] = np.nan
    fixed, _, found = straighten(worse)
    steady = np.ones(len(points), bool)
    steady[[20, 44, 30, 31, 32]] = False
    np.testing.assert_array_equal(found[steady], mask[steady])
    assert np.isfinite(fixed).all(-1).sum() == np.isfinite(worse).all(-1).sum()


def test_scores_travel_with_their_joints():
    points = walker(1, heading=0.5)
    scores = np.tile(np.linspace(0.5, 1, 13), (len(points), 1))
    worse, mask = swap(points, [(20, 31, BODY12)])
    bad = np.where(mask, scores[:, MIRROR], scores)
    _, fixed, found = straighten(worse, bad)
    np.testing.assert_array_equal(found, mask)
    np.testing.assert_allclose(fixed, scores, rtol=1e-6)


def test_does_not_depend_on_place_size_or_mirroring():
    points, _ = swap(walker(2, heading=0.5), [(20, 31, BODY12), (50, 55, BODY12[8:])])
    _, _, mask = straighten(points)
    assert mask.any()
    np.testing.assert_array_equal(straighten(4 * points + 1000)[2], mask)
    np.testing.assert_array_equal(straighten(points * [-1, 1])[2], mask)
    fixed, _, _ = straighten(points)
    assert not straighten(fixed)[2].any()


@pytest.mark.parametrize("layout", ["coco17", "posetics17", "body14", "lcr13"])
def test_every_layout(layout):
    points, mask = swap(walker(0, heading=0.5), [(20, 31, BODY12)])
    there, _ = convert(points, None, "body13", layout)
    fixed, _, found = straighten(there, None, layout)
    wrist = skeleton(layout).index("left_wrist")
    np.testing.assert_array_equal(found[:, wrist], mask[:, LAYOUT.index("left_wrist")])
    assert not found[:, [v for v, j in enumerate(skeleton(layout).joints) if not j.startswith(("left", "right"))]].any()
    assert fixed.dtype == np.float32


def test_little_to_go_by():
    for shape in ((0, 13, 2), (1, 13, 2), (2, 13, 2)):
        fixed, _, mask = straighten(np.zeros(shape))
        assert fixed.shape == shape and not mask.any()
    nothing, _, mask = straighten(np.full((30, 13, 2), np.nan))
    assert np.isnan(nothing).all() and not mask.any()
    lone = np.full((30, 13, 2), np.nan)
    lone[:, 5] = walker()[:30, 5]
    assert not straighten(lone)[2].any()
    assert not straighten(np.zeros((30, 13, 2)))[2].any()


def test_user_mistakes_are_told():
    with pytest.raises(ComponentError, match="13 joints"):
        straighten(np.zeros((5, 17, 2)))
    with pytest.raises(ComponentError, match="one score per joint"):
        straighten(np.zeros((5, 13, 2)), np.zeros((5, 12)))


@pytest.mark.data
def test_real_annotation_is_hardly_touched(shared_data):
    data = np.load(shared_data / "skeleton" / "penn_action.npz")
    names = [str(n) for n in data["joint_names"]]
    order = [names.index(n) for n in ("head", *(f"{j[0]}_{j.split('_')[1]}" for j in BODY12))]
    touched = frames = 0
    for i in np.flatnonzero(~data["train"])[::40]:
        rows = slice(data["offsets"][i], data["offsets"][i + 1])
        points = np.where(data["visible"][rows][:, order, None], data["keypoints"][rows][:, order], np.nan)
        touched += int(straighten(points)[2].any(1).sum())
        frames += len(points)
    assert frames > 1500 and touched / frames < 0.03
