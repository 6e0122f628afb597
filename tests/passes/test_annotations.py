"""What people decided about single clips reaches the dataset, and can be taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dataengine
from dataengine.core.errors import DataEngineError
from dataengine.dataset.verify import verify
from dataengine.inspect.explain import explain, to_text
from tests.support.said import Said
from tests.support.shared import SERIAL, build_sample, copied


@pytest.fixture
def copy(sample_build: Path, tmp_path: Path) -> Path:
    return copied(sample_build, tmp_path)


def table(folder: Path, name: str, *lines: str) -> str:
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def test_labels_and_refusals_of_people_reach_the_dataset(corpus: Path, copy: Path, tmp_path: Path) -> None:
    before = dataengine.open(copy)
    kept = before.clips.select("clip_id", "label", "label_id").collect()
    (one, old, _), (two, *_), (three, *_) = kept.rows()[:3]
    rejected = before.rejects.filter(reason="label_left_out").collect()["clip_id"].to_list()
    label = next(other for other in kept["label"] if other != old)
    people = table(tmp_path, "people.csv", "clip_id,label,keep,why", f"{one},{label},,", f"{two},,no,a child")
    guessed = table(
        tmp_path,
        "guessed.csv",
        "clip_id,proposed,probability",
        f"{one},x,1",
        f"{three},a new label,0.9",
        f"{kept['clip_id'][3]},y,0.1",
    )
    overrides = (f"curate.annotations={json.dumps([people, guessed])}", "curate.min_probability=0.8")
    heard = Said()
    result = build_sample(corpus, copy, *overrides, engine=SERIAL, progress=heard)
    assert any("1 of 3 proposed labels are left out" in line for line in heard.lines)
    ds = dataengine.open(copy)
    rows = {row["clip_id"]: row for row in ds.clips.collect().to_dicts()}
    assert verify(copy) == [] and two not in rows and rows.keys() == {*kept["clip_id"]} - {two}
    assert (rows[one]["label"], rows[one]["label_from"], rows[one]["label_probability"]) == (label, "people", None)
    numbers = dict(zip(kept["label"], kept["label_id"]))
    assert rows[one]["label_id"] == numbers[label] and rows[one]["source_label"]
    assert (rows[three]["label"], rows[three]["label_from"]) == ("a new label", "annotator")
    assert rows[three]["label_id"] not in numbers.values() and rows[three]["label_probability"] == 0.9
    assert {row["label_from"] for clip_id, row in rows.items() if clip_id not in (one, three)} == {None}
    assert ds.sample(one)["json"]["label"] == label
    refused = ds.rejects.filter(clip_id=two).collect().to_dicts()[0]
    assert (refused["pass"], refused["reason"], refused["detail"]) == ("annotations", "people_refused", "a child")
    told = to_text(explain(copy, one))
    assert "label_from people" in told and f"label {label}" in told
    assert "people_refused: people decided" in to_text(explain(copy, two))
    assert set(result.to_dict()) and set(rejected) <= set(ds.rejects.collect()["clip_id"])


def test_a_list_makes_a_smaller_dataset_and_without_it_all_is_as_before(
    corpus: Path, copy: Path, tmp_path: Path
) -> None:
    fingerprint = dataengine.open(copy).manifest["fingerprint"]
    ids = dataengine.open(copy).clips.collect()["clip_id"].to_list()
    chosen = table(tmp_path, "chosen.csv", "rank,clip_id", *(f"{n},{clip_id}" for n, clip_id in enumerate(ids[::4])))
    build_sample(corpus, copy, f"curate.only={json.dumps(chosen)}", engine=SERIAL)
    ds = dataengine.open(copy)
    assert ds.clips.collect()["clip_id"].to_list() == ids[::4] and verify(copy) == []
    rejects = ds.rejects.collect()
    assert len(rejects) + len(ids[::4]) == ds.manifest["counts"]["planned"]
    assert set(ids) - set(ids[::4]) <= set(rejects.filter(reason="not_chosen")["clip_id"])
    build_sample(corpus, copy, engine=SERIAL)
    assert verify(copy) == [] and dataengine.open(copy).manifest["fingerprint"] == fingerprint


def test_tables_are_read_before_any_work(corpus: Path, tmp_path: Path) -> None:
    for lines, said in ((("clip_id,label", "a,x;y"), "one label"), (("label", "x"), "clip_id")):
        path = table(tmp_path, "t.csv", *lines)
        with pytest.raises(DataEngineError, match=said):
            build_sample(corpus, tmp_path / "out", f"curate.annotations={json.dumps([path])}")
        assert not (tmp_path / "out" / "work").exists()


def test_a_table_of_another_dataset_is_named(corpus: Path, copy: Path, tmp_path: Path) -> None:
    path = table(tmp_path, "other.csv", "clip_id,label", "elsewhere,walk")
    with pytest.raises(DataEngineError, match="none of its 1 clips is planned"):
        build_sample(corpus, copy, f"curate.annotations={json.dumps([path])}", engine=SERIAL)
