"""BuiltDataset datasets and plain WebDataset shards as datasets, from a folder and over HTTP."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import webdataset

import dataengine
from dataengine.core.errors import DatasetError, TrainingError
from dataengine.core.skeletons import SKELETONS, convert
from dataengine.dataset import index
from dataengine.io import remote
from dataengine.io.shards import ShardWriter
from tests.support.range_server import Server, serving
from tests.support.tiny_dataset import LABELS, build, poses
from training.data.batch import PadOrCrop
from training.data.formats import open_dataset
from training.data.formats.ranges import BLOCK, Ranges
from training.data.formats.webdataset import expand
from training.data.loader import DataLoader
from training.data.types import SkeletonDataset, SkeletonSequence


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    build(folder, clips=24, per_shard=5)
    return folder


@pytest.fixture
def server(out: Path) -> Iterator[Server]:
    with serving(out) as facts:
        yield facts


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DATAENGINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "POLICY", dataclasses.replace(remote.POLICY, pause=0.01))
    remote._http_client.cache_clear()
    yield tmp_path / "cache"
    remote._http_client.cache_clear()


def same(one: SkeletonSequence, other: SkeletonSequence) -> bool:
    arrays = all(
        np.array_equal(a, b, equal_nan=True) for a, b in ((one.keypoints, other.keypoints), (one.scores, other.scores))
    )
    return arrays and (one.key, one.label, one.size, one.fps) == (other.key, other.label, other.size, other.fps)


def shards_of(out: Path) -> list[Path]:
    return sorted((out / "dataset" / "shards" / "pose").glob("*.tar"))


def test_clips_are_the_datasets_samples(out: Path) -> None:
    dataset, ds = open_dataset(out), dataengine.open(out)
    assert isinstance(dataset, SkeletonDataset) and len(dataset) == 24
    assert dataset.labels == LABELS and dataset.skeleton == SKELETONS["posetics17"]
    order = np.random.default_rng(0).permutation(24).tolist()
    for place, clip in zip(order, dataset.read(order), strict=True):
        sample = ds.sample(clip.key)
        assert clip.key == dataset.keys[place] and clip.label == dataset.label_ids[place] == sample["json"]["label_id"]
        assert (
            np.array_equal(clip.keypoints, sample["keypoints"], equal_nan=True) and clip.keypoints.dtype == np.float32
        )
        assert np.array_equal(clip.scores, sample["scores"].astype(np.float32)) and clip.scores.dtype == np.float32
        assert (clip.size, clip.fps, clip.features) == ((320, 240), 25.0, {})
    assert all(same(a, b) for a, b in zip(dataset.read(order), pickle.loads(pickle.dumps(dataset)).read(order)))  # noqa: S301


def test_split_and_condition_choose(out: Path) -> None:
    clips = dataengine.open(out).clips.collect()
    chosen = open_dataset(out, split="val", where="label IN ('jump', 'wave') AND confidence_mean > 0.85")
    wanted = clips.filter(
        (clips["split"] == "val") & clips["label"].is_in(["jump", "wave"]) & (clips["confidence_mean"] > 0.85)
    )
    assert sorted(chosen.keys) == sorted(wanted["clip_id"].to_list()) and 0 < len(chosen) < 12
    assert chosen.labels == LABELS
    fingerprints = {
        open_dataset(out, **options).fingerprint for options in ({}, {"split": "val"}, {"where": "label = 'jump'"}, {})
    }
    assert len(fingerprints) == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "vla"}, TrainingError, "no clip of split 'vla' .did you mean 'val'"),
        ({"where": "label = 'fly'"}, TrainingError, "where=\"label = 'fly'\" matches none of 24 clips; widen it"),
        ({"where": "colour = 1"}, DatasetError, "cannot be used: no column .colour. in clips"),
        ({"entries": ("keypoint",)}, DatasetError, "no sample has the entry 'keypoint' .did you mean 'keypoints'"),
        ({"pose": "keypoints4d"}, TrainingError, "pose='keypoints4d'; allowed: keypoints, keypoints3d"),
        ({"pose": "keypoints3d"}, DatasetError, "no sample has the entry 'keypoints3d'"),
        ({"layuot": 1}, TrainingError, "built has no option 'layuot'"),
        ({"skeleton": "coco71"}, TrainingError, "unknown skeleton 'coco71' .did you mean 'coco17'"),
        ({"cache_gb": 0}, TrainingError, "cache_gb=0"),
    ],
)
def test_wrong_choices_are_told_in_one_line(
    out: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        open_dataset(out, **options)
    assert "\n" not in str(raised.value)


def test_other_entries_and_columns_are_features(out: Path) -> None:
    dataset, ds = open_dataset(out, entries=("keypoints", "confidence", "json", "text")), dataengine.open(out)
    for clip in dataset.read([3, 7]):
        sample = ds.sample(clip.key)
        assert clip.scores is None and sorted(clip.features) == ["confidence", "json", "text"]
        assert np.array_equal(clip.features["confidence"], sample["confidence"])
        assert clip.features["json"] == sample["json"] and clip.features["text"] == sample["json"]["text"]


def test_clips_taken_down_are_absent_and_change_the_fingerprint(tmp_path: Path) -> None:
    root = build(tmp_path, clips=10)
    before = open_dataset(root)
    index.write_tombstones(root, [{"clip_id": before.keys[4], "reason": "asked"}])
    after = open_dataset(root)
    assert set(before.keys) - set(after.keys) == {before.keys[4]} and len(after) == 9
    assert after.fingerprint != before.fingerprint


def test_another_skeleton_is_converted(out: Path) -> None:
    plain, turned = open_dataset(out), open_dataset(out, skeleton="coco17")
    assert turned.skeleton.name == "coco17" and turned.fingerprint != plain.fingerprint
    for one, other in zip(plain.read([5, 0, 9]), turned.read([5, 0, 9])):
        coords, scores = convert(one.keypoints, one.scores, "posetics17", "coco17")
        assert np.array_equal(other.keypoints, coords, equal_nan=True) and np.array_equal(other.scores, scores)
        assert other.key == one.key and other.label == one.label
    assert open_dataset(out, skeleton="posetics17").fingerprint == plain.fingerprint


def test_torn_shards_are_told_when_opening(tmp_path: Path) -> None:
    root = build(tmp_path, clips=10)
    shard = shards_of(tmp_path)[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(
        DatasetError, match=rf"{shard.name}: torn: it has {len(whole) - 100} bytes, {len(whole)} were written"
    ) as raised:
        open_dataset(root)
    assert "\n" not in str(raised.value)
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(DatasetError, match=rf"{shard.name}: keypoints.npy of random-.* is damaged: no npy file"):
        open_dataset(root).read(range(10))
    shard.unlink()
    with pytest.raises(DatasetError, match=rf"{shard.name}: cannot be read: No such file"):
        open_dataset(root)


def test_a_served_dataset_is_the_local_one(out: Path, server: Server) -> None:
    local, remote = open_dataset(out), open_dataset(server.url)
    order = np.random.default_rng(1).permutation(24).tolist()
    assert all(same(a, b) for a, b in zip(local.read(order), remote.read(order), strict=True))
    assert remote.fingerprint == local.fingerprint
    asked = len(server.asked)
    assert asked <= len(shards_of(out))  # small shards: neighbours share one request
    again = open_dataset(f"{server.url}/dataset")
    assert all(same(a, b) for a, b in zip(local.read(order), again.read(order), strict=True))
    assert len(server.asked) == asked  # all of it lies in the cache folder


def test_a_served_dataset_feeds_workers(out: Path, server: Server) -> None:
    def batches(path: Any, workers: int) -> list[Any]:
        return list(DataLoader(open_dataset(path), PadOrCrop(5), batch_size=6, workers=workers))

    for one, other in zip(batches(out, 0), batches(server.url, 2), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    path = tmp_path / "served" / "big.bin"
    path.write_bytes(np.random.default_rng(0).bytes(100 * BLOCK + 123))
    return path


def pieces(ranges: Ranges, wanted: list[tuple[int, int]]) -> list[bytes]:
    found = ranges.pieces([0] * len(wanted), [a for a, _ in wanted], [b for _, b in wanted])
    return [bytes(data[a - base : b - base]) for (data, base), (a, b) in zip(found, wanted)]


def test_ranges_are_merged_asked_for_at_once_and_kept(big: Path, tmp_path: Path) -> None:
    content = big.read_bytes()
    with serving(big.parent) as server:
        server.pause = 0.2
        ranges = Ranges([f"{server.url}/big.bin"], [len(content)], cache=tmp_path / "kept")
        near = [(k * BLOCK + 5, k * BLOCK + 99) for k in (0, 1, 3)]
        far = [(k * BLOCK, k * BLOCK + 10) for k in (20, 40, 60)] + [(len(content) - 7, len(content))]
        assert pieces(ranges, near + far) == [content[a:b] for a, b in near + far]
        assert len(server.asked) == 5 and server.most >= 3
        assert pieces(ranges, far[::-1]) == [content[a:b] for a, b in far[::-1]]
        assert len(server.asked) == 5
        kept = next((tmp_path / "kept").glob("*.data"))
        with kept.open("rb+") as file:
            file.seek(20 * BLOCK + 3)
            file.write(b"damage")
        assert pieces(ranges, far) == [content[a:b] for a, b in far]
        assert len(server.asked) == 6  # the damaged block came again
        with pytest.raises(DatasetError, match=r"big.bin: torn: it ends at byte"):
            pieces(ranges, [(0, len(content) + 1)])


def test_the_cache_folder_is_bounded(big: Path, tmp_path: Path) -> None:
    content = big.read_bytes()
    folder, limit = tmp_path / "kept", 12 * BLOCK
    for number in range(3):
        (big.parent / f"{number}.bin").write_bytes(content)
    with serving(big.parent) as server:
        ranges = Ranges(
            [f"{server.url}/{n}.bin" for n in range(3)], [len(content)] * 3, cache=folder, cache_gb=limit / 1e9
        )
        rng = np.random.default_rng(0)
        for _ in range(30):
            file, start = int(rng.integers(3)), int(rng.integers(99)) * BLOCK
            ((data, base),) = ranges.pieces([file], [start], [start + BLOCK + 50])
            assert bytes(data[start - base :][: BLOCK + 50]) == content[start : start + BLOCK + 50]
            used = sum(512 * path.stat().st_blocks for path in folder.glob("*.data"))
            assert used <= limit
        ((data, _),) = ranges.pieces([0], [0], [50 * BLOCK])  # more than may be kept: given all the same
        assert bytes(data[: 50 * BLOCK]) == content[: 50 * BLOCK]
        assert sum(512 * path.stat().st_blocks for path in folder.glob("*.data")) <= limit


def test_requests_that_break_are_tried_again(big: Path, tmp_path: Path) -> None:
    content = big.read_bytes()
    with serving(big.parent) as server:
        ranges = Ranges([f"{server.url}/big.bin"], [len(content)], cache=tmp_path / "kept")
        server.failures = 2
        assert pieces(ranges, [(9, 99)]) == [content[9:99]]
        server.failures = 1 + remote.POLICY.retries
        with pytest.raises(DatasetError, match=r"big.bin: cannot be read") as raised:
            pieces(ranges, [(50 * BLOCK, 50 * BLOCK + 1)])
        assert "\n" not in str(raised.value)
        big.unlink()
        with pytest.raises(DatasetError, match="there is no such file"):
            pieces(ranges, [(70 * BLOCK, 70 * BLOCK + 1)])


def test_patterns_are_expanded() -> None:
    assert expand("a-{000..002}.tar") == ["a-000.tar", "a-001.tar", "a-002.tar"]
    assert expand("{train,val}-{8..10}.tar::x.tar") == [
        f"{s}-{n}.tar" for s in ("train", "val") for n in (8, 9, 10)
    ] + ["x.tar"]
    for wrong in ("a-{0..2.tar", "a-{}.tar", "a-{x}.tar"):
        with pytest.raises(TrainingError, match="a-"):
            expand(wrong)


def test_our_shards_are_plain_webdatasets(out: Path, cache: Path) -> None:
    built, plain = open_dataset(out), open_dataset(out / "dataset" / "shards" / "pose")
    assert isinstance(plain, SkeletonDataset) and plain.labels == LABELS and plain.skeleton == built.skeleton
    places = [plain.keys.index(key) for key in built.keys]
    assert all(same(a, b) for a, b in zip(built.read(range(24)), plain.read(places), strict=True))
    chosen = open_dataset(
        str(out / "dataset" / "shards" / "pose" / "{train,val}-00000{0..1}.tar"), split="train", where="label = 'jump'"
    )
    assert set(chosen.keys) <= set(built.keys) and len(chosen) > 0
    stored = list(cache.glob("webdataset-*.parquet"))
    assert len(stored) == 2
    stamps = [path.stat().st_mtime_ns for path in stored]
    again = open_dataset(out / "dataset" / "shards" / "pose")
    assert again.fingerprint == plain.fingerprint and [path.stat().st_mtime_ns for path in stored] == stamps
    with pytest.raises(TrainingError, match="no clip of split 'test'"):
        open_dataset(shards_of(out), split="test")


def test_served_shards_are_the_local_ones(out: Path, server: Server) -> None:
    names = [path.name for path in shards_of(out)]
    local = open_dataset(shards_of(out))
    remote = open_dataset([f"{server.url}/dataset/shards/pose/{name}" for name in names])
    assert remote.keys == local.keys
    asked = len(server.asked)
    assert all(same(a, b) for a, b in zip(local.read(range(24)), remote.read(range(24)), strict=True))
    assert len(server.asked) == asked  # reading the headers has brought them
    with pytest.raises(DatasetError, match=r"none.tar: there is no such file"):
        open_dataset([f"{server.url}/none.tar"])


def sample(rng: np.random.Generator, number: int) -> dict[str, Any]:
    keypoints, scores = poses(rng, 2, 6)
    return {
        "keypoints.npy": keypoints,
        "scores.npy": scores,
        "json": {"label": ("run", "sit")[number % 2], "fps": 30, "width": 9, "height": 7},
    }


def encoded(value: Any) -> bytes:
    if isinstance(value, dict):
        return json.dumps(value).encode()
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["webdataset", "gnu", "pax", "tar"])
def test_archives_of_other_writers_are_read(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    long = "deep/" + "x" * 120 + "/" if kind != "webdataset" else ""
    samples = {f"{long}clip{number}": sample(rng, number) for number in range(5)}
    path = tmp_path / "a-000.tar"
    if kind == "webdataset":
        with webdataset.TarWriter(str(path)) as writer:
            for key, entries in samples.items():
                writer.write({"__key__": key, **{name: encoded(value) for name, value in entries.items()}})
    elif kind == "tar":
        for key, entries in samples.items():
            for name, value in entries.items():
                file = tmp_path / "files" / f"{key}.{name}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encoded(value))
        subprocess.run(["tar", "--sort=name", "-cf", str(path), "-C", str(tmp_path / "files"), "deep"], check=True)
    else:
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT if kind == "gnu" else tarfile.PAX_FORMAT) as archive:
            for key, entries in samples.items():
                for name, value in entries.items():
                    member = tarfile.TarInfo(f"{key}.{name}")
                    member.size, member.mtime = len(encoded(value)), 1.5
                    archive.addfile(member, io.BytesIO(encoded(value)))
    dataset = open_dataset(path)
    assert sorted(dataset.keys) == sorted(samples) and dataset.labels == ("run", "sit")
    for clip in dataset.read(range(5)):
        entries = samples[clip.key]
        assert np.array_equal(clip.keypoints, entries["keypoints.npy"], equal_nan=True)
        assert np.array_equal(clip.scores, entries["scores.npy"].astype(np.float32))
        assert dataset.labels[clip.label] == entries["json"]["label"] and (clip.fps, clip.size) == (30.0, (9, 7))


def test_shards_of_one_joint_set_of_ones_own(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        for number in range(3):
            keypoints = np.full((1, 4, 5, 3), number, np.float16)
            writer.write(
                f"k{number}", {"keypoints.npy": keypoints, "cls": str(number % 2), "viclip_video.npy": np.ones(3)}
            )
    dataset = open_dataset(tmp_path / "a.tar", entries=("viclip_video",), labels=["up", "down"])
    assert dataset.skeleton.num_joints == 5 and dataset.skeleton.name == "custom5" and dataset.labels == ("up", "down")
    clip = dataset.read([2])[0]
    assert (
        clip.keypoints.dtype == np.float32 and (clip.keypoints == 2).all() and clip.scores is None and clip.label == 0
    )
    assert clip.features["viclip_video"].tolist() == [1, 1, 1]
    with pytest.raises(TrainingError, match="its clips have 5 joints, layout 'coco17' has 17"):
        open_dataset(tmp_path / "a.tar", layout="coco17")
    with pytest.raises(DatasetError, match=r"no sample has the entry 'viclip_text' .did you mean 'viclip_video'"):
        open_dataset(tmp_path / "a.tar", entries=("viclip_text",))
    with pytest.raises(
        TrainingError, match=r"custom5. are no layout that can be converted to 'coco17'; say what they are with layout="
    ):
        open_dataset(tmp_path / "a.tar", skeleton="coco17")
    with pytest.raises(TrainingError, match="1 label names were given, its labels go up to 1"):
        open_dataset(tmp_path / "a.tar", labels=["up"])


@pytest.mark.parametrize("cut", [512, 700, 3000, -512, -1024, -1500])
def test_torn_archives_are_told(out: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "torn.tar"
    whole = shards_of(out)[0].read_bytes()
    path.write_bytes(whole[:cut])
    if cut == -512:
        assert len(open_dataset(path)) == 5  # one block of zeros still ends it
        return
    with pytest.raises(DatasetError, match=r"torn\.tar: torn") as raised:
        open_dataset(path)
    assert "\n" not in str(raised.value)


def test_other_bad_archives_are_told(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    whole = bytearray(shards_of(out)[0].read_bytes())
    whole[0:1] = b"X"
    path.write_bytes(whole)
    with pytest.raises(DatasetError, match="torn or damaged at byte 0: a header's checksum does not hold"):
        open_dataset(path)
    path.write_bytes(bytes(1024))
    with pytest.raises(DatasetError, match="no sample has the entry 'keypoints'"):
        open_dataset(path)
    with pytest.raises(DatasetError, match=r"nothing\.tar: there is no such file"):
        open_dataset([tmp_path / "nothing.tar"])
    twice = tmp_path / "twice.tar"
    twice.write_bytes(shards_of(out)[0].read_bytes())
    with pytest.raises(DatasetError, match="stands in more than one place"):
        open_dataset([shards_of(out)[0], twice])


def test_what_is_no_source_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(TrainingError, match=r"allowed: a built dataset .folder or url., WebDataset tars, a pyskl"):
            open_dataset(path)
    (tmp_path / "dataset").mkdir()
    with pytest.raises(DatasetError, match="dataset incomplete"):
        open_dataset(tmp_path)
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(TrainingError, match="a list of shards may hold tar files only"):
        open_dataset([os.fspath(tmp_path / "a.pkl")])


def write_shard(path: Path, **facts: Any) -> Path:
    """Three samples; the second one has these facts."""
    rng = np.random.default_rng(0)
    with ShardWriter(path) as writer:
        for number in range(3):
            own = facts if number == 1 else {}
            people = own.get("people", 2)
            entries: dict[str, Any] = {"keypoints.npy": rng.random((people, 4, 17, 2)).astype(np.float32)}
            entries |= {"scores.npy": np.ones((people, 4, 17), np.float16)}
            if "cls" in own:
                entries["cls"] = str(own["cls"])
            else:
                entries["json"] = {"label_id": own.get("label_id", 0), "label": own.get("label")}
                entries["json"] |= {"spans": own["spans"]} if "spans" in own else {}
            writer.write(f"k{number}", entries)
    return path


@pytest.mark.parametrize(
    "facts",
    [{"label_id": one} for one in ("jump", [1, 2], {"a": 1}, 10**9, 10**30, 1.5, -4)]
    + [{"label": [1]}, {"cls": 10**9}, {"cls": 10**30}, {"cls": "jump"}, {"cls": -9}],
    ids=repr,
)
def test_a_sample_whose_label_is_no_class_is_named(tmp_path: Path, facts: dict[str, Any]) -> None:
    with pytest.raises((TrainingError, DatasetError), match=r"a\.tar: .*k1") as raised:
        open_dataset(write_shard(tmp_path / "a.tar", **facts))
    assert "\n" not in str(raised.value)


def test_samples_of_nobody_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", people=0)
    for _ in range(2):  # from the headers, and from what was kept of them
        with pytest.warns(UserWarning, match=r"1 of 3 samples show nobody and are left out, for example 'k1'"):
            dataset = open_dataset(path)
        assert dataset.keys == ["k0", "k2"] and [clip.key for clip in dataset.read([1, 0])] == ["k2", "k0"]
