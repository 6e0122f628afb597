"""What people and annotators say about the insides of clips reaches index and samples, and can be taken back."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import polars as pl
import pytest

import dataengine
from dataengine.core.errors import DataEngineError
from dataengine.dataset.takedown import takedown
from dataengine.dataset.verify import verify
from dataengine.inspect.explain import explain, to_text
from dataengine.passes.spans import in_words
from tests.support.said import Said
from tests.support.shared import SERIAL, build_sample, copied


@pytest.fixture
def copy(sample_build: Path, tmp_path: Path) -> Path:
    return copied(sample_build, tmp_path)


def table(folder: Path, name: str, *lines: str) -> str:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def naming(*paths: str) -> str:
    return f"curate.spans={json.dumps(paths)}"


def said(
    label: str, start: float, end: float, by: str = "people", probability: float | None = None
) -> dict[str, object]:
    return {"label": label, "start": start, "end": end, "label_from": by, "probability": probability}


def test_spans_reach_the_index_the_samples_and_explain(corpus: Path, copy: Path, tmp_path: Path) -> None:
    before = dataengine.open(copy).manifest["fingerprint"]
    kept = dataengine.open(copy).clips.select("clip_id", "fps", "num_frames", "video_id").collect()
    (one, fps, frames, _), (two, *_), (three, *_), (four, *_) = kept.rows()[:4]
    rate = float(Fraction(fps))
    lasts = frames / rate
    people = table(
        tmp_path,
        "people.csv",
        "clip_id,label,start,end,unit",
        f"{one},走る,0.5,1,",
        f"{one},wave,2,4,frames",
        f"{one},wave,0,{lasts + 5},",
        f"{one},wave,0,{lasts + 6},",
        f"{one},late,{lasts + 1},{lasts + 2},",
        f"{two},,,,",
        "elsewhere,wave,0,1,",
    )
    guessed = table(
        tmp_path,
        "guessed.csv",
        "clip_id,label,start,end,probability",
        f"{one},x,0,1,0.9",
        f"{three},fall,0.25,1,0.75",
        f"{four},fall,0.25,1,0.25",
    )
    heard, overrides = Said(), (naming(people, guessed), "curate.min_probability=0.5")
    build_sample(corpus, copy, *overrides, engine=SERIAL, progress=heard)
    told = "\n".join(heard.lines)
    ds = dataengine.open(copy)
    rows = dict(ds.clips.select("clip_id", "spans").collect().rows())
    wanted = [said("wave", 0.0, lasts), said("wave", 2 / rate, 4 / rate), said("走る", 0.5, 1.0)]
    assert sorted(rows[one], key=lambda s: (s["start"], s["end"])) == sorted(
        wanted, key=lambda s: (s["start"], s["end"])
    )
    assert rows[one] == sorted(rows[one], key=lambda s: s["start"])
    assert rows[two] == [] and rows[three] == [said("fall", 0.25, 1.0, "annotator", 0.75)]
    assert {clip_id for clip_id, spans in rows.items() if spans is not None} == {one, two, three}
    assert verify(copy) == [] and ds.sample(one)["json"]["spans"] == rows[one]
    assert ds.sample(two)["json"]["spans"] == [] and "spans" not in ds.sample(four)["json"]
    assert "wave 0-" in to_text(explain(copy, one)) and "s (people)" in to_text(explain(copy, one))
    assert "nothing happens (people)" in to_text(explain(copy, two))
    assert "fall 0.25-1 s (annotator, 0.75)" in to_text(explain(copy, three))
    assert "spans" not in next(p for p in explain(copy, four)["passes"] if p["pass"] == "spans").get("facts", {})
    for line in (
        "1 of 3 clips are not planned here",
        "1 of 6 spans lie outside of their clips",
        "2 of 6 spans end after their clips",
        "1 of 3 proposed spans are left out",
    ):
        assert line in told, told
    query = ds.clips.filter(pl.col("spans").list.len() > 0).select("clip_id").collect()
    assert set(query["clip_id"]) == {one, three}
    takedown(copy, [three], "asked")
    build_sample(corpus, copy, *overrides, engine=SERIAL)
    assert three not in dataengine.open(copy).clips.collect()["clip_id"] and verify(copy) == []
    assert dataengine.open(copy).sample(one)["json"]["spans"] == rows[one]
    assert dataengine.open(copy).manifest["fingerprint"] != before


def test_without_the_tables_all_is_as_before(corpus: Path, copy: Path, tmp_path: Path) -> None:
    ds = dataengine.open(copy)
    fingerprint, one = ds.manifest["fingerprint"], ds.clips.collect()["clip_id"][0]
    people = table(tmp_path, "people.csv", "clip_id,label,start,end", f"{one},wave,0,1")
    build_sample(corpus, copy, naming(people), engine=SERIAL)
    assert dataengine.open(copy).manifest["fingerprint"] != fingerprint and verify(copy) == []
    build_sample(corpus, copy, naming(table(tmp_path, "none.csv", "clip_id,label,start,end")), engine=SERIAL)
    assert dataengine.open(copy).clips.collect()["spans"].null_count() == len(dataengine.open(copy).clips.collect())
    assert verify(copy) == []
    build_sample(corpus, copy, engine=SERIAL)
    assert dataengine.open(copy).manifest["fingerprint"] == fingerprint and verify(copy) == []


def test_a_sample_that_says_other_spans_than_the_index_is_named(corpus: Path, copy: Path, tmp_path: Path) -> None:
    from dataengine.dataset.verify_shards import _check_sample

    ds = dataengine.open(copy)
    one = ds.clips.collect()["clip_id"][0]
    build_sample(
        corpus, copy, naming(table(tmp_path, "p.csv", "clip_id,label,start,end", f"{one},wave,0,1")), engine=SERIAL
    )
    row = dataengine.open(copy).clips.filter(pl.col("clip_id") == one).collect().to_dicts()[0]
    shard = copy / "dataset" / row["shard"]
    data = memoryview(shard.read_bytes())
    entries = {e["name"]: data[e["offset"] : e["offset"] + e["size"]] for e in row["entries"]}
    assert not list(_check_sample(entries, row, None, set()))
    assert "another spans" in next(iter(_check_sample(entries, row | {"spans": []}, None, set())))


def test_tables_are_read_before_any_work(corpus: Path, copy: Path, tmp_path: Path) -> None:
    wrong = table(tmp_path, "t.csv", "clip_id,label,start,end", "a,x,2,1")
    with pytest.raises(DataEngineError, match="0 <= start < end"):
        build_sample(corpus, tmp_path / "new", naming(wrong))
    assert not (tmp_path / "new" / "work").exists()
    with pytest.raises(DataEngineError, match="cannot be read"):
        build_sample(corpus, tmp_path / "new", naming(str(tmp_path / "missing.csv")))
    other = table(tmp_path, "other.csv", "clip_id,label,start,end", "elsewhere,x,0,1", "elsewhere,y,0,1")
    with pytest.raises(DataEngineError, match="none of its 1 clips is planned"):
        build_sample(corpus, copy, naming(other), engine=SERIAL)


def test_many_spans_are_not_all_shown() -> None:
    line = in_words([said("x", float(n), n + 1.0) for n in range(20)])
    assert line.startswith("x 0-1 s (people); x 1-2 s") and line.endswith("; and 8 more")
