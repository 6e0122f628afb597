"""Tables of what happens when: who counts where several speak of one clip, and what is refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from dataengine.core.errors import ComponentError
from dataengine.labels import span_table


def write(folder: Path, name: str, *lines: str) -> str:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def spans(*paths: str, least: float | None = None) -> dict[str, list[tuple[object, ...]]]:
    found: dict[str, list[tuple[object, ...]]] = {}
    for clip_id, *row in span_table.read_spans(paths, least).rows.rows():
        found.setdefault(clip_id, []).append(tuple(row))
    return found


def test_spans_of_people_and_a_clip_in_which_nothing_happens(tmp_path: Path) -> None:
    path = write(tmp_path, "p.csv", "clip_id,label,start,end", "a,wave,0,1.5", "a, überqueren 走る ,1,2", "b,,,")
    assert spans(path) == {
        "a": [("wave", 0.0, 1.5, False, "people", None), ("überqueren 走る", 1.0, 2.0, False, "people", None)],
        "b": [(None, None, None, False, "people", None)],
    }


def test_a_table_of_a_spreadsheet_with_decimal_commas(tmp_path: Path) -> None:
    path = write(tmp_path, "s.csv", "clip_id;label;start;end;probability", "a;x;0,25;1,5;0,75")
    assert spans(path, least=0.5) == {"a": [("x", 0.25, 1.5, False, "annotator", 0.75)]}


def test_frames_are_told_from_seconds_by_the_unit(tmp_path: Path) -> None:
    path = write(tmp_path, "u.csv", "clip_id,label,start,end,unit", "a,x,0,30,frames", "a,y,1,2,Seconds", "a,z,1,2,")
    assert [(row[0], row[3]) for row in spans(path)["a"]] == [("x", True), ("y", False), ("z", False)]


def test_the_events_of_segment_are_proposals_as_they_are(tmp_path: Path) -> None:
    lines = ("clip_id,label,start,end,start_s,end_s,score,probability", "a,x,0,30,0.0,1.2,0.4,0.9", "b,x,5,9,,,0.1,0.8")
    path = write(tmp_path, "events.csv", *lines)
    wanted = {"a": [("x", 0.0, 1.2, False, "annotator", 0.9)], "b": [("x", 5.0, 9.0, True, "annotator", 0.8)]}
    assert spans(path, least=0.5) == wanted and spans(path) == {}
    older = write(tmp_path, "older.csv", "clip_id,label,start,end,start_s,end_s,score", "a,x,0,30,0,1.2,-0.1")
    assert spans(older, least=0.0) == {"a": [("x", 0.0, 1.2, False, "annotator", 0.0)]}


def test_people_stand_above_proposals_and_the_last_table_counts(tmp_path: Path) -> None:
    first = write(tmp_path, "1.csv", "clip_id,label,start,end", "a,wave,0,1", "a,wave,0,1", "b,run,0,1")
    second = write(tmp_path, "2.csv", "clip_id,label,start,end", "b,sit,0,2", "c,,,")
    guessed = ("clip_id,label,start,end,probability", "a,x,0,1,0.9", "c,x,0,1,0.9", "d,x,0,1,0.9", "d,y,0,1,0.3")
    proposals = write(tmp_path, "3.csv", *guessed)
    said = span_table.read_spans([proposals, first, second], 0.5)
    assert {(row[0], row[1], row[5]) for row in said.rows.rows()} == {
        ("a", "wave", "people"),
        ("b", "sit", "people"),
        ("c", None, "people"),
        ("d", "x", "annotator"),
    }
    assert any("1 clips have other spans by people" in note and "'b'" in note for note in said.notes)
    assert any("1 spans stand there twice" in note for note in said.notes)
    assert any("1 of 4 proposed spans are left out" in note and "0.5" in note for note in said.notes)
    assert "d" not in spans(proposals), "no proposal is taken unless the recipe says from which probability"


def test_of_proposals_that_overlap_the_most_probable_stays(tmp_path: Path) -> None:
    lines = ("a,walk,0,10,0.6,", "a,walk,2,4,0.9,", "a,walk,4,5,0.5,", "a,sit,1,3,0.4,", "b,walk,0,9,0.3,")
    path = tmp_path / "events.csv"
    path.write_text("\n".join(("clip_id,label,start,end,probability,from", *lines, lines[1])) + "\n")
    found = span_table.read_spans([str(path)], 0.0)
    assert found.rows.select("clip_id", "label", "start", "end").rows() == [
        ("a", "walk", 2.0, 4.0),
        ("a", "walk", 4.0, 5.0),
        ("a", "sit", 1.0, 3.0),
        ("b", "walk", 0.0, 9.0),
    ]
    assert any("1 proposed spans overlap a more probable one" in note for note in found.notes)
    assert any("1 spans stand there twice" in note for note in found.notes)
    path.write_text("clip_id,label,start,end\na,walk,0,10\na,walk,2,4\n")  # people may say what they like
    assert len(span_table.read_spans([str(path)]).rows) == 2


def test_parquet_says_the_same_as_csv_and_an_empty_table_nothing(tmp_path: Path) -> None:
    table = pl.DataFrame({"clip_id": ["a"], "label": ["sit"], "start": [0.1], "end": [1 / 3], "probability": [0.75]})
    table.write_parquet(tmp_path / "p.parquet")
    table.write_csv(tmp_path / "p.csv")
    found = [spans(str(tmp_path / name), least=0.5) for name in ("p.parquet", "p.csv")]
    assert found[0] == found[1] == {"a": [("sit", 0.1, 1 / 3, False, "annotator", 0.75)]}
    assert spans(write(tmp_path, "e.csv", "clip_id,label,start,end")) == spans() == {}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("clip_id,label,start,end", "a,x,3,2"), "'a': a span has numbers 0 <= start < end, not '3 to 2'"),
        (("clip_id,label,start,end", "a,x,1,1"), "not '1 to 1'"),
        (("clip_id,label,start,end", "a,x,-1,1"), "not '-1 to 1'"),
        (("clip_id,label,start,end", "a,x,nan,1"), "not 'nan to 1'"),
        (("clip_id,label,start,end", "a,x,0,inf"), "not '0 to inf'"),
        (("clip_id,label,start,end", "a,x,,1"), "not 'nothing to 1'"),
        (("clip_id,label,start,end", "a,x,soon,1"), "not 'soon to 1'"),
        (("clip_id,label,start", "a,x,0"), "want clip_id, label, start and end"),
        (("label,start,end", "x,0,1"), "want clip_id among them"),
        (("clip_id,label,start,end,unit", "a,x,0,1,minutes"), "unit is seconds or frames, not 'minutes'"),
        (("clip_id,label,start,end,from", "a,x,0,1,robot"), "from is people or annotator, not 'robot'"),
        (
            ("clip_id,label,start,end,from", "a,x,0,1,annotator"),
            "a proposal has a probability, and there is none of 'x'",
        ),
        (("clip_id,label,start,end,probability", "a,x,0,1,1.5"), "probability is a number from 0 to 1, not '1.5'"),
        (("clip_id,label,start,end,probability", "a,x,0,1,nan"), "probability is a number from 0 to 1, not 'nan'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    path = write(tmp_path, "wrong.csv", *lines)
    with pytest.raises(ComponentError) as error:
        span_table.read_spans([path], 0.5)
    assert said in str(error.value) and str(error.value).startswith(path) and "\n" not in str(error.value)
