"""Steps of views keep their laws, agree with published numbers, and make one view whatever the order of work."""

from __future__ import annotations

import itertools
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import SKELETONS, skeleton
from training.transforms import spatial as augment
from training.transforms import temporal as frames
from training.transforms.view import PRESETS, STEPS, View

GOLDEN = Path(__file__).parents[1] / "golden"
PYSKL = dict(np.load(GOLDEN / "pyskl_transforms.npz", allow_pickle=False))
UNIK = dict(np.load(GOLDEN / "unik_feeder.npz", allow_pickle=False))
EXAMPLES = {"rotate": {"degrees": 20}, "crop": {"min": 0.5}} | {
    name: {"range": 0.2} for name in ("scale", "stretch", "shift", "shear")
}


def rng(seed=0):
    return np.random.default_rng(seed)


def clip(people=2, total=40, layout="body13", axes=2, seed=0):
    return rng(seed).standard_normal((people, total, skeleton(layout).num_joints, axes)).astype(np.float32)


def distances(array):
    return np.linalg.norm(array[..., :, None, :] - array[..., None, :, :], axis=-1)


def view(*steps, total=40, layout="body13", **options):
    return View(total, tuple({"name": s} if isinstance(s, str) else s for s in steps), layout, **options)


# ---------------------------------------------------------------- published numbers


@pytest.mark.parametrize("name", [name for name in PYSKL if re.match(r"(test|train)_.*clips", name)])
def test_uniform_sampling_draws_the_published_indices(name):
    kind, total, length, clips = re.match(r"(\w+?)_n(\d+)_len(\d+)_clips(\d+)", name).groups()
    seed = re.search(r"seed(\d+)", kind)
    share = (0.5, 1) if "interval" in kind else (1, 1)
    got = frames.uniform(
        int(total), int(length), np.random.RandomState(int(seed[1]) if seed else 0), int(clips), share, kind == "test"
    )
    np.testing.assert_array_equal(got, PYSKL[name])


def test_uniform_sampling_of_a_test_with_keypoints():
    np.testing.assert_array_equal(frames.uniform(12, 8, rng(), test=True), PYSKL["test_with_keypoint_n12_len8"])


@pytest.mark.parametrize("size", [12, 32])
def test_choosing_a_window_agrees_with_unik(size):
    python = random.Random(5)
    for item, wanted in zip(UNIK["data"], UNIK[f"random_choose_{size}_seed5"], strict=True):
        start = python.randint(0, abs(item.shape[1] - size))
        got = frames.sample(item.transpose(3, 1, 2, 0), frames.crop_or_pad(np.arange(item.shape[1]), size, start))
        np.testing.assert_allclose(got.transpose(3, 1, 2, 0), wanted, atol=1e-6)


def test_padding_agrees_with_unik():
    for item, wanted in zip(UNIK["data"], UNIK["padded_32"], strict=True):
        got = frames.sample(item.transpose(3, 1, 2, 0), frames.pad(np.arange(20), None, 32, "zero"))
        np.testing.assert_allclose(got.transpose(3, 1, 2, 0), wanted, atol=1e-6)


def test_moving_agrees_with_unik():
    draws = np.random.RandomState(9)
    values = [
        draws.choice(v, 2)
        for v in ([-10.0, -5, 0, 5, 10], [0.9, 1, 1.1], [-0.2, -0.1, 0, 0.1, 0.2], [-0.2, -0.1, 0, 0.1, 0.2])
    ]
    got = augment.move(UNIK["data"][0].transpose(3, 1, 2, 0).astype(np.float64), *values)
    np.testing.assert_allclose(got.transpose(3, 1, 2, 0), UNIK["random_move_seed9"], atol=1e-10)


def test_shifting_the_filled_part_agrees_with_unik():
    item = UNIK["data"][3]
    filled = np.flatnonzero(item.any((0, 2, 3)))
    start = random.Random(9).randint(0, 20 - len(filled))
    got = frames.sample(item.transpose(3, 1, 2, 0).astype(np.float64), frames.crop_or_pad(filled, 20, start))
    np.testing.assert_allclose(got.transpose(3, 1, 2, 0), UNIK["random_shift_seed9"], atol=1e-10)


# ---------------------------------------------------------------- laws of time


@pytest.mark.parametrize("total", [1, 2, 7, 50])
def test_a_crop_is_a_contiguous_part_of_the_share(total):
    draws, lengths, starts = rng(), set(), set()
    for _ in range(300):
        part = frames.crop(np.arange(total), draws, 0.4, 0.8)
        assert len(part) >= 1 and round(0.4 * total) - 0.5 <= len(part) <= max(0.8 * total + 0.5, 1)
        assert (np.diff(part) == 1).all() and part[0] >= 0 and part[-1] < total
        lengths.add(len(part))
        starts.add(int(part[0]))
    if total == 50:
        assert lengths == set(range(20, 41)) and {0, 30} & starts and len(starts) > 25
    assert list(frames.crop(np.arange(10), rng(), 0.8, 0.8, at=0)) == list(range(8))
    assert list(frames.crop(np.arange(10), rng(), 0.8, 0.8, at=1)) == list(range(2, 10))


@pytest.mark.parametrize(("total", "length"), [(1, 8), (2, 5), (30, 64), (64, 64), (200, 32)])
def test_resampling_is_linear_interpolation(total, length):
    array = clip(total=total)
    got = frames.sample(array, frames.resample(np.arange(total), None, length))
    where = np.linspace(0, total - 1, length)
    wanted = np.stack(
        [np.interp(where, np.arange(total), row) for row in array.transpose(0, 2, 3, 1).reshape(-1, total)]
    )
    np.testing.assert_allclose(got.transpose(0, 2, 3, 1).reshape(-1, length), wanted, atol=1e-5)
    assert got.dtype == np.float32


def test_ways_to_pad():
    assert list(frames.pad(np.arange(3), None, 7, "loop")) == [0, 1, 2, 0, 1, 2, 0]
    assert list(frames.pad(np.arange(3), None, 5, "hold")) == [0, 1, 2, 2, 2]
    assert list(frames.pad(np.arange(9), None, 4, "zero")) == [0, 1, 2, 3]
    got = frames.sample(clip(total=3), frames.pad(np.arange(3), None, 5, "zero"))
    assert not got[:, 3:].any() and got[:, :3].any((0, 2, 3)).all()


@pytest.mark.parametrize(
    ("total", "length", "speed"), [(100, 32, 2), (100, 32, 8), (20, 32, 1), (100, 10, 1.5), (5, 8, 4)]
)
def test_playing_at_a_speed(total, length, speed):
    draws = rng()
    for _ in range(50):
        got = frames.speed(np.arange(total), draws, length, (speed,))
        assert len(got) == length and got.min() >= 0 and got.max() <= total - 1
        steps = np.diff(got)
        if total > speed * length:
            np.testing.assert_allclose(steps, speed)
        else:
            whole = np.isclose(steps % total, speed % total) | (got[1:] == total - 1)
            assert whole.all()
    starts = {int(frames.speed(np.arange(100), draws, 10, (4,))[0]) for _ in range(2000)}
    assert starts == set(range(100 - 36)) and frames.speed(np.arange(100), draws, 10, (4,), at=1)[-1] == 99


def test_speeds_are_chosen_alike_often():
    chosen = [
        int(np.diff(frames.speed(np.arange(400), generator, 32, (1, 2, 4, 8)))[0])
        for generator in [rng(1)]
        for _ in range(2000)
    ]
    assert all(430 < chosen.count(speed) < 570 for speed in (1, 2, 4, 8))


def test_orders_are_permutations():
    positions = np.arange(40)
    made = [
        frames.shuffle(positions, rng()),
        frames.segments(positions, rng(2), 5),
        frames.segments(positions, rng(), 4, "reverse"),
    ]
    for got in (*made, frames.reverse(positions), frames.disorder(positions, rng(), 0.3)):
        assert sorted(got) == list(range(40)) and list(got) != list(range(40))
    assert {tuple(part) for part in made[1].reshape(5, 8)} == {tuple(part) for part in positions.reshape(5, 8)}
    np.testing.assert_array_equal(made[2].reshape(4, 10)[:, ::-1].ravel(), positions)
    np.testing.assert_array_equal(frames.reverse(frames.reverse(positions)), positions)
    np.testing.assert_array_equal(positions, np.arange(40))


def test_disorder_and_dropping_touch_the_shares_of_motion_r3():
    moved = np.mean([(frames.disorder(np.arange(512), rng(n)) != np.arange(512)).mean() for n in range(200)])
    assert 0.026 < moved < 0.032  # every chosen frame takes another one along
    dropped = np.mean(
        [(~augment.drop_frames(np.ones((1, 512, 2, 2), np.float32), rng(n)).any((0, 2, 3))).mean() for n in range(200)]
    )
    assert abs(dropped - 0.135) < 0.005


def test_uniform_sampling_takes_one_frame_of_every_part():
    for seed in range(20):
        got = frames.uniform(200, 50, rng(seed))
        assert (got // 4 == np.arange(50)).all()
        assert (np.diff(frames.uniform(70, 50, rng(seed))) >= 1).all()
    part = np.concatenate([np.ptp(frames.uniform(400, 20, rng(seed), share=(0.25, 0.5)))[None] for seed in range(50)])
    assert part.max() < 200 and part.min() > 80


# ---------------------------------------------------------------- laws of space


@pytest.mark.parametrize(("axes", "degrees"), [(2, 30), (3, 30), (3, (20, 40, 10))])
def test_rotation_keeps_distances_and_its_range(axes, degrees):
    array = clip(axes=axes, layout="coco17")
    for seed in range(20):
        got = augment.rotate(array, rng(seed), degrees)
        np.testing.assert_allclose(distances(got), distances(array), atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(got, axis=-1), np.linalg.norm(array, axis=-1), atol=1e-5)
        if degrees == 30:
            flat = got[..., [0, 1]] if axes == 2 else got[..., [0, 2]]
            before = array if axes == 2 else array[..., [0, 2]]
            cos = (flat * before).sum(-1) / np.linalg.norm(flat, axis=-1) / np.linalg.norm(before, axis=-1)
            assert (cos > np.cos(np.deg2rad(30)) - 1e-4).all() and np.ptp(cos) < 1e-3
        if axes == 3 and degrees == 30:
            np.testing.assert_allclose(got[..., 1], array[..., 1], atol=1e-6)


def test_a_turn_goes_from_x_to_y():
    turned = augment.transform(np.float32([1, 0]).reshape(1, 1, 1, 2), augment._turn(np.pi / 2, 0, 1, 2))
    np.testing.assert_allclose(turned.ravel(), [0, 1], atol=1e-6)


def test_scale_stretch_shift_and_shear():
    array = clip(axes=3, layout="coco17")
    factor = augment.scale(array, rng(), 0.2) / array
    assert np.ptp(factor) < 1e-5 and 0.8 <= factor.mean() <= 1.2
    factors = (augment.stretch(array, rng(), 0.2) / array).reshape(-1, 3)
    assert np.ptp(factors, axis=0).max() < 1e-4 and np.ptp(factors.mean(0)) > 0.01 and (abs(factors - 1) < 0.2001).all()
    moved = (augment.shift(array, rng(), 0.1) - array).reshape(-1, 3)
    assert np.ptp(moved, axis=0).max() < 1e-5 and (abs(moved) <= 0.1001).all() and np.ptp(moved.mean(0)) > 0.001
    matrix = augment.shearing(rng(), 3, 0.3)[:3, :3]
    assert (np.diag(matrix) == 1).all() and (abs(matrix - np.eye(3)) <= 0.3).all() and (matrix != 0).all()
    np.testing.assert_allclose(augment.shear(array, rng(), 0.3), np.einsum("ab,mtvb->mtva", matrix, array), atol=1e-5)


@pytest.mark.parametrize("layout", ["body13", "coco17", "nturgbd25", "hdm31"])
@pytest.mark.parametrize("width", [0.0, 640.0])
def test_flipping_twice_is_nothing_and_once_swaps_sides(layout, width):
    array, joints = clip(layout=layout, axes=3), skeleton(layout)
    once = augment.flip(array, joints, width)
    np.testing.assert_allclose(augment.flip(once, joints, width), array, atol=1e-4)
    left, right = joints.index("left_wrist"), joints.index("right_wrist")
    np.testing.assert_allclose(once[:, :, left, 0], width - array[:, :, right, 0], atol=1e-5)
    np.testing.assert_array_equal(once[:, :, left, 1:], array[:, :, right, 1:])


def test_a_flip_of_inverted_depth_is_a_turn_whose_sides_are_exchanged():
    array, joints = clip(total=64, layout="kinect20", axes=3), skeleton("kinect20")
    got = view({"name": "invert_depth", "chance": 1}, {"name": "flip", "chance": 1}, total=64, layout="kinect20")(
        array, rng()
    )
    np.testing.assert_allclose(got, (array * [-1, 1, -1])[:, :, list(joints.flip)], atol=1e-6)


def test_masks_hide_their_share():
    array = np.ones((2, 30, 25, 3), np.float32)
    whole = np.concatenate([augment.mask_joints(array, rng(n), 0.2) for n in range(100)])
    assert abs((whole == 0).mean() - 0.2) < 0.02
    assert (whole == whole[:, :1]).all() and (whole == whole[..., :1]).all()
    single = augment.mask_joints(array, rng(), 0.2, frames=True)
    assert abs((single == 0).mean() - 0.2) < 0.03 and not (single == single[:, :1]).all()
    hidden = {tuple(augment.mask_axis(array, rng(n)).any((0, 1, 2))) for n in range(40)}
    assert hidden == {(False, True, True), (True, False, True), (True, True, False)}


def test_noise_has_its_width_and_leaves_other_channels():
    array = clip(people=1, total=400, axes=3)
    added = augment.noise(array, rng(), 0.05, axes=2) - array
    assert abs(added[..., :2].std() - 0.05) < 0.002 and abs(added[..., :2].mean()) < 0.002 and not added[..., 2].any()


def test_blur_keeps_constants_and_smooths():
    still = np.ones((1, 30, 4, 2), np.float32)
    np.testing.assert_allclose(augment.blur(still, rng()), 1, atol=1e-6)
    array = clip(total=60)
    smooth = augment.blur(array, rng(), (1.9, 2.0))
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.4 * np.abs(np.diff(array, axis=1)).mean()
    impulse = np.zeros((1, 41, 1, 1), np.float32)
    impulse[0, 20] = 1
    got = augment.blur(impulse, rng(), (2.0, 2.0))[0, :, 0, 0]
    wanted = np.exp(-0.5 * ((np.arange(41) - 20) / 2.0) ** 2)
    np.testing.assert_allclose(got[10:31], (wanted / wanted.sum())[10:31], atol=1e-5)


# ---------------------------------------------------------------- views


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_step_alone_leaves_its_input_and_gives_the_frames(name):
    array = clip(axes=3, layout="nturgbd25")
    array.flags.writeable = False
    before = array.copy()
    one = view({"name": name, "chance": 1, **EXAMPLES.get(name, {})}, total=24, layout="nturgbd25")
    got = one(array, rng(3))
    assert got.shape == (2, 24, 25, 3) and got.dtype == np.float32 and np.isfinite(got).all()
    np.testing.assert_array_equal(array, before)
    assert not np.shares_memory(got, array)
    plain = View(24, "none")(array, rng(3))
    assert name == "resample" or not np.array_equal(got, plain)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_absent_people_stay_zero(name):
    array = clip(axes=3)
    array[1] = 0
    got = view({"name": name, "chance": 1, **EXAMPLES.get(name, {})})(array, rng(1))
    assert not got[1].any() and got[0].any()


@pytest.mark.parametrize("axes", [2, 3])
def test_one_matrix_equals_step_after_step(axes):
    array = clip(axes=axes, layout="coco17")
    steps = [("flip", {}), ("rotate", {"degrees": 30}), ("stretch", {"range": 0.2}), ("shift", {"range": 0.3})]
    steps += [("shear", {"range": 0.3}), ("scale", {"range": 0.2})]
    for order in itertools.islice(itertools.permutations(steps), 0, 720, 80):
        got = view(*({"name": name, "chance": 1} | options for name, options in order), layout="coco17")(array, rng(4))
        draws, wanted = rng(4), array
        for name, options in order:
            wanted = (
                augment.flip(wanted, skeleton("coco17"))
                if name == "flip"
                else getattr(augment, name)(wanted, draws, **options)
            )
        np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_steps_on_joints_keep_their_place_among_the_others():
    array = clip()
    mask = {"name": "mask_joints", "share": 0.5}
    shift = {"name": "shift", "range": 3.0}
    first, last = view(mask, shift)(array, rng(2)), view(shift, mask)(array, rng(2))
    assert (last == 0).all((1, 3)).any() and not (first == 0).any()


def test_time_comes_first_and_is_read_once():
    array = clip(total=100)
    steps = [{"name": "reverse", "chance": 1}, {"name": "crop", "min": 0.5, "max": 0.5, "at": 0}]
    np.testing.assert_allclose(view(*steps, total=50)(array, rng()), array[:, 49::-1])


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize(("axes", "layout"), [(2, "body13"), (3, "kinect20")])
@pytest.mark.parametrize("total", [1, 2, 33, 300])
def test_presets(name, axes, layout, total):
    array = clip(total=total, axes=axes, layout=layout)
    made = pickle.loads(pickle.dumps(View(32, name, layout)))  # noqa: S301
    assert made == View(32, name, layout)
    one, two, other = made(array, rng(5)), View(32, name, layout)(array, rng(5)), made(array, rng(6))
    np.testing.assert_array_equal(one, two)
    assert one.shape == (2, 32, skeleton(layout).num_joints, axes) and np.isfinite(one).all()
    assert np.array_equal(one, other) == (name == "none")
    if name == "weak" and axes == 3:  # scale, shift and turns only
        plain = distances(View(32, "none", layout)(array[:, :1], rng()))[0, 0]
        ratio = distances(View(32, "weak", layout)(array[:, :1], rng(1)))[0, 0][plain > 0] / plain[plain > 0]
        assert np.ptp(ratio) < 1e-3 and 0.9 <= ratio.mean() <= 1.1


def test_scores_beside_coordinates_are_left_alone():
    array = clip(axes=3)
    kept = View(
        40, ({"name": "rotate", "degrees": 30}, {"name": "noise"}, {"name": "flip", "chance": 1}), "body13", score=True
    )(array, rng())
    np.testing.assert_array_equal(kept[..., 2], array[:, :, list(skeleton("body13").flip), 2])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: View(steps="weaks"), "did you mean 'weak'"),
        (lambda: View(steps=({"name": "rotat"},)), r"number 1 \(did you mean 'rotate'"),
        (lambda: View(steps=({"name": "rotate", "degree": 3},)), "no option 'degree'.*did you mean 'degrees'"),
        (lambda: View(steps=({"name": "rotate"},)), "rotate of a view"),
        (lambda: View(steps=({"name": "flip"},)), "give the view its skeleton"),
        (lambda: View(steps=({"name": "crop", "min": 0.9, "max": 0.5},)), "0 < min <= max <= 1"),
        (lambda: View(steps=({"name": "scale", "range": 2},)), r"range must lie in \[0, 1\]; given 2"),
        (lambda: View(steps=({"name": "noise", "chance": 2},)), r"chance must lie in \[0, 1\]"),
        (lambda: View(steps=({"name": "pad"}, {"name": "speed"})), "takes its frames in one way"),
        (lambda: View(8, ({"name": "rotate", "degrees": (1, 2, 3)},))(clip(), rng()), "must be one number"),
        (lambda: View(8, ({"name": "invert_depth"},))(clip(), rng()), "2D joints do not have"),
        (lambda: View(frames=0), "at least 1 frame"),
        (lambda: View(steps="none")(np.zeros((1, 4, 3, 5), np.float32), rng()), "2 or 3 coordinates; given 5"),
        (lambda: View(steps=({"name": "speed", "choices": [0]},)), "speeds above 0"),
        (lambda: View(steps=({"name": "segments", "how": "mix"},)), "shuffle or reverse"),
    ],
)
def test_mistakes_are_told(make, says):
    with pytest.raises(TrainingError, match=says):
        make()


def test_views_of_every_layout():
    for name, layout in SKELETONS.items():
        array = clip(people=1, total=5, layout=name)
        assert View(8, "strong", layout)(array, rng()).shape == (1, 8, layout.num_joints, 2)


def test_steps_on_joints_alone_keep_all_frames():
    array = np.random.default_rng(0).normal(size=(1, 23, 13, 2)).astype(np.float32)
    before = array.copy()
    steps = [{"name": "crop", "min": 0.3}, {"name": "flip", "chance": 1.0}, {"name": "scale", "range": 0.0}]
    got = View(8, steps, "body13").at_all_frames(array, np.random.default_rng(1))
    flip = list(skeleton("body13").flip)
    np.testing.assert_allclose(got, array[:, :, flip] * np.array([-1, 1], np.float32), atol=1e-6)
    np.testing.assert_array_equal(array, before)
    assert View(8, "none", "body13").at_all_frames(array, np.random.default_rng(1)) is not array


def test_a_view_goes_with_what_is_true_of_it():
    array = np.random.default_rng(0).normal(size=(1, 23, 13, 3)).astype(np.float32)
    before = array.copy()
    corrupting = [{"name": "noise", "sigma": 0.1}, {"name": "mask_joints", "share": 0.5}]
    geometry = [{"name": "crop", "min": 0.3}, {"name": "flip"}, {"name": "rotate", "degrees": (10, 30, 10)}]
    view = View(8, [corrupting[0], *geometry, corrupting[1]], "body13")
    shown, clean = view.with_clean(array, rng())
    np.testing.assert_array_equal(shown, view(array, rng()))
    np.testing.assert_array_equal(array, before)
    hidden = (shown == 0).all((0, 1, 3))
    assert 0 < hidden.sum() < 13 and not (clean == 0).any()
    assert 0.02 < np.abs(shown - clean)[:, :, ~hidden].mean() < 0.2  # the noise alone
    whole = View(8, geometry, "body13").with_clean(array, rng())
    np.testing.assert_array_equal(*whole)
    assert whole[0] is not whole[1]
