"""audit: named queries answer rightly, SQL is free, mistakes are one line, and every format reads back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import polars as pl
import pytest

from dataengine.core.errors import DatasetError
from dataengine.dataset import dataset, index
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.queries import FORMATS, QUERIES, run, to_text
from tests.support.tiny_dataset import EXPERTS, build


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset.open(build(tmp_path_factory.mktemp("build"), clips=10, rejected=5))


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_runs_and_always_answers_the_same(ds: Dataset, name: str) -> None:
    description, _ = QUERIES[name]
    assert description and not description.endswith(".")
    first = run(ds, name)
    assert first.width > 1
    assert first.equals(run(ds, name))


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_runs_on_an_empty_dataset(tmp_path: Path, name: str) -> None:
    assert len(run(dataset.open(build(tmp_path, clips=0, rejected=0)), name)) <= len(EXPERTS)


def test_answers_are_those_of_polars(ds: Dataset) -> None:
    clips, tracks = ds.clips.collect(), ds.tracks.collect()
    labels = run(ds, "labels")
    assert dict(labels.select("label", "clips").rows()) == dict(clips["label"].value_counts().rows())
    assert labels["seconds"].sum() == pytest.approx((clips["end"] - clips["start"]).sum(), abs=0.2)
    assert run(ds, "rejects").select("reason", "clips", "mean").rows() == [
        ("jitter", 3, 0.9),
        ("media_missing", 2, 0.9),
    ]
    shares = dict(run(ds, "experts").select("expert", "share").rows())
    assert shares == {name: pytest.approx(tracks[f"share_{name}"].mean(), abs=1e-3) for name in EXPERTS}
    assert run(ds, "worst")["clip_id"].to_list() == clips.sort("confidence_mean", "clip_id")["clip_id"].to_list()
    assert run(ds, "splits")["clips"].to_list() == [5, 5]
    assert run(ds, "people").select(pl.col("tracks").sum()).item() == len(tracks)
    assert len(run(ds, "joints")) == 17
    assert run(ds, "licences")["clips"].to_list() == [5, 5]
    assert run(ds, "duplicates").is_empty()


def test_duplicates_are_listed_whether_kept_or_not(tmp_path: Path) -> None:
    root = build(tmp_path, clips=2, rejected=1)
    clips, rejects = (pl.read_parquet(root / "index" / name / "*.parquet").to_dicts() for name in ("clips", "rejects"))
    clips[1]["duplicate_of"] = clips[0]["clip_id"]
    rejects[0] |= {"reason": "duplicate", "detail": clips[0]["clip_id"]}
    index.write_table(root / "index/clips", clips, index.CLIPS)
    index.write_table(root / "index/rejects", rejects, index.REJECTS)
    found = run(dataset.open(root), "duplicates")
    assert found["state"].to_list() == ["rejected", "kept"]
    assert found["detail"].to_list() == [clips[0]["clip_id"]] * 2


def test_accuracy_is_used_where_truth_is_known(tmp_path: Path) -> None:
    root = build(tmp_path, clips=2)
    rows = [
        {"clip_id": "a", "expert": name, "condition": "dark", "num_joints": 10, "num_right": n}
        for name, n in (("blob", 4), ("SST-A", 9))
    ]
    index.write_table(root / "index/accuracy", rows, index.ACCURACY)
    manifest = index.read_manifest(root)
    index.write_manifest(root, index.build_manifest(root, manifest["counts"], ""))
    ds = dataset.open(root)
    assert dict(run(ds, "experts").select("expert", "right_share").rows()) == {"blob": 0.4, "stick": None, "SST-A": 0.9}
    assert run(ds, "accuracy").rows() == [("dark", "SST-A", 10, 0.9), ("dark", "blob", 10, 0.4)]


def test_taken_down_clips_are_not_counted(tmp_path: Path) -> None:
    root = build(tmp_path, clips=4)
    ds = dataset.open(root)
    index.write_tombstones(root, [{"clip_id": ds.clips.select("clip_id").collect().item(0, 0), "reason": "asked for"}])
    assert run(ds, "labels")["clips"].sum() == 3


def test_sql_is_free(ds: Dataset) -> None:
    joined = "FROM clips c JOIN tracks t ON c.clip_id = t.clip_id"
    sql = f"SELECT c.label, COUNT(*) AS tracks {joined} GROUP BY c.label ORDER BY c.label"
    expected = (
        ds.clips.join(ds.tracks, on="clip_id").group_by("label").agg(pl.len().alias("tracks")).sort("label").collect()
    )
    assert run(ds, sql=sql).rows() == expected.rows()


@pytest.mark.parametrize(
    ("query", "sql", "message"),
    [
        ("label", None, "unknown query 'label' .did you mean 'labels'.*allowed: "),
        (None, None, "give a query or SQL"),
        ("labels", "SELECT 1", "give a query or SQL"),
        (None, "SELECT FROM WHERE", "cannot be run: "),
        (None, "SELEC 1", "begin with SELECT or WITH; given 'SELEC 1'"),
        (None, "DROP TABLE clips", "begin with SELECT or WITH; given 'DROP TABLE clips'"),
        (None, "SELECT colour FROM clips", "no column 'colour' in clips .*; allowed: .*width"),
        (None, "SELECT c.jiter FROM clips c", r"no column 'jiter' in clips \(did you mean 'jitter'\?\)"),
        (None, "SELECT expert_agreement FROM clips", r"\(it is called 'expert_disagreement' now\)"),
        (None, "SELECT * FROM clip", r"no table 'clip' \(did you mean 'clips'\?\)"),
        (None, "SELECT * FROM persons", "no table 'persons'; allowed: accuracy, clips"),
    ],
)
def test_mistakes_are_one_line(ds: Dataset, query: str | None, sql: str | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        run(ds, query, sql)
    assert "\n" not in str(caught.value)


def test_every_format_reads_back(ds: Dataset) -> None:
    answer = run(ds, "labels")
    assert pl.read_parquet(io.BytesIO(to_text(answer, "parquet"))).equals(answer)
    assert json.loads(to_text(answer, "json")) == [pytest.approx(row) for row in answer.to_dicts()]
    assert pl.read_csv(io.StringIO(to_text(answer, "csv")))["clips"].to_list() == answer["clips"].to_list()
    assert not str(to_text(answer, "csv")).endswith("\n"), "the command ends the line: a second end is an empty row"
    lines = str(to_text(answer)).splitlines()
    assert lines[0].split()[:2] == ["label", "label_id"]
    assert len(lines) == len(answer) + 1
    with pytest.raises(DatasetError, match="unknown format 'xml'"):
        to_text(answer, "xml")
    assert set(FORMATS) == {"table", "json", "csv", "parquet"}


def test_nested_columns_and_long_results_are_written_whole(ds: Dataset) -> None:
    everything = run(ds, sql="SELECT * FROM joints")
    assert len(str(to_text(everything)).splitlines()) == len(everything) + 1
    entries = pl.read_csv(io.StringIO(to_text(run(ds, sql="SELECT entries FROM clips"), "csv")))["entries"]
    assert [entry["name"] for entry in json.loads(entries[0])] == [
        "json",
        "keypoints.npy",
        "scores.npy",
        "confidence.npy",
        "timestamps.npy",
    ]
    assert json.loads(to_text(run(ds, sql="SELECT entries FROM clips"), "json"))[0]["entries"][0]["name"] == "json"


def test_json_has_no_nan() -> None:
    assert json.loads(to_text(pl.DataFrame({"a": [1.0, float("nan")]}), "json")) == [{"a": 1.0}, {"a": None}]
