"""Data from which nothing can be learnt is told before a training begins."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import skeleton
from training.data.types import SkeletonDataset, SkeletonSequence
from training.runs.learnable import check_coordinates, check_learnable, check_prepared, tell_of_unseen
from training.transforms.preprocess import Preprocess


class Poses(SkeletonDataset):
    """Clips of (1, 4, 17, 2) joints: numbers that rise from clip to clip and from frame to frame."""

    def __init__(self, ids, labels=("a", "b"), change=lambda joints: joints):
        self.name, self.skeleton, self.labels, self.fingerprint = "poses", skeleton("coco17"), tuple(labels), "1"
        self.label_ids = np.asarray(ids, np.int64)
        self.keys = [str(number) for number in range(len(ids))]
        self._change = change

    def read(self, indices):
        base = np.broadcast_to(np.arange(4, dtype=np.float32)[None, :, None, None], (1, 4, 17, 2))
        return [
            SkeletonSequence(self.keys[n], self._change(base + 10 * np.float32(n)), label=int(self.label_ids[n]))
            for n in indices
        ]


def told(act):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        act()
    return [str(one.message) for one in found]


def test_sound_data_are_passed_without_a_word():
    assert told(lambda: check_learnable([Poses([0, 1, 0, 1])], True, "supervised")) == []
    assert told(lambda: tell_of_unseen([Poses([0, 1])], [Poses([1, 0])], "split 'val'")) == []


@pytest.mark.filterwarnings("ignore:poses")
@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (Poses([]), "no clips to train on"),
        (Poses([0]), "1 clip to train on"),
        (Poses([0, 0, -1]), "all 2 labelled clips are of the class 'a'"),
        (Poses([-1, -1]), "no clip has a label"),
        (Poses([0, 1], change=lambda joints: joints * np.nan), "no joint of any of 2 clips is seen"),
        (Poses([0, 1], change=lambda joints: joints * 0), "all of 2 clips hold the same poses"),
        (Poses([0, 1], change=lambda joints: joints[:0]), "no joint of any of 2 clips is seen"),
    ],
)
def test_what_teaches_nothing_is_refused(dataset, says):
    with pytest.raises(TrainingError, match=says) as error:
        check_learnable([dataset], True, "supervised")
    assert "\n" not in str(error.value)


def test_what_teaches_little_is_told():
    assert "each of the 2 classes has one clip only" in told(lambda: check_learnable([Poses([0, 1])], True, "s"))[0]
    few = Poses([0, 1, 0, -1], [*"abcdef"])
    assert told(lambda: check_learnable([few], True, "s")) == [
        "poses: 4 of 6 classes have no training clip, for example 'c'",
        "poses: without a label, so not learnt from: 1 of 4 clips",
    ]
    still = Poses([0, 1, 1, 0], change=lambda joints: joints[:, :1].repeat(4, 1))
    assert "nobody moves in any of 4 clips" in told(lambda: check_learnable([still], True, "s"))[0]
    assert "every label is 'a'" in told(lambda: check_learnable([Poses([0, 0])], False, "mcc"))[0]


def test_classes_that_training_never_saw_are_told_with_their_clips():
    train = Poses([0, 1, 1], ["a", "b", "c"])
    assert told(lambda: tell_of_unseen([train], [Poses([0, 1, 1, 2], ["a", "x", "c"])], "split 'val'")) == [
        "split 'val': 3 of its 4 clips are of 2 classes that training never saw ('x', 'c'), and left out of the "
        "figures (2) or counted as wrong (1)"
    ]
    assert told(lambda: tell_of_unseen([train], [Poses([0, 1, -1], ["a", "x"])], "split 'val'")) == [
        "split 'val': 1 of its 3 clips is of 1 class that training never saw ('x'), and left out of the figures",
        "split 'val': not measured, for want of a label: 1 of its 3 clips",
    ]


def apart(joints):
    return joints + np.arange(17, dtype=np.float32)[:, None]


def test_clips_of_which_nothing_is_left_are_told():
    prepares = Preprocess("coco17", people=1)
    assert told(lambda: check_prepared([Poses([0, 1], change=apart)], prepares)) == []
    for harm in (0, 1e32):
        with pytest.raises(
            TrainingError, match=r"poses: .*normalise 'body', all joints of 2 of 2 clips lie at one point"
        ):
            check_prepared([Poses([0, 1], change=lambda joints, harm=harm: apart(joints) * np.float32(harm))], prepares)
    some = Poses([0, 1, 1], change=lambda joints: apart(joints) if joints.max() > 4 else joints * np.float32(0))
    assert (
        "all joints of 1 of 3 clips lie at one point, for example of '0'"
        in told(lambda: check_prepared([some], prepares))[0]
    )


def test_data_of_other_coordinates_are_refused_before_the_first_step():
    space = Poses([0, 1], change=lambda joints: np.concatenate([joints, joints[..., :1]], -1))
    check_coordinates([Poses([0, 1]), Poses([])], Preprocess("coco17", people=1), 2)
    check_coordinates([Poses([0, 1])], Preprocess("coco17", people=1, stream="joint+motion"), 4)
    with pytest.raises(TrainingError, match=r"poses: its clips have 3 coordinates, which are 3 channels.*takes 2;"):
        check_coordinates([space], Preprocess("coco17", people=1), 2)
    check_coordinates([space], Preprocess("coco17", people=1, channels=(0, 1)), 2)
