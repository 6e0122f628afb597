"""Label maps: what they say, whom they speak for, and how wrong ones are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataengine.core import registry
from dataengine.core.errors import ComponentError
from dataengine.labels.label_table import COLUMNS, LabelTable, find_table
from dataengine.labels.names import key
from dataengine.sources.synthetic_clips import CAP_ACTIONS, KINETICS_ACTIONS

HEADER = ",".join(COLUMNS) + "\n"


def table(path: Path, text: str) -> LabelTable:
    path.write_text(HEADER + text)
    return created(path)


def created(path: Path) -> LabelTable:
    made: LabelTable = registry.create("relabel", "table", {"table": str(path)})
    return made


def test_it_speaks_for_the_sources_it_names_only(tmp_path: Path) -> None:
    made = table(
        tmp_path / "m.csv",
        'a,wave,waving,reword,\na,"kick, high",kicking,merge_object,seen from behind\na,sleep,,leave_out,no '
        "motion\nb,hello,waving,merge_synonym,\n",
    )
    assert made.apply("a", "wave") == ("waving", None) and made.apply("b", "hello") == ("waving", None)
    assert made.apply("a", "kick, high") == ("kicking", None)
    assert made.apply("a", "sleep") == (None, "no motion")
    assert made.apply("a", "hello") == (None, "the table does not know it")
    assert made.apply("c", "hello") == ("hello", None)
    assert made.apply("c", None) == (None, None) and made.apply("a", None) == (None, None)
    assert made.label_ids() == {"kicking": 0, "waving": 1} and made.files == (tmp_path / "m.csv",)


@pytest.mark.parametrize(
    "said",
    [
        "Massaging persons head",
        "massaging_person\u2019s_head",
        ' "massaging person\'s head" ',
        "MASSAGING (person's) HEAD",
    ],
)
def test_spelling_makes_no_difference(tmp_path: Path, said: str) -> None:
    made = table(tmp_path / "m.csv", "a,massaging person's head,massaging,reword,\na,massaging,rubbing,reword,\n")
    assert made.apply("a", said) == ("massaging", None)
    assert made.apply("a", "massaging head") == (None, "the table does not know it")


def test_names_without_letters_stay_apart() -> None:
    assert key("!") != key("?") and key("抱く") != key("走る") and key("Éating_1") == "éating 1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,wave,,reword,\n", "line 2, column label: it is empty.*rule of 'wave' is reword.*leave_out"),
        ("a,wave,,leave_out,\n", "line 2, column reason: .*why 'wave' is left out"),
        ("a,wave,waving,leave_out,why\n", "line 2, column label: 'wave' has the rule leave_out and the label 'waving'"),
        (
            "a,wave,waving,keeps,\n",
            "line 2, column rule: 'keeps' is not a rule .did you mean 'keep'.*allowed: keep, leave_out, merge_detail",
        ),
        ("a,wave, waving,keep,\n", "line 2, column label: ' waving' begins or ends with a space"),
        (
            "a,wave,waving,reword,\na,Wave,hello,reword,\n",
            "line 3, column source_label: a 'Wave' is already in line 2",
        ),
        ("a,wave,waving\n", "line 2: want 5 fields"),
        (",wave,waving,reword,\n", "line 2, column source: it is empty"),
        ("a, ,waving,reword,\n", "line 2, column source_label: it is empty"),
        ('a,"wave,waving,reword,\n', "cannot be read"),
    ],
)
def test_a_wrong_map_is_told_by_line_and_column(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ComponentError, match=says):
        table(tmp_path / "m.csv", text)


def test_wrong_columns_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("from,to\n")
    with pytest.raises(ComponentError, match="the columns are from, to; want source, source_label"):
        created(tmp_path / "m.csv")
    with pytest.raises(ComponentError, match="did you mean 'sample_labels'"):
        registry.create("relabel", "table", {"table": "sample_lables"})
    assert (
        find_table(str(tmp_path / "n.csv")) is None
        and find_table("../../etc/passwd") is None
        and find_table("") is None
    )
    assert find_table("../manifests/sample_labels") is None


def test_the_sample_map_covers_every_label_of_the_sample_corpus() -> None:
    made = LabelTable("sample_labels")
    given = {*KINETICS_ACTIONS.values(), *CAP_ACTIONS.values()}
    assert {label for _, label in made.rules} == given and made.sources == {"sample"}
    assert made.apply("sample", "clapping") == made.apply("sample", "person_claps_hands") == ("clapping hands", None)
    assert any(label is None for label, _ in made.rules.values())
    assert len(made.label_ids()) == 14


def test_labels_of_videos_as_posetics_gives_them(tmp_path: Path) -> None:
    train = {
        "aaaaaaaaaaa": {"label": "eating (p)", "label_index": 1, "has_skeleton": True},
        "bbbbbbbbbbb": {"label_index": 0},
    }
    (tmp_path / "posetics_train_label.json").write_text(json.dumps(train))
    (tmp_path / "posetics_val_label.json").write_text(
        json.dumps({"ccccccccccc": {"label_index": 1, "has_skeleton": False}})
    )
    with pytest.raises(
        ComponentError,
        match=r"posetics_train_label.json: video 'bbbbbbbbbbb': it has a label_index only; put classes.txt",
    ):
        created(tmp_path / "posetics_val_label.json")
    (tmp_path / "classes.txt").write_text("clapping\neating (p)\n")
    made = created(tmp_path / "posetics_train_label.json")
    assert made.by_video and made.sources == {"kinetics400"} and len(made.files) == 3
    assert made.label_ids() == {"eating": 1, "clapping": 0}
    assert made.apply("kinetics400", "eating cake", "aaaaaaaaaaa") == ("eating", None)
    assert made.apply("kinetics400", "applauding", "bbbbbbbbbbb") == ("clapping", None)
    assert made.apply("kinetics400", None, "ccccccccccc") == ("eating", None)
    assert made.apply("kinetics400", "eating cake", "ddddddddddd") == (None, "the table does not know it")
    assert made.apply("cap", "person_bows", "aaaaaaaaaaa") == ("person_bows", None)
    with pytest.raises(ComponentError, match="video id is needed"):
        made.apply("kinetics400", "eating cake")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1, column 2: not JSON"),
        ("[]", "want an object of videos"),
        ('{"v": 3}', "video 'v': want {.*not 3"),
        ('{"v": {}}', "video 'v': it has neither label nor label_index"),
        ('{"v": {"label": "a", "label_index": -1}}', "video 'v': label_index is -1"),
        (
            '{"v": {"label": "a", "label_index": 1}, "w": {"label": "a", "label_index": 2}}',
            "video 'w': label_index of 'a' is 2 here and 1 before",
        ),
        ('{"v": {"label_index": 2}}', "classes.txt names 2 classes .0 to 1."),
    ],
)
def test_wrong_labels_of_videos_are_told(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "train_label.json").write_text(text)
    with pytest.raises(ComponentError, match=says):
        created(tmp_path / "train_label.json")


def test_two_files_that_contradict_each_other(tmp_path: Path) -> None:
    for name, label in (("train", "a"), ("val", "b")):
        (tmp_path / f"{name}_label.json").write_text(json.dumps({"v": {"label": label, "label_index": 0}}))
    with pytest.raises(ComponentError, match="video 'v' is 'b' here and 'a' in another file"):
        created(tmp_path / "train_label.json")


def test_a_list_of_classes_keeps_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("yoga\neating (p)\nshaking hands\nhair (p)\n")
    made = created(tmp_path / "classes.txt")
    assert made.label_ids() == {"yoga": 0, "eating": 1, "shaking hands": 2, "hair": 3}
    assert made.apply("kinetics400", "Yoga") == ("yoga", None)
    assert made.apply("kinetics400", "eating_burger") == ("eating", None)
    assert made.apply("kinetics400", "braiding hair") == (None, "the table does not know it")
    (tmp_path / "classes.txt").write_text("yoga\n\n")
    with pytest.raises(ComponentError, match="line 2: it is empty"):
        created(tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_text("eating\neating (p)\n")
    with pytest.raises(ComponentError, match="line 2: 'eating' is already in line 1"):
        created(tmp_path / "classes.txt")


@pytest.mark.data
def test_the_sample_labels_are_real_class_names(shared_data: Path) -> None:
    names = (shared_data / "labels" / "kinetics700.txt").read_text().splitlines()
    activities = (shared_data / "labels" / "cap" / "cap_labels.csv").read_text().replace(",", "").split()
    assert set(KINETICS_ACTIONS.values()) <= set(names)
    assert set(CAP_ACTIONS.values()) <= set(activities)
