"""The selection fusion: equal to its slow reference and to the published script, and the laws it keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import SKELETONS, convert, skeleton
from dataengine.fusion import fuse
from dataengine.fusion._kernels.ssta import compiled
from dataengine.fusion.ssta import SSTA, confidence, scale_joints
from tests.support.ssta_reference import fuse as slow_fuse

GOLDEN = Path(__file__).parents[1] / "golden"


def people(seed=0, experts=3, frames=40, joints=13, missing=0.1, noise=3.0, dtype=np.float32):
    """A smooth random body and noisy views of it; coordinates are multiples of 1/64, so shifts and powers of 2 are
    exact."""
    rng = np.random.default_rng(seed)
    body = rng.uniform(-80, 80, (1, joints, 2)) + np.cumsum(rng.normal(0, 2, (frames, joints, 2)), 0) + 300
    views = body + rng.normal(0, noise, (experts, frames, joints, 2))
    views = np.round(views * 64) / 64
    views[rng.random(views.shape[:-1]) < missing] = np.nan
    scores = np.where(np.isnan(views[..., 0]), 0, rng.random(views.shape[:-1]))
    return views.astype(dtype), scores.astype(np.float32)


def same(a, b):
    np.testing.assert_array_equal(a.coords, b.coords)
    np.testing.assert_array_equal(a.winner, b.winner)
    np.testing.assert_array_equal(a.confidence, b.confidence)
    np.testing.assert_array_equal(a.support, b.support)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    experts=st.integers(1, 5),
    frames=st.integers(0, 30),
    joints=st.sampled_from([1, 13, 17]),
    missing=st.sampled_from([0.0, 0.1, 0.6, 0.95]),
    noise=st.sampled_from([0.0, 2.0, 60.0]),
    max_gap=st.integers(0, 7),
    max_step=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_equals_the_slow_reference(seed, experts, frames, joints, missing, noise, max_gap, max_step):
    coords, scores = people(seed, experts, frames, joints, missing, noise)
    layout = {13: "body13", 17: "posetics17"}.get(joints)
    ends = {13: ([0], [1, 2]), 17: ([0], [2])}.get(joints)
    found = fuse(coords, scores, skeleton=layout, max_gap=max_gap, max_step=max_step)
    points, score, C, support, winner = slow_fuse(coords, scores, ends, max_gap, max_step)
    np.testing.assert_array_equal(found.winner, winner)
    np.testing.assert_array_equal(found.coords, points)
    np.testing.assert_array_equal(found.scores, score)
    np.testing.assert_array_equal(found.support, support)
    np.testing.assert_allclose(found.confidence, C, atol=2e-5)
    np.testing.assert_array_equal(found.kept, found.confidence >= 0.18)


def published(coords, **options):
    padded = np.full((3, max(map(len, coords)), 17, 2), np.nan, np.float32)
    for row, pose in zip(padded, coords, strict=True):
        row[: len(pose)] = pose
    return padded, fuse(padded, compat=True, gamma=0.06, **options)


def test_compat_is_the_published_script():
    golden = np.load(GOLDEN / "ssta_synthetic.npz")
    _, found = published([golden["pose1"], golden["pose2"], golden["pose3"]])
    np.testing.assert_array_equal(found.coords[:-1], golden["poses"][:-1])
    np.testing.assert_allclose(found.confidence[:-1], golden["confidence_raw"][:-1], atol=1e-6)
    np.testing.assert_allclose(np.where(found.kept, found.confidence, 0)[:-1], golden["confidence"][:-1], atol=1e-6)
    assert not found.kept.all()


@pytest.mark.data
def test_compat_on_the_published_demo(shared_data):
    golden = np.load(shared_data / "parity" / "ssta_demo.npz")
    files = [f"WatchTV_p02_r03_v05_c05_{name}.npz" for name in ("Alphapose2d", "LCRNet2d", "OP2d")]
    padded, found = published(
        [np.load(shared_data / "fusion" / "ssta_demo" / f)["kpts"] for f in files], skeleton="coco17"
    )
    np.testing.assert_array_equal(found.coords[:-1], golden["poses"][:-1])
    np.testing.assert_allclose(found.confidence[:-1], golden["confidence_raw_float64"][:-1], atol=1e-6)
    assert np.mean(found.confidence >= 0.18) < 0.1
    padded[(padded == 0).all(-1)] = np.nan
    common, _ = convert(padded, None, "coco17", "body13")
    aware = fuse(common, skeleton="body13")
    assert aware.kept.mean() > 0.84
    late = fuse(common[:, 900:], skeleton="body13")  # where a sequence starts is forgotten
    assert np.nanmedian(np.linalg.norm(late.coords[-1] - aware.coords[-1], axis=-1)) < 1


def test_compat_asks_for_three_experts_and_a_layout():
    with pytest.raises(ComponentError, match="3 experts"):
        fuse(people(experts=2, joints=17)[0], compat=True)
    with pytest.raises(ComponentError, match="named layout"):
        fuse(people(joints=13)[0], compat=True)
    assert fuse(people(joints=13)[0], compat=True, skeleton="body13").coords.shape == (40, 13, 2)


@pytest.mark.parametrize("name", sorted(SKELETONS))
@pytest.mark.parametrize("norm", ["head_neck", "shoulder", "torso", "bbox"])
def test_identical_experts_fuse_to_themselves(name, norm):
    one, scores = people(experts=1, joints=skeleton(name).num_joints, missing=0)
    found = fuse(np.repeat(one, 3, 0), np.repeat(scores, 3, 0), skeleton=name, norm=norm)
    np.testing.assert_array_equal(found.coords, one[0])
    np.testing.assert_array_equal(found.scores, scores[0])
    assert (found.confidence == 1).all() and (found.winner == 0).all() and (found.support == 3 * one.shape[2]).all()


def test_one_expert_gives_full_confidence_and_small_support():
    coords, scores = people(experts=1)
    found = fuse(coords, scores, skeleton="body13", max_gap=0)
    np.testing.assert_array_equal(found.coords, coords[0])
    assert (found.confidence == 1).all() and found.kept.all()
    np.testing.assert_array_equal(found.support, np.isfinite(coords[0, ..., 0]).sum(-1))


@pytest.mark.parametrize("layout", ["body13", None])
@pytest.mark.parametrize("max_step", [0.0, 1.0])
def test_commutes_with_translation_scale_and_mirror(layout, max_step):
    coords, scores = people(seed=4, noise=20)
    found = fuse(coords, scores, skeleton=layout, max_step=max_step)
    moved = fuse(coords + np.float32([128, -64]), scores, skeleton=layout, max_step=max_step)
    np.testing.assert_array_equal(moved.coords, found.coords + np.float32([128, -64]))
    grown = fuse(coords * np.float32(4), scores, skeleton=layout, max_step=max_step)
    np.testing.assert_array_equal(grown.coords, found.coords * 4)
    flip = list(skeleton("body13").flip)
    mirrored = fuse((coords * np.float32([-1, 1]))[:, :, flip], scores[:, :, flip], skeleton=layout, max_step=max_step)
    np.testing.assert_array_equal(mirrored.coords, (found.coords * np.float32([-1, 1]))[:, flip])
    for other in (moved, grown, mirrored):
        np.testing.assert_allclose(other.confidence, found.confidence, atol=1e-5)
        np.testing.assert_array_equal(other.support, found.support)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0), (0, 2, 1)])
def test_order_of_experts_decides_ties_only(order):
    coords, scores = people(seed=7, missing=0.0, noise=9)
    found, other = (
        fuse(coords, scores, skeleton="body13"),
        fuse(coords[list(order)], scores[list(order)], skeleton="body13"),
    )
    np.testing.assert_array_equal(found.coords, other.coords)
    np.testing.assert_array_equal(found.winner, np.array(order)[other.winner])


def test_ties_go_to_the_lower_index():
    coords = np.array([[[[0.0, 0]]], [[[2.0, 0]]]])
    assert fuse(coords).winner.tolist() == [[0]]
    coords = np.array([[[[0.0, 0]], [[2.0, 0]]], [[[0.0, 0]], [[-2.0, 0]]]])
    assert fuse(coords).winner.tolist() == [[0], [0]]


def test_first_frame_takes_the_closest_pair_and_later_frames_the_nearest():
    coords = np.array([[[50.0, 0], [50.0, 0]], [[0.0, 0], [2.0, 0]], [[4.0, 0], [5.0, 0]]])[:, :, None]
    found = fuse(coords)
    assert found.winner.ravel().tolist() == [2, 2]  # of the pair (1, 2) expert 2 is nearer to expert 0
    coords[2, 1] = 40
    assert fuse(coords).winner.ravel().tolist() == [2, 1]


def test_a_missing_joint_is_never_a_position():
    coords, scores = people(missing=0.0)
    coords[0, :, 3] = np.nan
    found = fuse(coords, scores, skeleton="body13")
    assert np.isfinite(found.coords).all() and (found.winner[:, 3] > 0).all()
    np.testing.assert_array_equal(found.support, 3 * 13 - 1)
    zeros = fuse(np.nan_to_num(coords), scores, skeleton="body13")
    assert zeros.confidence.mean() < found.confidence.mean()
    assert (zeros.support == 39).all()


def test_gaps_are_held_then_empty_then_begun_anew():
    coords = np.zeros((2, 10, 1, 2), np.float32)
    coords[0, :, 0, 0], coords[1, :, 0, 0] = 10, 11
    coords[:, 3:7] = np.nan
    coords[0, 7:], coords[1, 7:] = 90, 12
    found = fuse(coords, np.full((2, 10, 1), 0.8), max_gap=2)
    assert found.coords[3:5, 0, 0].tolist() == [10, 10] and np.isnan(found.coords[5:7]).all()
    np.testing.assert_allclose(found.scores[2:8, 0], [0.8, 0.4, 0.2, 0, 0, 0.8])
    assert found.winner.ravel().tolist() == [0, 0, 0, -1, -1, -1, -1, 0, 0, 0]
    assert (found.confidence[3:7] == 0).all() and (found.support[3:7] == 0).all() and not found.kept[3:7].any()
    held = fuse(coords, max_gap=4)  # memory lasts over the gap: the expert that is nearer to it wins
    assert held.winner[7:].ravel().tolist() == [1, 1, 1]


def test_the_gate_leaves_a_wrong_start():
    """Expert 0 starts on another person and comes back; nearest-to-previous alone follows it there."""
    coords, scores = people(seed=2, experts=4, missing=0, noise=1)
    coords[:2, :10] += np.float32([400, 0])
    coords[2:, :10] += np.random.default_rng(0).normal(0, 4, coords[2:, :10].shape).astype(np.float32)
    found = fuse(coords, scores, skeleton="body13", max_step=2.0)
    assert (np.abs(found.coords[0] - coords[0, 0]) < 30).all()
    assert np.linalg.norm(found.coords[12] - coords[3, 12], axis=-1).max() < 10


def test_gamma_sets_kept_alone():
    coords, scores = people(noise=40)
    low, high = fuse(coords, scores, gamma=0.01, skeleton="body13"), fuse(coords, scores, gamma=0.9, skeleton="body13")
    same(low, high)
    assert low.kept.all() and not high.kept.any() and np.isfinite(high.coords).any()


def test_everything_missing():
    found = fuse(np.full((3, 5, 13, 2), np.nan), skeleton="body13")
    assert (
        np.isnan(found.coords).all()
        and (found.confidence == 0).all()
        and (found.winner == -1).all()
        and (found.scores == 0).all()
    )
    assert not found.kept.any() and (found.support == 0).all()


def test_units():
    assert scale_joints("body13", "head_neck").tolist() == [[0, 0], [1, 2]]
    assert scale_joints("posetics17", "head_neck").tolist() == [[0, 0], [2, 2]]
    assert scale_joints("mpii16", "head_neck").tolist() == [[8, 9], [7, 7]]
    assert scale_joints("coco17", "torso").tolist() == [[5, 6], [11, 12]]
    assert scale_joints("coco17", "shoulder").tolist() == [[5, 5], [6, 6]]
    assert scale_joints("coco17", "bbox").tolist() == scale_joints(None, "shoulder").tolist() == [[-1, -1], [-1, -1]]


def test_one_joint_off_by_one_unit():
    """C by hand: head-neck 10 px, one of 26 pairs is 10 px away."""
    pose = np.zeros((1, 13, 2), np.float32)
    pose[0, :, 1] = np.arange(13) * 20
    pose[0, 0], pose[0, 1], pose[0, 2] = (0, 0), (-5, 10), (5, 10)
    coords = np.repeat(pose[None], 2, 0)
    coords[1, 0, 12, 0] += 10
    found = fuse(coords, skeleton="body13")
    np.testing.assert_allclose(found.confidence, np.exp(-1 / 26), rtol=1e-6)
    np.testing.assert_allclose(confidence(coords, found.coords, "body13")[0], found.confidence)
    coords[1, 0, 5:12] = np.nan  # seven joints of one expert alone do not count
    np.testing.assert_allclose(fuse(coords, skeleton="body13").confidence, np.exp(-1 / 12), rtol=1e-6)


def test_a_face_seen_in_profile_has_a_floor():
    pose = np.zeros((1, 13, 2), np.float32)
    pose[0, 3:, 1] = np.linspace(0, 500, 10)
    coords = np.stack([pose, pose + np.float32([5, 0])])  # head and neck coincide: the unit is 1 % of 500 px
    np.testing.assert_allclose(fuse(coords, skeleton="body13").confidence, np.exp(-0.5), rtol=1e-5)


def test_batch_equals_one_by_one():
    parts = [people(seed) for seed in range(6)]
    batch = SSTA().fuse_batch(np.stack([p[0] for p in parts]), np.stack([p[1] for p in parts]), "body13")
    for i, (coords, scores) in enumerate(parts):
        one = SSTA().fuse(coords, scores, "body13")
        for name in ("coords", "scores", "confidence", "support", "kept", "winner"):
            np.testing.assert_array_equal(getattr(batch, name)[i], getattr(one, name))


@pytest.mark.parametrize(
    ("coords", "scores", "options", "message"),
    [
        (np.zeros((3, 4, 13)), None, {}, "given shape"),
        (np.zeros((3, 4, 13, 3)), None, {}, "given shape"),
        (np.zeros((0, 4, 13, 2)), None, {}, "1 to 127 experts"),
        (np.full((3, 4, 13, 2), np.inf), None, {}, "infinite"),
        ("abc", None, {}, "real numbers"),
        (np.zeros((3, 4, 13, 2)), np.zeros((3, 4)), {}, "one score per joint"),
        (np.zeros((3, 4, 13, 2)), np.full((3, 4, 13), 7.0), {}, "scores lie in"),
        (np.zeros((3, 4, 13, 2)), None, {"skeleton": "coco17"}, "17 joints"),
        (np.zeros((3, 4, 13, 2)), None, {"skeleton": "body31"}, "did you mean"),
        (np.zeros((3, 4, 13, 2)), None, {"method": "sta"}, "did you mean 'ssta'"),
        (np.zeros((3, 4, 13, 2)), None, {"gama": 0.1}, "did you mean 'gamma'"),
        (np.zeros((3, 4, 13, 2)), None, {"norm": "knee"}, "norm"),
        (np.zeros((3, 4, 13, 2)), None, {"gamma": 2}, "gamma"),
        (np.zeros((3, 4, 13, 2)), None, {"max_gap": -1}, "max_gap"),
    ],
)
def test_user_mistakes_are_told(coords, scores, options, message):
    with pytest.raises(ComponentError, match=message):
        fuse(coords, scores, **options)


def test_types_and_inputs_are_left_alone():
    coords, scores = people(dtype=np.float64)
    before = coords.copy()
    found = fuse(coords, scores, skeleton="body13")
    np.testing.assert_array_equal(coords, before)
    kinds = [getattr(found, name).dtype for name in ("coords", "scores", "confidence", "support", "kept", "winner")]
    assert kinds == [np.float32, np.float32, np.float32, np.int32, np.bool_, np.int8]
    assert fuse(coords.tolist(), skeleton="body13").coords.shape == (40, 13, 2)


def test_nothing_heavy_is_imported_before_use():
    code = "import sys, dataengine.fusion; print(sorted({'numba', 'scipy', 'torch'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_compiles_where_machine_code_cannot_be_kept():
    """A function without a file has no folder for its machine code, like one in a folder nobody may write to."""
    space: dict = {}
    exec("def double(x):\n    return 2 * x", space)
    assert compiled(space["double"])(21) == 42
