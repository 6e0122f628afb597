"""Tables about single clips: who counts where several speak of one clip, and what is refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from dataengine.core.errors import ComponentError
from dataengine.labels import clip_table


def write(folder: Path, name: str, *lines: str) -> str:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def verdicts(*paths: str, least: float | None = None) -> dict[str, tuple[object, ...]]:
    return {row[0]: row[1:] for row in clip_table.read_verdicts(paths, least).rows()}


def test_a_filled_in_plan_labels_its_clips(tmp_path: Path) -> None:
    plan = write(tmp_path, "plan.csv", "rank,clip_id,label,stands_for", "1,a,walk,3", "2,b,,3", ",c, run ,")
    assert verdicts(plan) == {"a": ("walk", "people", None, None), "c": ("run", "people", None, None)}


def test_people_stand_above_proposals_whatever_the_order(tmp_path: Path) -> None:
    plan = write(tmp_path, "plan.csv", "clip_id,label", "a,walk")
    lines = ("clip_id,given,proposed,probability", "a,,jump,0.9", "b,,jump,0.7", "d,sit,jump,0.9", "e,,sit,0.2")
    proposals = write(tmp_path, "proposals.csv", *lines)
    wanted = {
        "a": ("walk", "people", None, None),
        "b": ("jump", "annotator", 0.7, None),
        "d": ("sit", "people", None, None),
    }
    assert verdicts(plan, proposals, least=0.5) == verdicts(proposals, plan, least=0.5) == wanted
    assert "b" not in verdicts(plan, proposals), "no proposal is taken unless the recipe says from which probability"


def test_the_last_opinion_on_staying_counts(tmp_path: Path) -> None:
    out = write(tmp_path, "out.csv", "clip_id,keep,why", "a,no,too dark", "b,FALSE,", "c,yes,")
    back = write(tmp_path, "back.csv", "clip_id,keep", "a,yes")
    assert verdicts(out) == {"a": (None, None, None, "too dark"), "b": (None, None, None, "no reason given")}
    assert list(verdicts(out, back)) == ["b"]


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    table = pl.DataFrame({"clip_id": ["a", "b"], "proposed": ["sit", None], "probability": [0.75, None]})
    table.write_parquet(tmp_path / "p.parquet")
    table.write_csv(tmp_path / "p.csv")
    found = [verdicts(str(tmp_path / name), least=0.5) for name in ("p.parquet", "p.csv")]
    assert found[0] == found[1] == {"a": ("sit", "annotator", 0.75, None)}


def test_ids_that_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    assert list(verdicts(write(tmp_path, "n.csv", "clip_id,label", "007,walk", "1e3,run"))) == ["007", "1e3"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("clip_id,label", "a,x;y"), "one label, not 'x;y'"),
        (("label", "x"), "want clip_id among them"),
        (("clip_id,keep", "a,maybe"), "keep is yes or no, not 'maybe'"),
        (("clip_id,label", "a,x", "a,y"), "'a' has more than one row"),
        (("clip_id,proposed,probability", "a,x,lots"), "probability is a number from 0 to 1, not 'lots'"),
        (("clip_id,proposed,probability", "a,x,nan"), "probability is a number from 0 to 1, not 'nan'"),
        (("clip_id,proposed,probability", "a,x,1.5"), "probability is a number from 0 to 1, not '1.5'"),
        (("clip_id,label,rank", "a,x,1", ",y,2"), "1 of 2 rows have no clip_id, such as the one with label 'y'"),
        (("clip_id,label", "a,x,y,z"), "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    path = write(tmp_path, "wrong.csv", *lines)
    with pytest.raises(ComponentError) as error:
        clip_table.read_verdicts([path], 0.5)
    assert said in str(error.value) and str(error.value).startswith(path) and "\n" not in str(error.value)


def test_a_table_of_a_spreadsheet_with_decimal_commas_and_empty_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "p.csv", "clip_id;proposed;probability", "a;sit;0,75", ";;", " ; ;")
    assert verdicts(path, least=0.5) == {"a": ("sit", "annotator", 0.75, None)}


def test_labels_that_do_not_count_are_counted(tmp_path: Path) -> None:
    first = write(tmp_path, "1.csv", "clip_id,label", "a,walk", "b,walk", "c,walk")
    last = write(tmp_path, "2.csv", "clip_id,label", "a,run", "b,walk", "c,")
    lines = ("clip_id,given,proposed,probability", "a,walk,walk,0.9", "d,,walk,0.9", "e,,sit,0.4")
    proposals = write(tmp_path, "p.csv", *lines)
    (other,) = clip_table.left_out([first, last])
    assert other == "1 clips have another label by people in an earlier table, such as 'a': the last table counts"
    assert clip_table.left_out([first]) == clip_table.left_out([proposals], 0.3) == ()
    (low,) = clip_table.left_out([proposals], 0.5)
    assert low.startswith("1 of 2 proposed labels are left out") and "less probable than 0.5" in low
    assert "2 of 2 proposed labels" in clip_table.left_out([proposals])[0]


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 torn")
    for name in ("x.parquet", "missing.csv", "missing.xlsx"):
        with pytest.raises(ComponentError, match=name):
            clip_table.read_table(tmp_path / name)
    with pytest.raises(ComponentError, match="names no clip"):
        clip_table.read_list(write(tmp_path, "none.csv", "clip_id"))
