"""LTN: what time does to features, the clips of a video, the contrast, and the pictures that it learns from."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support.pictures import Pictures
from training import create_backbone, create_method
from training.data.loader import DataLoader
from training.data.rgb import PICTURES, as_array, as_frames, seconds_of
from training.methods.ltn import ClipsOfVideo, TimeBlend, TimeOptions, orthonormal
from training.transforms.rgb import GREY, PictureViews, cut, picture_preprocess
from training.transforms.temporal import sample
from training.transforms.view import View

SMALL = {
    "queue": {"size": 8, "momentum": 0.9},
    "projector": {"hidden": 8, "width": 4},
    "time": {"hidden": 8, "directions": 4},
}
STILL = PictureViews(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0, colours=0, grey=0, blur=0)


def network():
    torch.manual_seed(0)
    return create_backbone("slow_r50", 0, PICTURES, 3, channels_base=2, depths=(1, 1, 1, 1))


def test_directions_are_those_of_gram_schmidt():
    torch.manual_seed(0)
    matrix = torch.randn(12, 5, dtype=torch.float64)
    columns: list = []
    for column in matrix.T:  # written out
        left = column - sum(((one @ column) * one for one in columns), torch.zeros(12, dtype=torch.float64))
        columns.append(left / left.norm())
    torch.testing.assert_close(orthonormal(matrix), torch.stack(columns, 1))


@pytest.mark.parametrize("orthogonal", [True, False])
def test_time_moves_features_along_the_directions_alone(orthogonal):
    torch.manual_seed(0)
    blend = TimeBlend(16, "linear", TimeOptions(8, 4, orthogonal)).double()
    features, times = torch.randn(6, 16).double(), torch.rand(6, 3).double()
    moved = blend(features, times) - features
    basis = orthonormal(blend.directions)
    torch.testing.assert_close(moved @ basis @ basis.T, moved)  # nothing is left outside of their span
    assert moved.norm(dim=1).min() > 0
    later = blend.eval()(features, times + 1)
    assert not torch.allclose(later, blend(features, times))


def test_the_other_variants_are_as_printed():
    torch.manual_seed(0)
    features, times = torch.randn(6, 16), torch.rand(6, 3)
    for transform in ("addition", "attention"):
        blend = TimeBlend(16, transform, TimeOptions(8, 4)).eval()
        code = blend.blend(torch.cat([blend.time(blend.norm(times)), features], 1))
        if transform == "addition":
            wanted = features + code
        else:
            basis, weights = blend.basis(), torch.softmax(code, 1)
            wanted = torch.stack([f * sum(w[i] * basis[:, i] for i in range(4)) for f, w in zip(features, weights)])
        torch.testing.assert_close(blend(features, times), wanted)
    start = TimeBlend(16, "linear", TimeOptions(8, 4, inputs="start")).eval()
    moved = times.clone()
    moved[:, 1:] += 5
    torch.testing.assert_close(start(features, moved), start(features, times))


def test_clips_of_a_video_lie_where_their_times_say():
    preprocess = picture_preprocess(PICTURES, (16, 16))
    frames = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None] * 6, (40, 16, 16, 3))
    clip = Pictures(2, frames=40, size=(16, 16)).clips[0]
    clip = type(clip)(**{**clip.__dict__, "keypoints": as_array(frames)})
    draw = ClipsOfVideo(preprocess, STILL, 4, 3, 5, 0.5)
    made = draw(clip, np.random.default_rng(0))
    seconds = seconds_of(clip)
    begins = made["times"][:, 0]
    assert made["times"].dtype == np.float32 and (np.diff(begins) >= 0).all() and begins[0] != begins[-1]
    np.testing.assert_allclose(made["times"][1:, 2], np.diff(begins), atol=1e-6)
    for number, (begin, end, _) in enumerate(made["times"]):
        shown = made[f"clip{number}"].array  # (W, T, H, 3)
        values = (shown[0, :, 0, 0] * 0.225 + 0.45) * 255 / 6
        first, last = (int(np.flatnonzero(np.isclose(seconds, when))[0]) for when in (begin, end))
        np.testing.assert_allclose(values, np.linspace(first, last, 4), atol=1e-3)
        assert last - first == 9
    short = ClipsOfVideo(preprocess, STILL, 8, 8, 2, 0.5)(Pictures(2, frames=1).clips[0], np.random.default_rng(0))
    assert not short["times"].any() and short["clip1"].array.shape == (16, 8, 16, 3)


def test_the_contrast_is_that_of_a_loop():
    method = create_method("ltn", backbone=network(), positives=3, **SMALL)
    loader = DataLoader(Pictures(8), method.sample_transform(picture_preprocess(PICTURES, (8, 8)), View(2, "none")), 4)
    first, second = list(loader)
    assert method.loss(first).loss.item() == 0  # there are no negatives yet
    assert method.queue.owners.tolist() == first["index"].repeat_interleave(3).tolist()[-8:]
    rows, keys, queue = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(8, 4)
    rows, keys, queue = (torch.nn.functional.normalize(one, dim=-1) for one in (rows, keys, queue))
    method.queue.keys.copy_(queue)
    method.queue.owners.fill_(77)
    losses = [
        -torch.log(torch.exp(q @ k / 0.1) / (torch.exp(q @ k / 0.1) + torch.exp(queue @ q / 0.1).sum()))
        for n in range(2)
        for i, q in enumerate(rows[n])
        for j, k in enumerate(keys[n])
        if i != j
    ]
    found = method._contrast(rows, keys, method.queue, torch.tensor([1, 2]))
    torch.testing.assert_close(found, torch.stack(losses).mean())
    assert second["clip0"].shape == (4, 3, 2, 8, 8) and second["times"].shape == (4, 3, 3)


def test_the_same_seed_draws_the_same_clips():
    preprocess = picture_preprocess(PICTURES, (16, 16))
    draw = ClipsOfVideo(preprocess, PictureViews(), 4, 2, 2, 0.5)
    clip = Pictures(2).clips[1]
    one, two, other = (draw(clip, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one["clip1"].array, two["clip1"].array) and np.isfinite(one["clip1"].array).all()
    assert not np.array_equal(one["clip1"].array, other["clip1"].array)


def test_random_views_of_pictures():
    frames = np.random.default_rng(0).integers(0, 255, (3, 30, 40, 3)).astype(np.uint8)
    size, rng = (20, 16), np.random.default_rng(0)
    middle = cut(frames, (1, 0, 38, 30), size)
    assert middle.shape == (3, 16, 20, 3) and middle.dtype == np.uint8
    assert np.array_equal(cut(frames, (5, 4, 20, 16), size), frames[:, 4:20, 5:25])
    views = PictureViews(area=(0.3, 0.5), aspect=(0.8, 1.2))
    for _ in range(50):
        left, top, width, height = views.box(40, 30, size, rng)
        assert 0 <= left <= left + width <= 40 and 0 <= top <= top + height <= 30
        assert 0.27 <= width * height / 1200 <= 0.55 and 0.75 <= width / height / 1.25 <= 1.3
    grey = PictureViews(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0, colours=0, grey=1, blur=0)(frames, size, rng)
    np.testing.assert_allclose(grey[..., 0], grey[..., 2])
    np.testing.assert_allclose(STILL(frames, (40, 30), rng), frames)
    turned = PictureViews(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=1, colours=0, grey=0, blur=0)(frames, (40, 30), rng)
    assert np.array_equal(turned, frames[:, :, ::-1])
    changed = PictureViews(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0, colours=1, grey=0, blur=1)(frames, size, rng)
    assert changed.min() >= 0 and changed.max() <= 255 and np.isclose(GREY.sum(), 1)
    with pytest.raises(TrainingError, match="area"):
        PictureViews(area=(0.5, 0.2))


def test_the_network_sees_the_middle_of_a_picture():
    preprocess = picture_preprocess(PICTURES, (16, 16))
    clip = Pictures(2, frames=5, size=(24, 16)).clips[0]
    shown = preprocess(clip)
    assert shown.shape == (16, 5, 16, 3) and shown.dtype == np.float32
    wanted = (as_frames(clip.keypoints)[:, :, 4:20] / 255 - 0.45) / 0.225
    np.testing.assert_allclose(as_frames(shown), wanted, atol=1e-5)
    assert picture_preprocess(PICTURES, None).shape == (224, 224)


def test_between_two_pictures_there_is_none():
    pictures = np.array([0, 100, 200], np.uint8).reshape(1, 3, 1, 1)
    assert sample(pictures, np.array([0.2, 0.6, 1.9])).ravel().tolist() == [0, 100, 200]
    assert sample(pictures.astype(np.float32), np.array([0.2])).item() == pytest.approx(20)


def test_what_ltn_does_not_take_is_said():
    joints = create_backbone("stgcn", 0, "coco17", 2, channels_base=8, blocks=(1,))
    for wrong, message in (
        ({"backbone": joints}, "STGCN takes joints"),
        ({"positives": 1}, "positives 1"),
        ({"time": {"directions": 999}}, "directions 999.*1 to 63"),
        ({"part": 1.5}, "part 1.5"),
        ({"transform": "liner"}, "linear"),
    ):
        with pytest.raises(TrainingError, match=message):
            create_method("ltn", **{"backbone": network(), **wrong})
    assert View(4, "none").in_time_alone and View(4, [{"name": "crop"}, {"name": "speed"}]).in_time_alone
    assert not View(4, "weak", "coco17").in_time_alone
    method = create_method("ltn", backbone=network(), **SMALL)
    with pytest.raises(TrainingError, match=r"set view\.steps"):
        method.sample_transform(picture_preprocess(PICTURES, (8, 8)), View(4, "weak"))
    from training.transforms.preprocess import Preprocess

    with pytest.raises(TrainingError, match="the data are joints"):
        method.sample_transform(Preprocess("coco17"), View(4, "none"))
