"""Index tables and the manifest: deterministic, readable by others, and strict about what they hold."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine.core.errors import DatasetError
from dataengine.dataset import index
from dataengine.io.storage import file_hash
from tests.support.tiny_dataset import build

ENTRIES = [{"name": "json", "offset": 512, "size": 30}, {"name": "keypoints.npy", "offset": 1536, "size": 4000}]


def rows(count: int = 5) -> list[dict[str, Any]]:
    facts = {"fps": "30000/1001", "start": 1.25, "offset": 2**40, "entries": ENTRIES, "jitter": 0.5}
    return [{"clip_id": f"clip-{number}", "width": number, **facts} for number in range(count)]


def test_everybody_reads_the_tables(tmp_path: Path) -> None:
    (path,) = index.write_table(tmp_path / "clips", rows(), index.CLIPS)
    assert path.name == "part-00000.parquet"
    table = pq.read_table(path)
    assert table.schema.equals(index.CLIPS)
    assert table.slice(1, 1).to_pylist()[0] == {name: None for name in index.CLIPS.names} | rows()[1]
    assert pl.read_parquet(path)["entries"].to_list() == [ENTRIES] * 5
    query = f"SELECT clip_id, entries[2].size, \"offset\" FROM '{path}' WHERE width = 3"
    assert duckdb.sql(query).fetchall() == [("clip-3", 4000, 2**40)]


def test_the_bytes_are_a_function_of_the_rows(tmp_path: Path) -> None:
    (first,) = index.write_table(tmp_path / "a", rows(), index.CLIPS)
    (second,) = index.write_table(
        tmp_path / "b", [dict(reversed(row.items())) for row in reversed(rows())], index.CLIPS
    )
    (third,) = index.write_table(tmp_path / "c", pa.Table.from_pylist(rows(), schema=index.CLIPS), index.CLIPS)
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()
    assert pq.read_table(first)["clip_id"].to_pylist() == sorted(row["clip_id"] for row in rows())


def test_rows_of_a_track_stay_in_their_order(tmp_path: Path) -> None:
    given = [
        {"clip_id": clip, "track_id": track, "joint": joint}
        for clip in "ba"
        for track in (1, 0)
        for joint in ("nose", "mouth", "neck")
    ]
    (path,) = index.write_table(tmp_path, given, index.JOINTS)
    table = pq.read_table(path)
    assert table["clip_id"].to_pylist() == ["a"] * 6 + ["b"] * 6
    assert table["track_id"].to_pylist() == [0, 0, 0, 1, 1, 1] * 2
    assert table["joint"].to_pylist() == ["nose", "mouth", "neck"] * 4


def test_nan_is_null_and_so_is_what_is_absent(tmp_path: Path) -> None:
    given = [{"clip_id": "a", "track_id": 0, "coverage": float("nan"), "share_x": 0.5}, {"clip_id": "b"}]
    (path,) = index.write_table(tmp_path, given, index.tracks_schema(["x"]))
    table = pq.read_table(path)
    assert table["coverage"].to_pylist() == [None, None]
    assert table["share_x"].to_pylist() == [0.5, None]


def test_long_tables_come_in_parts_and_old_parts_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PART_ROWS", 2)
    paths = index.write_table(tmp_path, rows(5), index.CLIPS)
    assert [path.name for path in paths] == [f"part-0000{number}.parquet" for number in range(3)]
    assert [pq.read_table(path)["width"].to_pylist() for path in paths] == [[0, 1], [2, 3], [4]]
    index.write_table(tmp_path, rows(1), index.CLIPS)
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


def test_no_rows_make_an_empty_table(tmp_path: Path) -> None:
    (path,) = index.write_table(tmp_path, [], index.REJECTS)
    assert pq.read_table(path).schema.equals(index.REJECTS)


def test_row_groups_let_a_reader_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "GROUP_ROWS", 2)
    (path,) = index.write_table(tmp_path, rows(5), index.CLIPS)
    metadata = pq.ParquetFile(path).metadata
    ranges = [metadata.row_group(number).column(0).statistics for number in range(metadata.num_row_groups)]
    assert [(found.min, found.max) for found in ranges] == [
        ("clip-0", "clip-1"),
        ("clip-2", "clip-3"),
        ("clip-4", "clip-4"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"clip": "a"}, r"unknown column 'clip' \(did you mean 'clip_id'\?\)"),
        ({"clip_id": {"a": 1}}, "does not fit"),
        ({"clip_id": "a", "width": 2**40}, "does not fit"),
        ({"clip_id": "a", "width": "wide"}, "does not fit"),
        ({"clip_id": "a", "offset": -1}, "does not fit"),
    ],
)
@pytest.mark.parametrize("as_table", [False, True])
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, row: dict[str, Any], message: str, as_table: bool) -> None:
    with pytest.raises(DatasetError, match=message):
        index.write_table(tmp_path / "clips", pa.Table.from_pylist([row]) if as_table else [row], index.CLIPS)
    assert not (tmp_path / "clips").exists()


def test_tombstones_are_numbered_without_gap_whoever_writes(tmp_path: Path) -> None:
    def take(number: int) -> None:
        index.write_tombstones(tmp_path, [{"clip_id": f"clip-{number}", "reason": "asked for"}])

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    paths = sorted((tmp_path / "tombstones").iterdir())
    assert [path.name for path in paths] == [index.tombstone_name(number) for number in range(8)]
    assert {pq.read_table(path)["clip_id"][0].as_py() for path in paths} == {f"clip-{number}" for number in range(8)}


def test_the_manifest_names_every_file_but_those_apart(tmp_path: Path) -> None:
    root = build(tmp_path)
    for name in ("README.md", "report.html"):
        (root / name).write_text("changes")
    (root / "shards/pose/.train-000009.tar.abcd.partial").write_bytes(b"left by a killed writer")
    index.write_tombstones(root, [{"clip_id": "a", "reason": "b"}])
    manifest = index.read_manifest(root)
    again = index.build_manifest(root, manifest["counts"], manifest["fingerprint"], skeleton="posetics17")
    assert again == manifest
    assert {file["path"].split("/")[0] for file in manifest["files"]} == {"index", "shards"}
    assert manifest["files"] == sorted(manifest["files"], key=lambda file: file["path"])
    for file in manifest["files"]:
        assert ((root / file["path"]).stat().st_size, file_hash(root / file["path"])) == (file["bytes"], file["blake3"])


def test_a_file_of_another_length_than_known_is_refused(tmp_path: Path) -> None:
    root = build(tmp_path)
    with pytest.raises(DatasetError, match="were written"):
        index.build_manifest(root, {}, "", {"shards/pose/train-000000.tar": (5, "abc")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "dataset incomplete.*run dataengine build or import again"),
        ("{", "damaged"),
        ("[]", "format version None"),
        ('{"format_version": 99}', "format version 99; this dataengine reads 3"),
        ('{"format_version": 3, "files": []}', "lacks counts, fingerprint"),
    ],
)
def test_what_is_no_manifest_is_an_error(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / index.MANIFEST).write_text(text)
    with pytest.raises(DatasetError, match=message):
        index.read_manifest(tmp_path)


def test_a_dataset_is_found_by_build_folder_or_url(tmp_path: Path) -> None:
    root = build(tmp_path)
    assert index.locate(tmp_path) == index.locate(root) == index.locate(f"{root}/") == str(root)
    assert index.locate(tmp_path.as_uri()) == index.locate(root.as_uri()) == root.as_uri()
    with pytest.raises(DatasetError, match="no such folder"):
        index.locate(tmp_path / "nowhere")
    (root / index.MANIFEST).unlink()
    with pytest.raises(DatasetError, match="dataset incomplete"):
        index.locate(tmp_path)


def test_the_same_samples_make_the_same_dataset(tmp_path: Path) -> None:
    first, second = build(tmp_path / "a"), build(tmp_path / "somewhere" / "else")
    assert (first / index.MANIFEST).read_bytes() == (second / index.MANIFEST).read_bytes()
    assert json.loads((first / index.MANIFEST).read_text())["counts"]["planned"] == 11
