"""Clips become what networks see: people, filled joints, normalisation, streams; in agreement with published
numbers."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton, skeleton
from training.data.types import SkeletonDataset, SkeletonSequence
from training.transforms import normalise
from training.transforms.preprocess import CHOICES, Preprocess, interpolate, loop, ranked
from training.transforms.streams import bones, motion, parents, stream
from training.transforms.view import View

GOLDEN = Path(__file__).parents[1] / "golden"
PYSKL = dict(np.load(GOLDEN / "pyskl_transforms.npz", allow_pickle=False))
UNIK = dict(np.load(GOLDEN / "unik_feeder.npz", allow_pickle=False))


def clip(people=1, total=20, layout="body13", axes=2, seed=0, missing=0.0, **options):
    rng = np.random.default_rng(seed)
    keypoints = (rng.standard_normal((people, total, skeleton(layout).num_joints, axes)) * 40 + 200).astype(np.float32)
    keypoints[rng.random(keypoints.shape[:3]) < missing] = np.nan
    scores = np.where(np.isnan(keypoints[..., 0]), 0, rng.uniform(0.2, 1, keypoints.shape[:3])).astype(np.float32)
    return SkeletonSequence("c", keypoints, scores, size=(640, 480), **options)


def without_scores(given):
    return SkeletonSequence(given.key, given.keypoints, None, size=given.size)


# ---------------------------------------------------------------- published numbers


@pytest.mark.parametrize(
    ("name", "size", "auto"),
    [
        ("prenormalize_fix", (320, 240), False),
        ("prenormalize_auto", (1920, 1080), True),
        ("prenormalize_fix_default_1080x1920", (1920, 1080), False),
    ],
)
def test_the_plane_is_normalised_as_pyskl_does(name, size, auto):
    got = normalise.pyskl2d(PYSKL["keypoint"], PYSKL["score"], size, auto)
    np.testing.assert_allclose(got, PYSKL[name][..., :2], atol=1e-6)
    if f"{name}_no_score" in PYSKL:
        np.testing.assert_allclose(
            normalise.pyskl2d(PYSKL["keypoint"], None, size, auto), PYSKL[f"{name}_no_score"], atol=1e-6
        )


def test_space_is_normalised_as_pyskl_does():
    np.testing.assert_allclose(
        normalise.pyskl3d(PYSKL["prenormalize3d_input"]), PYSKL["prenormalize3d_output"], atol=1e-10
    )


@pytest.mark.parametrize("name", ["bone", "motion", "bone_motion"])
@pytest.mark.parametrize(
    ("layout", "published", "channels"),
    [("coco17", "coco", 2), ("coco17", "coco", 3), ("openpose18", "openpose", 3), ("nturgbd25", "nturgb+d", 3)],
)
def test_streams_agree_with_pyskl(layout, published, name, channels):
    joints = PYSKL[f"joint_{published}"] if f"joint_{published}" in PYSKL else PYSKL["prenormalize_fix"]
    if channels == 2 and published == "coco":
        joints = PYSKL["prenormalize_fix"][..., :2]
    got = stream(joints, name, skeleton(layout), axes=3 if layout == "nturgbd25" else 2)
    np.testing.assert_allclose(got, PYSKL[f"{name}_{published}_{channels}"], atol=1e-6)


def test_bones_agree_with_unik():
    got = [
        bones(item.transpose(3, 1, 2, 0), skeleton("posetics17"), keep_root=True).transpose(3, 1, 2, 0)
        for item in UNIK["data"]
    ]
    np.testing.assert_allclose(got, UNIK["bone"], atol=1e-6)


def test_filling_agrees_with_unik():
    got = [loop(item.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0) for item in UNIK["fill_input"]]
    np.testing.assert_array_equal(got, UNIK["fill_output"])


def test_the_screen_agrees_with_unik():
    np.testing.assert_allclose(
        normalise.screen(UNIK["screen_input"], (640, 480)), UNIK["screen_output_640x480"], atol=1e-10
    )


def test_the_whole_way_agrees_with_pyskl():
    points = PYSKL["keypoint"].copy()
    given = SkeletonSequence("c", points, PYSKL["score"], size=(320, 240))
    got = Preprocess("coco17", 2, "given", fill="zero", normalise="pyskl2d", score=True)(given)
    np.testing.assert_allclose(got, PYSKL["prenormalize_fix"], atol=1e-6)
    bone = Preprocess("coco17", 2, "given", fill="zero", normalise="pyskl2d", score=True, stream="bone")(given)
    np.testing.assert_allclose(bone, PYSKL["bone_coco_3"], atol=1e-6)
    space = Preprocess("nturgbd25", 2, "given", fill="zero", normalise="pyskl3d")(
        SkeletonSequence(
            "c",
            np.where(
                (PYSKL["prenormalize3d_input"] == 0).all((2, 3), keepdims=True), np.nan, PYSKL["prenormalize3d_input"]
            ).astype(np.float32),
        )
    )
    np.testing.assert_allclose(space, PYSKL["prenormalize3d_output"], atol=1e-5)


# ---------------------------------------------------------------- people and filling


def test_people_are_ranked():
    given = clip(people=4)
    points, scores = given.keypoints, given.scores
    points[2] = np.nan
    scores[:] = np.array([0.2, 0.9, 0.0, 0.5])[:, None, None]
    assert list(ranked(points, scores, 2)) == [1, 3] and list(ranked(points, scores, 9)) == [1, 3, 0]
    assert list(ranked(points, scores, 2, "given")) == [0, 1]
    points[0, :, 3:] = np.nan
    assert list(ranked(points, None, 3)) == [1, 3, 0]
    points[1] = points[1, :1] + 0.01 * points[1]
    points[0] = points[0, :1]
    assert list(ranked(points, scores, 3, "motion")) == [3, 1, 0]


def test_absent_people_are_zero_and_take_no_part():
    given = clip(people=3)
    given.keypoints[1] = np.nan
    got = Preprocess("body13", people=4)(given)
    assert got.shape == (4, 20, 13, 2) and got[:2].any((1, 2, 3)).all() and not got[2:].any()


def test_frames_at_the_ends_without_anybody_are_left_out():
    given = clip(people=2, total=30)
    given.keypoints[0, :5] = given.keypoints[0, 20:] = given.keypoints[1, :7] = given.keypoints[1, 26:] = np.nan
    assert Preprocess("body13", 2)(given).shape == (2, 21, 13, 2)
    one = clip(total=9)
    one.keypoints[0, :4] = one.keypoints[0, 5:] = np.nan
    for name in CHOICES["stream"]:
        got = Preprocess("body13", stream=name)(one)
        shown = name != "motion" and name != "bone_motion"  # one frame does not move
        assert got.shape == (1, 1, 13, 2 * len(name.split("+"))) and got.any() == shown
    assert not Preprocess("body13")(clip(missing=1.0)).any() and Preprocess("body13")(clip(missing=1.0)).shape == (
        1,
        20,
        13,
        2,
    )


def test_filling_is_interpolation_over_time():
    given = clip(people=2, missing=0.5).keypoints
    given[0, :, 4] = np.nan
    before, got = given.copy(), interpolate(given)
    np.testing.assert_array_equal(given, before)
    time = np.arange(20)
    for person in range(2):
        for joint in range(13):
            seen = np.isfinite(given[person, :, joint, 0])
            for axis in range(2) if seen.any() else ():
                wanted = np.interp(time, time[seen], given[person, seen, joint, axis])
                np.testing.assert_allclose(got[person, :, joint, axis], wanted, rtol=1e-5)
    np.testing.assert_allclose(got[0, :, 4], np.delete(got[0], 4, 1).mean(1), rtol=1e-5)
    np.testing.assert_array_equal(got[np.isfinite(before)], before[np.isfinite(before)])


# ---------------------------------------------------------------- normalisation


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("axes", [2, 3])
def test_the_body_is_centred_once_whatever_the_picture(missing, axes):
    given = clip(missing=missing, axes=axes)
    got = Preprocess("body13")(given)
    assert abs(got.mean((0, 1, 2))).max() < 1e-4 and abs(np.sqrt(np.square(got).mean()) - 1) < 1e-4
    moved = SkeletonSequence("c", given.keypoints * 3 + np.float32(70), given.scores)
    np.testing.assert_allclose(Preprocess("body13")(moved), got, atol=1e-3)
    pair = SkeletonSequence("c", np.concatenate([given.keypoints, given.keypoints + 50]))
    apart = Preprocess("body13", 2, "given")(pair)
    np.testing.assert_allclose(
        apart[1] - apart[0], np.broadcast_to((apart[1] - apart[0])[0, 0], apart[0].shape), atol=1e-3
    )
    still = SkeletonSequence("c", np.full((1, 3, 13, axes), 7, np.float32))
    assert not Preprocess("body13")(still).any()


@pytest.mark.parametrize("up", ["y", "z"])
@pytest.mark.parametrize("layout", ["kinect20", "nturgbd25", "hdm31", "coco17"])
def test_facing_undoes_a_turn_about_the_upright_axis(layout, up):
    given = clip(axes=3, layout=layout)
    flat = [0, 2] if up == "y" else [0, 1]
    preprocess = Preprocess(layout, normalise="view", up=up)
    got = preprocess(given)
    joints = skeleton(layout)
    side = got[0, 0, joints.index("left_shoulder")] - got[0, 0, joints.index("right_shoulder")]
    side = side + got[0, 0, joints.index("left_hip")] - got[0, 0, joints.index("right_hip")]
    assert side[0] > 0 and abs(side[flat[1]]) < 1e-3
    turned = given.keypoints.astype(np.float64).copy()
    cos, sin = np.cos(1.1), np.sin(1.1)
    turned[..., flat] = turned[..., flat] @ np.array([[cos, sin], [-sin, cos]])
    turned = (turned + [5, 6, 7]).astype(np.float32)
    np.testing.assert_allclose(preprocess(SkeletonSequence("c", turned)), got, atol=2e-3)
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(got, axis=1), axis=-1),
        np.linalg.norm(np.diff(given.keypoints, axis=1), axis=-1),
        rtol=1e-3,
    )


def test_facing_and_size_undo_a_turn_a_move_and_a_scale():
    given, preprocess = clip(axes=3), Preprocess("body13", normalise="view_body")
    turned = given.keypoints @ np.float32([[0, 0, -1], [0, 1, 0], [1, 0, 0]]) * 2.5 - np.float32(30)
    np.testing.assert_allclose(preprocess(SkeletonSequence("c", turned)), preprocess(given), atol=1e-4)


def test_facing_without_the_needed_joints_only_centres():
    given = clip(axes=3)
    given.keypoints[:, :, 1] = np.nan
    got = Preprocess("body13", fill="zero", normalise="view")(given)
    assert np.isfinite(got).all() and abs(np.delete(got, 1, 2).mean((0, 1, 2))).max() < 1e-3


# ---------------------------------------------------------------- streams and the whole


@pytest.mark.parametrize("name", sorted(SKELETONS))
def test_parents_are_a_forest_that_mirrors(name):
    joints, above = skeleton(name), np.array(parents(skeleton(name)))
    steps = above.copy()
    for _ in range(joints.num_joints):
        steps = above[steps]
    assert (above[steps] == steps).all()
    if name != "blazepose33":  # has no bone between face and body
        flip = np.array(joints.flip)
        np.testing.assert_array_equal(flip[above[flip]], above)


def test_parents_of_a_layout_of_ones_own():
    own = Skeleton("rope", ("a", "b", "c"), ((2, 1), (1, 0)))
    assert parents(own) == (1, 2, 2)
    ring = Skeleton("ring", ("a", "b", "c", "d"), ((0, 1), (1, 2), (2, 0)))
    assert parents(ring) == (0, 0, 0, 0)


@pytest.mark.parametrize("layout", ["body13", "kinect20"])
def test_bones_add_up_to_joints_and_motion_to_frames(layout):
    array = clip(people=2, axes=3, layout=layout).keypoints
    above, made = parents(skeleton(layout)), bones(array, skeleton(layout), keep_root=True)
    for joint in range(array.shape[2]):
        total, at = made[:, :, joint].copy(), joint
        while above[at] != at:
            at = above[at]
            total += made[:, :, at]
        np.testing.assert_allclose(total, array[:, :, joint], atol=1e-3)
    moved = motion(array)
    np.testing.assert_allclose(array[:, :1] + np.cumsum(moved, axis=1)[:, :-1], array[:, 1:], atol=1e-2)
    assert not moved[:, -1].any()


@pytest.mark.parametrize("normalised", ["body", "screen", "none", "pyskl2d"])
@pytest.mark.parametrize("fill", CHOICES["fill"])
@pytest.mark.parametrize("name", CHOICES["stream"])
@pytest.mark.parametrize("score", [False, True])
def test_never_nan_always_float32(normalised, fill, name, score):
    given = clip(people=3, missing=0.5)
    given.keypoints[1, :8] = np.nan
    before = given.keypoints.copy()
    made = pickle.loads(  # noqa: S301 - our own bytes
        pickle.dumps(Preprocess("body13", 2, fill=fill, normalise=normalised, stream=name, score=score))
    )
    for each in (given, without_scores(given)):
        got = made(each)
        assert (
            got.shape == (2, 20, 13, 2 * len(name.split("+")) + score)
            and got.dtype == np.float32
            and np.isfinite(got).all()
        )
    np.testing.assert_array_equal(given.keypoints, before)
    if score and name == "joint" and fill != "loop":
        np.testing.assert_allclose(made(given)[..., 2], given.scores[ranked(given.keypoints, given.scores, 2)])


def test_bones_are_made_after_the_view():
    given = clip(missing=0.2)
    view = View(24, ({"name": "shift", "range": 5.0}, {"name": "rotate", "degrees": 40}), "body13")
    bone = Preprocess("body13", stream="bone")(given, view, np.random.default_rng(3))
    joint = Preprocess("body13")(given, view, np.random.default_rng(3))
    np.testing.assert_allclose(bone, bones(joint, skeleton("body13")), atol=1e-5)
    length = np.linalg.norm(
        Preprocess("body13", stream="bone")(given, View(24, "none"), np.random.default_rng(3)), axis=-1
    )
    np.testing.assert_allclose(np.linalg.norm(bone, axis=-1), length, atol=1e-4)


def test_views_with_scores_leave_them():
    given = clip(missing=0.2)
    view = View(20, ({"name": "rotate", "degrees": 40}, {"name": "shift", "range": 3}), "body13", score=True)
    got = Preprocess("body13", score=True)(given, view, np.random.default_rng(1))
    np.testing.assert_allclose(got[..., 2], given.scores)
    np.testing.assert_array_equal(
        Preprocess("body13", score=True).finish(
            view(Preprocess("body13", score=True).joints(given), np.random.default_rng(1))
        ),
        got,
    )


def test_channels_are_chosen():
    given = clip(axes=5)
    np.testing.assert_array_equal(
        Preprocess("body13", channels=(0, 1), normalise="none")(given), given.keypoints[..., :2]
    )
    np.testing.assert_array_equal(
        Preprocess("body13", channels=(2, 3, 4), normalise="none")(given), given.keypoints[..., 2:]
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Preprocess("boddy13"), "did you mean 'body13'"),
        (lambda: Preprocess("body13", normalise="boddy"), "normalise 'boddy' is unknown.*did you mean 'body'"),
        (lambda: Preprocess("body13", people=0), "at least 1; given 0"),
        (lambda: Preprocess("coco17")(clip()), "has 13 joints; layout 'coco17' has 17"),
        (lambda: Preprocess("body13", channels=(0, 7))(clip()), r"has 2 channels; given channels \(0, 7\)"),
        (lambda: Preprocess("body13", normalise="view")(clip()), "works on 3 coordinates"),
        (
            lambda: Preprocess("body13", normalise="screen")(SkeletonSequence("x", clip().keypoints)),
            "clip 'x' has no image size",
        ),
        (lambda: Preprocess("nturgbd25", normalise="pyskl3d", score=True), "leaves out frames"),
        (lambda: Preprocess("coco17", normalise="pyskl3d"), "coco17.*has no .*spine"),
        (lambda: stream(clip().keypoints, "bones", skeleton("body13")), "did you mean 'bone'"),
    ],
)
def test_mistakes_are_told(make, says):
    with pytest.raises(TrainingError, match=says):
        make()


@pytest.mark.data
def test_labelled_sets_and_what_is_reached_without_learning(shared_data, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import skeletons as sets

    train, test = sets.penn(shared_data)
    assert (len(train), len(test), len(train.labels)) == (1258, 1068, 15) and isinstance(train, SkeletonDataset)
    assert train.fingerprint != test.fingerprint != sets.nw_ucla(shared_data)[0].fingerprint
    part = sets.ten_percent(train, 0)
    assert len(part) == 127 and part.fingerprint != sets.ten_percent(train, 1).fingerprint
    assert (np.bincount(part.label_ids) == np.round(np.bincount(train.label_ids) * 0.1)).all()
    assert abs(sets.one_nn(train, test, mirror=True) - 96.35) < 0.1 and abs(sets.one_nn(train, test) - 95.22) < 0.1
    front = np.concatenate([clip.keypoints[0] for clip in train.clips if clip.features["viewpoint"] == "front"])
    apart = front[:, 1, 0] - front[:, 2, 0]
    assert (
        apart[np.isfinite(apart)] > 0
    ).mean() > 0.9  # who looks at the camera has the left shoulder at the right of the picture

    train, test = sets.nw_ucla(shared_data)
    assert (len(train), len(test)) == (1020, 464)
    facing = Preprocess("kinect20", normalise="view")
    assert (
        abs(sets.one_nn(train, test, preprocess=facing) - 69.61)
        < 0.3
        > abs(sets.one_nn(train, test, True, facing) - 74.57)
    )

    train, test = sets.hdm05(shared_data)
    assert (len(train), len(test)) == (188, 99) and sets.one_nn(train, test) > 96
    with np.load(shared_data / "skeleton" / "hdm05_subset.npz") as file:
        assert parents(train.skeleton) == tuple(int(p) if p >= 0 else j for j, p in enumerate(file["parents"]))
    thigh = np.linalg.norm(
        bones(train.clips[0].keypoints, train.skeleton)[0, :, train.skeleton.index("left_knee")], axis=-1
    )
    assert 0.3 < thigh.mean() < 0.6 and thigh.std() < 1e-3


def test_several_streams_are_channels_of_one_input():
    layout = skeleton("coco17")
    array = np.random.default_rng(0).normal(size=(2, 5, 17, 3)).astype(np.float32)
    alone = {name: stream(array, name, layout, axes=2) for name in ("joint", "bone", "motion")}
    got = stream(array, "joint+bone+motion", layout, axes=2)
    assert got.shape == (2, 5, 17, 7)
    np.testing.assert_array_equal(got[..., :2], array[..., :2])
    np.testing.assert_array_equal(got[..., 2:4], alone["bone"][..., :2])
    np.testing.assert_array_equal(got[..., 4:6], alone["motion"][..., :2])
    np.testing.assert_array_equal(got[..., 6], array[..., 2])  # scores are those of the joints, once
    np.testing.assert_array_equal(stream(array, "joint+bone", layout)[..., :3], array)
    with pytest.raises(TrainingError, match=r"unknown stream 'joint\+bones'.*joint\+bone"):
        stream(array, "joint+bones", layout)
