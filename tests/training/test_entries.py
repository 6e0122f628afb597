"""Typed entries: what an array is says its class, and the batch holds what belongs to it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support.motions import Motions
from training.data.batch import stack
from training.data.entries import Entry, Motion, PerFrame, Text, Video
from training.data.loader import DataLoader

RNG = np.random.default_rng(0)


def test_videos_have_their_channels_before_time():
    frames = [RNG.integers(0, 255, (3, 4, 5, 3)).astype(np.uint8) for _ in range(2)]
    stacked = stack("video", list(map(Video, frames)))["video"]
    assert stacked.shape == (2, 3, 3, 4, 5) and stacked.dtype == torch.uint8
    assert np.array_equal(stacked[1, 2, 0].numpy(), frames[1][0, :, :, 2])


def test_values_per_frame_are_filled_up_and_say_where():
    rows = [PerFrame(np.ones((2, 3), np.float32)), PerFrame(np.ones((4, 3), np.float32), np.array([1, 0, 1, 1], bool))]
    batch = stack("target", rows)
    assert batch.keys() == {"target", "target_valid"} and batch["target"].shape == (2, 4, 3)
    assert batch["target"].sum((1, 2)).tolist() == [6, 12]
    assert batch["target_valid"].tolist() == [[True, True, False, False], [True, False, True, True]]


def test_a_motion_with_filled_frames_has_a_mask():
    array = RNG.random((2, 3, 5, 2), dtype=np.float32)
    people = np.array([[1, 1, 0], [0, 1, 0]], bool)
    batch = stack("motion", [Motion(array), Motion(array, np.array([1, 0, 0], bool)), Motion(array, people)])
    assert batch["motion"].shape == (3, 2, 3, 5, 2) and batch["motion_mask"].shape == (3, 3, 2)
    assert batch["motion_mask"][0].all() and batch["motion_mask"][1].sum(0).tolist() == [1, 1]
    assert np.array_equal(batch["motion_mask"][2].numpy(), people.T)
    assert stack("motion", [Motion(array)]).keys() == {"motion"}


def test_texts_are_a_list():
    assert stack("text", [Text("a"), Text("b")]) == {"text": ["a", "b"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([Motion(np.zeros((3, 2)))], r"'x' as a motion of shape \(3, 2\); allowed: \(M, T, V, C\)"),
        ([Video(np.zeros(3))], r"'x' as a video of shape \(3,\); allowed: \(T, H, W, C\)"),
        ([PerFrame(np.zeros(()))], "'x' per frame as a number"),
        ([PerFrame(np.zeros((2, 3))), PerFrame(np.zeros((2, 4)))], "'x' of different shapes"),
        ([Motion(np.zeros((1, 2, 3, 2)), np.zeros(3, bool))], r"valid of shape \(3,\); allowed: \(2,\) or \(1, 2\)"),
        ([Text("a"), Motion(np.zeros((1, 2, 3, 2)))], "'x' as Text of some clips and as Motion of others"),
    ],
)
def test_what_does_not_go_together_is_said(values, message):
    with pytest.raises(TrainingError, match=message):
        stack("x", values)


class Total(Entry):
    """An entry of another package: the sum of a clip."""

    def __init__(self, value: float) -> None:
        self.value = value

    @classmethod
    def stack(cls, name, entries):
        return {"": np.array([entry.value for entry in entries]), "_all": np.array(sum(e.value for e in entries))}


def test_another_package_may_bring_a_class_of_its_own():
    loader = DataLoader(Motions(4, 1), lambda clip, rng: {"sum": Total(clip.label)}, 4, shuffle=False)
    batch = next(iter(loader))
    assert batch["sum"].tolist() == [0, 1, 2, 3] and int(batch["sum_all"]) == 6


def test_what_an_entry_brings_may_not_be_what_the_loader_fills():
    class Bad(Total):
        @classmethod
        def stack(cls, name, entries):
            return {"": np.zeros(len(entries))}

    with pytest.raises(TrainingError, match="gives 'label', which the loader itself fills"):
        next(iter(DataLoader(Motions(4, 1), lambda clip, rng: {"label": Bad(0)}, 4)))
