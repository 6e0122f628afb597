"""A dataset, opened from a folder and over HTTP: frames, samples by id, streams, takedowns."""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from dataengine.core.errors import DatasetError
from dataengine.dataset import dataset, index
from dataengine.dataset.dataset import Dataset
from dataengine.io import remote
from tests.support.tiny_dataset import LABELS, build


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, by range where asked and allowed; every request is noted."""

    ranges = True
    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.seen.append((self.path, wanted))
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if wanted and self.ranges:
            start, end = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()
            stop = int(end) + 1 if end else len(data)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            data = data[int(start) : stop]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    build(folder, clips=12)
    return folder


@pytest.fixture
def served(out: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The url of `out`, served on the loopback interface."""
    monkeypatch.setattr(RangeHandler, "seen", [])
    handler = functools.partial(RangeHandler, directory=str(out))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        remote._http_client().close()
        remote._http_client.cache_clear()
        server.shutdown()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else a == b

    return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)


def ids(frame: pl.LazyFrame) -> list[str]:
    return frame.select("clip_id").collect()["clip_id"].to_list()


def test_frames_hold_the_index(out: Path) -> None:
    ds = dataset.open(out)
    assert ds.root == str(out / "dataset")
    assert ds.tables == ["clips", "joints", "rejects", "tracks"]
    for name in ds.tables:
        frame = getattr(ds, name)
        assert isinstance(frame, pl.LazyFrame)
        assert len(frame.collect()) == ds.manifest["counts"][name]
    assert ids(ds.clips) == sorted(ids(ds.clips))
    with pytest.raises(DatasetError, match=r"no table 'clip' .did you mean 'clips'"):
        ds.table("clip")


def test_a_sample_holds_every_entry(out: Path) -> None:
    ds = dataset.open(out / "dataset")
    for row in ds.clips.collect().iter_rows(named=True):
        sample = ds.sample(row["clip_id"])
        assert list(sample) == ["clip_id", "json", "keypoints", "scores", "confidence", "timestamps"]
        people, frames = row["num_people"], row["num_frames"]
        assert sample["keypoints"].shape == (people, frames, 17, 2)
        assert sample["keypoints"].dtype == np.float32
        assert sample["json"]["label"] == row["label"]
        assert (np.isnan(sample["keypoints"]).any(-1) == (sample["scores"] == 0)).all()


def test_the_stream_equals_the_samples(out: Path) -> None:
    ds = dataset.open(out)
    found = list(ds.samples(entries=("keypoints", "scores", "confidence", "timestamps", "json")))
    assert [sample["clip_id"] for sample in found] == ids(ds.clips.sort("shard", "offset"))
    for sample in found:
        assert same(sample, ds.sample(sample["clip_id"]))
    assert [list(sample) for sample in ds.samples()] == [["clip_id", "keypoints", "scores"]] * 12


def test_arrays_outlive_the_stream_and_refuse_change(out: Path) -> None:
    stream = dataset.open(out).samples()
    first = next(stream)
    copy = {name: np.array(first[name]) for name in ("keypoints", "scores")}
    del stream
    assert same({name: first[name] for name in copy}, copy)
    with pytest.raises(ValueError, match="read-only"):
        first["keypoints"][:] = 0


def test_where_is_sql_over_clips(out: Path) -> None:
    ds = dataset.open(out)
    found = [sample["clip_id"] for sample in ds.samples(where="label = 'jump' AND split = 'val'", entries=["scores"])]
    assert found == ids(ds.clips.filter((pl.col("label") == "jump") & (pl.col("split") == "val")))
    assert 0 < len(found) < 12
    assert list(ds.samples(where="label = 'none'")) == []


def test_shuffling_is_a_permutation_of_the_seed(out: Path) -> None:
    ds = dataset.open(out)
    orders = [[sample["clip_id"] for sample in ds.samples(shuffle_seed=seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == ids(ds.clips)
    for sample in ds.samples(shuffle_seed=3):
        assert np.array_equal(sample["scores"], ds.sample(sample["clip_id"])["scores"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "colour = 1"}, "where=.colour = 1. cannot be used: no column .colour. in clips"),
        ({"where": "expert_agreement < 1"}, "it is called 'expert_disagreement' now"),
        ({"where": "("}, "cannot be used: sql parser error"),
        ({"entries": ("keypoint",)}, "no sample has the entry 'keypoint' .did you mean 'keypoints'"),
        ({"entries": ()}, "names no entry"),
    ],
)
def test_wrong_questions_are_told_at_once(out: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        dataset.open(out).samples(**options)
    assert "\n" not in str(caught.value)


def test_an_unknown_clip_is_told_with_the_nearest(out: Path) -> None:
    ds = dataset.open(out)
    known = ids(ds.clips)[5]
    with pytest.raises(DatasetError, match=rf"no clip .* \(did you mean '{known}'\?\)"):
        ds.sample(known.replace("video", "vidoe"))
    with pytest.raises(DatasetError, match="it was rejected in curate for jitter"):
        ds.sample("random-gone000-0-100")
    with pytest.raises(DatasetError, match="list them with"):
        ds.sample("?")


def test_an_entry_that_some_samples_lack_is_left_out_there(tmp_path: Path) -> None:
    root = build(tmp_path, clips=2)
    with index_rows(root) as rows:
        rows[1]["entries"] = [entry for entry in rows[1]["entries"] if entry["name"] != "confidence.npy"]
        rows[0]["entries"] = rows[0]["entries"] or []
    found = list(dataset.open(root).samples(entries=("scores", "confidence")))
    assert [list(sample) for sample in found] == [["clip_id", "scores", "confidence"], ["clip_id", "scores"]]


class index_rows:
    """The rows of index/clips, to be changed; written and sealed again afterwards."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __enter__(self) -> list[dict[str, Any]]:
        self.rows = pl.read_parquet(self.root / "index/clips/*.parquet").to_dicts()
        return self.rows

    def __exit__(self, *_: object) -> None:
        index.write_table(self.root / "index/clips", self.rows, index.CLIPS)
        manifest = index.read_manifest(self.root)
        index.write_manifest(self.root, index.build_manifest(self.root, manifest["counts"], manifest["fingerprint"]))


def test_a_torn_shard_is_an_error_not_a_short_array(tmp_path: Path) -> None:
    root = build(tmp_path, clips=2)
    for path in (root / "shards/pose").iterdir():
        path.write_bytes(path.read_bytes()[:3000])
    ds = dataset.open(root)
    with pytest.raises(DatasetError, match="torn"):
        list(ds.samples(entries=("keypoints", "timestamps")))
    with pytest.raises(DatasetError, match="torn"):
        ds.sample(ids(ds.clips)[0])


def test_a_damaged_sample_is_an_error(tmp_path: Path) -> None:
    root = build(tmp_path, clips=1)
    (path,) = (root / "shards/pose").iterdir()
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    ds = dataset.open(root)
    with pytest.raises(DatasetError, match="damaged"):
        ds.sample(ids(ds.clips)[0])


@pytest.mark.parametrize("where", ["folder", "url"])
def test_taken_down_clips_are_gone_at_once_everywhere(tmp_path: Path, where: str) -> None:
    root = build(tmp_path, clips=6)
    ds = dataset.open(tmp_path if where == "folder" else tmp_path.as_uri())
    before = ids(ds.clips)
    gone = [before[1], before[4], "random-gone001-0-100"]
    for clip_id in gone:
        index.write_tombstones(root, [{"clip_id": clip_id, "reason": "the person asked for it"}])
    for source in (ds, dataset.open(root)):
        assert ids(source.clips) == [clip_id for clip_id in before if clip_id not in gone]
        for table in ("tracks", "joints"):
            assert not set(gone) & set(ids(getattr(source, table)))
        assert sorted(sample["clip_id"] for sample in source.samples()) == ids(source.clips)
        with pytest.raises(DatasetError, match="taken down"):
            source.sample(gone[0])
        assert source.tombstones()["clip_id"].to_list() == gone


def test_what_is_no_dataset_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        dataset.open(tmp_path / "nowhere")
    (tmp_path / "dataset").mkdir()
    with pytest.raises(DatasetError, match=r"dataset incomplete.*run dataengine build or import again"):
        dataset.open(tmp_path)
    (tmp_path / "dataset/MANIFEST.json").write_text(json.dumps({"format_version": 2}))
    with pytest.raises(
        DatasetError, match=r"format version 2; this dataengine reads 3: .*dataengine build RECIPE --sources"
    ):
        dataset.open(tmp_path)


@pytest.mark.parametrize("below", ["", "/dataset", "/dataset/"])
def test_a_served_dataset_is_the_local_one(out: Path, served: str, below: str) -> None:
    local, remote = dataset.open(out), dataset.open(served + below)
    for table in local.tables:
        assert remote.table(table).collect().equals(local.table(table).collect())
    clip_id = ids(local.clips)[3]
    assert same(remote.sample(clip_id), local.sample(clip_id))
    for seed in (None, 5):
        ours, theirs = local.samples(shuffle_seed=seed), remote.samples(shuffle_seed=seed)
        assert all(same(one, other) for one, other in zip(ours, theirs, strict=True))


def test_remote_reads_are_ranges_and_neighbours_share_one(out: Path, served: str) -> None:
    remote = dataset.open(served)
    RangeHandler.seen.clear()
    assert len(list(remote.samples())) == 12
    shards = [(path, wanted) for path, wanted in RangeHandler.seen if path.endswith(".tar")]
    assert all(wanted for _, wanted in shards)
    assert len(shards) == dataset.open(out).clips.collect()["shard"].n_unique() == 4
    RangeHandler.seen.clear()
    assert len(list(remote.samples(entries=["scores"], shuffle_seed=0))) == 12
    shards = [(path, wanted) for path, wanted in RangeHandler.seen if path.endswith(".tar")]
    assert len(shards) > 6
    sizes = [int(stop) - int(start) for start, stop in (re.findall(r"\d+", str(wanted)) for _, wanted in shards)]
    assert sum(sizes) < dataset.open(out).clips.collect()["size"].sum() / 2


def test_a_server_without_ranges_is_told(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RangeHandler, "ranges", False)
    ds = dataset.open(served)
    with pytest.raises(DatasetError, match="ignores range requests"):
        list(ds.samples())


def test_a_remote_index_is_checked(tmp_path: Path) -> None:
    root = build(tmp_path)
    ds = dataset.open(root.as_uri())
    path = next((root / "index/tracks").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetError, match="damaged: its blake3"):
        ds.tracks.collect()


def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        dataset.open("http://127.0.0.1:9")


def test_labels_of_the_builder_are_used(out: Path) -> None:
    assert set(Dataset(str(out / "dataset")).clips.collect()["label"]) == set(LABELS)
