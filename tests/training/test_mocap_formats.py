"""Motion capture: BVH by hand, characters of Mixamo, and torn files."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support.format_files import BVH, write_bvh, write_mixamo
from training.data.formats import open_dataset


def test_joints_follow_from_turns_and_offsets(tmp_path):
    rows = "\n".join(
        (
            "5 6 7  0 0 0  0 0 0  0 0 0",
            "0 0 0  90 0 0  0 0 0  0 0 0",  # the root turns about z: up becomes -x
            "0 0 0  0 0 90  0 0 0  0 0 0",  # about y: the hand goes from x to -z
            "0 0 0  90 0 0  90 0 0  0 0 0",  # the chest turns as well: the hand goes twice
        )
    )
    (tmp_path / "a.bvh").write_text(BVH.format(frames=4, rows=rows))
    dataset = open_dataset(tmp_path / "a.bvh")
    joints = dataset.read([0])[0].keypoints[0]
    wanted = [
        [[5, 6, 7], [5, 8, 7], [6, 8, 7]],
        [[0, 0, 0], [-2, 0, 0], [-2, 1, 0]],
        [[0, 0, 0], [0, 2, 0], [0, 2, -1]],
        [[0, 0, 0], [-2, 0, 0], [-3, 0, 0]],
    ]
    np.testing.assert_allclose(joints, wanted, atol=1e-5)
    assert dataset.skeleton.joints == ("hips", "chest", "hand") and dataset.skeleton.bones == ((0, 1), (1, 2))


def test_fast_files_lose_frames_and_folders_are_splits_and_classes(tmp_path):
    write_bvh(tmp_path / "train", 4, frames=9)
    write_bvh(tmp_path / "test", 2, frames=9)
    dataset = open_dataset(tmp_path, split="train", fps=10)
    assert dataset.labels == ("bow", "nod") and len(dataset) == 4 and len(set(dataset.groups)) == 1
    clip = dataset.read([0])[0]
    assert clip.keypoints.shape == (1, 3, 3, 3) and clip.fps == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("HIERARCHY", "HIERARCHIE"),
        ("Frames: 5", "Frames: 6"),
        ("Frames: 5", "Frames: many"),
        ("Frame Time: 0.0333333", "Frame Time: 0"),
        ("JOINT Hand", "JOINT Chest"),
        ("Zrotation Xrotation", "Zrotation Wrotation"),
        ("MOTION", ""),
        ("End Site", "Site"),
    ],
)
def test_torn_files_are_told_in_one_line(old, new, tmp_path):
    write_bvh(tmp_path, 1)
    path = tmp_path / "bow" / "clip0.bvh"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(TrainingError, match=r"clip0.bvh is no BVH file, or a torn one: .+") as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_characters_stand_upright(tmp_path):
    write_mixamo(tmp_path)
    dataset = open_dataset(tmp_path, split="train")
    stored = np.load(tmp_path / "train/Aj/Bow/motions/1.npy")
    joints = dataset.read([0])[0].keypoints[0]
    assert dataset.skeleton.name == "mixamo15" and dataset.groups == ["Aj", "Aj", "Ty", "Ty"]
    np.testing.assert_allclose(joints[..., 1], stored[:, 2].T, rtol=1e-6)  # z of the file is up
    np.testing.assert_allclose(np.linalg.norm(joints, axis=-1), np.linalg.norm(stored, axis=1).T, rtol=1e-5)
    np.save(tmp_path / "train/Ty/Jump/motions/1.npy", np.zeros((15, 2, 6)))
    with pytest.raises(TrainingError, match=r"allowed: floats \(15, 3, T\)"):
        open_dataset(tmp_path).read([3])
