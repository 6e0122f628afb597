"""The label maps of Posetics and PoseCap: their sizes, that they cover their sources, and that they agree with each
other."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from dataengine.labels.label_map import RULES
from dataengine.labels.label_table import COLUMNS, LabelTable
from dataengine.labels.names import key
from dataengine.labels.taxonomy import COLUMNS as VERB_COLUMNS
from dataengine.labels.taxonomy import PARENTS, PARTS, POSTURES, taxonomy

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
MAPS = ("posetics_labels", "posecap_labels", "sample_labels")
SIZES = {"kinetics400": 400, "kinetics600": 600, "kinetics700": 700, "kinetics700_2020": 700, "cap": 577}


def rows(name: str) -> list[dict[str, str]]:
    with (MANIFESTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("name", "count"), [("posetics_labels", 320), ("posecap_labels", 811), ("sample_labels", 14)])
def test_the_number_of_labels(name: str, count: int) -> None:
    made = LabelTable(name)
    assert len(made.label_ids()) == count == len({row["label"] for row in rows(name)} - {""})


def test_the_labels_of_posecap_all_come_from_kinetics700_and_cap() -> None:
    found = rows("posecap_labels")
    assert len({row["label"] for row in found if row["source"] in ("kinetics700", "cap")} - {""}) == 811
    assert Counter(row["source"] for row in found) == SIZES
    assert Counter(row["source"] for row in rows("posetics_labels")) == {"kinetics400": 400}


@pytest.mark.parametrize("name", MAPS)
def test_labels_are_normalised_and_rules_mean_what_they_say(name: str) -> None:
    found = rows(name)
    sharing: dict[str, set[str]] = defaultdict(set)
    for row in found:
        sharing[row["label"]].add(key(row["source_label"]))
    for row in found:
        label, rule = row["label"], row["rule"]
        assert rule in RULES and (rule == "leave_out") == (label == "") == (row["reason"] != ""), row
        assert label == "" or re.fullmatch(r"[a-z]+('s)?( [a-z]+('s)?)*", label), row
        if rule == "keep":
            assert key(label) == key(row["source_label"]), row
        if rule.startswith("merge"):
            assert len(sharing[label]) > 1 and key(label) != key(row["source_label"]), row
    assert len({label.replace(" ", "") for label in sharing}) == len(sharing)


def test_editions_of_kinetics_agree() -> None:
    given: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for row in rows("posecap_labels"):
        if row["source"] != "cap":
            given[key(row["source_label"])].add((row["label"], row["rule"], row["reason"]))
    assert len(given) > 700
    assert {name: said for name, said in given.items() if len(said) > 1} == {}


def test_examples_of_the_published_principle() -> None:
    posetics, posecap = LabelTable("posetics_labels"), LabelTable("posecap_labels")
    for made, source in ((posetics, "kinetics400"), (posecap, "kinetics700")):
        assert {made.apply(source, f"making {food}")[0] for food in ("a cake", "sushi", "pizza")} == {"making food"}
        assert {made.apply(source, f"washing {what}")[0] for what in ("feet", "hair", "hands")} == {
            f"washing {w}" for w in ("feet", "hair", "hands")
        }
        apart = [
            "golf putting",
            "golf driving",
            "high kick",
            "side kick",
            "long jump",
            "high jump",
            "tango dancing",
            "salsa dancing",
        ]
        assert len({made.apply(source, name)[0] for name in apart}) == len(apart)
    for kinetics, cap in (
        ("jumping jacks", "person_exercises_with_jumping_jacks"),
        ("shaking hands", "hand_interacts_with_person_shakehands"),
        ("vacuuming floor", "person_vacuums_carpet"),
        ("squat", "person_squats"),
        ("reading book", "person_reads_magazine"),
    ):
        assert posecap.apply("kinetics700", kinetics) == posecap.apply("cap", cap) != (None, None)
    assert posecap.apply("cap", "car_turns_left")[0] is None and "nobody" in str(
        posecap.apply("cap", "car_turns_left")[1]
    )
    assert posecap.apply("kinetics700_2020", "Massaging_persons_head") == posecap.apply(
        "kinetics700", "massaging person's head"
    )


def test_the_taxonomy_covers_every_label_and_no_other() -> None:
    labels = {label for name in MAPS for label in LabelTable(name).label_ids()}
    known = taxonomy(MANIFESTS / "verbs.csv")
    assert known.without(labels) == [] and set(known.entries) == labels
    used = {"parts": set(), "posture": set(), "parent": set()}  # type: dict[str, set[str]]
    for entry in known.entries.values():
        used["parts"] |= set(entry.parts)
        used["posture"].add(entry.posture)
        used["parent"].add(entry.parent)
    assert used == {"parts": set(PARTS), "posture": set(POSTURES), "parent": set(PARENTS)}


def _table_after(heading: str) -> list[str]:
    """First cells of the rows of the first table of a section."""
    section = (MANIFESTS / "README.md").read_text(encoding="utf-8").split(heading, 1)[1]
    lines = section[section.index("|---") :].split("\n\n", 1)[0].splitlines()[1:]
    return [cell.strip().strip("`") for line in lines for cell in line.split("|")[1].split(",")]


def test_the_readme_names_every_column_and_rule() -> None:
    assert tuple(_table_after("## Label maps")) == COLUMNS
    assert tuple(_table_after("## What labels mean")) == VERB_COLUMNS
    text = (MANIFESTS / "README.md").read_text(encoding="utf-8")
    for rule, meaning in RULES.items():
        assert f"| `{rule}` | {meaning} |" in text
    for word in (*PARTS, *POSTURES):
        assert f"`{word}`" in text
    assert f"{len(PARENTS)} groups" in text and "CC BY 4.0" in text


@pytest.mark.data
@pytest.mark.parametrize("name", ["posetics_labels", "posecap_labels"])
def test_every_class_of_every_source_is_there(name: str, shared_data: Path) -> None:
    folder = shared_data / "labels"
    classes = {f"kinetics{n}": (folder / f"kinetics{n}.txt").read_text().splitlines() for n in (400, 600, 700)}
    classes["kinetics700_2020"] = classes["kinetics700"]
    with (folder / "cap" / "cap_hierarchy.csv").open(newline="") as file:
        classes["cap"] = [row["label"] for row in csv.DictReader(file)]
    assert set((folder / "cap" / "cap_labels.csv").read_text().replace(",", "").splitlines()) <= set(classes["cap"])
    given: dict[str, list[str]] = defaultdict(list)
    for row in rows(name):
        given[row["source"]].append(row["source_label"])
    assert {source: set(names) for source, names in given.items()} == {source: set(classes[source]) for source in given}


@pytest.mark.data
def test_every_row_of_real_lists_is_mapped_or_left_out_with_a_reason(shared_data: Path) -> None:
    with (shared_data / "labels" / "kinetics700_validate.csv").open(newline="") as file:
        listed = [("kinetics700", row["label"]) for row in csv.DictReader(file)]
    with (shared_data / "labels" / "cap" / "cap_hierarchy.csv").open(newline="") as file:
        listed += [("cap", row["label"]) for row in csv.DictReader(file)]
    made = LabelTable("posecap_labels")
    decided = [made.apply(source, label) for source, label in listed]
    assert len(decided) == 33_909 + 577
    assert all(
        (label is None) != (reason is None) and reason != "the table does not know it" for label, reason in decided
    )
    assert sum(label is not None for label, _ in decided) > 0.95 * len(decided)
