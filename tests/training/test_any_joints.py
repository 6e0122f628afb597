"""Joints of any kind: compared by name, and never mirrored, joined or turned by assumption."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton
from training.data.types import SkeletonSequence
from training.transforms.preprocess import Preprocess
from training.transforms.streams import parents
from training.transforms.view import View

UNNAMED = Skeleton("custom4", tuple(f"joint{k:02d}" for k in range(4)), ((0, 1), (1, 2), (2, 3)))
BONELESS = Skeleton("custom3", ("head", "left_hand", "right_hand"), ())
FLIP = ({"name": "flip", "chance": 1.0},)


def clip(array, label=0):
    return SkeletonSequence("a", np.asarray(array, np.float32), label=label)


@pytest.mark.parametrize("steps", [FLIP, "strong"])
def test_a_body_without_left_and_right_is_not_mirrored(steps):
    with pytest.warns(UserWarning, match=r"custom4.*no joint left_X with a right_X.*flip.*left out"):
        view = View(6, steps, UNNAMED)
    array = np.random.default_rng(0).normal(size=(1, 6, 4, 2)).astype(np.float32)
    if steps is FLIP:
        np.testing.assert_array_equal(view(array, np.random.default_rng(1)), array)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mirrored = View(6, FLIP, "coco17")(np.ones((1, 6, 17, 2), np.float32), np.random.default_rng(1))
        View(6, "weak", UNNAMED)
    assert (mirrored[..., 0] == -1).all()


def test_a_side_without_its_other_stays_in_place():
    layout = Skeleton("mine", ("head", "left_hand", "right_hand", "left_foot"), ((0, 1), (0, 2), (0, 3)))
    assert layout.flip == (0, 2, 1, 3)
    assert View(4, FLIP, layout)(np.ones((1, 4, 4, 2), np.float32), np.random.default_rng(0)).shape == (1, 4, 4, 2)


def test_bones_of_a_layout_without_bones_are_refused():
    for stream in ("bone", "bone_motion"):
        with pytest.raises(TrainingError, match=r"stream 'bone.*layout 'custom3' has no bones.*parents"):
            Preprocess(BONELESS, stream=stream)
    assert Preprocess(BONELESS, stream="motion").stream == "motion"


def test_published_parents_are_those_of_the_published_layout_alone():
    same_name = Skeleton("coco17", tuple(f"point{k}" for k in range(17)), tuple((k, k + 1) for k in range(16)))
    assert parents(same_name) == (0, *range(16))
    assert parents(SKELETONS["coco17"])[:5] == (0, 0, 0, 1, 2)


def test_a_view_in_space_names_the_joints_it_lacks():
    for normalise in ("view", "view_body"):
        with pytest.raises(
            TrainingError, match=r"layout 'custom4' has no left_hip, .*which view.* needs; choose 'body'"
        ):
            Preprocess(UNNAMED, normalise=normalise)
