"""Verbs, parts, postures and groups of labels, and texts made of labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from dataengine.core.errors import ComponentError
from dataengine.labels.prompts import phrase, prompts, template_sets, text_of, texts
from dataengine.labels.taxonomy import taxonomy

HEADER = "label,verb,phrase,parts,posture,parent\n"


def test_queries_and_sums() -> None:
    known = taxonomy()
    assert "throwing discus" in known.select(verb="throw") and "throwing discus" in known.select(
        verb="throw", parent="athletics and throwing"
    )
    assert set(known.select(part="legs", posture="sitting")) < set(known.select(posture="sitting"))
    assert known.select(verb="throw", parent="music") == []
    with pytest.raises(ComponentError, match=r"no label has the verb 'throws' .did you mean 'throw'"):
        known.select(verb="throws")
    counts = {"throwing discus": 3, "throwing axe": 4, "playing guitar": 5, "of another dataset": 2}
    assert known.roll_up(counts, "verb") == {"throw": 7, "play": 5, "(unknown)": 2}
    assert known.roll_up(counts) == {"athletics and throwing": 7, "music": 5, "(unknown)": 2}
    assert sum(known.roll_up({"talking on phone": 1, "putting on pants": 1}, "parts").values()) >= 2
    with pytest.raises(ComponentError, match="cannot be summed by 'verbs'"):
        known.roll_up(counts, "verbs")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n", "want 6 fields"),
        ("wave,wave,waving,hand,upright,gestures\n", "line 2, column parts: 'hand' is unknown .did you mean 'hands'"),
        ("wave,wave,waving,hands,up,gestures\n", "line 2, column posture: 'up' is unknown"),
        (
            "wave,wave,waving,hands,upright,gesture\n",
            "line 2, column parent: 'gesture' is unknown .did you mean 'gestures'",
        ),
        ("wave,,waving,hands,upright,gestures\n", "line 2, column verb: it is empty"),
        ("w,w,w,hands,upright,gestures\nw,w,w,hands,upright,gestures\n", "line 3, column label: 'w' is already there"),
    ],
)
def test_a_wrong_taxonomy_is_told_by_line_and_column(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "v.csv").write_text(HEADER + text)
    with pytest.raises(ComponentError, match=says):
        taxonomy(tmp_path / "v.csv")
    with pytest.raises(ComponentError, match="is not there"):
        taxonomy(tmp_path / "w.csv")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("yoga", "doing yoga"),
        ("squat", "doing squats"),
        ("throwing ball", "throwing a ball"),
        ("air drumming", "air drumming"),
        ("tree hugging", "tree hugging"),
        ("person_flies", "doing person flies"),
        ("ring dance", "doing ring dance"),
    ],
)
def test_phrases_follow_a_person(label: str, words: str) -> None:
    assert phrase(label) == words


def test_every_phrase_is_a_gerund() -> None:
    odd = [
        entry.phrase
        for entry in taxonomy().entries.values()
        if not any(word.endswith("ing") for word in entry.phrase.split())
    ]
    assert odd == []
    assert not any("{" in entry.phrase or "_" in entry.phrase for entry in taxonomy().entries.values())


def test_texts_are_all_different_and_made_of_the_label() -> None:
    sets = template_sets()
    assert sets["label"] == ("{label}",) and texts("squat", "label") == ["squat"] and len(sets) >= 4
    for name in sets:
        made = texts("playing guitar", name)
        assert len(set(made)) == len(made) == len(sets[name])
        assert all("playing" in text and "guitar" in text for text in made)
    assert texts("yoga")[0] == "a person doing yoga"
    with pytest.raises(ComponentError, match=r"no set of templates 'persons' .did you mean 'person'"):
        texts("yoga", "persons")


def test_a_clip_keeps_its_text() -> None:
    assert text_of("kinetics700-abc-0-10", "yoga", "motion") == "the body movement of a person doing yoga"
    motion, person = prompts("motion"), prompts("person")
    assert motion.text_of("kinetics700-abc-0-10", "yoga") == text_of("kinetics700-abc-0-10", "yoga", "motion")
    picked = Counter(motion.text_of(f"cap-{n}-0-1", "yoga") for n in range(6000))
    assert set(picked) == set(texts("yoga", "motion")) and min(picked.values()) > 850 and max(picked.values()) < 1150
    both = Counter(
        (
            motion.templates.index(m.replace("doing yoga", "{phrase}")),
            person.templates.index(p.replace("doing yoga", "{phrase}")),
        )
        for n in range(600)
        for m, p in [(motion.text_of(f"cap-{n}-0-1", "yoga"), person.text_of(f"cap-{n}-0-1", "yoga"))]
    )
    assert len(both) == len(motion.templates) * len(person.templates), "sets choose independently of each other"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it holds no set"),
        ("a = 3\n", r"\[a\]: want a table"),
        ("[a]\ntemplate = []\n", r"\[a\] has no key 'template' .did you mean 'templates'"),
        ("[a]\ntemplates = []\n", r"\[a\] templates: want a list"),
        ('[a]\ntemplates = ["a person"]\n', r"template 1 'a person': it holds {label} or {phrase}, once"),
        ('[a]\ntemplates = ["{phrase} {label}"]\n', "once"),
        ('[a]\ntemplates = ["{verb}"]\n', "once"),
        ('[a]\ntemplates = ["{label}", "{label}"]\n', "one is given twice"),
        ("[a\n", "cannot be read"),
    ],
)
def test_wrong_templates_are_told(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(ComponentError, match=says):
        template_sets(tmp_path / "p.toml")
    with pytest.raises(ComponentError, match="are not there"):
        prompts("person", path=tmp_path / "q.toml")
