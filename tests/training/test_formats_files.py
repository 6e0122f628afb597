"""Single-file formats as datasets: pyskl's pickle, UNIK's arrays, npz; and what their joints are."""

from __future__ import annotations

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton, convert
from tests.support.format_files import note, write_npz, write_pyskl, write_unik
from training.data.batch import PadOrCrop
from training.data.formats import open_dataset
from training.data.formats.joints import with_sides
from training.data.loader import DataLoader
from training.data.types import SkeletonDataset
from training.runs.overlap import clips_in_both, tell_of_overlap


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pyskl_pickle_is_read(tmp_path: Path, protocol: int) -> None:
    notes = [note(k) for k in range(7)]
    notes[4]["keypoint"][1], notes[4]["keypoint_score"][1] = 0, 0
    dataset = open_dataset(write_pyskl(tmp_path / "a.pkl", notes, protocol))
    assert isinstance(dataset, SkeletonDataset) and len(dataset) == 7 and dataset.skeleton == SKELETONS["coco17"]
    assert dataset.labels == ("0", "1", "2") and dataset.label_ids.tolist() == [0, 1, 2, 0, 1, 2, 0]
    for number, clip in enumerate(dataset.read(range(7))):
        given = notes[number]
        assert clip.key == f"v{number}" and clip.label == number % 3 and clip.size == (320, 240)
        assert clip.keypoints.dtype == clip.scores.dtype == np.float32
        assert len(clip.keypoints) == (1 if number == 4 else 2)
        seen = ~np.isnan(clip.keypoints).any(-1)
        assert (~seen).sum() == 1 and not seen[0, 2, 3] and clip.scores[0, 2, 3] == 0
        assert np.array_equal(clip.keypoints[seen], given["keypoint"][: len(seen)][seen].astype(np.float32))
    val = open_dataset(
        tmp_path / "a.pkl", split="val", where="num_frames < 9 AND label = 'jump'", labels=["run", "jump", "sit"]
    )
    assert val.keys == ["v1"] and val.labels == ("run", "jump", "sit") and val.fingerprint != dataset.fingerprint
    batch = next(iter(DataLoader(dataset, PadOrCrop(12, 2, 3), batch_size=7)))
    assert batch["motion"].shape == (7, 3, 12, 17, 2) and torch.isfinite(batch["motion"]).all()


@pytest.mark.parametrize(("joints", "layout"), [(18, "openpose18"), (25, "nturgbd25"), (21, "custom21")])
def test_the_layout_follows_the_number_of_joints(tmp_path: Path, joints: int, layout: str) -> None:
    notes = [note(k, joints, kind=np.float32, channels=3) for k in range(3)]
    for one in notes:
        del one["keypoint_score"]
    dataset = open_dataset(write_pyskl(tmp_path / "a.pkl", notes))
    assert dataset.skeleton.name == layout and dataset.skeleton.num_joints == joints
    clip = dataset.read([0])[0]
    assert clip.scores is None and np.isnan(clip.keypoints[0, 2, 3]).all() and clip.keypoints.shape == (2, 5, joints, 3)
    mine = Skeleton("mine", tuple(f"p{k}" for k in range(joints)), ((0, 1),))
    assert open_dataset(tmp_path / "a.pkl", layout=mine).skeleton == mine


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (Evil(), "builtins.eval"),
        (collections.Counter("a"), "collections.Counter"),
        (Path("x"), "pathlib.PosixPath"),
        (torch.zeros(2), "torch._utils._rebuild_tensor_v2"),
        (np.random.default_rng(0), "numpy.random"),
    ],
)
def test_anything_but_plain_data_is_refused_by_name(tmp_path: Path, extra: Any, name: str) -> None:
    path = write_pyskl(tmp_path / "a.pkl", [note(0)], extra=extra)
    with pytest.raises(
        TrainingError, match=rf"it holds {name}.*, which is not loaded; a pickle may hold builtin containers"
    ) as raised:
        open_dataset(path)
    assert "\n" not in str(raised.value)


def test_plain_containers_are_admitted(tmp_path: Path) -> None:
    extra = [
        collections.OrderedDict(a=1),
        {1, 2},
        frozenset([3]),
        np.float32(1),
        np.int64(2),
        np.array(["x"]),
        b"bytes",
        b"",
        1j,
        bytearray(b"x"),
    ]
    for protocol in (2, 4, 5):
        assert len(open_dataset(write_pyskl(tmp_path / "a.pkl", [note(0)], protocol, extra=extra))) == 1


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"split": "vla"}, "no split 'vla' .did you mean 'val'"),
        ({}, {"split": "nobody"}, "split 'nobody' is empty: none of its 1 ids has an annotation"),
        ({}, {"where": "label = '7'"}, "where=\"label = '7'\" matches none of 3 clips"),
        ({}, {"where": "size > 2"}, "cannot be used: no column .size. in clips.*allowed: .*key, label, label_id"),
        ({}, {"layout": "body13"}, "its clips have 17 joints, layout 'body13' has 13"),
        ({}, {"layout": "coco18"}, "unknown layout 'coco18' .did you mean 'coco17'"),
        ({}, {"labels": ["a"]}, "1 label names were given, its labels go up to 2"),
        (
            {"annotations": 3},
            {},
            "no pyskl pickle: it holds .'annotations', 'split'.; allowed: a dict of 'split' and 'annotations'",
        ),
        ({"annotations": [{"keypoint": None}]}, {}, "annotation 0 has no array 'keypoint'"),
        (
            {"annotations": [{"keypoint": np.zeros((3, 17, 2))}]},
            {},
            r"keypoint of annotation 0 is float64 \(3, 17, 2\); allowed",
        ),
        ({"annotations": [note(0) | {"keypoint_score": np.zeros(3)}]}, {}, r"keypoint_score of annotation 0 is \(3,\)"),
        ({"annotations": [note(0), note(1, 18)]}, {}, "clips of 17 and 18 joints"),
        ({"annotations": []}, {}, "it holds no clips"),
    ],
)
def test_what_is_wrong_with_a_pickle_is_told(
    tmp_path: Path, change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    path = write_pyskl(tmp_path / "a.pkl", [note(k) for k in range(3)], **change)
    with pytest.raises(TrainingError, match=message) as raised:
        open_dataset(path, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("cut", [0, 1, 50, -20])
def test_a_torn_pickle_is_told(tmp_path: Path, cut: int) -> None:
    path = write_pyskl(tmp_path / "a.pkl", [note(0)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(TrainingError, match=r"a\.pkl: no pickle of plain data, or a torn one") as raised:
        open_dataset(path)
    assert "\n" not in str(raised.value)


def test_uniks_arrays_are_mapped(tmp_path: Path) -> None:
    arrays = write_unik(tmp_path)
    dataset = open_dataset(tmp_path)
    assert (
        dataset.keys == ["train0", "train1", "train2", "train3", "val0", "val1", "val2"]
        and dataset.skeleton.name == "posetics17"
    )
    assert dataset.label_ids.tolist() == [0, 1, 0, 1, 0, 1, 0]
    clips = dataset.read(range(7))
    assert [clip.keypoints.shape for clip in clips[:3]] == [(2, 6, 17, 2), (2, 9, 17, 2), (1, 9, 17, 2)]
    assert np.isnan(clips[1].keypoints[0, 2, 3]).all() and np.isnan(clips[1].keypoints).sum() == 2
    assert np.array_equal(clips[6].keypoints[0], arrays["val"][2, :2, :, :, 0].transpose(1, 2, 0))
    val = open_dataset(tmp_path / "val_data_joint.npy", coordinates="3d")
    assert np.array_equal(val.read([0])[0].keypoints[1], arrays["val"][0, 2:, :6, :, 1].transpose(1, 2, 0))
    assert open_dataset(tmp_path, split="val", where="key != 'val1'").keys == ["val0", "val2"]
    assert pickle.loads(pickle.dumps(dataset)).read([3])[0].keypoints.shape == (2, 9, 17, 2)  # noqa: S301


def test_uniks_clips_of_nobody_are_left_out(tmp_path: Path) -> None:
    arrays = write_unik(tmp_path)
    arrays["val"][:2, :, 0] = 0  # an empty first frame is no empty clip
    arrays["val"][0] = 0
    np.save(tmp_path / "val_data_joint.npy", arrays["val"])
    with pytest.warns(UserWarning, match="1 of 7 clips show nobody and are left out, e.g. 'val0'"):
        dataset = open_dataset(tmp_path)
    assert dataset.keys == ["train0", "train1", "train2", "train3", "val1", "val2"]
    assert np.isfinite(dataset.read([4])[0].keypoints).any()
    np.save(tmp_path / "val_data_joint.npy", arrays["val"] * np.float32(np.nan))
    with pytest.raises(TrainingError, match="none of its 3 clips shows anybody"):
        open_dataset(tmp_path, split="val")


def test_openposes_third_channel_is_the_score(tmp_path: Path) -> None:
    arrays = write_unik(tmp_path, channels=3, joints=18)
    clip = open_dataset(tmp_path, split="train").read([3])[0]
    assert clip.keypoints.shape == (2, 9, 18, 2) and np.array_equal(clip.scores[0], arrays["train"][3, 2, :, :, 0])
    assert open_dataset(tmp_path, coordinates="xyz").read([3])[0].keypoints.shape == (2, 9, 18, 3)


def test_what_is_wrong_with_uniks_arrays_is_told(tmp_path: Path) -> None:
    write_unik(tmp_path)
    for options, message in (
        ({"split": "vla"}, "no vla_data_joint.npy .did you mean 'val'"),
        ({"coordinates": "xyzz"}, "coordinates='xyzz' .did you mean 'xyz'"),
        ({"coordinates": "xys"}, "coordinates='xys' cannot be taken from 5 channels"),
        ({"layout": "coco71"}, "unknown layout 'coco71'"),
        ({"where": "label = '9'"}, "matches none of 7 clips"),
    ):
        with pytest.raises(TrainingError, match=message) as raised:
            open_dataset(tmp_path, **options)
        assert "\n" not in str(raised.value)
    (tmp_path / "val_label.pkl").write_bytes(pickle.dumps((["a"], [0])))
    with pytest.raises(TrainingError, match=r"must hold \(names, labels\) of the 3 clips"):
        open_dataset(tmp_path)
    (tmp_path / "val_label.pkl").unlink()
    with pytest.raises(TrainingError, match=r"its labels val_label\.pkl are absent"):
        open_dataset(tmp_path)
    data = tmp_path / "val_data_joint.npy"
    data.write_bytes(data.read_bytes()[:-7])
    with pytest.raises(TrainingError, match=r"val_data_joint\.npy: cannot be read, or is torn"):
        open_dataset(tmp_path)
    np.save(data, np.zeros((3, 2, 4)))
    with pytest.raises(TrainingError, match=r"it holds float64 \(3, 2, 4\); allowed: floats \(N, C, T, V, M\)"):
        open_dataset(tmp_path)


def test_a_ragged_npz_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keypoints, visible = rng.uniform(5, 9, (10, 13, 2)).astype(np.float32), rng.random((10, 13)) < 0.8
    keypoints[4, 0], visible[4, 0] = 0.5, False
    names = np.array(
        ["head", *(f"{s}_{j}" for j in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for s in "rl")]
    )
    path = write_npz(tmp_path / "a.npz", keypoints=keypoints, visible=visible, joint_names=names)
    dataset = open_dataset(path, entries=("boxes", "view"))
    assert (
        dataset.labels == ("sit", "run") and dataset.keys == ["a", "b", "c"] and dataset.label_ids.tolist() == [1, 0, 1]
    )
    clip = dataset.read([1])[0]
    assert clip.keypoints.shape == (1, 5, 13, 2) and clip.fps == 30 and dataset.read([0])[0].size == (320, 240)
    assert np.array_equal(np.isnan(clip.keypoints[0]).all(-1), ~visible[4:9]) and np.array_equal(
        clip.scores[0], visible[4:9]
    )
    assert clip.features["boxes"].tolist() == [4, 5, 6, 7] and clip.features["view"] == 2
    assert open_dataset(path, split="test").keys == ["b"] and open_dataset(
        path, where="subject = 'mm' AND view > 1"
    ).keys == ["c"]
    guessed = open_dataset(path, invisible="guess").read([1])[0]
    assert np.isnan(guessed.keypoints[0, 0, 0]).all() and np.isnan(guessed.keypoints).sum() == 2
    assert np.array_equal(guessed.scores, clip.scores)
    assert dataset.skeleton.joints[:3] == ("head", "right_shoulder", "left_shoulder") and dataset.skeleton.flip[1] == 2
    turned = open_dataset(path, skeleton="posetics17", invisible="guess").read([1])[0]
    body13 = guessed.keypoints[:, :, [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11]]
    assert np.array_equal(turned.keypoints, convert(body13, None, "body13", "posetics17")[0], equal_nan=True)


def test_a_dense_npz_is_read(tmp_path: Path) -> None:
    keypoints = np.random.default_rng(0).random((3, 2, 6, 20, 3))
    path = write_npz(
        tmp_path / "a.npz", joints=keypoints, offsets=None, split=np.array(["a", "b", "a"]), parents=np.arange(-1, 19)
    )
    dataset = open_dataset(path, split="a")
    assert len(dataset) == 2 and dataset.skeleton.bones[0] == (0, 1) and len(dataset.skeleton.bones) == 19
    assert (
        np.array_equal(dataset.read([1])[0].keypoints, keypoints[2].astype(np.float32))
        and dataset.read([1])[0].scores is None
    )
    named = SKELETONS["coco17"]
    path = write_npz(
        tmp_path / "b.npz", keypoints=keypoints[..., :17, :2], offsets=None, joint_names=np.array(named.joints)
    )
    assert open_dataset(path).skeleton == named


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"keypoints": None}, {}, "it holds no numbers 'keypoints'; its arrays: boxes, fps"),
        ({"keypoints": np.zeros((10, 2))}, {}, r"keypoints are \(10, 2\); allowed beside offsets: \(F, V, C\)"),
        ({"offsets": None}, {}, r"keypoints are \(10, 5, 2\); allowed: \(N, M, T, V, C\)"),
        ({"offsets": np.array([0, 4, 4, 10])}, {}, "clip 1 has no frames"),
        ({"offsets": np.array([0, 4, 9])}, {}, "offsets must be whole numbers from 0 to the number of frames, 10"),
        ({"label": np.zeros(2, int)}, {}, r"label is \(2,\); it must have a row for each of the 3 clips"),
        ({"label": np.array(["a", "b", "c"])}, {}, "label is <U1; allowed: whole numbers"),
        ({"label_names": np.array(["a"])}, {}, "1 label names were given, its labels go up to 1"),
        ({"visible": np.zeros((3, 5))}, {}, r"visible is \(3, 5\), the keypoints without C are \(10, 1, 5\)"),
        ({"joint_names": np.array(["a"])}, {}, "joint_names and parents must be of the 5 joints"),
        ({}, {"split": "val"}, "no clip of split 'val'; allowed: test, train"),
        ({"train": None}, {"split": "val"}, "its clips belong to no split, and 'val' is asked for"),
        ({"split": np.array(["", "", ""]), "train": None}, {"split": "val"}, "belong to no split, and 'val' is asked"),
        ({"fps": np.array([30, 0, 30])}, {}, r"fps of clip 1 .* is 0; allowed: more than 0, or NaN"),
        ({"fps": np.array([30, 30])}, {}, r"fps is int64 \(2,\); allowed: one number, or one for each clip"),
        ({"joint_names": np.array([*"abcda"])}, {}, "several joints are called 'a'"),
        ({"parents": np.array([-1, 2, 1, 0, 0])}, {}, "in a circle: 'joint01' of 'joint02' of 'joint01'"),
        ({"parents": np.array([1, 9, 0, 0, 0])}, {}, "the parent of 'joint01' is 9; allowed: 0 to 4, -1 of a root"),
        ({}, {"where": "colour = 9"}, r"no column 'colour' in clips.*allowed: (?!.*row__)"),
        ({}, {"where": "view = 9"}, "where='view = 9' matches none of 3 clips"),
        ({}, {"entries": ["box"]}, "no array 'box' with a row a clip .did you mean 'boxes'"),
        ({}, {"invisible": "x"}, "invisible='x'; allowed: absent, guess"),
        (
            {"names": np.array([{}, 1, 2], object)},
            {},
            "no npz file of plain arrays, or a torn one: Object arrays cannot be loaded",
        ),
    ],
)
def test_what_is_wrong_with_an_npz_is_told(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    path = write_npz(tmp_path / "a.npz", **({"keypoints": np.zeros((10, 5, 2))} | arrays))
    with pytest.raises(TrainingError, match=message) as raised:
        open_dataset(path, **options)
    assert "\n" not in str(raised.value)


def test_a_torn_npz_is_told(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", keypoints=np.zeros((10, 5, 2)))
    whole = path.read_bytes()
    for content in (whole[:-30], whole[:200], b"", b"PK", whole[:400] + b"xxxx" + whole[404:]):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=r"a\.npz: no npz file of plain arrays, or a torn one") as raised:
            open_dataset(path)
        assert "\n" not in str(raised.value)


def test_sides_are_found_in_names_of_any_style() -> None:
    assert with_sides(["Head", "LeftKnee", "RightKnee"]) == ("head", "left_knee", "right_knee")
    assert with_sides(["r_hip", "l_hip", "l_only"]) == ("right_hip", "left_hip", "l_only")
    assert with_sides(["lfemur", "rfemur", "lowerback", "root"]) == ("left_femur", "right_femur", "lowerback", "root")
    assert with_sides(["knee_l", "knee_r", "foot_left", "foot_right"]) == (
        "left_knee",
        "right_knee",
        "left_foot",
        "right_foot",
    )
    assert with_sides(SKELETONS["coco17"].joints) == SKELETONS["coco17"].joints
    assert with_sides(["left_hand", "l_hand", "r_hand"]) == ("left_hand", "l_hand", "r_hand")


def test_python_twos_label_files_are_read(tmp_path: Path) -> None:
    write_unik(tmp_path)
    out = io.BytesIO()
    out.write(
        b"((lp0\nS'train0'\np1\naS'train1'\np2\naS'train2'\np3\naS'train3'\np4\na(lp5\nI0\naI1\naI0\naI1\natp6\n."
    )
    (tmp_path / "train_label.pkl").write_bytes(out.getvalue())
    assert open_dataset(tmp_path, split="train").keys == ["train0", "train1", "train2", "train3"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "clips", "joints"), [("penn_action", 2326, 13), ("nw_ucla", 1484, 20), ("hdm05_subset", 287, 31)]
)
def test_shared_sets_are_read(shared_data: Path, name: str, clips: int, joints: int) -> None:
    path = shared_data / "skeleton" / f"{name}.npz"
    dataset, train, test = open_dataset(path), open_dataset(path, split="train"), open_dataset(path, split="test")
    assert len(dataset) == clips == len(train) + len(test) and dataset.skeleton.num_joints == joints
    flip = np.array(dataset.skeleton.flip)
    assert (flip[flip] == np.arange(joints)).all() and (flip != np.arange(joints)).sum() >= 12


WRONG_LABELS = ["jump", b"jump", None, [1, 2], (1,), {"a": 1}, np.array([1]), np.array([]), 1.5, np.nan, np.inf, 1j]
WRONG_LABELS += [10**9, 10**30, np.uint32(-1 % 2**32), np.uint64(2**64 - 1), np.int64(2**62), -2, np.str_("1")]


@pytest.mark.parametrize("label", WRONG_LABELS, ids=repr)
def test_a_label_that_is_no_number_of_a_class_is_named(tmp_path: Path, label: Any) -> None:
    """Nothing as large as the largest number is ever made."""
    path = write_pyskl(tmp_path / "a.pkl", [note(0), note(1) | {"label": label}, note(2)])
    with pytest.raises(TrainingError, match=r"a\.pkl: label of annotation 1 \(v1\) is .*; allowed: ") as raised:
        open_dataset(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    write_unik(tmp_path)
    label = [label, label] if isinstance(label, np.ndarray) else label  # two of one array are one object in a pickle
    (tmp_path / "val_label.pkl").write_bytes(pickle.dumps((["a", "b", "c"], [0, label, 1])))
    with pytest.raises(TrainingError, match=r"val_label\.pkl: label of clip 1 \(b\) is .*; allowed: ") as raised:
        open_dataset(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "label", [2, np.int8(2), np.uint64(2), np.array(2), 2.0, np.float32(2), np.array(2.0)], ids=repr
)
def test_a_label_of_any_whole_number_is_taken(tmp_path: Path, label: Any) -> None:
    notes = [note(0), note(1) | {"label": label}, note(2) | {"label": -1}]
    del notes[0]["label"]
    assert open_dataset(write_pyskl(tmp_path / "a.pkl", notes)).label_ids.tolist() == [-1, 2, -1]


@pytest.mark.parametrize("label", [10**9, 2**62, -7])
def test_an_absurd_label_of_an_npz_is_named(tmp_path: Path, label: int) -> None:
    path = write_npz(tmp_path / "a.npz", keypoints=np.zeros((10, 5, 2)), label=np.array([0, label, 1]))
    with pytest.raises(TrainingError, match=rf"a\.npz: label of clip 1 \(b\) is {label}"):
        open_dataset(path)


@pytest.mark.parametrize("split", [["v0"], "v0", ("v0",), {"train": "v0"}, {"train": 3}, {"train": None}, 7], ids=repr)
def test_a_split_of_another_form_is_told(tmp_path: Path, split: Any) -> None:
    path = write_pyskl(tmp_path / "a.pkl", [note(0)], split=split)
    with pytest.raises(
        TrainingError, match=r"its (split 'train'|'split') is an? \w+; allowed: a dict such as"
    ) as raised:
        open_dataset(path)
    assert "\n" not in str(raised.value)


def test_splits_may_be_arrays_or_absent(tmp_path: Path) -> None:
    path = write_pyskl(tmp_path / "a.pkl", [note(0), note(1)], split={"train": np.array(["v0"]), "val": {"v1"}})
    assert open_dataset(path, split="val").keys == ["v1"]
    assert len(open_dataset(write_pyskl(tmp_path / "a.pkl", [note(0), note(1)], split=None))) == 2


@pytest.mark.parametrize("shape", [(0, 7, 17, 2), (2, 0, 17, 2), (0, 0, 17, 2), "zero", "nan", "far"], ids=repr)
def test_annotations_of_nobody_are_left_out_and_counted(tmp_path: Path, shape: Any) -> None:
    notes = [note(k) for k in range(6)]
    for number in (1, 4):
        own = {"zero": 0.0, "nan": np.nan, "far": 0.0}.get(shape)
        keypoints = np.zeros(shape) if own is None else np.full((2, 7, 17, 2), own)
        if shape == "far":  # somebody is there, late and alone
            keypoints[1, 6, 16] = 5
        notes[number] |= {"keypoint": keypoints, "keypoint_score": np.ones(keypoints.shape[:3])}
    path = write_pyskl(tmp_path / "a.pkl", notes)
    if shape == "far":
        assert len(open_dataset(path)) == 6
        return
    with pytest.warns(UserWarning, match=r"2 of 6 annotations show nobody and are left out, for example 'v1'"):
        dataset = open_dataset(path)
    assert dataset.keys == ["v0", "v2", "v3", "v5"] and dataset.label_ids.tolist() == [0, 2, 0, 2]
    assert [clip.key for clip in dataset.read(range(4))] == dataset.keys
    with pytest.warns(UserWarning, match="show nobody"):
        assert open_dataset(path, split="train", where="num_people > 0").keys == ["v0", "v2"]


def test_ids_that_repeat_are_told_with_their_number(tmp_path: Path) -> None:
    notes = [note(k) | {"frame_dir": "same" if k in (1, 3, 5) else f"v{k}"} for k in range(6)]
    with pytest.warns(UserWarning, match=r"1 id stands at several annotations \(2 more than .*'same' at 3"):
        assert len(open_dataset(write_pyskl(tmp_path / "a.pkl", notes))) == 6
    with pytest.warns(UserWarning, match=r"2 of the 3 ids of split 'train' have no annotation, for example 'x'"):
        open_dataset(write_pyskl(tmp_path / "a.pkl", [note(0)], split={"train": ["v0", "x", "y"]}))
    write_unik(tmp_path)
    (tmp_path / "val_label.pkl").write_bytes(pickle.dumps((["a", "b", "a"], [0, 1, 1])))
    with pytest.warns(UserWarning, match=r"\(val\): 1 id stands at several clips"):
        open_dataset(tmp_path)
    path = write_npz(tmp_path / "a.npz", keypoints=np.zeros((10, 5, 2)), names=np.array(["a", "a", "b"]))
    with pytest.warns(UserWarning, match=r"'a' at 2"):
        open_dataset(path)


def test_clips_in_both_splits_are_counted(tmp_path: Path) -> None:
    ids = [f"v{k}" for k in range(8)]
    split = {"train": ids[:6], "val": ids[4:]}
    path = write_pyskl(tmp_path / "a.pkl", [note(k) for k in range(8)], split=split)
    train, val = open_dataset(path, split="train"), open_dataset(path, split="val", skeleton="posetics17")
    assert clips_in_both([train], [val]) == ["v4", "v5"]
    with pytest.warns(UserWarning, match=r"split 'val': 2 of its 4 clips are in the training split, too.*'v4'"):
        tell_of_overlap([train], [val], "split 'val'")
    nameless = [{k: v for k, v in note(n).items() if k != "frame_dir"} for n in range(2)]
    first, second = (write_nameless(tmp_path / f"{name}.pkl", nameless) for name in "bc")
    assert clips_in_both([open_dataset(first)], [open_dataset(second)]) == []
    with pytest.warns(UserWarning, match="1 id stands at several"):
        again = open_dataset(
            write_npz(tmp_path / "again.npz", keypoints=np.zeros((10, 5, 2)), names=np.array(["v1", "v1", "w"]))
        )
    assert clips_in_both([train], [again]) == ["v1", "v1"]


def write_nameless(path: Path, notes: list[dict[str, Any]]) -> Path:
    path.write_bytes(pickle.dumps({"annotations": notes}))
    return path


def test_names_of_classes_and_the_layout_may_stand_in_the_pickle(tmp_path: Path) -> None:
    path = write_pyskl(
        tmp_path / "a.pkl", [note(k) for k in range(3)], label_names=["a", "b", "c"], layout="posetics17"
    )
    assert open_dataset(path).labels == ("a", "b", "c") and open_dataset(path).skeleton.name == "posetics17"
    assert open_dataset(path, labels=["x", "y", "z"], layout="coco17").labels == ("x", "y", "z")
    path = write_pyskl(tmp_path / "a.pkl", [note(0)], classes=[1, 2], layout="none")
    assert open_dataset(path).labels == ("0",) and open_dataset(path).skeleton.name == "coco17"
