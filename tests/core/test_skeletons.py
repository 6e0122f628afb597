"""Layouts and the maps between them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import BODY12, COMMON, SKELETONS, convert, skeleton

NAMES = sorted(SKELETONS)


def pose(layout, shape=(2, 5), seed=0, missing=0.0, axes=2):
    rng = np.random.default_rng(seed)
    coords = rng.integers(-500, 500, (*shape, skeleton(layout).num_joints, axes)).astype(np.float32)
    coords[rng.random(coords.shape[:-1]) < missing] = np.nan
    return coords, np.where(np.isnan(coords[..., 0]), 0, rng.uniform(0.1, 1, coords.shape[:-1])).astype(np.float32)


def joint(coords, layout, name):
    return coords[..., skeleton(layout).index(name), :]


@pytest.mark.parametrize("name", NAMES)
def test_layouts_are_sound(name):
    layout = skeleton(name)
    assert layout.name == name and len(set(layout.joints)) == layout.num_joints
    flip = np.array(layout.flip)
    np.testing.assert_array_equal(flip[flip], np.arange(layout.num_joints))
    for a, b in zip(layout.joints, np.array(layout.joints)[flip], strict=True):
        assert a.startswith(("left_", "right_")) == (a != b)
    assert set(BODY12) <= set(layout.joints)
    assert all(0 <= a < layout.num_joints and 0 <= b < layout.num_joints and a != b for a, b in layout.bones)
    mirrored = {frozenset((layout.flip[a], layout.flip[b])) for a, b in layout.bones}
    assert mirrored == {frozenset(bone) for bone in layout.bones}


@pytest.mark.parametrize(("source", "target"), itertools.product(NAMES, NAMES))
def test_shared_joints_come_back_unchanged(source, target):
    coords, scores = pose(source, missing=0.2)
    there, there_scores = convert(coords, scores, source, target)
    back, back_scores = convert(there, there_scores, target, source)
    shared = [j for j in skeleton(source).joints if j in skeleton(target).joints]
    assert len(shared) >= 12
    if "mouth" in shared:
        assert source == target or {source, target} == {"posetics17"}
    for name in shared:
        np.testing.assert_array_equal(joint(there, target, name), joint(coords, source, name))
        np.testing.assert_array_equal(joint(back, source, name), joint(coords, source, name))
        np.testing.assert_array_equal(
            back_scores[..., skeleton(source).index(name)], scores[..., skeleton(source).index(name)]
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_becomes_itself_exactly(name):
    coords, scores = pose(name, missing=0.3)
    same, same_scores = convert(coords, scores, name, name)
    np.testing.assert_array_equal(same, coords)
    np.testing.assert_array_equal(same_scores, scores)


@pytest.mark.parametrize(("source", "target"), itertools.product(NAMES, NAMES))
def test_mirroring_commutes_with_converting(source, target):
    coords, scores = pose(source, missing=0.1)
    turn = np.float32([-1, 1])
    first, first_scores = convert(
        (coords * turn)[..., list(skeleton(source).flip), :], scores[..., list(skeleton(source).flip)], source, target
    )
    after, after_scores = convert(coords, scores, source, target)
    np.testing.assert_allclose(first, (after * turn)[..., list(skeleton(target).flip), :])
    np.testing.assert_array_equal(first_scores, after_scores[..., list(skeleton(target).flip)])


@pytest.mark.parametrize(("source", "target"), itertools.product(NAMES, NAMES))
def test_seen_is_finite_with_a_score_and_unseen_is_nan_with_none(source, target):
    coords, scores = convert(*pose(source, missing=0.3), source, target)
    seen = np.isfinite(coords).all(-1)
    assert (np.isnan(coords).all(-1) == ~seen).all()
    np.testing.assert_array_equal(scores > 0, seen)


def test_interpolated_joints_of_posetics17():
    coords, scores = pose("body13")
    got, got_scores = convert(coords, scores, "body13", "posetics17")
    neck = (joint(coords, "body13", "left_shoulder") + joint(coords, "body13", "right_shoulder")) / 2
    hip = (joint(coords, "body13", "left_hip") + joint(coords, "body13", "right_hip")) / 2
    np.testing.assert_allclose(joint(got, "posetics17", "neck"), neck)
    np.testing.assert_allclose(joint(got, "posetics17", "mid_hip"), hip)
    np.testing.assert_allclose(joint(got, "posetics17", "chest"), (neck + hip) / 2)
    np.testing.assert_allclose(joint(got, "posetics17", "mouth"), (joint(coords, "body13", "nose") + neck) / 2)
    np.testing.assert_array_equal(joint(got, "posetics17", "nose"), joint(coords, "body13", "nose"))
    np.testing.assert_array_equal(got_scores[..., 2], scores[..., 1:3].min(-1))
    np.testing.assert_array_equal(got_scores[..., 3], scores[..., [1, 2, 7, 8]].min(-1))


def test_order_of_posetics17_and_lcr13():
    assert skeleton("posetics17").joints[:7] == (
        "nose",
        "mouth",
        "neck",
        "chest",
        "mid_hip",
        "left_shoulder",
        "right_shoulder",
    )
    assert (
        skeleton("posetics17").joints[-2:] == ("left_ankle", "right_ankle") and len(skeleton("posetics17").bones) == 16
    )
    assert skeleton("lcr13").joints[0] == "right_ankle" and skeleton("lcr13").joints[12] == "nose"
    assert COMMON == "body13" and skeleton("coco17").joints[5:] == BODY12


def test_a_head_point_stands_for_eyes_and_ears():
    coords, scores = pose("lcr13")
    got, _ = convert(coords, scores, "lcr13", "coco17")
    for face in range(5):
        np.testing.assert_array_equal(got[..., face, :], coords[..., 12, :])


def test_the_head_of_mpii16_is_between_upper_neck_and_top():
    coords, scores = pose("mpii16")
    got, _ = convert(coords, scores, "mpii16", "body13")
    np.testing.assert_allclose(
        got[..., 0, :], (joint(coords, "mpii16", "upper_neck") + joint(coords, "mpii16", "head_top")) / 2
    )


def test_an_interpolated_joint_needs_all_its_parts():
    coords, scores = pose("body13", shape=())
    coords[1], scores[1] = np.nan, 0  # left shoulder
    got, got_scores = convert(coords, scores, "body13", "posetics17")
    missing = [skeleton("posetics17").joints[v] for v in np.flatnonzero(got_scores == 0)]
    assert missing == ["mouth", "neck", "chest", "left_shoulder"]
    assert np.isnan(got[got_scores == 0]).all()


def test_joints_that_cannot_be_had_are_unseen():
    got, scores = convert(*pose("coco17"), "coco17", "mpii16")
    top = skeleton("mpii16").index("head_top")
    assert np.isnan(got[..., top, :]).all() and (scores[..., top] == 0).all()


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_axes_and_types_are_kept(axes, dtype):
    coords, _ = pose("coco17", shape=(2, 3, 4), axes=axes)
    got, scores = convert(coords.astype(dtype), None, "coco17", "posetics17")
    assert got.shape == (2, 3, 4, 17, axes) and got.dtype == dtype and scores.shape == (2, 3, 4, 17)
    assert (scores == 1).all()
    assert convert(np.zeros((0, 17, 2), np.float32))[0].shape == (0, 17, 2)


def test_user_mistakes_are_told():
    with pytest.raises(ComponentError, match="did you mean 'coco17'"):
        convert(np.zeros((17, 2)), None, "coco-17", "body13")
    with pytest.raises(ComponentError, match="17 joints; given coords"):
        convert(np.zeros((13, 2)), None, "coco17", "body13")
    with pytest.raises(ComponentError, match="and scores"):
        convert(np.zeros((17, 2)), np.zeros(16), "coco17", "body13")
