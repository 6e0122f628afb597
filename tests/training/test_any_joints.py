"""Joints of any kind: compared by name, and never mirrored, joined or turned by assumption."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core import settings
from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton
from tests.support.format_files import note, write_pyskl, write_unik
from training import config
from training.data.formats import open_dataset
from training.data.types import SkeletonSequence
from training.engine import checkpoint
from training.runs import splits
from training.runs.features import extract_features
from training.runs.report import open_split_of
from training.runs.run import load_run
from training.runs.train import train
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


NAMES = ("head", "left_hand", "right_hand", "left_foot", "right_foot")
ORDER = (3, 0, 4, 2, 1)
"""Another order of the joints."""
PARENTS = (-1, 0, 0, 0, 0)


def write(path, order=range(5), names=NAMES, labels=("sit", "run", "jump"), count=24, seed=0, **more):
    """Clips of five joints whose names the file may hold, in an order of its own; one clip in three is val."""
    rng = np.random.default_rng(seed)
    ids = np.arange(count) % len(labels)
    base = rng.normal(size=(count, 1, 12, 5, 2)).astype(np.float32) + 4 * ids[:, None, None, None, None]
    base[..., 1, 0] += np.sin(np.arange(12) * (1 + ids[:, None, None]))
    arrays = {
        "keypoints": base[:, :, :, list(order)],
        "label": ids,
        "label_names": np.array(labels),
        "split": np.where(np.arange(count) % 4 < 3, "train", "val"),
        "names": np.array([f"clip{k}" for k in range(count)]),
    }
    if names is not None:
        arrays["joint_names"] = np.array([names[k] for k in order])
    np.savez(path, **arrays, **more)
    return path


TABLES = {
    "run": {"epochs": 1, "batch": 6, "workers": 0, "tensorboard": False},
    "preprocess": {"people": 1, "normalise": "none"},
    "view": {"frames": 8, "steps": "none"},
    "backbone": {"name": "stgcn", "channels_base": 4, "blocks": [1]},
    "method": {"name": "supervised"},
}


def made(*paths, **tables):
    return config.validate(
        settings.merge(TABLES, {**tables, "data": {"train": [*map(str, paths)], **tables.get("data", {})}}), "test"
    )


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A run on joints that no built-in layout has, and its file."""
    folder = tmp_path_factory.mktemp("named")
    train(made(write(folder / "a.npz")), folder / "run")
    return folder


def features(run, path):
    clips = open_split_of(run, [str(path)], (), "val", "")
    return clips, extract_features(run.backbone, clips, run.preprocess, run.frames)[0]


def test_a_run_measured_on_another_order_of_joints_takes_them_by_name(named, tmp_path):
    run = load_run(named / "run")
    clips, other = features(run, write(tmp_path / "b.npz", ORDER))
    assert clips[0].skeleton.joints == run.skeleton.joints
    np.testing.assert_array_equal(other, features(run, named / "a.npz")[1])
    more = ("neck", *NAMES)
    with np.load(named / "a.npz") as arrays:
        wide = np.concatenate([arrays["keypoints"][..., :1, :], arrays["keypoints"]], 3)
        np.savez(tmp_path / "c.npz", **{**arrays, "keypoints": wide, "joint_names": np.array(more)})
    np.testing.assert_array_equal(features(run, tmp_path / "c.npz")[1], other)


@pytest.mark.parametrize("names", [None, ("head", "left_hand", "right_hand", "left_knee", "right_knee")])
def test_a_run_refuses_other_joints_of_the_same_number(named, tmp_path, names):
    run, path = load_run(named / "run"), write(tmp_path / "b.npz", names=names)
    with pytest.raises(TrainingError, match=r"b\.npz.*the network takes .*left_foot.*data\.layout"):
        features(run, path)
    with pytest.raises(TrainingError, match=r"b\.npz.*the network takes .*left_foot"):
        train(made(path, run={"start": str(named / "run")}), tmp_path / "tuned")


def test_training_goes_on_with_joints_by_name(named, tmp_path):
    tuned = made(write(tmp_path / "b.npz", ORDER), run={"start": str(named / "run")})
    train(tuned, tmp_path / "tuned")
    assert load_run(tmp_path / "tuned").skeleton.joints == NAMES
    train(made(named / "a.npz", run={"start": str(named / "run")}), tmp_path / "same")
    one, two = (checkpoint.read(tmp_path / name / "model.safetensors")[0] for name in ("tuned", "same"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_several_files_and_the_validation_are_of_the_same_joints(tmp_path):
    first, second = write(tmp_path / "a.npz"), write(tmp_path / "b.npz", ORDER, seed=1)
    datasets = splits.open_split(made(first, second).data, "train")
    assert [dataset.skeleton.joints for dataset in datasets] == [NAMES, NAMES]
    both = made(first, data={"val": [str(second)]})
    assert train(both, tmp_path / "run").results[0].details["clips"] == 6
    bare = write(tmp_path / "bare.npz", names=None)
    with pytest.raises(TrainingError, match=r"bare\.npz.*takes .*left_foot"):
        train(made(first, data={"val": [str(bare)]}), tmp_path / "other")


def test_labels_that_are_numbers_in_one_file_and_names_in_another_are_told(tmp_path):
    first, second = write(tmp_path / "a.npz"), write(tmp_path / "b.npz", labels=("0", "1", "2"))
    with pytest.warns(UserWarning, match=r"a\.npz has classes by name.*b\.npz by number.*label_names|labels"):
        train(made(first, data={"val": [str(second)]}), tmp_path / "run", stop_after=1)


def test_a_layout_is_said_in_a_configuration(tmp_path):
    path = write(tmp_path / "bare.npz", names=None)
    bones = {"joints": list(NAMES), "parents": list(PARENTS)}
    for options in ({"layout": bones}, {"options": {"layout": bones}}):
        (dataset,) = splits.open_split(made(path, data=options).data, "train")
        assert dataset.skeleton.joints == NAMES and dataset.skeleton.bones == ((0, 1), (0, 2), (0, 3), (0, 4))
    parents = ["", "head", "head", "head", "head"]
    text = f"data.layout={{joints={list(NAMES)}, parents={parents}}}".replace("'", '"')
    tables = settings.merge(TABLES, {"data": {"train": [str(path)]}})
    settings.override(tables, text)
    given = config.validate(tables, "test")
    assert splits.open_split(given.data, "train")[0].skeleton == dataset.skeleton
    train(given, tmp_path / "run")
    assert config.load(str(tmp_path / "run")).data.layout is not None
    run = load_run(tmp_path / "run")
    assert open_split_of(run, (), (), "val")[0].skeleton.joints == NAMES


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({"joints": ["a"] * 5}, "joints .* all different"),
        ({"joints": list(NAMES), "parents": [0, 9, 0, 0, 0]}, "parents .*9"),
        ({"joints": list(NAMES), "parents": [-1, "hip", 0, 0, 0]}, "parents .*'hip'"),
        ({"joints": list(NAMES), "parents": [-1]}, "parents .* 5 joints"),
        ({"joints": list(NAMES[:3])}, "has 3; give layout|have 5 joints"),
        ({"parents": list(PARENTS)}, "joints"),
        ({"joints": list(NAMES), "bone": 1}, "'bone'.*joints, parents"),
        ([1], "layout"),
        ("coco71", "unknown layout 'coco71'"),
    ],
)
def test_a_layout_that_cannot_be_is_one_line(tmp_path, layout, said):
    path = write(tmp_path / "bare.npz", names=None)
    with pytest.raises(TrainingError, match=said):
        open_dataset(path, layout=layout)


def test_a_file_says_what_its_joints_are_taken_for(tmp_path):
    write_unik(tmp_path)
    with pytest.warns(UserWarning, match=r"17 joints have no names and are taken for posetics17.*data\.layout"):
        open_dataset(tmp_path)
    write_pyskl(tmp_path / "a.pkl", [note(k) for k in range(4)])
    with pytest.warns(UserWarning, match=r"17 joints have no names and are taken for coco17.*data\.layout"):
        open_dataset(tmp_path / "a.pkl")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset(tmp_path / "a.pkl", layout="coco17")


def test_the_fingerprint_of_arrays_is_of_every_clip_and_of_the_joints(tmp_path):
    array = np.random.default_rng(0).normal(size=(40, 3, 6, 4, 1)).astype(np.float32)
    (tmp_path / "train_label.pkl").write_bytes(pickle.dumps(([f"c{k}" for k in range(40)], [k % 2 for k in range(40)])))
    seen = set()
    for changed in (None, 0, 7, 39):
        other = array.copy()
        if changed is not None:
            other[changed, 0, 3, 2, 0] += 1
        np.save(tmp_path / "train_data_joint.npy", other)
        seen.add(open_dataset(tmp_path).fingerprint)
    assert len(seen) == 4
    names = [Skeleton("custom4", tuple(f"{letter}{k}" for k in range(4)), ()) for letter in "ab"]
    assert len({open_dataset(tmp_path, layout=layout).fingerprint for layout in names}) == 2
