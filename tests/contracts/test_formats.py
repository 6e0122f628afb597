"""What every registered format of data promises: it opens its own files, and refuses others in one line.

A new format is one line of `FILES`; one without a line fails by its name.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import DataEngineError
from tests.support import pictures, tiny_dataset
from tests.support.format_files import note, write_bvh, write_mixamo, write_npz, write_pyskl, write_unik
from training import registry
from training.data.formats import format_class, format_of, open_dataset
from training.data.formats.base import Format
from training.data.rgb import is_pictures
from training.data.types import SkeletonDataset, SkeletonSequence


def built(folder: Path) -> Path:
    return tiny_dataset.build(folder)


def webdataset(folder: Path) -> Path:
    return tiny_dataset.build(folder) / "shards" / "pose"


def pyskl(folder: Path) -> Path:
    return write_pyskl(folder / "clips.pkl", [note(number) for number in range(6)])


def unik(folder: Path) -> Path:
    write_unik(folder)
    return folder


def npz(folder: Path) -> Path:
    keypoints = np.random.default_rng(0).uniform(5, 9, (10, 13, 2)).astype(np.float32)
    return write_npz(folder / "clips.npz", keypoints=keypoints)


def mixamo(folder: Path) -> Path:
    return write_mixamo(folder)


def bvh(folder: Path) -> Path:
    return write_bvh(folder)


def videos(folder: Path) -> Path:
    return pictures.write_videos(folder, 4, 2)


FILES: dict[str, Callable[[Path], Path]] = {
    "built": built,
    "webdataset": webdataset,
    "pyskl": pyskl,
    "unik": unik,
    "npz": npz,
    "mixamo": mixamo,
    "bvh": bvh,
    "videos": videos,
}
"""Writers of a few clips into an empty folder, which return the path to open."""
EVERY = registry.names("formats")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in FILES.items()}


def path_of(name: str, paths: dict[str, Path]) -> Path:
    if name not in paths:
        pytest.fail(f"the format {name!r} is registered and has no case here")
    return paths[name]


def same(one: SkeletonSequence, other: SkeletonSequence) -> bool:
    pairs = ((one.keypoints, other.keypoints), (one.scores, other.scores))
    return (one.key, one.label) == (other.key, other.label) and all(
        (a is None and b is None) or np.array_equal(a, b, equal_nan=True) for a, b in pairs
    )


@pytest.mark.parametrize("name", EVERY)
def test_it_opens_its_own_files(name: str, paths: dict[str, Path]) -> None:
    path = path_of(name, paths)
    assert issubclass(format_class(name), Format) and format_of(str(path)) == name
    dataset = open_dataset(path)
    assert isinstance(dataset, SkeletonDataset) and isinstance(dataset, format_class(name))
    assert len(dataset) == len(dataset.keys) == len(set(dataset.keys)) == len(dataset.label_ids) >= 3
    assert dataset.name and dataset.fingerprint
    for clip, key, label in zip(dataset.read(range(len(dataset))), dataset.keys, dataset.label_ids, strict=True):
        assert clip.key == key and (-1 if clip.label is None else clip.label) == label < len(dataset.labels)
        people, frames, joints, channels = clip.keypoints.shape
        if is_pictures(dataset.skeleton):
            assert clip.keypoints.dtype == np.uint8 and channels == 3 and clip.size == (people, joints)
            continue
        assert people >= 1 and frames >= 1 and joints == dataset.skeleton.num_joints and channels in (2, 3)
        assert clip.keypoints.dtype == np.float32
        assert clip.scores is None or (clip.scores.shape, clip.scores.dtype) == ((people, frames, joints), np.float32)


@pytest.mark.parametrize("name", EVERY)
def test_the_order_is_the_same_twice_and_pickles(name: str, paths: dict[str, Path]) -> None:
    one, two = open_dataset(path_of(name, paths)), open_dataset(path_of(name, paths))
    twin = pickle.loads(pickle.dumps(one))  # noqa: S301 - our own
    order = np.random.default_rng(0).permutation(len(one)).tolist()
    wanted = one.read(range(len(one)))
    for other in (one, two, twin):
        assert list(other.keys) == list(one.keys) and np.array_equal(other.label_ids, one.label_ids)
        assert other.fingerprint == one.fingerprint and other.labels == one.labels
        assert all(same(clip, wanted[place]) for place, clip in zip(order, other.read(order), strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_it_chooses_and_says_what_it_cannot(name: str, paths: dict[str, Path]) -> None:
    path = path_of(name, paths)
    whole = open_dataset(path)
    part = open_dataset(path, where="label_id = 1")
    assert list(part.keys) == [key for key, label in zip(whole.keys, whole.label_ids) if label == 1]
    assert part.fingerprint != whole.fingerprint and part.labels == whole.labels
    for wrong in ({"where": "label_id = 77"}, {"where": "no_such_column = 1"}, {"no_such_option": 1}):
        with pytest.raises(DataEngineError) as caught:
            open_dataset(path, **wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", EVERY)
def test_foreign_files_are_refused_in_one_line(name: str, paths: dict[str, Path], tmp_path: Path) -> None:
    path_of(name, paths)
    cls = format_class(name)
    text = tmp_path / "notes.txt"
    text.write_text("no clips")
    shards_of_a_built_one = {"built", "webdataset"}
    foreign = [path for other, path in paths.items() if other != name and {other, name} != shards_of_a_built_one]
    for path in (*foreign, text, tmp_path / "absent"):
        assert not cls.recognises(str(path)), path
        with pytest.raises(DataEngineError) as caught:
            cls(cls.location(str(path)))
        assert "\n" not in str(caught.value) and len(str(caught.value)) > 20
