"""Label maps: what they say, whom they speak for, and how wrong ones are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataengine import registry
from dataengine.errors import ComponentError
from dataengine.relabel.table import COLUMNS, LabelTable, find_table
from dataengine.sources.shots import CAP_ACTIONS, KINETICS_ACTIONS

HEADER = ",".join(COLUMNS) + "\n"


def table(path: Path, text: str) -> LabelTable:
    path.write_text(HEADER + text)
    made: LabelTable = registry.create("relabel", "table", {"table": str(path)})
    return made


def test_it_speaks_for_the_sources_it_names_only(tmp_path: Path) -> None:
    made = table(
        tmp_path / "m.csv", 'a,wave,waving,renamed,\na,"kick, high",kicking,merged,\na,sleep,,left_out,no motion\nb,hello,waving,merged,\n'
    )
    assert made.apply("a", "wave") == ("waving", None) and made.apply("b", "hello") == ("waving", None)
    assert made.apply("a", "kick, high") == ("kicking", None)
    assert made.apply("a", "sleep") == (None, "no motion")
    label, reason = made.apply("a", "hello")
    assert label is None and reason is not None and "'hello'" in reason and "m" in reason
    assert made.apply("c", "hello") == ("hello", None)
    assert made.apply("c", None) == (None, None) and made.apply("a", None) == (None, None)
    assert made.label_ids() == {"kicking": 0, "waving": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,wave,,renamed,\n", "line 2.*reason why 'wave'"),
        ("a,wave,waving,renamed,because\n", "line 2.*reason why"),
        ("a,wave,waving,renamed,\na,wave,hello,renamed,\n", "line 3.*already there"),
        ("a,wave,waving\n", "line 2: want 5 fields"),
        (",wave,waving,renamed,\n", "source or source_label is empty"),
        ('a,"wave,waving,renamed,\n', "cannot be read as a CSV"),
    ],
)
def test_a_wrong_map_is_told_by_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ComponentError, match=says):
        table(tmp_path / "m.csv", text)


def test_wrong_columns_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("from,to\n")
    with pytest.raises(ComponentError, match="the columns are from, to; want source, source_label"):
        registry.create("relabel", "table", {"table": str(tmp_path / "m.csv")})
    with pytest.raises(ComponentError, match="did you mean 'sample_labels'"):
        registry.create("relabel", "table", {"table": "sample_lables"})
    assert find_table(str(tmp_path / "n.csv")) is None and find_table("../../etc/passwd") is None


def test_the_sample_map_covers_every_label_of_the_sample_corpus() -> None:
    made = LabelTable("sample_labels")
    given = {*KINETICS_ACTIONS.values(), *CAP_ACTIONS.values()}
    assert {label for _, label in made.rules} == given and made.sources == {"sample"}
    assert made.apply("sample", "clapping") == made.apply("sample", "person_claps_hands") == ("clapping hands", None)
    assert any(label is None for label, _ in made.rules.values())
    assert len(made.label_ids()) == 14


@pytest.mark.data
def test_the_sample_labels_are_real_class_names(shared_data: Path) -> None:
    names = (shared_data / "labels" / "kinetics700.txt").read_text().splitlines()
    activities = (shared_data / "labels" / "cap" / "cap_labels.csv").read_text().replace(",", "").split()
    assert set(KINETICS_ACTIONS.values()) <= set(names)
    assert set(CAP_ACTIONS.values()) <= set(activities)
