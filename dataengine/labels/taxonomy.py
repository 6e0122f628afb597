"""Taxonomy of labels: verb, phrase for texts, moving parts of the body, posture, and parent group of each label."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dataengine.core.errors import ComponentError, suggestion
from dataengine.core.settings import find_manifest
from dataengine.labels.csv_rows import table_rows

COLUMNS = ("label", "verb", "phrase", "parts", "posture", "parent")

PARTS = {
    "body": "the whole body",
    "torso": "the trunk bends or turns",
    "arms": "shoulders to wrists",
    "hands": "hands and fingers, which a skeleton of 17 joints shows as wrists",
    "legs": "hips to feet",
    "head": "the head turns or nods",
    "face": "mouth, eyes; no joint of the body moves",
}
"""Parts of the body that a label may move."""

POSTURES = {
    "upright": "standing, walking, running",
    "sitting": "on a seat, an animal, a vehicle or the floor",
    "crouching": "squatting, kneeling, on all fours",
    "lying": "on a surface or in water",
    "inverted": "head down",
    "hanging": "held by the arms or a rope",
    "airborne": "in free fall, in a jump, without weight",
    "varied": "changing, or no posture that is usual",
}
"""Usual postures of a label."""

PARENTS = (
    "animals", "arts and crafts", "athletics and throwing", "ball sports", "building and repair", "cleaning",
    "climbing and heights", "clothes", "communication", "cooking", "dancing", "eating and drinking",
    "face and head", "falling and bumping", "fitness", "games", "garden and land", "gestures", "gymnastics", "hair",
    "hands", "household", "martial arts and fighting", "moving objects", "music", "opening and closing",
    "personal care", "posture", "racket and bat sports", "reading, writing, devices", "riding and driving",
    "snow and ice", "touching oneself", "touching people", "tricks", "walking and running", "water",
)  # fmt: skip
"""Parent groups of labels."""


@dataclass(frozen=True)
class Entry:
    """One label of the taxonomy.

    Attributes:
        label: the label.
        verb: verb of the action in its base form ("throw").
        phrase: the action as a text that follows "a person" ("throwing a ball").
        parts: keys of `PARTS` that move most, in order.
        posture: a key of `POSTURES`.
        parent: a group of `PARENTS`.
    """

    label: str
    verb: str
    phrase: str
    parts: tuple[str, ...]
    posture: str
    parent: str


@dataclass(frozen=True)
class Taxonomy:
    """Labels and their entries."""

    entries: dict[str, Entry]

    def select(
        self, *, verb: str | None = None, part: str | None = None, posture: str | None = None, parent: str | None = None
    ) -> list[str]:
        """The labels that have every given property, in alphabetical order.

        Raises:
            ComponentError: no label at all has such a verb, part, posture or parent.
        """
        asked = {"verb": verb, "parts": part, "posture": posture, "parent": parent}
        found = sorted(self.entries)
        for column, value in asked.items():
            if value is not None:
                known = {name for entry in self.entries.values() for name in _values(entry, column)}
                if value not in known:
                    raise ComponentError(f"no label has the {column} {value!r}{suggestion(value, known)}")
                found = [label for label in found if value in _values(self.entries[label], column)]
        return found

    def roll_up(self, counts: Mapping[str, int], by: str = "parent") -> dict[str, int]:
        """Counts of labels summed by `verb`, `parts`, `posture` or `parent`, largest first.

        A label that is not in the taxonomy counts as "(unknown)". By `parts`, a label counts once for each of its
        parts, so the sums exceed the total.

        Raises:
            ComponentError: `by` is something else.
        """
        if by not in COLUMNS[1:] or by == "phrase":
            raise ComponentError(
                f"labels cannot be summed by {by!r}{suggestion(by, ('verb', 'parts', 'posture', 'parent'))}"
            )
        sums: Counter[str] = Counter()
        for label, count in counts.items():
            entry = self.entries.get(label)
            for name in ("(unknown)",) if entry is None else _values(entry, by):
                sums[name] += count
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def without(self, labels: Iterable[str]) -> list[str]:
        """Those of `labels` that are not in the taxonomy."""
        return sorted(set(labels) - self.entries.keys())


def taxonomy(path: Path | None = None) -> Taxonomy:
    """The taxonomy of a CSV with the columns of `COLUMNS`; default: the nearest `manifests/verbs.csv`.

    Raises:
        ComponentError: the file is not found, or is wrong; the message names the line and the column.
    """
    found = path or find_manifest("verbs.csv")
    if found is None or not found.is_file():
        raise ComponentError(
            f"the taxonomy {found or 'manifests/verbs.csv'} is not there; give the path of a CSV ({', '.join(COLUMNS)})"
        )
    return _read(found.resolve(), found.stat().st_mtime_ns)


def _values(entry: Entry, column: str) -> tuple[str, ...]:
    value: str | tuple[str, ...] = getattr(entry, column)
    return value if isinstance(value, tuple) else (value,)


@lru_cache(maxsize=8)
def _read(path: Path, _written: int) -> Taxonomy:
    entries: dict[str, Entry] = {}
    try:
        for line, row in table_rows(path, COLUMNS):
            where = f"{path} line {line}"
            entry = _entry(row, where)
            if entry.label in entries:
                raise ComponentError(f"{where}, column label: {entry.label!r} is already there")
            entries[entry.label] = entry
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ComponentError(f"{path} cannot be read: {error}") from error
    return Taxonomy(entries)


def _entry(row: dict[str, str], where: str) -> Entry:
    for column in COLUMNS:
        if not row[column].strip():
            raise ComponentError(f"{where}, column {column}: it is empty")
    parts = tuple(row["parts"].split())
    for column, given, allowed in (
        *(("parts", part, tuple(PARTS)) for part in parts),
        ("posture", row["posture"], tuple(POSTURES)),
        ("parent", row["parent"], PARENTS),
    ):
        if given not in allowed:
            raise ComponentError(f"{where}, column {column}: {given!r} is unknown{suggestion(given, allowed)}")
    return Entry(row["label"], row["verb"], row["phrase"], parts, row["posture"], row["parent"])
