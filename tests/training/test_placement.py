"""Where prepared joints and views of them come from: back in time, and back to pixels or metres."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support.motions import Motions
from training.data.loader import DataLoader
from training.data.types import SkeletonSequence
from training.methods.base import RandomViews
from training.transforms.prepared import ClipCache, PreparedDataset
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

RNG = np.random.default_rng(0)


def clip(axes: int, joints: int = 17, people: int = 2) -> SkeletonSequence:
    """A clip whose first two and last three frames show nobody."""
    poses = RNG.normal(3, 2, (people, 20, joints, axes)).astype(np.float32)
    poses[:, :2] = poses[:, -3:] = np.nan
    return SkeletonSequence("a", poses, RNG.uniform(0.5, 1, poses.shape[:3]).astype(np.float32), size=(640, 480))


@pytest.mark.parametrize(
    ("normalise", "axes"),
    [("body", 2), ("body", 3), ("screen", 2), ("pyskl2d", 2), ("none", 3), ("view", 3), ("view_body", 3)],
)
def test_joints_are_brought_back(normalise, axes):
    preprocess = Preprocess("coco17", people=3, normalise=normalise, score=normalise == "body")
    given = clip(axes)
    prepared = preprocess.prepare(given)
    assert np.array_equal(prepared.joints, preprocess.joints(given))
    assert prepared.frames.tolist() == list(range(2, 17))
    stored = prepared.restore(prepared.joints)
    order = [0, 1] if np.allclose(stored[0], given.keypoints[0, 2:17], atol=1e-3) else [1, 0]
    np.testing.assert_allclose(stored[:2], given.keypoints[order][:, 2:17], atol=1e-3)
    assert np.isnan(stored[2]).all(), "nobody stays nobody"
    assert prepared.restore(prepared.joints[0, 3]).shape == (17, axes)


def test_a_clip_without_a_frame_that_faces_is_brought_back():
    given = clip(3, people=1)
    given.keypoints[:, :, 5] = np.nan
    prepared = Preprocess("coco17", normalise="view_body", fill="zero").prepare(given)
    np.testing.assert_allclose(prepared.restore(prepared.joints)[0, :, 6], given.keypoints[0, 2:17, 6], atol=1e-3)


def test_frames_that_a_normalisation_leaves_out_are_known_and_its_joints_are_not_brought_back():
    given = clip(3, 25, people=1)
    given.keypoints[:, 10] = np.nan
    prepared = Preprocess("nturgbd25", normalise="pyskl3d", fill="zero").prepare(given)
    assert prepared.frames.tolist() == [*range(2, 10), *range(11, 17)] and prepared.joints.shape[1] == 14
    with pytest.raises(TrainingError, match="'pyskl3d' cannot be brought back to metres"):
        prepared.restore(prepared.joints)


def test_nobody_has_a_place():
    nobody = SkeletonSequence("a", np.full((1, 4, 17, 2), np.nan, np.float32))
    prepared = Preprocess("coco17").prepare(nobody)
    assert prepared.frames.tolist() == [0, 1, 2, 3] and np.isnan(prepared.restore(prepared.joints)).all()


STEPS = {
    "crop": [{"name": "crop", "at": 0.5, "min": 0.5, "max": 0.5}],
    "speed": [{"name": "speed", "choices": [1.5]}],
    "reverse": [{"name": "reverse", "chance": 1.0}],
    "pad": [{"name": "pad", "how": "zero"}],
    "shuffle": [{"name": "shuffle"}],
}


@pytest.mark.parametrize("name", STEPS)
def test_a_view_says_which_positions_it_shows(name):
    """A clip whose only coordinate is its time."""
    array = np.broadcast_to(np.arange(1, 13, dtype=np.float32)[None, :, None, None], (1, 12, 3, 2))
    view = View(16 if name == "pad" else 8, STEPS[name])
    out, positions = view.sampled(array, np.random.default_rng(1))
    assert positions.shape == (view.frames,) and np.array_equal(out, view(array, np.random.default_rng(1)))
    np.testing.assert_allclose(out[0, :, 0, 0], np.where(positions < 0, 0, positions + 1), rtol=1e-6)


@pytest.mark.parametrize("held", [False, True])
def test_views_say_which_frames_of_the_clip_they_show(held):
    class Late(Motions):
        def _clip(self, number, rng, video):
            made = super()._clip(number, rng, video)
            made.keypoints[:, :5] = np.nan
            return made

    preprocess, clips = Preprocess("body13"), Late(6, 1)
    view = View(16, [{"name": "crop", "min": 0.5}], "body13")
    transform = RandomViews(preprocess, {"motion": view, "other": view}, frames=True)
    dataset = PreparedDataset(clips, preprocess, ClipCache(None, 0.0, 1e9)) if held else clips
    for _ in range(2):
        batch = next(iter(DataLoader(dataset, transform, 6, shuffle=False)))
        plain = next(iter(DataLoader(clips, RandomViews(preprocess, transform.views), 6, shuffle=False)))
        assert torch.equal(batch["motion"], plain["motion"]) and torch.equal(batch["other"], plain["other"])
        for row, own in enumerate(clips.clips):
            frames = batch["motion_frames"][row].numpy()
            prepared = preprocess.prepare(own)
            low = frames.astype(int)
            high = np.minimum(low + 1, own.keypoints.shape[1] - 1)
            part = (frames - low)[:, None, None]
            wanted = own.keypoints[0, low] * (1 - part) + own.keypoints[0, high] * part
            shown = prepared.restore(batch["motion"][row].permute(3, 1, 2, 0).numpy())
            np.testing.assert_allclose(shown[0], wanted, atol=0.01)


def test_a_view_that_cannot_say_is_refused():
    transform = RandomViews(Preprocess("body13"), {"motion": lambda array, rng: array}, frames=True)
    with pytest.raises(TrainingError, match="view 'motion' does not say which frames it shows"):
        transform(Motions(1, 1).clips[0], RNG)
