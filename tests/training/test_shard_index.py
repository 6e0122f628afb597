"""WebDataset shards that change, and shards whose samples do not fit together."""

from __future__ import annotations

import io
import json
import os
import tarfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import DataEngineError, TrainingError
from dataengine.core.skeletons import SKELETONS
from training.data.formats import open_dataset
from training.transforms.prepared import ClipCache, prepared
from training.transforms.preprocess import Preprocess

JOINTS = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DATAENGINE_CACHE", str(tmp_path / "cache"))


def poses(seed=0, joints=5):
    return np.random.default_rng(seed).normal(size=(4, 1, 6, joints, 2)).astype(np.float32)


def write(path, clips, joints=JOINTS, **more):
    """Shards of clips (M, T, V, C); `joints` are names for all, or a list for each."""
    with tarfile.open(path, "w") as tar:
        for number, clip in enumerate(clips):
            file = io.BytesIO()
            np.save(file, clip)
            names = joints[number] if joints and isinstance(joints[0], list) else joints
            facts = {"label": "ab"[number % 2], "label_id": number % 2, "split": "train", "joints": names, **more}
            for entry, data in (("keypoints.npy", file.getvalue()), ("json", json.dumps(facts).encode())):
                info = tarfile.TarInfo(f"c{number}.{entry}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


def test_a_shard_of_other_poses_is_other_data(tmp_path):
    """Also where all lies at the same places: neither prepared clips nor a run are of what was there before."""
    found = []
    for seed in (0, 1, 0):
        path = write(tmp_path / "x.tar", poses(seed))
        os.utime(path, (seed + 1, seed + 1))
        data = open_dataset(path)
        (clips,) = prepared(data, Preprocess(data.skeleton), ClipCache(tmp_path / "prepared", 1e9, 0))
        for clip, stored in zip(clips.read(range(4)), poses(seed)):
            assert np.array_equal(data.read([int(clip.key[1:])])[0].keypoints, stored)
            assert np.array_equal(clip.keypoints, Preprocess(data.skeleton).joints(data.read([int(clip.key[1:])])[0]))
        found.append(data.fingerprint)
    assert found[0] == found[2] != found[1]
    moved = write(tmp_path / "moved.tar", poses(0))
    assert open_dataset(moved).fingerprint == found[0]


@pytest.mark.parametrize(
    ("clips", "joints", "message"),
    [
        (
            poses(),
            [JOINTS, JOINTS, JOINTS[::-1], JOINTS],
            "different joints or orders of joints, such as 'c0' and 'c2'",
        ),
        ([poses()[0], poses(1, 4)[0]], [], "'c0' has 5 joints of 2 coordinates, 'c1' 4 joints of 2"),
        ([poses()[0], np.zeros((1, 6, 5, 3))], [], "'c0' has 5 joints of 2 coordinates, 'c1' 5 joints of 3"),
        (poses()[:, 0], [], r"keypoints of 'c0' is of shape \(6, 5, 2\); allowed: \(M, T, V, C\)"),
        (poses(), ["head"], "its clips have 5 joints, layout 'custom1' has 1"),
    ],
)
def test_samples_that_differ_in_joints_are_refused(tmp_path, clips, joints, message):
    with pytest.raises(TrainingError, match=message):
        open_dataset(write(tmp_path / "x.tar", clips, joints))


def test_names_of_joints_come_before_the_name_of_a_layout(tmp_path):
    coco = list(SKELETONS["coco17"].joints)
    clips = poses(0, 17)
    assert open_dataset(write(tmp_path / "a.tar", clips, coco, skeleton="coco17")).skeleton == SKELETONS["coco17"]
    turned = open_dataset(write(tmp_path / "b.tar", clips, coco[::-1], skeleton="coco17")).skeleton
    assert turned.joints == tuple(coco[::-1])
    assert open_dataset(write(tmp_path / "c.tar", clips, [], skeleton="coco17")).skeleton == SKELETONS["coco17"]
    assert open_dataset(write(tmp_path / "d.tar", poses(), JOINTS, skeleton="mine")).skeleton.joints == tuple(JOINTS)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"fps": "abc"}, "its fps is 'abc'; allowed: frames per second, more than 0"),
        ({"fps": "25/0"}, "its fps is '25/0'"),
        ({"fps": -3}, "its fps is -3"),
        ({"width": "x"}, "its width is 'x'; allowed: a whole number"),
        ({"split": ["train"]}, "its split is a list; allowed: text"),
        ({"joints": "head"}, "its joints are 'head'; allowed: a list of names"),
        ({"joints": [1, 2]}, r"its joints are \[1, 2\]"),
    ],
)
def test_facts_that_cannot_be_are_told(tmp_path, more, message):
    with pytest.raises(DataEngineError, match=rf"x\.tar: c0\.json cannot be decoded: {message}"):
        open_dataset(write(tmp_path / "x.tar", poses(), **more))
