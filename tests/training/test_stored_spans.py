"""What a build says happens when in its clips is what training reads, from the index and from plain shards."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("torch")

import dataengine
from dataengine.core.errors import DatasetError
from dataengine.dataset.verify import verify
from tests.support.tiny_dataset import build
from tests.training.test_formats_shards import write_shard
from training.config import DataTable
from training.data.formats import open_dataset
from training.data.spans import joined_span_labels
from training.data.subsets import random_subset, with_spans
from training.runs.splits import open_split


def said(label: str, start: float, end: float, by: str = "people", probability: float | None = None) -> dict[str, Any]:
    return {"label": label, "start": start, "end": end, "label_from": by, "probability": probability}


SPANS = {
    0: [said("wave", 0.0, 0.08), said("走る", 0.05, 0.16, "annotator", 0.75)],
    1: [said("fall", 0.04, 0.12)],
    2: [],
}
FRAMES = {0: [("wave", 0, 2), ("走る", 1, 4)], 1: [("fall", 1, 3)], 2: []}
"""The same, first frame and end at 25 frames a second."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAENGINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    build(tmp_path / "out", clips=6, spans=SPANS)
    return tmp_path / "out"


def test_index_and_shards_give_the_same_spans(out: Path) -> None:
    assert verify(out) == []
    for place in (out, out / "dataset" / "shards" / "pose"):
        dataset = pickle.loads(pickle.dumps(open_dataset(place)))  # noqa: S301
        assert dataset.span_labels == ("fall", "wave", "走る") and dataset.spans_known is not None
        for clip, known in zip(dataset.read(range(6)), dataset.spans_known, strict=True):
            number = int(clip.key.removeprefix("random-video")[:3])
            assert known == (number in FRAMES) == (clip.spans is not None)
            if clip.spans is not None:
                spans = [(dataset.span_labels[label], first, end) for label, first, end in clip.spans.tolist()]
                assert spans == FRAMES[number]
        proposed = [key for key, guessed in zip(dataset.keys, dataset.spans_proposed, strict=True) if guessed]
        assert [key[:15] for key in proposed] == ["random-video000"]
        one = open_dataset(place, split="val")
        assert one.span_labels == dataset.span_labels and one.read([0])[0].spans is not None


def test_an_exported_pickle_has_the_same_spans(out: Path, tmp_path: Path) -> None:
    dataengine.export(out, "pyskl", tmp_path / "a.pkl", layout="own")
    built, read = open_dataset(out), open_dataset(tmp_path / "a.pkl")
    assert read.span_labels == built.span_labels and read.spans_known is not None
    for clip, known in zip(read.read(range(6)), read.spans_known, strict=True):
        (other,) = built.read([list(built.keys).index(clip.key)])
        assert known == (other.spans is not None)
        assert (clip.spans is None) == (other.spans is None)
        assert clip.spans is None or clip.spans.tolist() == other.spans.tolist()
    assert read.spans_proposed is not None and read.spans_proposed.sum() == 1
    assert "video000" in read.keys[int(read.spans_proposed.argmax())]
    build(tmp_path / "silent", clips=2)
    dataengine.export(tmp_path / "silent", "pyskl", tmp_path / "b.pkl")
    assert open_dataset(tmp_path / "b.pkl").span_labels == ()


def test_other_exports_carry_spans(out: Path, tmp_path: Path) -> None:
    place = Path(dataengine.export(out, "hf", tmp_path / "hf").path)
    rows = pl.concat([pl.read_parquet(path) for path in sorted((place / "data").glob("*.parquet"))])
    found = dict(rows.select("clip_id", "spans").rows())
    assert found == dict(dataengine.open(out).clips.select("clip_id", "spans").collect().rows())
    head = (place / "README.md").read_text().split("---")[1]
    assert "- name: spans\n    list:\n    - name: label\n      dtype: string\n    - name: start\n" in head
    dataengine.export(out, "energon", tmp_path / "energon")
    shards = open_dataset(tmp_path / "energon" / "shards")
    assert shards.spans_known is not None and shards.spans_known.sum() == 3
    build(tmp_path / "silent", clips=2)
    silent = Path(dataengine.export(tmp_path / "silent", "hf", tmp_path / "b").path)
    assert "spans" not in (silent / "README.md").read_text()


def test_clips_of_which_nobody_spoke_are_left_out(out: Path, tmp_path: Path) -> None:
    dataset = open_dataset(out)
    with pytest.warns(UserWarning, match="nobody said of 3 of 6 clips what happens when"):
        (kept,) = with_spans([dataset])
    assert len(kept) == 3 and kept.spans_known is not None and kept.spans_known.all()
    assert all(clip.spans is not None for clip in kept.read(range(3)))
    with pytest.warns(UserWarning, match="no person said of 4 of 6 clips what happens when"):
        (measured,) = with_spans([dataset], by_people=True)
    assert len(measured) == 2 and not any("video000" in key for key in measured.keys)
    assert joined_span_labels([kept]) == ("fall", "wave", "走る")
    (part,) = random_subset([dataset], 4)
    assert part.spans_known is not None and len(part.spans_known) == 4
    build(tmp_path / "silent", clips=4)
    silent = open_dataset(tmp_path / "silent")
    assert silent.span_labels == () and with_spans([silent]) == [silent]
    with pytest.warns(UserWarning, match="nobody said of 4 of 4"):
        assert len(with_spans([silent, dataset])) == 1


def test_a_table_of_the_user_wins(out: Path, tmp_path: Path) -> None:
    key = open_dataset(out).keys[0]
    (tmp_path / "own.csv").write_text(f"clip_id,label,start,end\n{key},own,1,3\n")
    (dataset,) = open_split(DataTable(train=[str(out)], spans=[str(tmp_path / "own.csv")]), "train", split="")
    assert dataset.span_labels == ("own",) and dataset.spans_known is None
    assert [clip.spans.tolist() for clip in dataset.read(range(len(dataset))) if clip.spans is not None] == [
        [[0, 1, 3]]
    ]
    assert with_spans([dataset]) == [dataset]


@pytest.mark.parametrize(
    "spans", ["wave", [{"label": "x"}], [{"label": 1, "start": 0, "end": 1}], [said("x", 2, 1)], [said("x", -1, 1)]]
)
def test_samples_that_hold_no_spans_are_named(tmp_path: Path, spans: Any) -> None:
    with pytest.raises(DatasetError, match=r"a\.tar: k1\.json cannot be decoded: its spans hold") as raised:
        open_dataset(write_shard(tmp_path / "a.tar", spans=spans))
    assert "\n" not in str(raised.value)
