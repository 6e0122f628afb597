"""Label maps: files that say which label a clip gets. Formats: our CSV, and the two formats of the authors of Posetics.

Posetics (D. Yang et al., UNIK, 2021) is published as `posetics_train_label.json` and `posetics_val_label.json`, with
`{youtube_id: {"label": name, "label_index": number, "has_skeleton": bool}}` as in Kinetics-skeleton, and as
`classes.txt` with one class per line. `(p)` follows the name of a class that several Kinetics-400 classes were merged
into.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataengine.core.errors import ComponentError, suggestion
from dataengine.core.settings import find_manifest
from dataengine.labels.csv_rows import table_rows
from dataengine.labels.names import key

COLUMNS = ("source", "source_label", "label", "rule", "reason")

RULES = {
    "keep": "under its own name",
    "reword": "the same class under other words",
    "merge_object": "the same motion with another object, instrument, animal, or part of the body worked on",
    "merge_place": "the same motion at another place, in another setting, or on another piece of furniture",
    "merge_synonym": "the same motion in other words, often of another source",
    "merge_detail": "told apart only by fingers, face, tool in the hand or direction, which body joints hardly show",
    "leave_out": "not in the dataset; the reason says why",
}
"""Rules of a label map, and what each means for a class of a source."""

POSETICS_SOURCE = "kinetics400"
"""The source that Posetics relabels."""

UNKNOWN = "the table does not know it"
"""Why a clip is left out when its source is in the table and its label is not."""

Decision = tuple[str | None, str | None]
"""(label, None), or (None, why it is left out)."""

_MERGED = re.compile(r"\s*\(p\)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class LabelMap:
    """The content of a label map.

    Attributes:
        sources: sources whose labels the map decides.
        rules: (source, source label as written) -> decision.
        videos: video id -> label, for a file that labels videos instead of classes; else None.
        ids: label -> number.
        files: all files that were read.
        keyed: (source, key of the source label) -> decision; made from `rules`.
    """

    sources: frozenset[str]
    rules: dict[tuple[str, str], Decision]
    videos: dict[str, str] | None
    ids: dict[str, int]
    files: tuple[Path, ...]
    keyed: dict[tuple[str, str], Decision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keyed.update({(source, key(given)): decision for (source, given), decision in self.rules.items()})


def read(path: Path) -> LabelMap:
    """Read a label map in the format of its file extension.

    Raises:
        ComponentError: the file cannot be read, or is wrong; the message names the line and the column.
    """
    try:
        if path.suffix == ".json":
            return _read_videos(path)
        return _read_classes(path) if path.suffix == ".txt" else _read_csv(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ComponentError(f"{path} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ComponentError(f"{path} line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error


def numbers(labels: Iterator[str | None]) -> dict[str, int]:
    """label -> number, in alphabetical order."""
    return {label: number for number, label in enumerate(sorted({label for label in labels if label is not None}))}


def _read_csv(path: Path) -> LabelMap:
    rules: dict[tuple[str, str], Decision] = {}
    lines: dict[tuple[str, str], int] = {}
    for line, row in table_rows(path, COLUMNS):
        wrong = _wrong(row)
        if wrong is not None:
            raise ComponentError(f"{path} line {line}, column {wrong[0]}: {wrong[1]}")
        same = (row["source"], key(row["source_label"]))
        if same in lines:
            raise ComponentError(
                f"{path} line {line}, column source_label: {row['source']} {row['source_label']!r} is already in line "
                f"{lines[same]} (case and punctuation make no difference); give each source label once"
            )
        lines[same] = line
        rules[row["source"], row["source_label"]] = (row["label"] or None, None if row["label"] else row["reason"])
    sources = frozenset(source for source, _ in rules)
    return LabelMap(sources, rules, None, numbers(label for label, _ in rules.values()), (path,))


def _wrong(row: dict[str, str]) -> tuple[str, str] | None:
    """The wrong column of a row of our CSV, and the mistake; None where the row is right."""
    for column in ("source", "source_label"):
        if not row[column].strip():
            return column, "it is empty; every row names a source and one of its labels"
    given, label, rule = row["source_label"], row["label"], row["rule"]
    if rule not in RULES:
        return "rule", f"{rule!r} is not a rule{suggestion(rule, RULES)}"
    if label != label.strip():
        return "label", f"{label!r} begins or ends with a space"
    if rule == "leave_out" and label:
        return (
            "label",
            f"{given!r} has the rule leave_out and the label {label!r}; empty the label, or give another rule",
        )
    if rule != "leave_out" and not label:
        return (
            "label",
            f"it is empty, and the rule of {given!r} is {rule}; give a label, or the rule leave_out and a reason",
        )
    if rule == "leave_out" and not row["reason"].strip():
        return "reason", f"it is empty; say why {given!r} is left out"
    return None


def _class_names(path: Path) -> list[str]:
    """The classes of a `classes.txt` in the order of their numbers, without `(p)`."""
    names: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        name = _MERGED.sub("", line).strip()
        if not name:
            raise ComponentError(f"{path} line {number}: it is empty; want one class per line, the first with number 0")
        if name in names:
            raise ComponentError(f"{path} line {number}: {name!r} is already in line {names.index(name) + 1}")
        names.append(name)
    if not names:
        raise ComponentError(f"{path}: it names no class; want one per line")
    return names


def _read_classes(path: Path) -> LabelMap:
    """The rules of a `classes.txt`, which does not say which classes were merged.

    A Kinetics-400 class is searched by its own name, then by its label in `posetics_labels.csv`.
    """
    names = _class_names(path)
    by_key = {key(name): name for name in names}
    ours = find_manifest("posetics_labels.csv")
    merged = {} if ours is None else _read_csv(ours).rules
    rules: dict[tuple[str, str], Decision] = {(POSETICS_SOURCE, name): (name, None) for name in names}
    for (source, given), (label, _) in merged.items():
        found = by_key.get(key(given)) or (by_key.get(key(label)) if label is not None else None)
        if found is not None:
            rules[source, given] = (found, None)
    ids = {name: number for number, name in enumerate(names)}
    return LabelMap(frozenset({POSETICS_SOURCE}), rules, None, ids, (path, *([ours] if ours else [])))


def _read_videos(path: Path) -> LabelMap:
    """Labels of videos, from this file and every `*_label.json` in its folder.

    A `classes.txt` in the folder names the classes where the files give numbers only.
    """
    beside = sorted(path.parent.glob("*_label.json")) if path.name.endswith("_label.json") else [path]
    listed = path.parent / "classes.txt"
    names = _class_names(listed) if listed.is_file() else None
    videos: dict[str, str] = {}
    ids: dict[str, int] = {}
    for file in beside:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(entries, dict) or not entries:
            raise ComponentError(
                f'{file}: want an object of videos, {{"<video id>": {{"label": "<class>", "label_index": 0}}}}'
            )
        for video, entry in entries.items():
            label, number = _entry(file, video, entry, names)
            if videos.setdefault(video, label) != label:
                raise ComponentError(
                    f"{file}: video {video!r} is {label!r} here and {videos[video]!r} in another file; give it one "
                    "label"
                )
            if number is not None and ids.setdefault(label, number) != number:
                raise ComponentError(
                    f"{file}: video {video!r}: label_index of {label!r} is {number} here and {ids[label]} before"
                )
    used = (*beside, listed) if names is not None else tuple(beside)
    if len(ids) < len(set(videos.values())) or len(set(ids.values())) < len(ids):
        ids = numbers(iter(videos.values()))
    return LabelMap(frozenset({POSETICS_SOURCE}), {}, videos, ids, used)


def _entry(file: Path, video: str, entry: Any, names: list[str] | None) -> tuple[str, int | None]:
    where = f"{file}: video {video!r}"
    if not isinstance(entry, dict):
        raise ComponentError(f'{where}: want {{"label": "<class>", "label_index": 0}}, not {entry!r}')
    label, number = entry.get("label"), entry.get("label_index")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
        raise ComponentError(f"{where}: label_index is {number!r}; want a number from 0")
    if isinstance(label, str) and label.strip():
        return _MERGED.sub("", label).strip(), number
    if number is None:
        raise ComponentError(f"{where}: it has neither label nor label_index")
    if names is None:
        raise ComponentError(
            f"{where}: it has a label_index only; put classes.txt, one class per line, beside the file"
        )
    if number >= len(names):
        raise ComponentError(
            f"{where}: label_index is {number}, and classes.txt names {len(names)} classes (0 to {len(names) - 1})"
        )
    return names[number], number
